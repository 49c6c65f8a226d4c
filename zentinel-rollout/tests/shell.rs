//! The shell over a real store: the engine and the fleet together, with nodes that heartbeat.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "shell/again.rs"]
mod again;
#[path = "shell/blue_green.rs"]
mod blue_green;
#[path = "shell/canary.rs"]
mod canary;
#[path = "shell/drift.rs"]
mod drift;
#[path = "shell/fleet.rs"]
mod fleet;
#[path = "shell/gated.rs"]
mod gated;
#[path = "shell/governed.rs"]
mod governed;
#[path = "shell/promoted.rs"]
mod promoted;
#[path = "shell/queued.rs"]
mod queued;
#[path = "shell/statements.rs"]
mod statements;
#[path = "shell/watch.rs"]
mod watch;
#[path = "shell/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use world::{World, new_engine, spec};
use zentinel_core::entity::{BundleStatus, Node, NodeProgress, RolloutSpec, RolloutState, TargetSelector};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, RolloutId};
use zentinel_core::port::{Clock, Store as _, StoreExt as _};
use zentinel_core::{Actor, Changes, Kind, Scope};
use zentinel_rollout::Command;
use zentinel_rollout::engine::{NewRollout, Terms};

fn count(actions: &[String], wanted: &str) -> usize {
    actions.iter().filter(|action| *action == wanted).count()
}

/// What the audit log says about a rollout's steps: action, index, number of nodes.
async fn steps_of(world: &World, rollout: RolloutId) -> Vec<(String, u64, u64)> {
    let entries = world.audit().await.into_iter().filter(|entry| {
        entry.resource_id == Some(rollout.to_string()) && entry.action.starts_with("rollout.step_")
    });
    let entries = entries.map(|entry| {
        assert_eq!(entry.actor, Actor::System);
        let figure = |name: &str| entry.metadata[name].as_u64().unwrap();
        (entry.action.clone(), figure("step_index"), figure("nodes"))
    });
    entries.collect()
}

#[tokio::test]
async fn a_rolling_rollout_reaches_every_node() {
    let mut world = World::new(10).await;
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    let rollout = world.create(second, spec()).await.unwrap();
    assert_eq!(rollout.state, RolloutState::Running);
    let claimed = world.stored_nodes().await;
    assert!(claimed.values().all(|node| node.rollout_id == Some(rollout.id)));
    let detail = world.finish(rollout.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Completed);
    assert_eq!(detail.steps.len(), 4);
    assert!(detail.nodes.iter().all(|node| node.state == NodeProgress::Active));
    for node in world.stored_nodes().await.values() {
        assert_eq!(node.expected_bundle_id, Some(second));
        assert_eq!(node.previous_bundle_id, Some(first));
        assert_eq!((node.target.as_ref(), node.rollout_id), (None, None));
    }
    assert!(world.nodes.iter().all(|node| node.active == Some(second)));
    assert_eq!(world.statements().await, 2, "one statement per rollout");
    assert_eq!(world.status(first).await, BundleStatus::Superseded);
    assert_eq!(world.status(second).await, BundleStatus::Compiled);
    let actions = world.actions().await;
    assert_eq!(actions, ["rollout.created", "rollout.completed", "rollout.created", "rollout.completed"]);
    let steps = steps_of(&world, rollout.id).await;
    let nodes = [3, 3, 3, 1];
    let wanted = (0..).zip(nodes).flat_map(|(index, nodes)| {
        ["rollout.step_started", "rollout.step_completed"].map(|action| (action.to_owned(), index, nodes))
    });
    assert_eq!(steps, wanted.collect::<Vec<_>>());
    assert_eq!((world.events("rollout.started").await, world.events("rollout.completed").await), (2, 2));
}

#[tokio::test]
async fn rejection_gives_every_touched_node_its_own_bundle_back() {
    let mut world = World::new(6).await;
    let (a, b) = (world.bundle("a").await, world.bundle("b").await);
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let even: Vec<NodeId> = ids.iter().copied().step_by(2).collect();
    let odd: Vec<NodeId> = ids.iter().copied().skip(1).step_by(2).collect();
    for (bundle, nodes) in [(a, &even), (b, &odd)] {
        let given = world.engine.assign(&world.scope(), Actor::System, bundle, nodes, false).await.unwrap();
        assert_eq!((given.assigned.len(), given.skipped.len()), (3, 0));
    }
    for _ in 0..3 {
        world.turn().await;
    }
    let ran: Vec<Option<BundleId>> = world.nodes.iter().map(|node| node.active).collect();
    assert!(ran.iter().all(Option::is_some));

    let bad = world.bundle("bad").await;
    for node in world.nodes.iter_mut().skip(2) {
        node.rejects.insert(bad);
    }
    let spec = RolloutSpec { batch_size: 2, auto_rollback: true, ..spec() };
    let rollout = world.create(bad, spec).await.unwrap();
    let detail = world.finish(rollout.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Failed);
    let bad_sequence = world.nodes[2].sequence;
    let rollback = detail.rollout.rolled_back_by.unwrap();
    let undone = world.finish(rollback).await;
    assert_eq!(undone.rollout.state, RolloutState::Completed);
    assert_eq!(undone.rollout.rollback_of, Some(rollout.id));
    let touched: BTreeSet<NodeId> = undone.nodes.iter().map(|node| node.node_id).collect();
    assert_eq!(touched, ids[..2].iter().copied().collect());
    let now: Vec<Option<BundleId>> = world.nodes.iter().map(|node| node.active).collect();
    assert_eq!(now, ran);
    assert!(world.nodes[..2].iter().all(|node| node.sequence > bad_sequence));
    let stored = world.stored_nodes().await;
    for node in &world.nodes {
        let stored = &stored[&node.id];
        assert_eq!((stored.expected_bundle_id, stored.rollout_id), (node.active, None));
        assert_eq!(world.fleet.offer(node.id).unwrap().target, None);
    }
    let actions = world.actions().await;
    assert_eq!((count(&actions, "rollout.failed"), count(&actions, "rollout.rolled_back")), (1, 1));
    assert_eq!(count(&actions, "rollout.created"), 2);
    let steps = steps_of(&world, rollout.id).await;
    assert_eq!(
        steps.last(),
        Some(&("rollout.step_failed".to_owned(), 1, 2)),
        "not the step that never began"
    );
    assert_eq!(world.status(bad).await, BundleStatus::Compiled);
}

#[tokio::test]
async fn an_operator_rolls_back_a_completed_rollout() {
    let mut world = World::new(4).await;
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    let rollout = world.create(second, spec()).await.unwrap();
    world.finish(rollout.id).await;
    let scope = world.scope();
    let rolled = world.engine.command(&scope, Actor::System, rollout.id, Command::Rollback).await.unwrap();
    world.finish(rolled.rolled_back_by.unwrap()).await;
    assert!(world.nodes.iter().all(|node| node.active == Some(first)));
    let again = world.engine.command(&scope, Actor::System, rollout.id, Command::Rollback).await;
    assert_eq!(again.unwrap_err().message(), "Rollout cannot be rolled back in current state");
}

#[tokio::test]
async fn cancelling_withdraws_what_was_not_activated() {
    let mut world = World::new(3).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.run_jobs().await;
    assert!(world.stored_nodes().await.values().all(|node| node.target.is_some()));
    let scope = world.scope();
    let ended = world.engine.command(&scope, Actor::System, rollout.id, Command::Cancel).await.unwrap();
    assert_eq!(ended.state, RolloutState::Cancelled);
    let nodes = world.stored_nodes().await;
    assert!(nodes.values().all(|node| node.target.is_none() && node.rollout_id.is_none()));
    world.nodes_act().await;
    assert!(world.nodes.iter().all(|node| node.active.is_none()));
    let again = world.engine.command(&scope, Actor::System, rollout.id, Command::Cancel).await;
    assert_eq!(again.unwrap_err().message(), "Rollout cannot be cancelled in current state");
    assert_eq!(world.actions().await, ["rollout.created", "rollout.cancelled"]);
}

#[tokio::test]
async fn revoking_a_bundle_stops_its_rollout() {
    let mut world = World::new(6).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.run_jobs().await;
    let scope = world.scope();
    let revoked = world.engine.revoke(&scope, Actor::System, bundle).await.unwrap();
    assert_eq!(revoked.status, BundleStatus::Revoked);
    assert!(world.stored_nodes().await.values().all(|node| node.target.is_none()));
    world.run_jobs().await;
    let detail = world.detail(rollout.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Failed);
    assert_eq!(detail.rollout.error.unwrap().reason, "bundle_revoked");
    world.nodes_act().await;
    assert!(world.nodes.iter().all(|node| node.active.is_none()));
    let again = world.engine.revoke(&scope, Actor::System, bundle).await.unwrap_err();
    assert_eq!(again.message(), "Only compiled bundles can be revoked");
    let refused = world.create(bundle, spec()).await.unwrap_err();
    assert_eq!(refused.message(), "Bundle must be compiled before rollout");
    let ids = [world.nodes[0].id];
    let refused = world.engine.assign(&scope, Actor::System, bundle, &ids, true).await.unwrap_err();
    assert_eq!(refused.message(), "Bundle has been revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_on_one_rollout_stay_consistent() {
    let mut world = World::new(9).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    let other = new_engine(&world.store, &world.signer, &world.clock);
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(5));
        let ticks = (0..6).map(|number| {
            let engine = if number % 2 == 0 { &world.engine } else { &other };
            let (engine, id) = (Arc::clone(engine), rollout.id);
            tokio::spawn(async move { engine.tick(id).await })
        });
        for tick in ticks.collect::<Vec<_>>() {
            tick.await.unwrap().unwrap();
        }
        world.nodes_act().await;
        if !world.detail(rollout.id).await.rollout.state.is_open() {
            break;
        }
    }
    assert_eq!(world.detail(rollout.id).await.rollout.state, RolloutState::Completed);
    assert_eq!(count(&world.actions().await, "rollout.completed"), 1);
    assert_eq!(world.statements().await, 1);
}

#[tokio::test]
async fn a_new_engine_continues_after_a_crash() {
    let mut world = World::new(7).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    for _ in 0..3 {
        world.turn().await;
        world.restart().await;
    }
    assert_eq!(world.finish(rollout.id).await.rollout.state, RolloutState::Completed);
    assert!(world.nodes.iter().all(|node| node.active == Some(bundle)));
    assert_eq!(world.statements().await, 1, "the statement is found again");
}

#[tokio::test]
async fn a_lost_tick_is_rescued() {
    let world = World::new(1).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    assert_eq!(world.engine.rescue().await.unwrap(), 1);
    world.run_jobs().await;
    assert_eq!(world.detail(rollout.id).await.steps[0].state.as_str(), "running");
}

#[tokio::test]
async fn overlapping_rollouts_are_refused_or_superseded() {
    let mut world = World::new(4).await;
    let (one, two) = (world.bundle("1").await, world.bundle("2").await);
    let first = world.create(one, spec()).await.unwrap();
    let refused = world.create(two, spec()).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.message()),
        (Kind::Conflict, "Another rollout is active on 4 target nodes")
    );
    assert_eq!(refused.details().unwrap()["rollout_ids"][0], first.id.to_string());
    world.turn().await;
    let new = NewRollout {
        bundle_id: two,
        spec: spec(),
        auto_start: true,
        supersede: true,
        terms: Terms::default(),
    };
    let second = world.engine.create(&world.scope(), Actor::System, new).await.unwrap();
    assert_eq!(world.detail(first.id).await.rollout.state, RolloutState::Cancelled);
    world.finish(second.id).await;
    assert!(world.nodes.iter().all(|node| node.active == Some(two)));
}

#[tokio::test]
async fn creation_is_refused_with_the_contracts_words() {
    let world = World::new(2).await;
    let bundle = world.bundle("1").await;
    let nowhere = Scope::Organisation(OrganisationId::random());
    let new = |spec| NewRollout {
        bundle_id: bundle,
        spec,
        auto_start: true,
        supersede: false,
        terms: Terms::default(),
    };
    let foreign = world.engine.create(&nowhere, Actor::System, new(spec())).await.unwrap_err();
    assert_eq!((foreign.kind(), foreign.message()), (Kind::NotFound, "Bundle not found"));
    let nobody = TargetSelector::Labels { labels: [("region".to_owned(), "mars".to_owned())].into() };
    let none = RolloutSpec { target_selector: nobody, ..spec() };
    let none = world.create(bundle, none).await.unwrap_err();
    assert_eq!((none.kind(), none.message()), (Kind::Invalid, "No target nodes matched the selector"));
    let strangers = TargetSelector::NodeIds { node_ids: [NodeId::random()].into() };
    let strangers = RolloutSpec { target_selector: strangers, ..spec() };
    assert!(world.create(bundle, strangers).await.unwrap_err().fields().contains_key("target_selector"));
    let preview = world.engine.preview(&world.scope(), &new(spec())).await.unwrap();
    assert_eq!((preview.steps.len(), preview.steps[0].len()), (1, 2));
    assert!(world.actions().await.is_empty());
}

#[tokio::test]
async fn statements_of_open_targets_are_renewed() {
    let world = World::new(2).await;
    let bundle = world.bundle("1").await;
    let ids = [world.nodes[0].id];
    world.engine.assign(&world.scope(), Actor::System, bundle, &ids, false).await.unwrap();
    assert_eq!(world.engine.renew_statements().await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(21 * 24 * 3_600));
    let before = world.stored_nodes().await[&ids[0]].target.clone().unwrap();
    assert_eq!(world.engine.renew_statements().await.unwrap(), 1);
    let after = world.stored_nodes().await[&ids[0]].target.clone().unwrap();
    assert_eq!(after.bundle_id, bundle);
    assert!(after.sequence > before.sequence);
    let entry = world.audit().await.pop().unwrap();
    assert_eq!(
        (entry.action.as_str(), entry.resource_id),
        ("bundle.statement_renewed", Some(bundle.to_string()))
    );
    assert_eq!((&entry.metadata["sequence"], &entry.metadata["nodes"]), (&after.sequence.into(), &1.into()));
    assert_eq!(world.engine.renew_statements().await.unwrap(), 0);
    assert!(world.clock.now().timestamp() > 0);
}

#[tokio::test]
async fn commits_of_unknown_outcome_neither_stop_nor_repeat_anything() {
    let (mut world, store) = fleet::gated(6).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    for _ in 0..60 {
        world.clock.advance(Duration::from_secs(5));
        store.gate.send_replace(gated::Gate::Mute);
        // Either there was nothing to commit, or nobody knows.
        if let Err(error) = world.engine.tick(rollout.id).await {
            assert_eq!(error.kind(), Kind::Unavailable);
        }
        store.gate.send_replace(gated::Gate::Open);
        world.nodes_act().await;
        if !world.detail(rollout.id).await.rollout.state.is_open() {
            break;
        }
    }
    assert_eq!(world.detail(rollout.id).await.rollout.state, RolloutState::Completed);
    assert_eq!(world.actions().await, ["rollout.created", "rollout.completed"]);
    assert_eq!(world.statements().await, 1);
}

#[tokio::test]
async fn a_deleted_node_does_not_stop_a_rollout() {
    let mut world = World::new(4).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.run_jobs().await;
    let gone = world.nodes.remove(0);
    let node = world.memory.fetch::<Node>(&Scope::Instance, gone.id).await.unwrap();
    world.memory.commit(Changes::new().delete(&node)).await.unwrap();
    world.fleet.forget(gone.id);
    assert_eq!(world.finish(rollout.id).await.rollout.state, RolloutState::Completed);
    assert!(world.nodes.iter().all(|node| node.active == Some(bundle)));
}

#[tokio::test]
async fn a_revocation_beats_a_tick_that_is_under_way() {
    let (mut world, store) = fleet::gated(3).await;
    let bundle = world.bundle("1").await;
    let rollout = world.create(bundle, spec()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    store.gate.send_replace(gated::Gate::Held);
    let (engine, id) = (Arc::clone(&world.engine), rollout.id);
    let tick = tokio::spawn(async move { engine.tick(id).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The tick has decided to give the bundle out, but has not said so yet.
    let direct: Arc<dyn zentinel_core::port::Store> = Arc::new(world.memory.clone());
    let other = new_engine(&direct, &world.signer, &world.clock);
    other.revoke(&world.scope(), Actor::System, bundle).await.unwrap();
    store.gate.send_replace(gated::Gate::Open);
    tick.await.unwrap().unwrap();
    assert_eq!(world.detail(rollout.id).await.rollout.error.unwrap().reason, "bundle_revoked");
    assert!(world.stored_nodes().await.values().all(|node| node.target.is_none()));
    world.nodes_act().await;
    assert!(world.nodes.iter().all(|node| node.active.is_none()));
}
