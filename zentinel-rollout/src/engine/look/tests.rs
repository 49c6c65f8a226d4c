//! A look that reads what changed decides what one that reads everything would.

use super::Decided;
use crate::decision::Outlook;
use crate::engine::work::Work;
use crate::engine::{Command, Engine, EngineOptions, NewRollout, Terms};
use crate::strategy::Strategies;
use futures_util::stream;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{
    Activation, Bundle, BundleError, BundleOrigin, BundleStatus, Health, HealthGates, Node, NodeReport,
    NodeStatus, Organisation, Project, Registration, RiskLevel, Rollout, RolloutSpec, RolloutState,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::port::{Clock, ManualClock, Store, StoreExt as _};
use zentinel_core::{Actor, Changes, Percent, Scope, Sha256Digest, Timestamp};
use zentinel_store::{MemorySigner, MemoryStore};

const NODES: usize = 6;

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    project: Project,
    nodes: Vec<NodeId>,
    engines: Vec<Engine>,
    signer: Arc<MemorySigner>,
}

fn bundle(project: &Project, version: &str, now: Timestamp) -> Bundle {
    Bundle {
        id: BundleId::random(),
        organisation_id: project.organisation_id,
        project_id: project.id,
        version: version.to_owned(),
        status: BundleStatus::Compiled,
        generated: false,
        origin: BundleOrigin::default(),
        declared_risk: RiskLevel::Low,
        risk_level: RiskLevel::Low,
        risk_findings: Vec::new(),
        parent_bundle_id: None,
        activation: Activation::Reload,
        checksum: Some(Sha256Digest::of(version.as_bytes())),
        size_bytes: Some(1),
        storage_key: None,
        config_hash: None,
        manifest: None,
        diagnostics: Vec::new(),
        signature: None,
        signing_key_id: None,
        created_at: now,
        updated_at: now,
        author: None,
    }
}

impl World {
    async fn new() -> Self {
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let organisation = Organisation::new("Example", now).unwrap();
        let project = Project::new(organisation.id, "Edge", now).unwrap();
        let store = Arc::new(MemoryStore::new());
        let mut changes = Changes::new().insert(&organisation).unwrap().insert(&project).unwrap();
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let registration = Registration { name: format!("edge-{number}"), ..Registration::default() };
            let key = NewCredential::generate().hash;
            let scope = (organisation.id, project.id);
            let node = Node::register(scope, &registration, true, key, now).unwrap();
            let report = NodeReport::registered(&node, &registration);
            changes = changes.insert(&node).unwrap().insert(&report).unwrap();
            nodes.push(node.id);
        }
        store.commit(changes).await.unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let signer = Arc::new(MemorySigner::generate());
        let mut world = Self { store, clock, project, nodes, engines: Vec::new(), signer };
        world.engines = vec![world.engine(), world.engine()];
        world
    }

    fn engine(&self) -> Engine {
        self.engine_over(Arc::clone(&self.store) as Arc<dyn Store>)
    }

    fn engine_over(&self, store: Arc<dyn Store>) -> Engine {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let options = EngineOptions::default();
        Engine::new(store, Arc::clone(&self.signer) as _, clock, Strategies::standard(), options)
    }

    async fn start(&self, spec: RolloutSpec) -> RolloutId {
        let bundle = bundle(&self.project, "1.0", self.clock.now());
        self.store.commit(Changes::new().insert(&bundle).unwrap()).await.unwrap();
        let new = NewRollout {
            bundle_id: bundle.id,
            spec,
            auto_start: true,
            supersede: false,
            terms: Terms::default(),
        };
        self.engines[0].create(&self.project.scope(), Actor::System, new).await.unwrap().id
    }

    async fn rollout(&self, id: RolloutId) -> zentinel_core::Stored<Rollout> {
        self.store.fetch::<Rollout>(&Scope::Instance, id).await.unwrap()
    }

    /// Changes what a node reports; `renew` says that it only says so again.
    async fn report(&self, node: usize, renew: bool, edit: impl FnOnce(&mut NodeReport, &Node)) {
        let Some(read) = self.store.find::<Node>(&Scope::Instance, self.nodes[node]).await.unwrap() else {
            return;
        };
        let mut report =
            self.store.fetch::<NodeReport>(&Scope::Instance, self.nodes[node]).await.unwrap().value;
        report.last_seen_at = Some(self.clock.now());
        edit(&mut report, &read);
        let changes = Changes::new();
        let changes = if renew { changes.renew(&report) } else { changes.upsert(&report) };
        self.store.commit(changes.unwrap()).await.unwrap();
    }

    async fn activate(&self, node: usize) {
        let now = self.clock.now();
        self.report(node, false, |report, node| {
            if let Some(target) = &node.target {
                report.active_bundle_id = Some(target.bundle_id);
                report.active_since = Some(now);
                report.healthy_streak = 0;
                report.bundle_error = None;
            }
        })
        .await;
    }

    async fn beat(&self, node: usize, errors: f64) {
        self.report(node, true, |report, _| {
            report.healthy_streak += 1;
            report.health =
                Health { status: Some("healthy".to_owned()), error_rate: Some(errors), ..Health::default() };
        })
        .await;
    }

    async fn happens(&self, action: &Action, rollout: RolloutId) {
        match *action {
            Action::Activates(node) => self.activate(node).await,
            Action::Beats(node, errors) => self.beat(node, f64::from(errors)).await,
            Action::EveryoneBeats => {
                for node in 0..NODES {
                    self.beat(node, 0.0).await;
                }
            }
            Action::Rejects(node) => {
                let now = self.clock.now();
                let edit = |report: &mut NodeReport, node: &Node| {
                    report.bundle_error = node.target.as_ref().map(|target| BundleError {
                        bundle_id: target.bundle_id,
                        reason: "invalid_config".to_owned(),
                        message: "no".to_owned(),
                        sequence: Some(target.sequence),
                    });
                    report.bundle_error_at = Some(now);
                };
                self.report(node, false, edit).await;
            }
            Action::TakesBack(node) => {
                let (now, bundle_id) = (self.clock.now(), self.rollout(rollout).await.bundle_id);
                let edit = |report: &mut NodeReport, _: &Node| {
                    report.active_bundle_id = None;
                    report.active_since = None;
                    report.bundle_error = Some(BundleError {
                        bundle_id,
                        reason: "proxy_crashed".to_owned(),
                        message: "no".to_owned(),
                        sequence: None,
                    });
                    report.bundle_error_at = Some(now);
                };
                self.report(node, false, edit).await;
            }
            Action::GoesOffline(node) => {
                self.report(node, false, |report, _| report.status = NodeStatus::Offline).await;
            }
            Action::ComesBack(node) => {
                self.report(node, false, |report, _| report.status = NodeStatus::Online).await;
            }
            Action::IsDeleted(node) => {
                let read = self.store.find::<Node>(&Scope::Instance, self.nodes[node]).await.unwrap();
                if let Some(read) = read {
                    self.store.commit(Changes::new().delete(&read)).await.unwrap();
                }
            }
            Action::IsRevoked => {
                let id = self.rollout(rollout).await.bundle_id;
                let read = self.store.fetch::<Bundle>(&Scope::Instance, id).await.unwrap();
                let revoked = Bundle { status: BundleStatus::Revoked, ..read.value.clone() };
                self.store.commit(Changes::new().update(&read, &revoked).unwrap()).await.unwrap();
            }
            Action::Passes(seconds) => self.clock.advance(Duration::from_secs(seconds)),
            Action::Command(command) => {
                let engine = &self.engines[0];
                // What the state does not allow is refused, and that is fine.
                drop(engine.command(&self.project.scope(), Actor::System, rollout, command).await);
            }
            Action::Ticks(engine) => self.tick(&self.engines[engine], rollout).await,
        }
    }

    /// A tick whose decision is compared with that of an engine that remembers nothing.
    async fn tick(&self, engine: &Engine, id: RolloutId) {
        let newcomer = self.engine();
        let mut work = Work::new(&newcomer, self.project.scope());
        let full = newcomer.decide(&mut work, self.rollout(id).await).await.unwrap();
        let before = self.rollout(id).await;
        let state = before.state;
        let mut work = Work::new(engine, self.project.scope());
        let decided = engine.decide(&mut work, before).await.unwrap();
        let (remembering, reading) = (without_outlook(&decided), without_outlook(&full));
        let summary = |decision: &crate::Decision| format!("{:?}", (decision.report(), &decision.effects));
        assert!(
            remembering == reading,
            "remembering: {}\nreading: {}",
            summary(&remembering),
            summary(&reading)
        );
        engine.follow_through(state, work, decided).await.unwrap();
    }
}

fn without_outlook(decided: &Decided) -> crate::Decision {
    crate::Decision { outlook: Outlook::Open, ..decided.decision.clone() }
}

#[derive(Clone, Debug)]
enum Action {
    Activates(usize),
    Beats(usize, u8),
    EveryoneBeats,
    Rejects(usize),
    TakesBack(usize),
    GoesOffline(usize),
    ComesBack(usize),
    IsDeleted(usize),
    IsRevoked,
    Passes(u64),
    Command(Command),
    Ticks(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let node = || 0..NODES;
    prop_oneof![
        6 => node().prop_map(Action::Activates),
        4 => (node(), prop_oneof![3 => Just(0_u8), 1 => Just(90)])
            .prop_map(|(node, errors)| Action::Beats(node, errors)),
        4 => Just(Action::EveryoneBeats),
        1 => node().prop_map(Action::Rejects),
        1 => node().prop_map(Action::TakesBack),
        1 => node().prop_map(Action::GoesOffline),
        1 => node().prop_map(Action::ComesBack),
        1 => node().prop_map(Action::IsDeleted),
        1 => Just(Action::IsRevoked),
        4 => (0_u64..60).prop_map(Action::Passes),
        1 => proptest::sample::select(Command::ALL.to_vec()).prop_map(Action::Command),
        12 => (0_usize..2).prop_map(Action::Ticks),
    ]
}

fn spec(all: bool, max_unavailable: u32, auto_rollback: bool) -> RolloutSpec {
    RolloutSpec {
        strategy: if all { "all_at_once" } else { "rolling" }.to_owned(),
        batch_size: 2,
        max_unavailable,
        auto_rollback,
        rollback_threshold: Percent::new(50).unwrap(),
        progress_deadline_seconds: 300,
        health_gates: HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() },
        ..RolloutSpec::default()
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Two engines take turns at one store, while everything happens to the nodes.
    #[test]
    fn remembering_decides_as_reading_everything(
        (all, max_unavailable, auto_rollback) in (any::<bool>(), 0_u32..2, any::<bool>()),
        actions in proptest::collection::vec(action(), 1..80),
    ) {
        block_on(async {
            let world = World::new().await;
            let rollout = world.start(spec(all, max_unavailable, auto_rollback)).await;
            for action in &actions {
                world.happens(action, rollout).await;
            }
        });
    }
}

/// A store whose notices are held back, as those of another replica may be.
#[derive(Debug)]
struct Held {
    store: Arc<MemoryStore>,
    held: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Store for Held {
    async fn get(
        &self,
        scope: &Scope,
        kind: zentinel_core::RecordKind,
        id: uuid::Uuid,
    ) -> zentinel_core::Result<Option<zentinel_core::Stored<zentinel_core::Row>>> {
        self.store.get(scope, kind, id).await
    }
    async fn lookup(
        &self,
        kind: zentinel_core::RecordKind,
        key: &str,
    ) -> zentinel_core::Result<Option<zentinel_core::Stored<zentinel_core::Row>>> {
        self.store.lookup(kind, key).await
    }
    async fn query(
        &self,
        scope: &Scope,
        query: &zentinel_core::port::Query,
    ) -> zentinel_core::Result<zentinel_core::Page<zentinel_core::Stored<zentinel_core::Row>>> {
        self.store.query(scope, query).await
    }
    async fn count_by_state(
        &self,
        scope: &Scope,
        kind: zentinel_core::RecordKind,
    ) -> zentinel_core::Result<std::collections::BTreeMap<String, u64>> {
        self.store.count_by_state(scope, kind).await
    }
    async fn commit(&self, changes: Changes) -> zentinel_core::Result<zentinel_core::port::Receipt> {
        self.store.commit(changes).await
    }
    async fn read_log(
        &self,
        scope: &Scope,
        query: &zentinel_core::log::LogQuery,
    ) -> zentinel_core::Result<Vec<zentinel_core::log::LogEntry>> {
        self.store.read_log(scope, query).await
    }
    async fn trim_log(
        &self,
        kind: zentinel_core::log::LogKind,
        retention: zentinel_core::log::Retention,
    ) -> zentinel_core::Result<u64> {
        self.store.trim_log(kind, retention).await
    }
    fn watch(&self) -> zentinel_core::port::NoticeStream {
        let (mut notices, held) = (self.store.watch(), Arc::clone(&self.held));
        Box::pin(stream::poll_fn(move |context| match held.load(Ordering::SeqCst) {
            true => std::task::Poll::Pending,
            false => notices.as_mut().poll_next(context),
        }))
    }
    async fn ping(&self) -> zentinel_core::Result<()> {
        self.store.ping().await
    }
}

async fn activated(world: &World, engine: &Engine, id: RolloutId) -> usize {
    let detail = engine.detail(&world.project.scope(), id).await.unwrap();
    detail.nodes.iter().filter(|node| node.activated_at.is_some()).count()
}

/// Reports of which nobody has told yet are seen at the tick after somebody did, and a paused
/// rollout, for which no tick is due, sees them at once.
#[test]
fn late_notices_delay_but_lose_nothing() {
    block_on(async {
        let world = World::new().await;
        let held = Arc::new(AtomicBool::new(false));
        let store = Held { store: Arc::clone(&world.store), held: Arc::clone(&held) };
        let engine = world.engine_over(Arc::new(store));
        let id = world.start(spec(true, 0, false)).await;
        for _ in 0..2 {
            engine.tick(id).await.unwrap();
        }
        held.store(true, Ordering::SeqCst);
        world.activate(0).await;
        engine.tick(id).await.unwrap();
        assert_eq!(activated(&world, &engine, id).await, 0, "nobody has told");
        held.store(false, Ordering::SeqCst);
        engine.tick(id).await.unwrap();
        assert_eq!(activated(&world, &engine, id).await, 1);
        engine.command(&world.project.scope(), Actor::System, id, Command::Pause).await.unwrap();
        engine.tick(id).await.unwrap();
        held.store(true, Ordering::SeqCst);
        world.activate(1).await;
        engine.tick(id).await.unwrap();
        assert_eq!(activated(&world, &engine, id).await, 2);
    });
}

/// Whoever lags behind the notices reads everything.
#[test]
fn lost_notices_lose_nothing() {
    block_on(async {
        let world = World::new().await;
        let engine = &world.engines[1];
        let id = world.start(spec(true, 0, false)).await;
        for _ in 0..2 {
            engine.tick(id).await.unwrap();
        }
        world.activate(0).await;
        for _ in 0..1_100 {
            world.beat(1, 0.0).await;
        }
        engine.tick(id).await.unwrap();
        assert_eq!(activated(&world, engine, id).await, 1);
    });
}

/// A tick in whose middle another engine commits has not seen what that one did.
#[test]
fn what_happens_during_a_tick_is_news_for_the_next() {
    block_on(async {
        let world = World::new().await;
        let id = world.start(spec(true, 0, false)).await;
        let engine = &world.engines[1];
        for _ in 0..2 {
            engine.tick(id).await.unwrap();
        }
        // Both have begun; the later one hears of the activation, and the earlier one ends last.
        let mut early = Work::new(engine, world.project.scope());
        let first = engine.decide(&mut early, world.rollout(id).await).await.unwrap();
        world.activate(0).await;
        let mut late = Work::new(engine, world.project.scope());
        let second = engine.decide(&mut late, world.rollout(id).await).await.unwrap();
        drop(second);
        engine.follow_through(RolloutState::Running, early, first).await.unwrap();
        engine.tick(id).await.unwrap();
        assert_eq!(activated(&world, engine, id).await, 1);
    });
}

/// A node of a completed step that takes the bundle back is noticed at the next tick, although its
/// step is not looked at any more.
#[test]
fn a_node_that_was_done_and_takes_the_bundle_back_is_noticed() {
    block_on(async {
        let world = World::new().await;
        let id = world.start(spec(false, 0, false)).await;
        let engine = &world.engines[1];
        for _ in 0..2 {
            engine.tick(id).await.unwrap();
        }
        let first = engine.detail(&world.project.scope(), id).await.unwrap().steps[0].node_ids.clone();
        let first: Vec<usize> = (0..NODES).filter(|place| first.contains(&world.nodes[*place])).collect();
        for &node in &first {
            world.activate(node).await;
        }
        for _ in 0..3 {
            world.clock.advance(Duration::from_secs(10));
            for &node in &first {
                world.beat(node, 0.0).await;
            }
            engine.tick(id).await.unwrap();
        }
        let detail = engine.detail(&world.project.scope(), id).await.unwrap();
        assert_eq!(detail.steps[0].state, zentinel_core::entity::StepState::Completed);
        world.clock.advance(Duration::from_secs(60));
        engine.tick(id).await.unwrap();
        world.happens(&Action::TakesBack(first[0]), id).await;
        engine.tick(id).await.unwrap();
        let rollout = world.rollout(id).await;
        assert_eq!(rollout.state, RolloutState::Failed, "one of two is the threshold");
        assert_eq!(rollout.error.as_ref().unwrap().reason, "failure_threshold_exceeded");
    });
}
