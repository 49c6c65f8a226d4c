//! What the watch over the stragglers of a rollout that was rolled back does, and what it leaves alone.

use crate::world::{World, spec};
use std::time::Duration;
use zentinel_core::Actor;
use zentinel_core::entity::{BundleStatus, RolloutSpec, RolloutState};
use zentinel_core::id::{BundleId, RolloutId};
use zentinel_rollout::Command;

/// Two nodes that run one bundle, and a rollout of the next that was rolled back before the first node had it.
/// Returns both bundles and the rollout.
async fn rolled_back(world: &mut World) -> (BundleId, BundleId, RolloutId) {
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    world.nodes[0].silent = true;
    let rollout = world.create(second, spec()).await.unwrap();
    world.turn().await;
    world.turn().await;
    assert_eq!(world.nodes[1].active, Some(second));
    let scope = world.scope();
    let ended = world.engine.command(&scope, Actor::System, rollout.id, Command::Rollback).await.unwrap();
    world.finish(ended.rolled_back_by.unwrap()).await;
    world.nodes[0].silent = false;
    (first, second, rollout.id)
}

#[tokio::test]
async fn a_straggler_that_activates_late_is_restored() {
    let mut world = World::new(2).await;
    let (first, second, rollout) = rolled_back(&mut world).await;
    world.nodes[0].active = Some(second);
    world.nodes_act().await;
    world.engine.tick(rollout).await.unwrap();
    world.nodes_act().await;
    assert_eq!(world.nodes[0].active, Some(first));
    assert_eq!(world.stored_nodes().await[&world.nodes[0].id].expected_bundle_id, Some(first));
    let restored = world.audit().await.into_iter().filter(|entry| entry.action == "rollout.node_restored");
    let restored: Vec<_> = restored.map(|entry| (entry.resource_id, entry.metadata)).collect();
    let metadata = serde_json::json!({"node_id": world.nodes[0].id, "bundle_id": first});
    assert_eq!(restored, [(Some(rollout.to_string()), metadata)]);
}

#[tokio::test]
async fn a_late_activation_is_looked_at_at_once() {
    let mut world = World::new(2).await;
    let (first, second, _) = rolled_back(&mut world).await;
    world.discard_jobs().await;
    world.nodes[0].active = Some(second);
    world.nodes_act().await;
    // Only what the heartbeat itself asked for is due.
    world.run_jobs().await;
    world.nodes_act().await;
    assert_eq!(world.nodes[0].active, Some(first));
}

#[tokio::test]
async fn nodes_that_got_the_bundle_again_keep_it() {
    let mut world = World::new(2).await;
    let (_, second, rollout) = rolled_back(&mut world).await;
    let spec = RolloutSpec { strategy: "all_at_once".to_owned(), ..spec() };
    let again = world.create(second, spec).await.unwrap();
    let detail = world.finish(again.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Completed);
    world.engine.tick(rollout).await.unwrap();
    let node = &world.stored_nodes().await[&world.nodes[0].id];
    assert_eq!((node.target.as_ref(), node.expected_bundle_id), (None, Some(second)));
}

#[tokio::test]
async fn nodes_of_a_later_rollout_are_left_to_it() {
    let mut world = World::new(2).await;
    let (_, second, rollout) = rolled_back(&mut world).await;
    let third = world.deploy("3").await;
    // It falls back to a bundle of long ago.
    world.nodes[0].active = Some(second);
    world.nodes_act().await;
    world.engine.tick(rollout).await.unwrap();
    let node = &world.stored_nodes().await[&world.nodes[0].id];
    assert_eq!((node.target.as_ref(), node.expected_bundle_id), (None, Some(third)));
}

#[tokio::test]
async fn the_watch_lasts_from_the_rollback_and_survives_a_lost_tick() {
    let mut world = World::new(2).await;
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    let rollout = world.create(second, spec()).await.unwrap();
    world.finish(rollout.id).await;
    world.nodes[0].active = Some(first); // it crashed
    world.nodes_act().await;
    world.clock.advance(Duration::from_secs(23 * 3_600));
    world.nodes_act().await;
    let scope = world.scope();
    let ended = world.engine.command(&scope, Actor::System, rollout.id, Command::Rollback).await.unwrap();
    world.finish(ended.rolled_back_by.unwrap()).await;
    world.clock.advance(Duration::from_secs(2 * 3_600));
    // Its ticks were lost.
    world.discard_jobs().await;
    assert_eq!(world.engine.rescue().await.unwrap(), 1);
    world.nodes[0].active = Some(second);
    world.nodes_act().await;
    world.run_jobs().await;
    world.nodes_act().await;
    assert_eq!(world.nodes[0].active, Some(first));
    assert!(world.detail(rollout.id).await.rollout.next_tick_at.is_none(), "nobody is left to watch");
    assert_eq!(world.engine.rescue().await.unwrap(), 0);
}

#[tokio::test]
async fn a_restored_bundle_is_in_use_again_and_may_be_revoked() {
    let mut world = World::new(2).await;
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    let rollout = world.create(second, spec()).await.unwrap();
    world.finish(rollout.id).await;
    assert_eq!(world.status(first).await, BundleStatus::Superseded);
    let scope = world.scope();
    let ended = world.engine.command(&scope, Actor::System, rollout.id, Command::Rollback).await.unwrap();
    world.finish(ended.rolled_back_by.unwrap()).await;
    assert_eq!(world.status(first).await, BundleStatus::Compiled);
    assert_eq!(
        world.engine.revoke(&scope, Actor::System, first).await.unwrap().status,
        BundleStatus::Revoked
    );
}

#[tokio::test]
async fn a_superseded_bundle_may_be_revoked() {
    let mut world = World::new(2).await;
    let first = world.deploy("1").await;
    world.deploy("2").await;
    assert_eq!(world.status(first).await, BundleStatus::Superseded);
    let scope = world.scope();
    assert_eq!(
        world.engine.revoke(&scope, Actor::System, first).await.unwrap().status,
        BundleStatus::Revoked
    );
    let again = world.engine.revoke(&scope, Actor::System, first).await.unwrap_err();
    assert_eq!(again.message(), "Only compiled bundles can be revoked");
}
