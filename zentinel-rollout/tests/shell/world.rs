//! A whole control plane in memory, with nodes that only ever talk to the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{
    Activation, AuditEntry, Bundle, BundleError, BundleOrigin, BundleStatement, BundleStatus, Health,
    HealthGates, Heartbeat, LATENCY_BUCKETS, Node, NodeReport, NodeTarget, Organisation, Project,
    Registration, RiskLevel, Rollout, RolloutSpec, RolloutState, Traffic, TrafficCounts,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{Clock, JobOutcome, ManualClock, Query, Queue, Scheduler, Signer, Store, StoreExt};
use zentinel_core::{Actor, Changes, RecordKind, Result, Scope, Sha256Digest, Timestamp};
use zentinel_rollout::engine::{Engine, EngineOptions, NewRollout, RolloutDetail, Terms};
use zentinel_rollout::fleet::{Fleet, FleetOptions};
use zentinel_rollout::{State, Strategies, check};
use zentinel_store::{MemoryStore, signer::MemorySigner};

pub(crate) struct World {
    pub(crate) memory: MemoryStore,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) signer: Arc<MemorySigner>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) project: Project,
    pub(crate) nodes: Vec<Simulated>,
    /// A bundle with which three times as many requests fail.
    pub(crate) worse: Option<BundleId>,
    shutdown: CancellationToken,
}

/// A node: what it runs and what it refuses.
#[derive(Clone, Debug)]
pub(crate) struct Simulated {
    pub(crate) id: NodeId,
    pub(crate) active: Option<BundleId>,
    pub(crate) sequence: u64,
    pub(crate) rejects: BTreeSet<BundleId>,
    pub(crate) silent: bool,
    /// What it has served, if it says so.
    pub(crate) serves: Option<Box<Traffic>>,
}

impl Simulated {
    /// Serves between two heartbeats.
    fn serve(&mut self, worse: Option<BundleId>) -> &Option<Box<Traffic>> {
        if let Some(traffic) = &mut self.serves {
            let errors = if worse.is_some() && self.active == worse { 30 } else { 10 };
            let mut latency = [0; LATENCY_BUCKETS];
            (latency[2], latency[6]) = (970, 30);
            traffic.total.add(&TrafficCounts { requests: 1_000, errors, latency });
            traffic.recent = traffic.total;
        }
        &self.serves
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    pub(crate) async fn new(nodes: usize) -> Self {
        let memory = MemoryStore::new();
        Self::over(memory.clone(), Arc::new(memory), nodes).await
    }

    /// `store` may stand in front of `memory`.
    pub(crate) async fn over(memory: MemoryStore, store: Arc<dyn Store>, nodes: usize) -> Self {
        let start = Timestamp::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = Arc::new(ManualClock::new(start));
        let organisation = Organisation::new("Example", start).unwrap();
        let project = Project::new(organisation.id, "Edge", start).unwrap();
        let changes = Changes::new().insert(&organisation).unwrap().insert(&project).unwrap();
        memory.commit(changes).await.unwrap();
        let signer = Arc::new(MemorySigner::generate());
        let shutdown = CancellationToken::new();
        let fleet = start_fleet(&store, &clock, &shutdown).await;
        let engine = new_engine(&store, &signer, &clock);
        let mut world = Self {
            memory,
            store,
            clock,
            signer,
            fleet,
            engine,
            project,
            nodes: Vec::new(),
            worse: None,
            shutdown,
        };
        for number in 0..nodes {
            let id = world.register(&format!("edge-{number:03}")).await;
            world.nodes.push(Simulated {
                id,
                active: None,
                sequence: 0,
                rejects: BTreeSet::new(),
                silent: false,
                serves: None,
            });
        }
        world
    }

    /// As after a crash: nothing is left but the store.
    pub(crate) async fn restart(&mut self) {
        self.shutdown.cancel();
        self.shutdown = CancellationToken::new();
        self.fleet = start_fleet(&self.store, &self.clock, &self.shutdown).await;
        self.engine = new_engine(&self.store, &self.signer, &self.clock);
    }

    pub(crate) fn scope(&self) -> Scope {
        self.project.scope()
    }

    pub(crate) async fn register(&self, name: &str) -> NodeId {
        let registration = Registration { name: name.to_owned(), ..Registration::default() };
        let scope = (self.project.organisation_id, self.project.id);
        let key = NewCredential::generate().hash;
        let node = Node::register(scope, &registration, true, key, self.clock.now()).unwrap();
        let report = NodeReport::registered(&node, &registration);
        let changes = Changes::new().insert(&node).unwrap().insert(&report).unwrap();
        self.memory.commit(changes).await.unwrap();
        let id = node.id;
        self.fleet.admit(node, report);
        id
    }

    pub(crate) async fn bundle(&self, version: &str) -> BundleId {
        self.bundle_after(version, None).await
    }

    /// A bundle that is a reload away from its parent.
    pub(crate) async fn bundle_after(&self, version: &str, parent: Option<BundleId>) -> BundleId {
        let now = self.clock.now();
        let bundle = Bundle {
            id: BundleId::random(),
            organisation_id: self.project.organisation_id,
            project_id: self.project.id,
            version: version.to_owned(),
            status: BundleStatus::Compiled,
            generated: false,
            origin: BundleOrigin::default(),
            declared_risk: RiskLevel::Low,
            risk_level: RiskLevel::Low,
            risk_findings: Vec::new(),
            parent_bundle_id: parent,
            activation: Activation::Reload,
            checksum: Some(Sha256Digest::of(version.as_bytes())),
            size_bytes: Some(1_000),
            storage_key: None,
            config_hash: None,
            manifest: None,
            diagnostics: Vec::new(),
            signature: None,
            signing_key_id: None,
            created_at: now,
            updated_at: now,
            author: None,
        };
        self.memory.commit(Changes::new().insert(&bundle).unwrap()).await.unwrap();
        bundle.id
    }

    pub(crate) async fn create(&self, bundle: BundleId, spec: RolloutSpec) -> Result<Rollout> {
        let new = NewRollout {
            bundle_id: bundle,
            spec,
            auto_start: true,
            supersede: false,
            terms: Terms::default(),
        };
        self.engine.create(&self.scope(), Actor::System, new).await
    }

    /// Every node polls, activates or refuses what it is offered, and sends a heartbeat.
    pub(crate) async fn nodes_act(&mut self) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        self.fleet.refresh(&ids).await.unwrap();
        let keys = self.signer.public_keys(&self.scope()).await.unwrap();
        for node in self.nodes.iter_mut().filter(|node| !node.silent) {
            let mut beat = healthy();
            if let Some(target) = self.fleet.offer(node.id).unwrap().target {
                assert!(target.sequence >= node.sequence, "an old target was sent again");
                let found = self.memory.find::<BundleStatement>(&Scope::Instance, target.statement_id).await;
                let statement = found.unwrap().unwrap().envelope.open(&keys).unwrap();
                assert_eq!((statement.bundle_id, statement.sequence), (target.bundle_id, target.sequence));
                if node.rejects.contains(&target.bundle_id) {
                    if node.sequence < target.sequence {
                        beat.bundle_error = Some(BundleError {
                            bundle_id: target.bundle_id,
                            reason: "invalid_config".to_owned(),
                            message: "no".to_owned(),
                            sequence: Some(target.sequence),
                        });
                    }
                } else {
                    node.active = Some(target.bundle_id);
                }
                node.sequence = target.sequence;
            }
            beat.active_bundle_id = node.active;
            beat.health.traffic = node.serve(self.worse).clone();
            self.fleet.heartbeat(node.id, beat).await.unwrap();
        }
        self.fleet.flush().await.unwrap();
    }

    /// Runs the due rollout jobs.
    pub(crate) async fn run_jobs(&self) {
        let handlers = self.engine.handlers();
        loop {
            let now = self.clock.now();
            let lease = Duration::from_secs(60);
            let jobs = self.memory.claim(Queue::Rollouts, "worker", 10, lease, now).await.unwrap();
            if jobs.is_empty() {
                return;
            }
            for job in jobs {
                let handler = handlers.iter().find(|handler| handler.kind() == job.job.kind).unwrap();
                assert_eq!(handler.run(&job).await.unwrap(), JobOutcome::Done);
                self.memory.complete(&job, now).await.unwrap();
            }
        }
    }

    /// Loses the due rollout jobs.
    pub(crate) async fn discard_jobs(&self) {
        let now = self.clock.now();
        let lease = Duration::from_secs(60);
        for job in self.memory.claim(Queue::Rollouts, "worker", 100, lease, now).await.unwrap() {
            self.memory.complete(&job, now).await.unwrap();
        }
    }

    pub(crate) async fn turn(&mut self) {
        self.clock.advance(Duration::from_secs(5));
        self.run_jobs().await;
        self.nodes_act().await;
        self.run_jobs().await;
    }

    pub(crate) async fn detail(&self, id: RolloutId) -> RolloutDetail {
        self.engine.detail(&self.scope(), id).await.unwrap()
    }

    /// Goes on until the rollout has ended; its invariants hold after every turn.
    pub(crate) async fn finish(&mut self, id: RolloutId) -> RolloutDetail {
        for _ in 0..200 {
            self.turn().await;
            let detail = self.detail(id).await;
            let state = State::new(detail.rollout.clone(), detail.steps.clone(), detail.nodes.clone());
            assert_eq!(check(&state), []);
            if !detail.rollout.state.is_open() {
                return detail;
            }
        }
        panic!("the rollout never ended: {:?}", self.detail(id).await.rollout.waiting);
    }

    /// Brings a bundle to every node.
    pub(crate) async fn deploy(&mut self, version: &str) -> BundleId {
        let bundle = self.bundle(version).await;
        let spec = RolloutSpec { strategy: "all_at_once".to_owned(), ..spec() };
        let rollout = self.create(bundle, spec).await.unwrap();
        assert_eq!(self.finish(rollout.id).await.rollout.state, RolloutState::Completed);
        bundle
    }

    pub(crate) async fn stored_nodes(&self) -> BTreeMap<NodeId, Node> {
        let nodes =
            self.memory.list_all::<Node>(&Scope::Instance, Query::all(RecordKind::Node)).await.unwrap();
        nodes.into_iter().map(|node| (node.id, node.value)).collect()
    }

    /// The audit log.
    pub(crate) async fn audit(&self) -> Vec<AuditEntry> {
        let log =
            self.memory.read_log(&Scope::Instance, &LogQuery::after(LogKind::Audit, 0, 500)).await.unwrap();
        log.into_iter().map(|entry| serde_json::from_value(entry.row.body).unwrap()).collect()
    }

    /// What the audit log says was done, single steps apart.
    pub(crate) async fn actions(&self) -> Vec<String> {
        let actions = self.audit().await.into_iter().map(|entry| entry.action);
        actions.filter(|action| !action.starts_with("rollout.step_")).collect()
    }

    pub(crate) async fn events(&self, kind: &str) -> usize {
        let log =
            self.memory.read_log(&Scope::Instance, &LogQuery::after(LogKind::Event, 0, 500)).await.unwrap();
        log.iter().filter(|entry| entry.row.body["type"] == kind).count()
    }

    pub(crate) async fn statements(&self) -> usize {
        let all = Query::all(RecordKind::BundleStatement);
        self.memory.list_all::<BundleStatement>(&Scope::Instance, all).await.unwrap().len()
    }

    /// What the node is told, what activating it takes, and whether it is to compare, as far as it is told anything.
    pub(crate) async fn told(&self, node: NodeId) -> Option<(NodeTarget, Activation, bool)> {
        let target = self.stored_nodes().await[&node].target.clone()?;
        let keys = self.signer.public_keys(&self.scope()).await.unwrap();
        let found = self.memory.fetch::<BundleStatement>(&Scope::Instance, target.statement_id).await;
        let statement = found.unwrap().envelope.open(&keys).unwrap();
        Some((target, statement.activation, statement.compare))
    }

    pub(crate) async fn status(&self, bundle: BundleId) -> BundleStatus {
        self.memory.fetch::<Bundle>(&Scope::Instance, bundle).await.unwrap().status
    }
}

async fn start_fleet(
    store: &Arc<dyn Store>,
    clock: &Arc<ManualClock>,
    shutdown: &CancellationToken,
) -> Arc<Fleet> {
    let options = FleetOptions { max_wait: Duration::from_millis(600), ..FleetOptions::default() };
    let fleet = Fleet::load(Arc::clone(store), Arc::clone(clock) as Arc<dyn Clock>, options).await.unwrap();
    let (running, token) = (Arc::clone(&fleet), shutdown.clone());
    tokio::spawn(async move { running.run(token).await });
    fleet
}

pub(crate) fn new_engine(
    store: &Arc<dyn Store>,
    signer: &Arc<MemorySigner>,
    clock: &Arc<ManualClock>,
) -> Arc<Engine> {
    Arc::new(Engine::new(
        Arc::clone(store),
        Arc::clone(signer) as Arc<dyn Signer>,
        Arc::clone(clock) as Arc<dyn Clock>,
        Strategies::standard(),
        EngineOptions::default(),
    ))
}

pub(crate) fn spec() -> RolloutSpec {
    RolloutSpec { batch_size: 3, health_gates: HealthGates::heartbeat(), ..RolloutSpec::default() }
}

pub(crate) fn healthy() -> Heartbeat {
    let health = Health { status: Some("healthy".to_owned()), ..Health::default() };
    Heartbeat { health, ..Heartbeat::default() }
}
