//! Rollouts that wait for their nodes, and that no node is ever in two.

use crate::world::{World, new_engine, spec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{Project, Rollout, RolloutSpec, RolloutState, TargetSelector};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::port::{Query, Store as _, StoreExt as _};
use zentinel_core::{Actor, Changes, Kind, RecordKind, Result};
use zentinel_rollout::Command;
use zentinel_rollout::engine::{NewRollout, Terms};

fn queued(world: &World, bundle: BundleId, nodes: &[usize]) -> NewRollout {
    let node_ids = nodes.iter().map(|at| world.nodes[*at].id).collect();
    NewRollout {
        bundle_id: bundle,
        spec: RolloutSpec { target_selector: TargetSelector::NodeIds { node_ids }, ..spec() },
        auto_start: true,
        supersede: false,
        terms: Terms { queue: true, ..Terms::default() },
    }
}

async fn ask(world: &World, new: NewRollout) -> Result<Rollout> {
    world.engine.create(&world.scope(), Actor::System, new).await
}

async fn state(world: &World, id: RolloutId) -> RolloutState {
    world.detail(id).await.rollout.state
}

/// No node belongs to two rollouts under way, and the records agree with the rollouts.
async fn assert_apart(world: &World) -> usize {
    let under_way = Query::all(RecordKind::Rollout).in_states(&["running", "paused"]);
    let under_way = world.memory.list_all::<Rollout>(&world.scope(), under_way).await.unwrap();
    let mut taken: BTreeMap<NodeId, RolloutId> = BTreeMap::new();
    let stored = world.stored_nodes().await;
    for rollout in &under_way {
        for node in world.detail(rollout.id).await.nodes {
            assert_eq!(taken.insert(node.node_id, rollout.id), None, "a node is in two rollouts");
            assert_eq!(stored[&node.node_id].rollout_id, Some(rollout.id));
        }
    }
    under_way.len()
}

#[tokio::test]
async fn a_queued_rollout_says_what_it_waits_for_and_starts_by_itself_oldest_first() {
    let mut world = World::new(4).await;
    let (first, second, third) = (world.bundle("1").await, world.bundle("2").await, world.bundle("3").await);
    let first = ask(&world, queued(&world, first, &[0, 1])).await.unwrap();
    assert_eq!(first.state, RolloutState::Running, "nothing is in the way");
    world.clock.advance(Duration::from_secs(1));
    let second = ask(&world, queued(&world, second, &[1, 2, 3])).await.unwrap();
    assert_eq!(second.state, RolloutState::Pending);
    assert_eq!(second.waiting.summary, format!("Waits for rollout {} (bundle 1) on 1 node.", first.id));
    world.clock.advance(Duration::from_secs(1));
    // Its nodes are free, but an older one is waiting for them.
    let third = ask(&world, queued(&world, third, &[2, 3])).await.unwrap();
    assert_eq!(third.waiting.summary, format!("Waits for rollout {} (bundle 2) on 2 nodes.", second.id));
    // Nothing is kept in memory that a restart would lose.
    world.restart().await;
    let mut order = Vec::new();
    for _ in 0..200 {
        world.turn().await;
        assert_apart(&world).await;
        for id in [first.id, second.id, third.id] {
            if state(&world, id).await == RolloutState::Completed && !order.contains(&id) {
                order.push(id);
            }
        }
        if order.len() == 3 {
            break;
        }
    }
    assert_eq!(order, [first.id, second.id, third.id]);
}

#[tokio::test]
async fn without_being_asked_to_wait_an_overlap_is_refused_with_what_is_in_the_way() {
    let world = World::new(2).await;
    let (first, second) = (world.bundle("1").await, world.bundle("2").await);
    let first = ask(&world, queued(&world, first, &[0, 1])).await.unwrap();
    let new = NewRollout { terms: Terms::default(), ..queued(&world, second, &[1]) };
    let error = ask(&world, new.clone()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (Kind::Conflict, "Another rollout is active on 1 target nodes")
    );
    let details = &error.details().unwrap()["rollouts"][0];
    assert_eq!(details["id"], serde_json::json!(first.id));
    assert_eq!((&details["bundle_version"], &details["state"]), (&"1".into(), &"running".into()));
    let hint = error.hint().unwrap();
    assert!(
        hint.contains(&format!("rollout {} (bundle 1, running)", first.id)) && hint.contains("queue"),
        "{hint}"
    );
    for (field, wrong) in [
        (
            NewRollout { auto_start: false, ..queued(&world, second, &[1]) },
            "cannot be set without auto_start",
        ),
        (NewRollout { supersede: true, ..queued(&world, second, &[1]) }, "cannot be combined with supersede"),
    ]
    .map(|(new, message)| (message, new))
    {
        let error = ask(&world, wrong).await.unwrap_err();
        assert_eq!(error.fields()["queue"], [field]);
    }
}

#[tokio::test]
async fn the_queue_honours_the_projects_limit_and_a_cancelled_rollout_makes_room() {
    let world = World::new(3).await;
    let read = world.memory.fetch::<Project>(&world.scope(), world.project.id).await.unwrap();
    let mut project = read.value.clone();
    project.settings.max_concurrent_rollouts = 1;
    world.memory.commit(Changes::new().update(&read, &project).unwrap()).await.unwrap();
    let (first, second) = (world.bundle("1").await, world.bundle("2").await);
    let first = ask(&world, queued(&world, first, &[0])).await.unwrap();
    let second = ask(&world, queued(&world, second, &[1])).await.unwrap();
    assert_eq!(second.waiting.summary, "Waits for one of 1 rollouts under way; the project may have 1.");
    world.clock.advance(Duration::from_secs(5));
    world.run_jobs().await;
    assert_eq!(state(&world, second.id).await, RolloutState::Pending);
    world.engine.command(&world.scope(), Actor::System, first.id, Command::Cancel).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.run_jobs().await;
    assert_eq!(state(&world, second.id).await, RolloutState::Running);
    // One that is cancelled while it waits is out of the queue.
    let third = world.bundle("3").await;
    let third = ask(&world, queued(&world, third, &[1])).await.unwrap();
    world.engine.command(&world.scope(), Actor::System, third.id, Command::Cancel).await.unwrap();
    world.engine.command(&world.scope(), Actor::System, second.id, Command::Cancel).await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    world.run_jobs().await;
    assert_eq!(state(&world, third.id).await, RolloutState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_node_is_in_two_rollouts_however_many_ask_at_once() {
    let mut world = World::new(6).await;
    let mut bundles = Vec::new();
    for version in 0..12 {
        bundles.push(world.bundle(&version.to_string()).await);
    }
    // Two engines over one store, as two replicas.
    let engines = [Arc::clone(&world.engine), new_engine(&world.store, &world.signer, &world.clock)];
    let mut asked = Vec::new();
    for (at, bundle) in bundles.into_iter().enumerate() {
        let nodes = [at % 6, (at + 1) % 6, (at * 5 + 2) % 6];
        let nodes: Vec<usize> = BTreeSet::from(nodes).into_iter().collect();
        let mut new = queued(&world, bundle, &nodes);
        new.terms.queue = at % 2 == 0;
        let (engine, scope) = (Arc::clone(&engines[at % 2]), world.scope());
        asked.push(tokio::spawn(async move { engine.create(&scope, Actor::System, new).await }));
    }
    let mut made = Vec::new();
    for task in asked {
        match task.await.unwrap() {
            Ok(rollout) => made.push(rollout.id),
            Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error:?}"),
        }
    }
    assert!(made.len() >= 6, "those that may wait are never refused");
    for _ in 0..400 {
        assert_apart(&world).await;
        let mut open = false;
        for id in &made {
            open |= state(&world, *id).await.is_open();
        }
        if !open {
            break;
        }
        world.turn().await;
    }
    for id in &made {
        assert_eq!(state(&world, *id).await, RolloutState::Completed);
    }
}
