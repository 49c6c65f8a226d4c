//! The fleet over a store that is slow, away, or changed by others.

use crate::gated::{Gate, GatedStore};
use crate::world::{World, healthy};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::{Heartbeat, Node, NodeReport, NodeStatus};
use zentinel_core::id::{BundleId, NodeId, TypedId};
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{Clock, Store, StoreExt};
use zentinel_core::{Actor, Changes, Kind, Scope};
use zentinel_rollout::fleet::{Fleet, FleetOptions};
use zentinel_store::MemoryStore;

pub(crate) async fn gated(nodes: usize) -> (World, Arc<GatedStore>) {
    let memory = MemoryStore::new();
    let store = Arc::new(GatedStore::new(memory.clone()));
    (World::over(memory, Arc::clone(&store) as Arc<dyn Store>, nodes).await, store)
}

async fn stored(world: &World, id: NodeId) -> NodeReport {
    world.memory.fetch::<NodeReport>(&Scope::Instance, id).await.unwrap().value
}

#[tokio::test]
async fn a_change_is_acknowledged_after_its_commit() {
    let (world, store) = gated(1).await;
    let (id, bundle) = (world.nodes[0].id, world.bundle("1").await);
    store.gate.send_replace(Gate::Held);
    let beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
    let (fleet, again) = (Arc::clone(&world.fleet), beat.clone());
    let first = tokio::spawn(async move { fleet.heartbeat(id, again).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The same heartbeat again changes nothing in memory, but what it says is not durable yet.
    let (fleet, again) = (Arc::clone(&world.fleet), beat.clone());
    let second = tokio::spawn(async move { fleet.heartbeat(id, again).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(stored(&world, id).await.active_bundle_id, None);
    store.gate.send_replace(Gate::Open);
    first.await.unwrap().unwrap();
    assert_eq!(stored(&world, id).await.active_bundle_id, Some(bundle));
    second.await.unwrap().unwrap();

    // "Still alive" does not wait.
    store.gate.send_replace(Gate::Held);
    let alive = world.fleet.heartbeat(id, beat);
    tokio::time::timeout(Duration::from_millis(50), alive).await.unwrap().unwrap();
    store.gate.send_replace(Gate::Open);
}

#[tokio::test]
async fn a_store_that_is_away_loses_nothing() {
    let (world, store) = gated(1).await;
    let (id, bundle) = (world.nodes[0].id, world.bundle("1").await);
    store.gate.send_replace(Gate::Away);
    let beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
    let refused = world.fleet.heartbeat(id, beat.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    let refused = world.fleet.heartbeat(id, beat.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "a repeated report is still not durable");
    store.gate.send_replace(Gate::Open);
    let started = Instant::now();
    while stored(&world, id).await.active_bundle_id != Some(bundle) {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.fleet.heartbeat(id, beat).await.unwrap();
    world.fleet.flush().await.unwrap();
    assert_eq!(world.fleet.report(id).unwrap().heartbeats, 3);
    let query = LogQuery::newest(LogKind::Heartbeat, 10).about(id.uuid());
    assert_eq!(world.memory.read_log(&Scope::Instance, &query).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_long_poll_wakes_when_the_target_changes() {
    let world = World::new(2).await;
    let (id, bundle) = (world.nodes[0].id, world.bundle("1").await);
    let fleet = Arc::clone(&world.fleet);
    let poll = tokio::spawn(async move { fleet.wait_for_offer(id, Some(0), Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!poll.is_finished());
    let started = Instant::now();
    world.engine.assign(&world.scope(), Actor::System, bundle, &[id], false).await.unwrap();
    let offer = poll.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(offer.target.unwrap().bundle_id, bundle);
    assert!(offer.etag > 0);
    // What was seen is no news; what was not seen is.
    let same = world.fleet.wait_for_offer(id, Some(offer.etag), Duration::from_millis(30)).await.unwrap();
    assert_eq!(same.etag, offer.etag);
    let started = Instant::now();
    world.fleet.wait_for_offer(id, None, Duration::from_secs(30)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    // Once it runs, there is nothing to do.
    let beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
    world.fleet.heartbeat(id, beat).await.unwrap();
    assert_eq!(world.fleet.offer(id).unwrap().etag, 0);
}

#[tokio::test]
async fn a_pin_takes_an_offer_back_unless_it_was_forced() {
    let world = World::new(1).await;
    let (id, bundle, pinned) = (world.nodes[0].id, world.bundle("1").await, world.bundle("2").await);
    let (scope, ids) = (world.scope(), [id]);
    world.engine.assign(&scope, Actor::System, bundle, &ids, false).await.unwrap();
    world.fleet.refresh(&ids).await.unwrap();
    let offered = world.fleet.offer(id).unwrap();
    assert_eq!(offered.target.as_ref().map(|target| target.forced), Some(false));
    let fleet = Arc::clone(&world.fleet);
    let seen = Some(offered.etag);
    let poll = tokio::spawn(async move { fleet.wait_for_offer(id, seen, Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let stored = world.memory.fetch::<Node>(&Scope::Instance, id).await.unwrap();
    let mut node = stored.value.clone();
    node.pinned_bundle_id = Some(pinned);
    world.memory.commit(Changes::new().update(&stored, &node).unwrap()).await.unwrap();
    let started = Instant::now();
    let taken_back = poll.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((taken_back.target, taken_back.etag), (None, 0));

    let refused = world.engine.assign(&scope, Actor::System, bundle, &ids, false).await.unwrap();
    assert_eq!(refused.skipped, [(id, "pinned".to_owned())]);
    let forced = world.engine.assign(&scope, Actor::System, bundle, &ids, true).await.unwrap();
    assert_eq!(forced.assigned, ids);
    world.fleet.refresh(&ids).await.unwrap();
    let offered = world.fleet.offer(id).unwrap();
    assert!(offered.etag > 0);
    assert_eq!(offered.target.map(|target| (target.bundle_id, target.forced)), Some((bundle, true)));
}

#[tokio::test]
async fn silence_makes_a_node_offline_and_a_heartbeat_brings_it_back() {
    let world = World::new(3).await;
    world.clock.advance(Duration::from_secs(100));
    world.fleet.heartbeat(world.nodes[0].id, healthy()).await.unwrap();
    world.clock.advance(Duration::from_secs(21));
    assert_eq!(world.fleet.list_stale(Duration::from_secs(120)).len(), 2);
    assert_eq!(world.fleet.sweep().await.unwrap(), 2);
    assert_eq!(world.fleet.sweep().await.unwrap(), 0);
    assert_eq!(stored(&world, world.nodes[1].id).await.status, NodeStatus::Offline);
    let counts = world.fleet.counts(Some(world.project.id));
    assert_eq!((counts[&NodeStatus::Online], counts[&NodeStatus::Offline]), (1, 2));
    assert_eq!(world.events("node.offline").await, 2);
    world.fleet.heartbeat(world.nodes[1].id, healthy()).await.unwrap();
    assert_eq!(stored(&world, world.nodes[1].id).await.status, NodeStatus::Online);
    assert_eq!(world.events("node.online").await, 1);
}

#[tokio::test]
async fn unknown_bundles_are_remembered_as_such() {
    let world = World::new(1).await;
    let (id, known, unknown) = (world.nodes[0].id, world.bundle("1").await, BundleId::random());
    let beat = |active| Heartbeat { active_bundle_id: Some(active), ..healthy() };
    world.fleet.heartbeat(id, beat(unknown)).await.unwrap();
    let report = stored(&world, id).await;
    assert_eq!((report.active_bundle_id, report.reported_unknown_bundle), (None, Some(unknown.uuid())));
    world.fleet.heartbeat(id, beat(known)).await.unwrap();
    let report = stored(&world, id).await;
    assert_eq!((report.active_bundle_id, report.reported_unknown_bundle), (Some(known), None));
    assert_eq!(report.active_since, report.last_seen_at);
}

#[tokio::test]
async fn a_fleet_follows_the_store() {
    let mut world = World::new(2).await;
    let id = world.nodes[0].id;
    world.fleet.heartbeat(id, healthy()).await.unwrap();
    let stored = world.memory.fetch::<Node>(&Scope::Instance, id).await.unwrap();
    let (old, new) = (stored.key_hash, zentinel_core::credential::CredentialHash::of("new"));
    let mut node = stored.value.clone();
    node.rotate_key(&old, new, node.registered_at);
    world.memory.commit(Changes::new().update(&stored, &node).unwrap()).await.unwrap();
    let started = Instant::now();
    while world.fleet.authenticate(&new).is_none() {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let known = |key| world.fleet.authenticate(key).map(|node| node.id);
    assert_eq!(known(&old), Some(id), "the old key works a little longer");
    world.clock.advance(Duration::from_secs(301));
    assert_eq!(known(&old), None);

    world.restart().await;
    assert_eq!(world.fleet.authenticate(&new).map(|node| node.id), Some(id));
    assert_eq!(world.fleet.report(id).unwrap().heartbeats, 1);
    let stored = world.memory.fetch::<Node>(&Scope::Instance, id).await.unwrap();
    world.memory.commit(Changes::new().delete(&stored)).await.unwrap();
    let started = Instant::now();
    while world.fleet.node(id).is_some() {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.fleet.heartbeat(id, healthy()).await.unwrap_err().kind(), Kind::NotFound);
}

async fn history(world: &World, id: NodeId) -> usize {
    let query = LogQuery::newest(LogKind::Heartbeat, 100).about(id.uuid());
    world.memory.read_log(&Scope::Instance, &query).await.unwrap().len()
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_written_again_once() {
    let (world, store) = gated(1).await;
    let (id, bundle) = (world.nodes[0].id, world.bundle("1").await);
    store.gate.send_replace(Gate::Mute);
    let beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
    let (fleet, sent) = (Arc::clone(&world.fleet), beat.clone());
    let waiting = tokio::spawn(async move { fleet.heartbeat(id, sent).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    store.gate.send_replace(Gate::Open);
    waiting.await.unwrap().unwrap();
    assert_eq!(stored(&world, id).await.active_bundle_id, Some(bundle));
    assert_eq!(history(&world, id).await, 1);
}

#[tokio::test]
async fn a_refused_history_does_not_hold_up_reports() {
    let (world, store) = gated(3).await;
    let bundle = world.bundle("1").await;
    store.gate.send_replace(Gate::Picky);
    for node in &world.nodes {
        let beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
        world.fleet.heartbeat(node.id, beat).await.unwrap();
        assert_eq!(stored(&world, node.id).await.active_bundle_id, Some(bundle));
        assert_eq!(history(&world, node.id).await, 0);
    }
}

#[tokio::test]
async fn two_replicas_share_what_nodes_say() {
    let world = World::new(2).await;
    let (here, there) = (world.nodes[0].id, world.nodes[1].id);
    let (bundle, shutdown) = (world.bundle("1").await, CancellationToken::new());
    let options = FleetOptions { shared: true, ..FleetOptions::default() };
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let other = Fleet::load(Arc::clone(&world.store), clock, options).await.unwrap();
    world.clock.advance(Duration::from_secs(100));
    world.fleet.heartbeat(here, Heartbeat { active_bundle_id: Some(bundle), ..healthy() }).await.unwrap();
    world.clock.advance(Duration::from_secs(30));
    // It has not followed the store yet, and yet it does not declare a node offline that talks to
    // the other replica.
    assert_eq!(other.sweep().await.unwrap(), 1);
    assert_eq!(stored(&world, here).await.status, NodeStatus::Online);
    assert_eq!(stored(&world, there).await.status, NodeStatus::Offline);
    assert_eq!(other.report(here).unwrap().active_bundle_id, Some(bundle));

    let (running, token) = (Arc::clone(&other), shutdown.clone());
    let running = tokio::spawn(async move { running.run(token).await });
    world.clock.advance(Duration::from_secs(1));
    world.fleet.heartbeat(there, Heartbeat { active_bundle_id: Some(bundle), ..healthy() }).await.unwrap();
    let started = Instant::now();
    while other.report(there).unwrap().active_bundle_id.is_none() {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What is only in memory is written at the end.
    other.heartbeat(there, Heartbeat { active_bundle_id: Some(bundle), ..healthy() }).await.unwrap();
    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(stored(&world, there).await.heartbeats, 2);
}

#[tokio::test]
async fn an_older_report_undoes_nothing_that_another_replica_acknowledged() {
    let world = World::new(1).await;
    let id = world.nodes[0].id;
    let (first, second) = (world.bundle("1").await, world.bundle("2").await);
    let running = |bundle| Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
    world.fleet.heartbeat(id, running(first)).await.unwrap();
    let options = FleetOptions { shared: true, ..FleetOptions::default() };
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let other = Fleet::load(Arc::clone(&world.store), clock, options).await.unwrap();
    // The other replica writes this one behind.
    world.clock.advance(Duration::from_secs(1));
    other.heartbeat(id, running(first)).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.fleet.heartbeat(id, running(second)).await.unwrap();
    other.flush().await.unwrap();
    assert_eq!(stored(&world, id).await.active_bundle_id, Some(second));
    assert_eq!(other.report(id).unwrap().active_bundle_id, Some(second), "it has learnt of it");

    world.clock.advance(Duration::from_secs(1));
    let (there, beat) = (Arc::clone(&other), running(first));
    let heartbeat = tokio::spawn(async move { there.heartbeat(id, beat).await });
    while !heartbeat.is_finished() {
        other.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    heartbeat.await.unwrap().unwrap();
    assert_eq!(stored(&world, id).await.active_bundle_id, Some(first), "a newer one counts");
}

/// A node that asks while the fleet is being restored is known as soon as it was looked up, whoever
/// of the two takes it in first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_unknown_while_the_fleet_is_restored() {
    let world = World::new(300).await;
    let nodes = world.stored_nodes().await;
    for _ in 0..20 {
        let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
        let fleet = Fleet::open(Arc::clone(&world.store), clock, FleetOptions::default());
        let shutdown = CancellationToken::new();
        let (restored, until) = (Arc::clone(&fleet), shutdown.clone());
        let restoring = tokio::spawn(async move { restored.run(until).await });
        let asking = nodes.values().cloned().map(|node| {
            let fleet = Arc::clone(&fleet);
            tokio::spawn(async move {
                fleet.refresh(&[node.id]).await.unwrap();
                fleet.authenticate(&node.key_hash).map(|node| node.id)
            })
        });
        for (known, id) in futures_util::future::join_all(asking).await.into_iter().zip(nodes.keys()) {
            assert_eq!(known.unwrap(), Some(*id));
        }
        shutdown.cancel();
        restoring.await.unwrap();
    }
}
