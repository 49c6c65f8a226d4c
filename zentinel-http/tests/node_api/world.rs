//! A control plane in memory, served on loopback, with one tenant.

use crate::wrappers::{CountingStore, FlakyBlobs};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use url::Url;
use zentinel_compiler::bundle::{CompileHandler, NewBundle, create};
use zentinel_compiler::validate::{InProcessValidator, ValidateOptions};
use zentinel_core::entity::{
    ApiKey, ApiScope, Bundle, BundleOrigin, Organisation, Project, RegistrationToken, RiskLevel,
};
use zentinel_core::id::{BundleId, NodeId, OrganisationId};
use zentinel_core::port::{Clock, JobHandler, ManualClock, Queue, Scheduler, Store, StoreExt};
use zentinel_core::presign::UrlSigner;
use zentinel_core::{Actor, Changes, Record, Scope, Secret, Stored, Timestamp};
use zentinel_http::client::NodeClient;
use zentinel_http::{HttpOptions, RateLimits, Services, router};
use zentinel_rollout::engine::{Engine, EngineOptions};
use zentinel_rollout::fleet::{Fleet, FleetOptions, KnownNode};
use zentinel_rollout::strategy::Strategies;
use zentinel_store::MemoryStore;
use zentinel_store::blob::ObjectBlobStore;
use zentinel_store::signer::{MasterKey, SealedSigner};

/// A configuration that compiles.
const KDL: &str = include_str!("../../../examples/configs/edge.kdl");

/// 2026-02-23T10:00:05Z: not at the beginning of a minute.
const START: i64 = 1_771_840_805;

pub struct World {
    pub app: Router,
    pub url: Url,
    pub store: Arc<CountingStore>,
    pub blobs: Arc<FlakyBlobs>,
    pub scheduler: Arc<MemoryStore>,
    pub services: Arc<Services>,
    pub clock: Arc<ManualClock>,
    pub home: Tenant,
    compile: CompileHandler,
    _stop: DropGuard,
}

/// An organisation with a project and a key for everything.
#[derive(Clone)]
pub struct Tenant {
    pub organisation: Organisation,
    pub project: Project,
    pub key: String,
}

impl Tenant {
    pub fn scope(&self) -> Scope {
        self.project.scope()
    }

    pub fn register_path(&self) -> String {
        format!("/api/v1/projects/{}/nodes/register", self.project.slug)
    }
}

/// A node with its static key.
#[derive(Clone)]
pub struct Member {
    pub id: NodeId,
    pub key: String,
}

impl Member {
    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/nodes/{}{rest}", self.id)
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    pub body: Value,
}

impl Reply {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.bytes);
        self.body
    }

    #[track_caller]
    pub fn expect_error(self, status: u16, text: &str) {
        assert_eq!((self.status.as_u16(), &self.body["error"]), (status, &json!(text)), "{:?}", self.bytes);
    }

    /// The fields of a 422.
    #[track_caller]
    pub fn expect_fields(self, fields: &[&str]) {
        assert_eq!(self.status.as_u16(), 422, "{:?}", self.bytes);
        let named: Vec<_> = self.body["error"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(named, fields);
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|options| options.rate_limits = RateLimits::uniform(1_000_000)).await
    }

    pub async fn with(set: impl FnOnce(&mut HttpOptions)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let now = DateTime::from_timestamp(START, 0).unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let scheduler = Arc::new(MemoryStore::new());
        let store = Arc::new(CountingStore { inner: scheduler.clone(), reads: AtomicUsize::new(0) });
        let as_store: Arc<dyn Store> = store.clone();
        let url_signer = UrlSigner::new([7; 32]);
        let blobs = Arc::new(FlakyBlobs {
            inner: Arc::new(ObjectBlobStore::memory(url.clone(), url_signer.clone())),
            away: AtomicBool::new(false),
        });
        let master = MasterKey::from_bytes([9; 32]);
        let signer = Arc::new(SealedSigner::new(as_store.clone(), as_clock.clone(), master));
        let validator = Arc::new(InProcessValidator::new(ValidateOptions::default()));
        let fleet = Fleet::load(as_store.clone(), as_clock.clone(), FleetOptions::default()).await.unwrap();
        let strategies = Strategies::standard();
        let engine_options = EngineOptions::default();
        let engine =
            Engine::new(as_store.clone(), signer.clone(), as_clock.clone(), strategies, engine_options);
        let compile = CompileHandler::new(
            as_store.clone(),
            blobs.clone(),
            signer.clone(),
            validator.clone(),
            as_clock.clone(),
        );
        let mut options = HttpOptions::new(url.clone());
        set(&mut options);
        let services = Arc::new(Services {
            store: as_store,
            scheduler: scheduler.clone(),
            blobs: blobs.clone(),
            signer,
            validator,
            clock: as_clock,
            fleet,
            engine: Arc::new(engine),
            url_signer: Some(url_signer),
            options,
        });
        let stop = CancellationToken::new();
        let (fleet, stopped) = (services.fleet.clone(), stop.clone());
        tokio::spawn(async move { fleet.run(stopped).await });
        let app = router(services.clone());
        let served = app.clone().into_make_service_with_connect_info::<SocketAddr>();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serving = axum::serve(listener, served).into_future();
            stopped.run_until_cancelled(serving).await.transpose().unwrap();
        });
        let home = tenant(&*store, "Home", now).await;
        Self { app, url, store, blobs, scheduler, services, clock, home, compile, _stop: stop.drop_guard() }
    }

    /// The same plane as after a restart: its fleet knows nobody until it runs.
    pub fn restarted(&self) -> (Arc<Fleet>, Router) {
        let known = &*self.services;
        let fleet = Fleet::open(known.store.clone(), known.clock.clone(), known.fleet.options().clone());
        let services = Services {
            store: known.store.clone(),
            scheduler: known.scheduler.clone(),
            blobs: known.blobs.clone(),
            signer: known.signer.clone(),
            validator: known.validator.clone(),
            clock: known.clock.clone(),
            fleet: fleet.clone(),
            engine: known.engine.clone(),
            url_signer: known.url_signer.clone(),
            options: known.options.clone(),
        };
        (fleet, router(Arc::new(services)))
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Another organisation, with a project of the same name.
    pub async fn stranger(&self) -> Tenant {
        tenant(&*self.store, "Stranger", self.now()).await
    }

    pub async fn insert<T: Record>(&self, record: &T) {
        self.store.commit(Changes::new().insert(record).unwrap()).await.unwrap();
    }

    pub async fn read<T: Record>(&self, id: T::Id) -> Stored<T> {
        self.store.fetch::<T>(&Scope::Instance, id).await.unwrap()
    }

    /// Changes a record behind the router's back, as another replica would.
    pub async fn change<T: Record>(&self, id: T::Id, change: impl FnOnce(&mut T)) {
        let read = self.read::<T>(id).await;
        let mut changed = read.value.clone();
        change(&mut changed);
        self.store.commit(Changes::new().update(&read, &changed).unwrap()).await.unwrap();
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            bytes,
        }
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Reply {
        let peer: SocketAddr = "198.51.100.7:50000".parse().unwrap();
        let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(peer));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    /// A call of a node with its static key.
    pub async fn node(&self, method: &str, member: &Member, rest: &str, body: Option<Value>) -> Reply {
        let headers = [("x-zentinel-node-key", member.key.as_str())];
        self.call(method, &member.path(rest), &headers, body).await
    }

    pub async fn bearer(&self, method: &str, path: &str, token: &str) -> Reply {
        self.call(method, path, &[("authorization", &format!("Bearer {token}"))], None).await
    }

    pub async fn token(&self, tenant: &Tenant, max_uses: Option<u32>) -> (RegistrationToken, Secret) {
        let ids = (tenant.organisation.id, tenant.project.id);
        let until = self.now() + Duration::from_secs(3_600);
        let labels = BTreeMap::from([("rack".to_owned(), "12".to_owned())]);
        let (token, raw) =
            RegistrationToken::issue(ids, "token", labels, max_uses, until, self.now()).unwrap();
        self.insert(&token).await;
        (token, raw)
    }

    /// A node that has registered.
    pub async fn member(&self, tenant: &Tenant, name: &str) -> Member {
        let (_, raw) = self.token(tenant, Some(1)).await;
        let headers = [("x-zentinel-join-token", raw.expose())];
        let reply = self.call("POST", &tenant.register_path(), &headers, Some(json!({"name": name}))).await;
        let body = reply.expect(201);
        Member {
            id: body["node_id"].as_str().unwrap().parse().unwrap(),
            key: body["node_key"].as_str().unwrap().to_owned(),
        }
    }

    /// A node token for a static key.
    pub async fn jwt(&self, member: &Member) -> String {
        let body = self.node("POST", member, "/token", None).await.expect(200);
        body["token"].as_str().unwrap().to_owned()
    }

    /// A token that an organisation's key signs, whatever it says.
    pub async fn forge(&self, organisation: OrganisationId, header: Value, claims: &Value) -> String {
        let scope = Scope::Organisation(organisation);
        let mut header = header;
        if header["kid"].is_null() {
            header["kid"] = json!(self.services.signer.public_keys(&scope).await.unwrap()[0].key_id);
        }
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.services.signer.sign(&scope, input.as_bytes()).await.unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.bytes))
    }

    /// A bundle that was handed in and compiled.
    pub async fn compiled(&self, tenant: &Tenant, version: &str) -> Bundle {
        let new = NewBundle {
            version: version.to_owned(),
            config_source: KDL.to_owned(),
            files: Vec::new(),
            risk_level: RiskLevel::Low,
            generated: false,
            origin: BundleOrigin::default(),
            author: None,
        };
        let ids = (tenant.organisation.id, tenant.project.id);
        let (bundle, changes) = create(ids, Actor::System, new, self.now()).unwrap();
        self.store.commit(changes).await.unwrap();
        let lease = Duration::from_secs(60);
        for job in self.scheduler.claim(Queue::Default, "test", 10, lease, self.now()).await.unwrap() {
            self.compile.run(&job).await.unwrap();
            self.scheduler.complete(&job, self.now()).await.unwrap();
        }
        self.read::<Bundle>(bundle.id).await.value
    }

    /// Hands a bundle to a node and waits until polls know.
    pub async fn assign(&self, tenant: &Tenant, bundle: BundleId, node: NodeId) {
        self.hand(tenant, bundle, node, false).await;
    }

    /// As `assign`; forced, it beats a pin.
    pub async fn hand(&self, tenant: &Tenant, bundle: BundleId, node: NodeId, force: bool) {
        let engine = &self.services.engine;
        let assigned = engine.assign(&tenant.scope(), Actor::System, bundle, &[node], force).await.unwrap();
        assert_eq!(assigned.assigned, [node]);
        self.eventually(|| {
            let snapshot = self.services.fleet.node(node);
            snapshot.is_some_and(|known| known.target().is_some_and(|target| target.bundle_id == bundle))
        })
        .await;
    }

    /// Waits for what follows a commit.
    #[track_caller]
    pub fn eventually<'a>(&'a self, mut holds: impl FnMut() -> bool + 'a) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            for _ in 0..500 {
                if holds() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("did not become true: {caller}");
        }
    }

    /// The node as the fleet knows it.
    pub fn known(&self, id: NodeId) -> Arc<KnownNode> {
        self.services.fleet.node(id).unwrap()
    }

    pub fn client(&self, member: &Member) -> NodeClient {
        let client = NodeClient::new(self.url.clone()).unwrap();
        client.with_credentials(member.id, Secret::new(member.key.clone()))
    }
}

async fn tenant(store: &dyn Store, name: &str, now: Timestamp) -> Tenant {
    let organisation = Organisation::new(name, now).unwrap();
    let project = Project::new(organisation.id, "Edge", now).unwrap();
    let scopes = ApiScope::ALL.iter().copied().collect();
    let (key, raw) = ApiKey::issue(organisation.id, None, None, "all", scopes, None, now).unwrap();
    let changes = Changes::new().insert(&organisation).unwrap().insert(&project).unwrap();
    store.commit(changes.insert(&key).unwrap()).await.unwrap();
    Tenant { organisation, project, key: raw.expose().to_owned() }
}
