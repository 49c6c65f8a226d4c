//! What a whole tick costs, with everything it reads and writes: the first one, which reads every
//! node; later ones with nothing new; and ones after one percent of the nodes have reported
//! progress.
//!
//! `cargo bench -p zentinel-rollout --bench engine`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{
    Activation, Bundle, BundleOrigin, BundleStatus, Node, NodeReport, Organisation, Project, Registration,
    RiskLevel, RolloutSpec,
};
use zentinel_core::id::{BundleId, RolloutId};
use zentinel_core::port::{Clock, ManualClock, Store};
use zentinel_core::{Actor, Changes, Percent, Sha256Digest, Timestamp};
use zentinel_rollout::Strategies;
use zentinel_rollout::engine::{Engine, EngineOptions, NewRollout, Terms};
use zentinel_store::{MemorySigner, MemoryStore, SqliteStore};

/// Records per commit while the fleet is set up.
const CHUNK: usize = 5_000;
const IDLE_TICKS: usize = 40;
const BUSY_TICKS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "{:<8} {:<12} {:>7}  {:>12} {:>12} {:>14}",
        "store", "strategy", "nodes", "first", "idle", "1 % changed"
    );
    for name in ["memory", "sqlite"] {
        for strategy in ["rolling", "all_at_once"] {
            for nodes in [1_000, 10_000, 100_000] {
                let directory = tempfile::tempdir().unwrap();
                let row = runtime.block_on(async {
                    let store: Arc<dyn Store> = match name {
                        "memory" => Arc::new(MemoryStore::new()),
                        _ => Arc::new(SqliteStore::open(&directory.path().join("db")).await.unwrap()),
                    };
                    measure(store, strategy, nodes).await
                });
                let [first, idle, busy] = row.map(|time| format!("{:.3} ms", time.as_secs_f64() * 1e3));
                println!("{name:<8} {strategy:<12} {nodes:>7}  {first:>12} {idle:>12} {busy:>14}");
            }
        }
    }
}

struct World {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    engine: Engine,
    rollout: RolloutId,
    reports: Vec<NodeReport>,
    bundle: BundleId,
}

async fn measure(store: Arc<dyn Store>, strategy: &str, nodes: usize) -> [Duration; 3] {
    let mut world = World::new(store, strategy, nodes).await;
    // The first tick tells the nodes; the second one reads what it wrote.
    for _ in 0..2 {
        world.tick().await;
    }
    // As on another replica, or after a restart.
    world.engine = engine(&world.store, &world.clock);
    let first = world.tick().await;
    let mut idle = Vec::new();
    for _ in 0..IDLE_TICKS {
        idle.push(world.tick().await);
    }
    let mut busy = Vec::new();
    for round in 0..BUSY_TICKS {
        world.progress(round).await;
        busy.push(world.tick().await);
    }
    [first, median(idle), median(busy)]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn engine(store: &Arc<dyn Store>, clock: &Arc<ManualClock>) -> Engine {
    Engine::new(
        Arc::clone(store),
        Arc::new(MemorySigner::generate()),
        Arc::clone(clock) as Arc<dyn Clock>,
        Strategies::standard(),
        EngineOptions::default(),
    )
}

impl World {
    async fn new(store: Arc<dyn Store>, strategy: &str, count: usize) -> Self {
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = Arc::new(ManualClock::new(now));
        let organisation = Organisation::new("Example", now).unwrap();
        let project = Project::new(organisation.id, "Edge", now).unwrap();
        let bundle = bundle(&project, now);
        let tenant = Changes::new().insert(&organisation).unwrap().insert(&project).unwrap();
        store.commit(tenant.insert(&bundle).unwrap()).await.unwrap();
        let mut reports = Vec::new();
        let numbers: Vec<usize> = (0..count).collect();
        for chunk in numbers.chunks(CHUNK) {
            let mut changes = Changes::new();
            for number in chunk {
                let name = format!("edge-{number:06}");
                let registration = Registration { name, ..Registration::default() };
                let scope = (organisation.id, project.id);
                let key = NewCredential::generate().hash;
                let node = Node::register(scope, &registration, true, key, now).unwrap();
                let report = NodeReport::registered(&node, &registration);
                changes = changes.insert(&node).unwrap().insert(&report).unwrap();
                reports.push(report);
            }
            store.commit(changes).await.unwrap();
        }
        let engine = engine(&store, &clock);
        let spec = RolloutSpec {
            strategy: strategy.to_owned(),
            batch_percentage: (strategy == "rolling").then(|| Percent::new(1).unwrap()),
            progress_deadline_seconds: 3_600,
            ..RolloutSpec::default()
        };
        let new = NewRollout {
            bundle_id: bundle.id,
            spec,
            auto_start: true,
            supersede: false,
            terms: Terms::default(),
        };
        let rollout = engine.create(&project.scope(), Actor::System, new).await.unwrap().id;
        // In the order of the plan, so that the first ones are in the first step.
        reports.sort_by_key(|report| report.node_id);
        let detail = engine.detail(&project.scope(), rollout).await.unwrap();
        let mut planned = Vec::with_capacity(count);
        for id in detail.steps.iter().flat_map(|step| &step.node_ids) {
            let place = reports.binary_search_by_key(id, |report| report.node_id).unwrap();
            planned.push(reports[place].clone());
        }
        Self { store, clock, engine, rollout, reports: planned, bundle: bundle.id }
    }

    /// The time of one tick, due as every five seconds.
    async fn tick(&self) -> Duration {
        self.clock.advance(Duration::from_secs(5));
        let start = Instant::now();
        self.engine.tick(self.rollout).await.unwrap();
        start.elapsed()
    }

    /// Another one percent of the nodes have downloaded the bundle.
    async fn progress(&mut self, round: usize) {
        let share = self.reports.len() / 100;
        let now = self.clock.now();
        let mut changes = Changes::new();
        for report in &mut self.reports[round * share..(round + 1) * share] {
            report.staged_bundle_id = Some(self.bundle);
            report.last_seen_at = Some(now);
            changes = changes.upsert(report).unwrap();
        }
        self.store.commit(changes).await.unwrap();
    }
}

fn bundle(project: &Project, now: Timestamp) -> Bundle {
    Bundle {
        id: BundleId::random(),
        organisation_id: project.organisation_id,
        project_id: project.id,
        version: "1.0".to_owned(),
        status: BundleStatus::Compiled,
        generated: false,
        origin: BundleOrigin::default(),
        declared_risk: RiskLevel::Low,
        risk_level: RiskLevel::Low,
        risk_findings: Vec::new(),
        parent_bundle_id: None,
        activation: Activation::Reload,
        checksum: Some(Sha256Digest::of(b"1.0")),
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
    }
}
