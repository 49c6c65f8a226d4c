//! Approvals, schedules and freeze windows over a real store.

use crate::world::{World, new_engine, spec};
use chrono::TimeDelta;
use std::collections::BTreeSet;
use std::time::Duration;
use zentinel_core::entity::{
    ApprovalState, Environment, FreezeOverride, FreezeSpan, FreezeWindow, Membership, Node, NodeProgress,
    Project, Role, Rollout, RolloutSpec, RolloutState, TargetSelector, User,
};
use zentinel_core::id::{ApiKeyId, BundleId, EnvironmentId, FreezeWindowId, NodeId, RolloutId};
use zentinel_core::port::{Clock, Store as _, StoreExt as _};
use zentinel_core::{Actor, Changes, Kind, Result, Scope};
use zentinel_rollout::Command;
use zentinel_rollout::engine::{NewRollout, Terms};

impl World {
    async fn with_terms(&self, bundle: BundleId, terms: Terms) -> Result<Rollout> {
        let new = NewRollout { bundle_id: bundle, spec: spec(), auto_start: true, supersede: false, terms };
        self.engine.create(&self.scope(), Actor::System, new).await
    }

    async fn set_project(&self, edit: impl FnOnce(&mut Project)) {
        let read = self.memory.fetch::<Project>(&self.scope(), self.project.id).await.unwrap();
        let mut project = read.value.clone();
        edit(&mut project);
        self.memory.commit(Changes::new().update(&read, &project).unwrap()).await.unwrap();
    }

    async fn set_node(&self, id: NodeId, environment: EnvironmentId) {
        let read = self.memory.fetch::<Node>(&self.scope(), id).await.unwrap();
        let mut node = read.value.clone();
        node.environment_id = Some(environment);
        self.memory.commit(Changes::new().update(&read, &node).unwrap()).await.unwrap();
        self.fleet.refresh(&[id]).await.unwrap();
    }

    async fn person(&self, email: &str, role: Role) -> Actor {
        let user = User::new(email, "hash".to_owned(), Role::Reader, self.clock.now()).unwrap();
        let membership = Membership::new(self.project.organisation_id, user.id, role, self.clock.now());
        let changes = Changes::new().insert(&user).unwrap().insert(&membership).unwrap();
        self.memory.commit(changes).await.unwrap();
        Actor::User(user.id)
    }

    async fn approve(&self, id: RolloutId, person: Actor) -> Result<Rollout> {
        self.engine.approve(&self.scope(), Actor::System, person, id, None).await
    }

    async fn rollout(&self, id: RolloutId) -> Rollout {
        self.memory.fetch::<Rollout>(&self.scope(), id).await.unwrap().value
    }

    async fn freeze(&self, environment: Option<EnvironmentId>, from: i64, to: i64) -> FreezeWindowId {
        let now = self.clock.now();
        let window = FreezeWindow {
            id: FreezeWindowId::random(),
            organisation_id: self.project.organisation_id,
            project_id: self.project.id,
            name: "Release party".to_owned(),
            reason: None,
            environment_id: environment,
            span: FreezeSpan::Once {
                starts_at: now + TimeDelta::seconds(from),
                ends_at: now + TimeDelta::seconds(to),
            },
            created_by: Actor::System,
            created_at: now,
            updated_at: now,
        };
        self.memory.commit(Changes::new().insert(&window).unwrap()).await.unwrap();
        window.id
    }

    async fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.run_jobs().await;
    }
}

fn scheduled(world: &World, seconds: i64) -> Terms {
    Terms { scheduled_at: Some(world.clock.now() + TimeDelta::seconds(seconds)), ..Terms::default() }
}

#[tokio::test]
async fn approvals_start_a_rollout_that_was_asked_to() {
    let mut world = World::new(3).await;
    world
        .set_project(|project| {
            project.settings.approval_required = true;
            project.settings.approvals_needed = 2;
        })
        .await;
    let bundle = world.bundle("1").await;
    let creator = world.person("creator@example.com", Role::Operator).await;
    let rollout =
        world.with_terms(bundle, Terms { requested_by: Some(creator), ..Terms::default() }).await.unwrap();
    assert_eq!(
        (rollout.state, rollout.approval.state),
        (RolloutState::Pending, ApprovalState::PendingApproval)
    );
    assert_eq!(rollout.waiting.summary, "Waits for 2 approvals.");
    let id = rollout.id;
    let refused = world.engine.command(&world.scope(), Actor::System, id, Command::Start).await.unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (Kind::Conflict, "Approval required"));

    assert_eq!(world.approve(id, creator).await.unwrap_err().message(), "self_approval");
    let reader = world.person("reader@example.com", Role::Reader).await;
    let refused = world.approve(id, reader).await.unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (Kind::Forbidden, "not_authorized"));
    let stranger = Actor::User(zentinel_core::id::UserId::random());
    assert_eq!(world.approve(id, stranger).await.unwrap_err().message(), "not_authorized");

    let first = world.person("first@example.com", Role::Operator).await;
    assert_eq!(world.approve(id, first).await.unwrap().waiting.summary, "Waits for 1 of 2 approvals.");
    assert_eq!(world.approve(id, first).await.unwrap_err().message(), "already_approved");
    world.later(60).await;
    assert_eq!(world.rollout(id).await.state, RolloutState::Pending);
    let started = world.approve(id, Actor::ApiKey(ApiKeyId::random())).await.unwrap();
    assert_eq!((started.state, started.approval.state), (RolloutState::Running, ApprovalState::Approved));
    assert_eq!(world.finish(id).await.rollout.state, RolloutState::Completed);
    let actions = world.actions().await;
    let wanted =
        ["rollout.created", "rollout.approved", "rollout.approved", "rollout.started", "rollout.completed"];
    assert_eq!(actions, wanted);
    let counts = [world.events("rollout.pending_approval").await, world.events("rollout.approved").await];
    assert_eq!(counts, [1, 2]);
}

#[tokio::test]
async fn of_approvals_at_the_same_instant_each_counts_once() {
    let world = World::new(2).await;
    world
        .set_project(|project| {
            project.settings.approval_required = true;
            project.settings.approvals_needed = 3;
        })
        .await;
    let bundle = world.bundle("1").await;
    let id = world.with_terms(bundle, Terms::default()).await.unwrap().id;
    let keys: Vec<Actor> = (0..3).map(|_| Actor::ApiKey(ApiKeyId::random())).collect();
    let engines: Vec<_> = (0..2).map(|_| new_engine(&world.store, &world.signer, &world.clock)).collect();
    let scope = world.scope();
    let calls = keys.iter().chain(&keys).enumerate().map(|(turn, key)| {
        let engine = &engines[turn % 2];
        engine.approve(&scope, Actor::System, *key, id, None)
    });
    let outcomes = futures_util::future::join_all(calls).await;
    let refused: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| outcome.as_ref().err().map(|error| error.message().to_owned()))
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused.iter().all(|text| text == "already_approved" || text == "invalid_state"), "{refused:?}");
    let rollout = world.rollout(id).await;
    let given: BTreeSet<_> =
        rollout.approval.given.iter().map(|verdict| format!("{:?}", verdict.by)).collect();
    assert_eq!((given.len(), rollout.approval.given.len()), (3, 3));
    assert_eq!(rollout.state, RolloutState::Running);
}

#[tokio::test]
async fn a_rejected_rollout_can_only_be_cancelled() {
    let world = World::new(2).await;
    world.set_project(|project| project.settings.approval_required = true).await;
    let bundle = world.bundle("1").await;
    let id = world.with_terms(bundle, Terms::default()).await.unwrap().id;
    let person = world.person("op@example.com", Role::Operator).await;
    let reject = async |comment: &str| {
        world.engine.reject(&world.scope(), Actor::System, person, id, comment.to_owned()).await
    };
    assert_eq!(reject(" ").await.unwrap_err().message(), "comment_required");
    let rejected = reject("wrong week").await.unwrap();
    assert_eq!((rejected.state, rejected.approval.state), (RolloutState::Pending, ApprovalState::Rejected));
    assert_eq!(rejected.waiting.summary, "Rejected: wrong week");
    world.set_project(|project| project.settings.approval_required = false).await;
    world.engine.start_due().await.unwrap();
    let scope = world.scope();
    assert_eq!(world.rollout(id).await.state, RolloutState::Pending);
    let start = world.engine.command(&scope, Actor::System, id, Command::Start).await.unwrap_err();
    assert_eq!(start.details().unwrap()["approval_state"], "rejected");
    let cancelled = world.engine.command(&scope, Actor::System, id, Command::Cancel).await.unwrap();
    assert_eq!(cancelled.state, RolloutState::Cancelled);
    assert_eq!(world.actions().await, ["rollout.created", "rollout.rejected", "rollout.cancelled"]);
}

#[tokio::test]
async fn settings_that_become_stricter_hold_for_what_has_not_started() {
    let world = World::new(2).await;
    let bundle = world.bundle("1").await;
    let new = NewRollout {
        bundle_id: bundle,
        spec: spec(),
        auto_start: false,
        supersede: false,
        terms: Terms::default(),
    };
    let rollout = world.engine.create(&world.scope(), Actor::System, new).await.unwrap();
    assert_eq!(rollout.approval.state, ApprovalState::NotRequired);
    world.set_project(|project| project.settings.approval_required = true).await;
    let start =
        async || world.engine.command(&world.scope(), Actor::System, rollout.id, Command::Start).await;
    assert_eq!(start().await.unwrap_err().message(), "Approval required");
    assert_eq!(world.rollout(rollout.id).await.approval.state, ApprovalState::PendingApproval);
    assert_eq!(world.events("rollout.pending_approval").await, 1);
    let key = Actor::ApiKey(ApiKeyId::random());
    let approved = world.approve(rollout.id, key).await.unwrap();
    assert_eq!((approved.state, approved.approval.state), (RolloutState::Pending, ApprovalState::Approved));
    assert_eq!(start().await.unwrap().state, RolloutState::Running);
}

#[tokio::test]
async fn a_scheduled_rollout_starts_on_time_over_the_nodes_of_that_time() {
    let mut world = World::new(3).await;
    let first = world.deploy("1").await;
    let bundle = world.bundle("2").await;
    let past = world.with_terms(bundle, scheduled(&world, 0)).await.unwrap_err();
    assert_eq!(past.fields()["scheduled_at"], ["must be in the future"]);
    let rollout = world.with_terms(bundle, scheduled(&world, 3_600)).await.unwrap();
    let id = rollout.id;
    assert_eq!(rollout.state, RolloutState::Pending);
    assert!(rollout.waiting.summary.starts_with("Starts at "), "{}", rollout.waiting.summary);
    assert_eq!(rollout.waiting.until, rollout.scheduled_at);
    world.later(1_800).await;
    world.engine.start_due().await.unwrap();
    assert_eq!(world.rollout(id).await.state, RolloutState::Pending);

    // Meanwhile the fleet changes: a node comes, one goes, and all run something newer.
    let between = world.deploy("1.5").await;
    assert_eq!(world.detail(id).await.nodes[0].previous_bundle_id, Some(first));
    let new = world.register("edge-999").await;
    let gone = world.nodes.remove(0).id;
    let read = world.memory.fetch::<Node>(&world.scope(), gone).await.unwrap();
    world.memory.commit(Changes::new().delete(&read)).await.unwrap();
    world.fleet.forget(gone);
    world.restart().await;
    let due = rollout.scheduled_at.unwrap();
    let left = (due - world.clock.now()).to_std().unwrap();
    world.later(left.as_secs()).await;
    let detail = world.detail(id).await;
    assert_eq!(detail.rollout.state, RolloutState::Running);
    assert_eq!(detail.rollout.started_at, Some(due), "on time, by its own job");
    let nodes: BTreeSet<NodeId> = detail.nodes.iter().map(|node| node.node_id).collect();
    let wanted: BTreeSet<NodeId> = world.nodes.iter().map(|node| node.id).chain([new]).collect();
    assert_eq!(nodes, wanted);
    let planned: BTreeSet<NodeId> = detail.steps.iter().flat_map(|step| step.node_ids.clone()).collect();
    assert_eq!(planned, wanted);
    for node in detail.nodes.iter().filter(|node| node.node_id != new) {
        assert_eq!(node.previous_bundle_id, Some(between), "a rollback leads to what ran at the start");
        assert!(matches!(node.state, NodeProgress::Pending | NodeProgress::Staging));
    }
    assert_eq!(world.events("rollout.schedule_missed").await, 0);
    assert_eq!(world.actions().await.last().map(String::as_str), Some("rollout.started"));
}

#[tokio::test]
async fn a_lost_job_a_failing_rollout_and_a_late_start() {
    let mut world = World::new(4).await;
    let (one, two) = (world.bundle("1").await, world.bundle("2").await);
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let on = |nodes: &[NodeId], terms: Terms, bundle: BundleId| {
        let node_ids = nodes.iter().copied().collect();
        let spec = RolloutSpec { target_selector: TargetSelector::NodeIds { node_ids }, ..spec() };
        NewRollout { bundle_id: bundle, spec, auto_start: true, supersede: false, terms }
    };
    let create =
        async |new: NewRollout| world.engine.create(&world.scope(), Actor::System, new).await.unwrap();
    let running = create(on(&ids[..1], Terms::default(), one)).await;
    let blocked = create(on(&ids[..2], scheduled(&world, 60), two)).await;
    let free = create(on(&ids[2..], scheduled(&world, 60), two)).await;
    let doomed = create(on(&ids[3..], scheduled(&world, 61), one)).await;
    for node in &mut world.nodes {
        node.silent = true;
    }
    world.clock.advance(Duration::from_secs(2 * 3_600));
    world.discard_jobs().await;
    assert_eq!(
        world.engine.start_due().await.unwrap(),
        1,
        "one overlap and one behind it do not stop the third"
    );
    let summary = world.rollout(blocked.id).await.waiting.summary;
    assert!(
        summary.starts_with("Cannot start yet: Another rollout is active on 1 target nodes"),
        "{summary}"
    );
    assert_eq!(world.rollout(free.id).await.state, RolloutState::Running);
    assert_eq!(world.rollout(doomed.id).await.state, RolloutState::Pending);
    assert_eq!(world.events("rollout.schedule_missed").await, 1);

    // What was in the way goes: the next sweep starts it.
    let scope = world.scope();
    world.engine.command(&scope, Actor::System, running.id, Command::Cancel).await.unwrap();
    assert_eq!(world.engine.start_due().await.unwrap(), 1);
    assert_eq!(world.rollout(blocked.id).await.state, RolloutState::Running);
    // A bundle that was revoked before its time is never given out.
    world.engine.command(&scope, Actor::System, free.id, Command::Cancel).await.unwrap();
    world.engine.revoke(&scope, Actor::System, one).await.unwrap();
    assert_eq!(world.engine.start_due().await.unwrap(), 0);
    let summary = world.rollout(doomed.id).await.waiting.summary;
    assert!(summary.contains("Bundle must be compiled before rollout"), "{summary}");
}

#[tokio::test]
async fn two_engines_start_a_rollout_once() {
    let world = World::new(3).await;
    let bundle = world.bundle("1").await;
    let id = world.with_terms(bundle, scheduled(&world, 10)).await.unwrap().id;
    world.clock.advance(Duration::from_secs(10));
    let engines: Vec<_> = (0..4).map(|_| new_engine(&world.store, &world.signer, &world.clock)).collect();
    let started = futures_util::future::join_all(engines.iter().map(|engine| engine.start_if_due(id))).await;
    assert_eq!(started.into_iter().filter(|started| *started.as_ref().unwrap()).count(), 1);
    assert_eq!(world.events("rollout.started").await, 1);
}

#[tokio::test]
async fn a_freeze_refuses_creation_makes_schedules_wait_and_lets_rollbacks_through() {
    let mut world = World::new(3).await;
    world.deploy("1").await;
    let bundle = world.bundle("2").await;
    let running = world.with_terms(bundle, Terms::default()).await.unwrap();
    let early = world.with_terms(bundle, scheduled(&world, 50)).await.unwrap();
    world.turn().await;
    let window = world.freeze(None, -10, 600).await;
    let refused = world.with_terms(bundle, Terms::default()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.message()), (Kind::Conflict, "Freeze window active"));
    assert_eq!(refused.details().unwrap()["freeze_window"]["id"], window.to_string());

    // Under way it goes on, and back it may go at any time.
    let scope = world.scope();
    world.engine.command(&scope, Actor::System, running.id, Command::Rollback).await.unwrap();
    let undoes = world.rollout(running.id).await.rolled_back_by.unwrap();
    let undone = world.finish(undoes).await.rollout;
    assert_eq!(
        (undone.state, undone.approval.exempt.as_deref()),
        (RolloutState::Completed, Some("rollback"))
    );

    world.later(60).await;
    let waits = world.rollout(early.id).await;
    assert_eq!(waits.state, RolloutState::Pending);
    assert!(
        waits.waiting.summary.starts_with("Waits until the freeze window Release party ends at"),
        "{}",
        waits.waiting.summary
    );
    let until = waits.waiting.until.unwrap();
    let left = (until - world.clock.now()).num_seconds();
    world.later(u64::try_from(left).unwrap() - 1).await;
    assert_eq!(world.rollout(early.id).await.state, RolloutState::Pending);
    world.later(1).await;
    assert_eq!(world.rollout(early.id).await.state, RolloutState::Running, "as soon as the window is over");
}

#[tokio::test]
async fn an_override_starts_in_a_freeze_and_is_audited_with_its_reason() {
    let world = World::new(2).await;
    let bundle = world.bundle("1").await;
    let draft = NewRollout {
        bundle_id: bundle,
        spec: spec(),
        auto_start: false,
        supersede: true,
        terms: Terms::default(),
    };
    let drafted = world.engine.create(&world.scope(), Actor::System, draft).await.unwrap();
    world.freeze(None, -10, 600).await;
    let decision = FreezeOverride { by: Actor::System, reason: "outage".to_owned(), at: world.clock.now() };
    let terms = Terms { override_freeze: Some(decision.clone()), ..Terms::default() };
    let rollout = world.with_terms(bundle, terms).await.unwrap();
    assert_eq!(rollout.state, RolloutState::Running);
    let scope = world.scope();
    let start = world.engine.start(&scope, Actor::System, drafted.id, None).await.unwrap_err();
    assert_eq!(start.message(), "Freeze window active");
    let started = world.engine.start(&scope, Actor::System, drafted.id, Some(decision)).await.unwrap();
    assert_eq!(started.state, RolloutState::Running);
    assert_eq!(world.rollout(rollout.id).await.state, RolloutState::Cancelled, "it supersedes, as asked for");
    let overridden: Vec<_> =
        world.audit().await.into_iter().filter(|entry| entry.action == "rollout.freeze_overridden").collect();
    assert_eq!(overridden.len(), 2);
    assert!(overridden.iter().all(|entry| entry.metadata["reason"] == "outage"));
}

#[tokio::test]
async fn an_assignment_gets_nobody_around_the_rules() {
    let world = World::new(2).await;
    let bundle = world.bundle("1").await;
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let assign = async || {
        let scope = world.scope();
        let given = world.engine.assign(&scope, Actor::System, bundle, &ids, true).await.unwrap();
        given.skipped.into_iter().map(|(_, reason)| reason).collect::<Vec<_>>()
    };
    let environments =
        Environment::defaults((world.project.organisation_id, world.project.id), world.clock.now());
    let mut changes = Changes::new();
    let environments = environments.unwrap();
    for environment in &environments {
        changes = changes.insert(environment).unwrap();
    }
    world.memory.commit(changes).await.unwrap();
    world.set_node(ids[0], environments[1].id).await;
    assert_eq!(assign().await, ["not_promoted"], "only the node in staging");
    world.freeze(None, -10, 600).await;
    assert_eq!(assign().await.len(), 2);
    world.later(700).await;
    world.set_project(|project| project.settings.approval_required = true).await;
    assert!(assign().await.contains(&"approval_required".to_owned()));
}

#[tokio::test]
async fn leaving_the_environment_out_gets_nobody_around_its_rules() {
    let mut world = World::new(2).await;
    let now = world.clock.now();
    let ids = (world.project.organisation_id, world.project.id);
    let mut all = Environment::defaults(ids, now).unwrap();
    all[2].settings.approvals_needed = 2;
    let mut changes = Changes::new();
    for environment in &all {
        changes = changes.insert(environment).unwrap();
    }
    world.memory.commit(changes).await.unwrap();
    let (dev, prod) = (all[0].id, all[2].id);
    let nodes: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    world.set_node(nodes[0], dev).await;
    let bundle = world.bundle("1").await;
    // Development is open; its rollout leaves the other node out.
    let terms = Terms { environment_id: Some(dev), ..Terms::default() };
    let rollout = world.with_terms(bundle, terms).await.unwrap();
    assert_eq!(rollout.excluded.len(), 1);
    assert_eq!(world.finish(rollout.id).await.nodes.len(), 1);

    world.set_node(nodes[1], prod).await;
    let terms = Terms { environment_id: Some(prod), ..Terms::default() };
    for terms in [terms, Terms::default()] {
        let refused = world.with_terms(bundle, terms).await.unwrap_err();
        assert_eq!(refused.message(), "Bundle is not promoted to this environment");
    }
    let unknown = Terms { environment_id: Some(EnvironmentId::random()), ..Terms::default() };
    let refused = world.with_terms(bundle, unknown).await.unwrap_err();
    assert_eq!(refused.fields()["environment_id"], ["does not exist"]);
    assert_eq!(
        world
            .memory
            .list_all::<Rollout>(
                &Scope::Instance,
                zentinel_core::port::Query::all(zentinel_core::RecordKind::Rollout)
            )
            .await
            .unwrap()
            .len(),
        1
    );
}
