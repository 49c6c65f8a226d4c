//! What statements say: how a bundle is activated, and their order.

use crate::world::{World, spec};
use std::time::Duration;
use zentinel_core::entity::{Activation, Project, RolloutSpec, RolloutState};
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::{Clock as _, Store as _, StoreExt as _};
use zentinel_core::{Actor, Changes, Scope};
use zentinel_rollout::Command;

const DAY: Duration = Duration::from_secs(24 * 3_600);

async fn assign(world: &World, bundle: BundleId, node: NodeId) {
    let given = world.engine.assign(&world.scope(), Actor::System, bundle, &[node], false).await.unwrap();
    assert_eq!(given.assigned, [node]);
}

/// What activating takes, and whether the node is to compare.
async fn way(world: &World, node: usize) -> (Activation, bool) {
    let (_, activation, compare) = world.told(world.nodes[node].id).await.unwrap();
    (activation, compare)
}

const RELOAD: (Activation, bool) = (Activation::Reload, false);
/// Nothing is known about the way there.
const COMPARE: (Activation, bool) = (Activation::Restart, true);

#[tokio::test]
async fn a_rollout_reloads_only_if_every_node_runs_the_parent() {
    for same in [true, false] {
        let mut world = World::new(2).await;
        let first = world.deploy("1").await;
        if !same {
            let other = world.bundle("other").await;
            assign(&world, other, world.nodes[1].id).await;
            world.nodes_act().await;
        }
        let second = world.bundle_after("2", Some(first)).await;
        let spec = RolloutSpec { batch_size: 1, ..spec() };
        let rollout = world.create(second, spec).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        world.run_jobs().await;
        let wanted = if same { RELOAD } else { COMPARE };
        assert_eq!(way(&world, 0).await, wanted);
        // Going back is another change than going forward.
        world.nodes_act().await;
        world.run_jobs().await;
        let scope = world.scope();
        world.engine.command(&scope, Actor::System, rollout.id, Command::Rollback).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        world.run_jobs().await;
        let (target, activation, compare) = world.told(world.nodes[0].id).await.unwrap();
        assert_eq!((target.bundle_id, (activation, compare)), (first, COMPARE));
    }
}

#[tokio::test]
async fn an_assignment_and_its_renewal_state_what_it_takes_on_these_nodes() {
    let mut world = World::new(2).await;
    let first = world.deploy("1").await;
    let second = world.bundle_after("2", Some(first)).await;
    let (one, two) = (world.nodes[0].id, world.nodes[1].id);
    assign(&world, second, one).await;
    assert_eq!(way(&world, 0).await, RELOAD);
    let other = world.bundle("other").await;
    assign(&world, other, two).await;
    assert_eq!(way(&world, 1).await, COMPARE);
    world.nodes_act().await;
    assign(&world, second, two).await;
    assert_eq!(way(&world, 1).await, COMPARE);
    // Back on the parent a reload is enough.
    world.nodes[1].active = Some(first);
    world.nodes[1].silent = true;
    let beat = zentinel_core::entity::Heartbeat { active_bundle_id: Some(first), ..crate::world::healthy() };
    world.fleet.heartbeat(two, beat).await.unwrap();
    world.clock.advance(21 * DAY);
    assert_eq!(world.engine.renew_statements().await.unwrap(), 1);
    assert_eq!(way(&world, 1).await, RELOAD);
}

#[tokio::test]
async fn a_restored_store_does_not_go_back_in_the_order() {
    let world = World::new(1).await;
    let (bundle, id) = (world.bundle("1").await, world.nodes[0].id);
    assign(&world, bundle, id).await;
    let first = world.told(id).await.unwrap().0.sequence;
    assign(&world, bundle, id).await;
    let second = world.told(id).await.unwrap().0.sequence;
    assert_eq!(second, first + 1, "rising within a second too");
    assert_eq!(first, u64::try_from(world.clock.now().timestamp()).unwrap());
    let read = world.memory.fetch::<Project>(&Scope::Instance, world.project.id).await.unwrap();
    let restored = Project { last_sequence: 3, ..read.value.clone() };
    world.memory.commit(Changes::new().update(&read, &restored).unwrap()).await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    assign(&world, bundle, id).await;
    assert!(world.told(id).await.unwrap().0.sequence > second);
}

#[tokio::test]
async fn a_rollout_never_tells_a_node_less_than_its_renewed_target() {
    let mut world = World::new(2).await;
    let (manual, bundle) = (world.bundle("manual").await, world.bundle("1").await);
    let late = world.nodes[1].id;
    assign(&world, manual, late).await;
    world.clock.advance(DAY);
    let rollout = world.create(bundle, RolloutSpec { batch_size: 1, ..spec() }).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.run_jobs().await;
    assert!(world.told(world.nodes[0].id).await.is_some());
    let scope = world.scope();
    world.engine.command(&scope, Actor::System, rollout.id, Command::Pause).await.unwrap();
    world.clock.advance(19 * DAY + DAY / 2);
    assert_eq!(world.engine.renew_statements().await.unwrap(), 1);
    let renewed = world.told(late).await.unwrap().0.sequence;
    world.engine.command(&scope, Actor::System, rollout.id, Command::Resume).await.unwrap();
    // Nodes refuse what is older than what they have seen.
    let detail = world.finish(rollout.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Completed);
    assert!(world.nodes[1].sequence > renewed);
    assert_eq!(world.nodes[1].active, Some(bundle));
}
