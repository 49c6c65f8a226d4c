//! Retrying what failed, and going straight back.

use super::world::{World, spec};
use std::time::Duration;
use zentinel_core::entity::{RolloutSpec, RolloutState, TargetSelector};
use zentinel_core::{Actor, Kind};
use zentinel_rollout::Command;
use zentinel_rollout::engine::{Revert, Terms};

fn back_to(bundle_id: zentinel_core::id::BundleId) -> Revert {
    let reason = "customers see errors".to_owned();
    Revert { bundle_id, target_selector: TargetSelector::All, reason, requested_by: None }
}

#[tokio::test]
async fn only_the_nodes_that_failed_are_retried() {
    let mut world = World::new(6).await;
    world.deploy("1").await;
    let second = world.bundle("2").await;
    let failing = world.nodes[4].id;
    world.nodes[4].rejects.insert(second);
    let patient = RolloutSpec {
        batch_size: 6,
        rollback_threshold: zentinel_core::Percent::ALL,
        progress_deadline_seconds: 60,
        ..spec()
    };
    let rollout = world.create(second, patient).await.unwrap();
    let early = world.engine.retry_failed(&world.scope(), Actor::System, rollout.id, Terms::default()).await;
    assert_eq!(early.unwrap_err().message(), "Rollout cannot be retried in current state");
    assert_eq!(world.finish(rollout.id).await.rollout.state, RolloutState::Failed);
    world.nodes[4].rejects.clear();
    let again =
        world.engine.retry_failed(&world.scope(), Actor::System, rollout.id, Terms::default()).await.unwrap();
    let detail = world.finish(again.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Completed);
    assert_eq!(detail.nodes.iter().map(|node| node.node_id).collect::<Vec<_>>(), [failing]);
    assert!(world.nodes.iter().all(|node| node.active == Some(second)));
    let nothing = world.engine.retry_failed(&world.scope(), Actor::System, again.id, Terms::default()).await;
    assert_eq!(nothing.unwrap_err().message(), "Every node of the rollout runs the bundle");
}

#[tokio::test]
async fn an_emergency_goes_straight_back_whatever_is_under_way() {
    let mut world = World::new(4).await;
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    let slow = world.create(second, RolloutSpec { batch_size: 1, ..spec() }).await.unwrap();
    world.turn().await;
    world.turn().await;
    let untried = world.bundle("3").await;
    let refused = world.engine.revert(&world.scope(), Actor::System, back_to(untried)).await.unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (Kind::Conflict, "Bundle was not healthy lately"));
    let silent = Revert { reason: " ".to_owned(), ..back_to(first) };
    let refused = world.engine.revert(&world.scope(), Actor::System, silent).await.unwrap_err();
    assert!(refused.fields().contains_key("reason"));

    let revert = world.engine.revert(&world.scope(), Actor::System, back_to(first)).await.unwrap();
    assert_eq!((revert.state, revert.spec.strategy.as_str()), (RolloutState::Running, "all_at_once"));
    assert_eq!(world.detail(slow.id).await.rollout.state, RolloutState::Cancelled);
    let detail = world.finish(revert.id).await;
    assert_eq!((detail.rollout.state, detail.steps.len()), (RolloutState::Completed, 1));
    assert!(world.nodes.iter().all(|node| node.active == Some(first)));
    assert!(world.actions().await.iter().any(|action| action == "rollout.reverted"));

    world.clock.advance(Duration::from_secs(31 * 24 * 3_600));
    let late = world.engine.revert(&world.scope(), Actor::System, back_to(first)).await.unwrap_err();
    assert_eq!(late.message(), "Bundle was not healthy lately");
    assert!(world.engine.command(&world.scope(), Actor::System, slow.id, Command::Resume).await.is_err());
}
