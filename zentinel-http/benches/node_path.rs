//! What one request of a node costs within the process: middleware, authentication, the fleet's memory
//! and the answer, without sockets and without a database. `cargo bench -p zentinel-http`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may panic")]

use axum::Router;
use axum::body::Body;
use divan::{Bencher, black_box};
use http::Request;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;
use url::Url;
use zentinel_compiler::validate::InProcessValidator;
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{Node, NodeReport, Registration};
use zentinel_core::id::{NodeId, OrganisationId, ProjectId};
use zentinel_core::port::{Clock, Signer, Store, SystemClock};
use zentinel_http::{HttpOptions, RateLimits, Services, router};
use zentinel_rollout::engine::{Engine, EngineOptions};
use zentinel_rollout::fleet::{Fleet, FleetOptions};
use zentinel_rollout::strategy::Strategies;
use zentinel_store::{MemorySigner, MemoryStore, ObjectBlobStore};

fn main() {
    divan::main();
}

/// How many nodes the fleet has; one after the other calls.
const NODES: [usize; 3] = [1_000, 10_000, 100_000];

struct World {
    runtime: Runtime,
    router: Router,
    nodes: Vec<(NodeId, String)>,
}

impl World {
    fn new(nodes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let base = Url::parse("http://127.0.0.1:4000").unwrap();
        let records = Arc::new(MemoryStore::new());
        let store: Arc<dyn Store> = records.clone();
        let signer: Arc<dyn Signer> = Arc::new(MemorySigner::generate());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (strategies, engine) = (Strategies::standard(), EngineOptions::default());
        let engine = Engine::new(store.clone(), signer.clone(), clock.clone(), strategies, engine);
        let urls = zentinel_core::presign::UrlSigner::new([7; 32]);
        let fleet = Fleet::load(store.clone(), clock.clone(), FleetOptions::default());
        let fleet = runtime.block_on(fleet).unwrap();
        let scope = (OrganisationId::random(), ProjectId::random());
        let nodes = (0..nodes).map(|number| admit(&fleet, &*clock, scope, number)).collect();
        let mut options = HttpOptions::new(base.clone());
        options.rate_limits = RateLimits::uniform(u32::MAX);
        let services = Services {
            blobs: Arc::new(ObjectBlobStore::memory(base, urls.clone())),
            validator: Arc::new(InProcessValidator::default()),
            engine: Arc::new(engine),
            scheduler: records,
            url_signer: Some(urls),
            options,
            fleet,
            store,
            signer,
            clock,
        };
        let router = router(Arc::new(services));
        Self { runtime, router, nodes }
    }

    /// Makes one request per call, of one node after the other.
    fn bench(&self, bencher: Bencher<'_, '_>, request: impl Fn(&NodeId, &str) -> Request<Body> + Sync) {
        let mut turn = self.nodes.iter().cycle();
        bencher
            .with_inputs(|| {
                let (id, key) = turn.next().unwrap();
                request(id, key)
            })
            .bench_local_values(|request| {
                let response = self.runtime.block_on(self.router.clone().oneshot(request)).unwrap();
                assert!(response.status().as_u16() < 400, "{response:?}");
                black_box(response)
            });
    }
}

fn admit(
    fleet: &Fleet,
    clock: &dyn Clock,
    scope: (OrganisationId, ProjectId),
    number: usize,
) -> (NodeId, String) {
    let registration = Registration { name: format!("edge-{number}"), ..Registration::default() };
    let key = NewCredential::generate();
    let node = Node::register(scope, &registration, true, key.hash, clock.now()).unwrap();
    let report = NodeReport::registered(&node, &registration);
    let id = node.id;
    fleet.admit(node, report);
    (id, key.raw.expose().to_owned())
}

#[divan::bench(args = NODES)]
fn poll(bencher: Bencher<'_, '_>, nodes: usize) {
    World::new(nodes).bench(bencher, |id, key| {
        Request::get(format!("/api/v1/nodes/{id}/bundles/latest"))
            .header("x-zentinel-node-key", key)
            .header("if-none-match", "\"0\"")
            .body(Body::empty())
            .unwrap()
    });
}

/// A heartbeat that says "still alive": the write happens behind it.
#[divan::bench(args = NODES)]
fn heartbeat(bencher: Bencher<'_, '_>, nodes: usize) {
    const BEAT: &str = r#"{"version":"26.2.0","hostname":"edge-1","ip":"10.0.1.5","health":{"uptime_s":86400},
        "metrics":{"error_rate":0.4,"latency_p99_ms":83,"cpu_percent":31.5,"memory_percent":48.0}}"#;
    World::new(nodes).bench(bencher, |id, key| {
        Request::post(format!("/api/v1/nodes/{id}/heartbeat"))
            .header("x-zentinel-node-key", key)
            .header("content-length", BEAT.len())
            .body(Body::from(BEAT))
            .unwrap()
    });
}
