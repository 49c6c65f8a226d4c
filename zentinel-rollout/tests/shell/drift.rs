//! Drift: found, told, brought back.

use crate::world::{World, healthy, spec};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{
    BundleStatus, DriftEvent, DriftKind, DriftResolution, DriftSeverity, NodeConfig, Project, RolloutState,
};
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::{Clock as _, JobOutcome, Query, Queue, Scheduler as _, Store as _, StoreExt as _};
use zentinel_core::{Actor, Changes, Percent, RecordKind, Scope, Sha256Digest};
use zentinel_rollout::engine::DriftWatch;

fn watch(world: &World) -> DriftWatch {
    DriftWatch::new(Arc::clone(&world.engine), Arc::clone(&world.fleet))
}

async fn events(world: &World) -> Vec<DriftEvent> {
    let all = Query::all(RecordKind::DriftEvent);
    let all = world.memory.list_all::<DriftEvent>(&Scope::Instance, all).await.unwrap();
    all.into_iter().map(|event| event.value).collect()
}

async fn set(world: &World, change: impl FnOnce(&mut Project)) {
    let read = world.memory.fetch::<Project>(&world.scope(), world.project.id).await.unwrap();
    let mut project = read.value.clone();
    change(&mut project);
    world.memory.commit(Changes::new().update(&read, &project).unwrap()).await.unwrap();
}

/// A node says that it runs something else.
async fn runs(world: &mut World, number: usize, bundle: BundleId) {
    world.nodes[number].active = Some(bundle);
    let mut beat = healthy();
    beat.active_bundle_id = Some(bundle);
    world.fleet.heartbeat(world.nodes[number].id, beat).await.unwrap();
}

/// Runs the jobs that follow upon reports.
async fn run_maintenance(world: &World) -> usize {
    let handlers = world.engine.handlers();
    let now = world.clock.now();
    let jobs = world.memory.claim(Queue::Maintenance, "w", 100, Duration::from_secs(60), now).await.unwrap();
    for job in &jobs {
        let handler = handlers.iter().find(|handler| handler.kind() == job.job.kind).unwrap();
        assert_eq!(handler.run(job).await.unwrap(), JobOutcome::Done);
        world.memory.complete(job, now).await.unwrap();
    }
    jobs.len()
}

/// Two bundles; the second one runs everywhere, and has for a while.
async fn settled(nodes: usize) -> (World, BundleId, BundleId) {
    let mut world = World::new(nodes).await;
    let (old, new) = (world.deploy("1").await, world.deploy("2").await);
    pass(&mut world, 120).await;
    (world, old, new)
}

async fn pass(world: &mut World, seconds: u64) {
    for _ in 0..seconds.div_ceil(30) {
        world.clock.advance(Duration::from_secs(30));
        world.nodes_act().await;
    }
}

#[tokio::test]
async fn a_node_that_changes_behind_our_back_is_found_at_once_and_told_once() {
    let (mut world, old, new) = settled(3).await;
    watch(&world).look().await.unwrap();
    assert_eq!(events(&world).await, []);
    run_maintenance(&world).await;
    runs(&mut world, 1, old).await;
    assert_eq!(run_maintenance(&world).await, 1, "the report asks for a look");
    let found = events(&world).await;
    assert_eq!(found.len(), 1);
    let event = &found[0];
    assert_eq!((event.node_id, event.kind), (world.nodes[1].id, DriftKind::OtherBundle));
    assert_eq!((event.expected_bundle_id, event.actual_bundle_id), (new, Some(old)));
    assert_eq!((event.severity, event.diff_stats), (DriftSeverity::Medium, None), "no sources, no lines");
    for _ in 0..3 {
        pass(&mut world, 30).await;
        watch(&world).look().await.unwrap();
    }
    assert_eq!((events(&world).await.len(), world.events("drift.detected").await), (1, 1));

    runs(&mut world, 1, new).await;
    run_maintenance(&world).await;
    let event = events(&world).await.remove(0);
    assert_eq!(event.resolution, Some(DriftResolution::AutoCorrected));
    assert_eq!((event.duration_seconds(), world.events("drift.resolved").await), (Some(90), 1));
}

#[tokio::test]
async fn rollouts_and_rollbacks_are_no_drift() {
    let mut world = World::new(5).await;
    world.deploy("1").await;
    let bad = world.bundle("bad").await;
    for node in world.nodes.iter_mut().skip(2) {
        node.rejects.insert(bad);
    }
    let spec = zentinel_core::entity::RolloutSpec { batch_size: 2, auto_rollback: true, ..spec() };
    let rollout = world.create(bad, spec).await.unwrap();
    let watch = watch(&world);
    for _ in 0..60 {
        world.turn().await;
        run_maintenance(&world).await;
        watch.look().await.unwrap();
        assert_eq!(events(&world).await, [], "while a rollout or its rollback is under way");
        let detail = world.detail(rollout.id).await;
        if let Some(undo) = detail.rollout.rolled_back_by
            && world.detail(undo).await.rollout.state == RolloutState::Completed
        {
            pass(&mut world, 120).await;
            watch.look().await.unwrap();
            assert_eq!(events(&world).await, []);
            return;
        }
    }
    panic!("the rollback never ended");
}

#[tokio::test]
async fn silence_is_unknown_and_not_in_sync() {
    let (mut world, old, _) = settled(2).await;
    runs(&mut world, 0, old).await;
    run_maintenance(&world).await;
    world.nodes[0].silent = true;
    pass(&mut world, 150).await;
    assert_eq!(world.fleet.sweep().await.unwrap(), 1);
    watch(&world).look().await.unwrap();
    let survey = world.fleet.survey(None).remove(&world.project.id).unwrap();
    assert_eq!((survey.managed, survey.unknown, survey.suspects.len()), (2, 1, 0));
    assert!(events(&world).await[0].is_open(), "nobody knows what it runs now");
}

#[tokio::test]
async fn a_drifted_node_is_brought_back_by_a_rollout_of_its_own() {
    let (mut world, old, new) = settled(3).await;
    set(&world, |project| project.settings.drift_auto_remediation = true).await;
    runs(&mut world, 0, old).await;
    run_maintenance(&world).await;
    let event = events(&world).await.remove(0);
    assert!(event.is_open(), "created is not converged");
    let rollout = event.remediations[0].rollout_id;
    let detail = world.detail(rollout).await;
    assert_eq!((detail.rollout.created_by, detail.nodes.len()), (Actor::System, 1));
    assert_eq!(world.finish(rollout).await.rollout.state, RolloutState::Completed);
    assert_eq!(world.nodes[0].active, Some(new));
    watch(&world).look().await.unwrap();
    let event = events(&world).await.remove(0);
    assert_eq!(event.resolution, Some(DriftResolution::RolloutStarted));
    assert_eq!(event.remediations.len(), 1);
}

#[tokio::test]
async fn a_node_that_will_not_come_back_is_tried_three_times_an_hour() {
    let (mut world, old, new) = settled(1).await;
    set(&world, |project| project.settings.drift_auto_remediation = true).await;
    world.nodes[0].rejects.insert(new);
    runs(&mut world, 0, old).await;
    let watch = watch(&world);
    let tried = async |world: &World| events(world).await.iter().map(|e| e.remediations.len()).sum::<usize>();
    for _ in 0..500 {
        world.turn().await;
        run_maintenance(&world).await;
        watch.look().await.unwrap();
    }
    // Forty minutes and more.
    assert_eq!(tried(&world).await, 3);
    let event = events(&world).await.remove(0);
    assert!(event.is_open());
    assert_eq!(event.remediation_error.as_deref(), Some("it was tried 3 times within an hour"));
    // An operator who closes it by hand does not start the count anew.
    world.engine.resolve_drift(&world.scope(), Actor::System, event.id).await.unwrap();
    for _ in 0..20 {
        world.turn().await;
        watch.look().await.unwrap();
    }
    assert_eq!((tried(&world).await, events(&world).await.len()), (3, 2));
}

#[tokio::test]
async fn a_revoked_bundle_is_never_given_out_again() {
    let (mut world, old, new) = settled(1).await;
    set(&world, |project| project.settings.drift_auto_remediation = true).await;
    let read = world.memory.fetch::<zentinel_core::entity::Bundle>(&world.scope(), new).await.unwrap();
    let mut bundle = read.value.clone();
    bundle.status = BundleStatus::Revoked;
    world.memory.commit(Changes::new().update(&read, &bundle).unwrap()).await.unwrap();
    runs(&mut world, 0, old).await;
    run_maintenance(&world).await;
    let event = events(&world).await.remove(0);
    assert_eq!(event.remediations, []);
    assert_eq!(event.remediation_error.as_deref(), Some("the expected bundle is revoked"));
}

#[tokio::test]
async fn another_configuration_under_the_same_bundle_is_drift() {
    let (world, _, new) = settled(1).await;
    let read = world.memory.fetch::<zentinel_core::entity::Bundle>(&world.scope(), new).await.unwrap();
    let mut bundle = read.value.clone();
    bundle.config_hash = Some(Sha256Digest::of(b"right\n"));
    world.memory.commit(Changes::new().update(&read, &bundle).unwrap()).await.unwrap();
    let report = async |text: &str| {
        let config = NodeConfig {
            node_id: world.nodes[0].id,
            organisation_id: world.project.organisation_id,
            project_id: world.project.id,
            config_kdl: text.to_owned(),
            config_hash: Sha256Digest::of(text.as_bytes()),
            differs: text != "right\n",
            created_at: world.clock.now(),
        };
        world.memory.commit(Changes::new().upsert(&config).unwrap()).await.unwrap();
        watch(&world).look().await.unwrap();
    };
    report("wrong\n").await;
    assert_eq!(events(&world).await[0].kind, DriftKind::Content);
    report("right\n").await;
    assert_eq!(events(&world).await[0].resolution, Some(DriftResolution::AutoCorrected));
}

#[tokio::test]
async fn too_many_drifted_nodes_are_told_again_after_half_an_hour_only() {
    let (mut world, old, new) = settled(4).await;
    set(&world, |project| {
        project.settings.drift_alert_threshold = Some(Percent::HALF);
        project.settings.drift_check_interval = 10;
    })
    .await;
    let watch = watch(&world);
    let told = async |world: &World| world.events("drift.threshold_exceeded").await;
    runs(&mut world, 0, old).await;
    watch.look().await.unwrap();
    assert_eq!(told(&world).await, 0, "a quarter");
    runs(&mut world, 1, old).await;
    pass(&mut world, 30).await;
    watch.look().await.unwrap();
    assert_eq!(told(&world).await, 1);
    for _ in 0..58 {
        pass(&mut world, 30).await;
        watch.look().await.unwrap();
    }
    assert_eq!(told(&world).await, 1, "it goes on");
    pass(&mut world, 120).await;
    watch.look().await.unwrap();
    assert_eq!(told(&world).await, 2);
    // Below and beyond again is another edge.
    runs(&mut world, 1, new).await;
    pass(&mut world, 30).await;
    watch.look().await.unwrap();
    runs(&mut world, 1, old).await;
    pass(&mut world, 30).await;
    watch.look().await.unwrap();
    assert_eq!(told(&world).await, 3);
}

#[tokio::test]
async fn two_engines_open_one_event() {
    let (mut world, old, _) = settled(8).await;
    for number in 0..8 {
        runs(&mut world, number, old).await;
    }
    let ids: BTreeSet<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let other = crate::world::new_engine(&world.store, &world.signer, &world.clock);
    let (one, two) = tokio::join!(world.engine.check_drift_of(&ids), other.check_drift_of(&ids));
    one.unwrap();
    two.unwrap();
    assert_eq!((events(&world).await.len(), world.events("drift.detected").await), (8, 8));
    let done = world.engine.resolve_all_drift(&world.scope(), Actor::System, world.project.id).await.unwrap();
    assert_eq!((done, world.events("drift.resolved").await), (8, 8));
    assert_eq!(world.actions().await.iter().filter(|action| *action == "drift.bulk_resolved").count(), 1);
}

#[tokio::test]
async fn a_node_that_is_cordoned_meanwhile_is_left_out_of_steps_to_come() {
    let (mut world, old, _) = settled(4).await;
    let next = world.bundle("3").await;
    let spec = zentinel_core::entity::RolloutSpec { batch_size: 2, ..spec() };
    let rollout = world.create(next, spec).await.unwrap();
    world.turn().await;
    let last = *world.detail(rollout.id).await.steps[1].node_ids.last().unwrap();
    let read = world.memory.fetch::<zentinel_core::entity::Node>(&world.scope(), last).await.unwrap();
    let mut node = read.value.clone();
    node.cordoned = true;
    world.memory.commit(Changes::new().update(&read, &node).unwrap()).await.unwrap();
    let detail = world.finish(rollout.id).await;
    assert_eq!(detail.rollout.state, RolloutState::Completed);
    let part = detail.nodes.iter().find(|part| part.node_id == last).unwrap();
    assert_eq!((part.staged_at, part.error.as_deref()), (None, Some("cordoned")));
    let ran: Vec<_> = world.nodes.iter().filter(|node| node.active == Some(next)).collect();
    assert_eq!(ran.len(), 3);
    let held = world.stored_nodes().await.remove(&last).unwrap();
    assert_eq!((held.rollout_id, held.target), (None, None));
    assert_ne!(held.expected_bundle_id, Some(old));
}
