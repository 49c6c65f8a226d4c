//! A control plane in memory with one tenant, and how to call it.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use chrono::DateTime;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use url::Url;
use zentinel_compiler::bundle::CompileHandler;
use zentinel_compiler::validate::{InProcessValidator, ValidateOptions};
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{
    ApiKey, ApiScope, Node, NodeReport, Organisation, Project, Registration, RegistrationToken,
};
use zentinel_core::id::NodeId;
use zentinel_core::port::{Clock, JobHandler, JobOutcome, ManualClock, Queue, Scheduler, Store};
use zentinel_core::presign::UrlSigner;
use zentinel_core::{Changes, Record, Timestamp};
use zentinel_http::egress::Egress;
use zentinel_http::{HttpOptions, HttpProbe, RateLimits, Services, router};
use zentinel_rollout::engine::{Engine, EngineOptions};
use zentinel_rollout::fleet::{Fleet, FleetOptions};
use zentinel_rollout::strategy::Strategies;
use zentinel_store::MemoryStore;
use zentinel_store::blob::ObjectBlobStore;
use zentinel_store::signer::MemorySigner;

/// A configuration that compiles.
pub(crate) const KDL: &str = include_str!("../../../examples/configs/edge.kdl");

/// 2026-02-23T10:00:05Z: not at the beginning of a minute.
pub(crate) const START: i64 = 1_771_840_805;

pub(crate) struct World {
    pub(crate) app: Router,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) services: Arc<Services>,
    pub(crate) clock: Arc<ManualClock>,
    handlers: Vec<Arc<dyn JobHandler>>,
    /// The tenant that tests act for.
    pub(crate) home: Tenant,
}

/// An organisation with a project and a key for everything.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) organisation: Organisation,
    pub(crate) project: Project,
    pub(crate) key: String,
}

impl Tenant {
    /// A path below the project.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/v1/projects/{}{rest}", self.project.slug)
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.body
    }

    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, text: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.body["error"], json!(text), "{}", self.text);
    }

    /// The messages of one field of a 422.
    #[track_caller]
    pub(crate) fn expect_field(self, field: &str, message: &str) {
        assert_eq!(self.status.as_u16(), 422, "{}", self.text);
        assert_eq!(self.body["error"][field], json!([message]), "{}", self.text);
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(set: impl FnOnce(&mut HttpOptions)) -> Self {
        let now = DateTime::from_timestamp(START, 0).unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let store = Arc::new(MemoryStore::new());
        let as_store: Arc<dyn Store> = store.clone();
        let public_url = Url::parse("http://cp.example/").unwrap();
        let url_signer = UrlSigner::new([7; 32]);
        let blobs = Arc::new(ObjectBlobStore::memory(public_url.clone(), url_signer.clone()));
        let signer = Arc::new(MemorySigner::generate());
        let validator = Arc::new(InProcessValidator::new(ValidateOptions::default()));
        let fleet = Fleet::load(as_store.clone(), as_clock.clone(), FleetOptions::default()).await.unwrap();
        let engine = Engine::new(
            as_store.clone(),
            signer.clone(),
            as_clock.clone(),
            Strategies::standard(),
            EngineOptions::default(),
        );
        let egress = Egress::allowing(["127.0.0.0/8".parse().unwrap()]);
        let probe = HttpProbe::new(egress, as_clock.clone()).unwrap();
        let engine = Arc::new(engine.with_probe(Arc::new(probe)));
        let compile = CompileHandler::new(
            as_store.clone(),
            blobs.clone(),
            signer.clone(),
            validator.clone(),
            as_clock.clone(),
        );
        let mut handlers: Vec<Arc<dyn JobHandler>> = engine.handlers();
        handlers.push(Arc::new(compile));
        let mut options = HttpOptions::new(public_url);
        set(&mut options);
        let services = Arc::new(Services {
            store: as_store,
            scheduler: store.clone(),
            blobs,
            signer,
            validator,
            clock: as_clock,
            fleet,
            engine,
            url_signer: Some(url_signer),
            options,
        });
        let home = tenant(&*store, "Home", "Edge", now).await;
        Self { app: router(services.clone()), store, services, clock, handlers, home }
    }

    /// Without rate limits in the way.
    pub(crate) async fn unlimited() -> Self {
        Self::with(|options| options.rate_limits = RateLimits::uniform(1_000_000)).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Another organisation, with a project of the same name.
    pub(crate) async fn stranger(&self) -> Tenant {
        tenant(&*self.store, "Stranger", "Edge", self.now()).await
    }

    /// A key of the home organisation.
    pub(crate) async fn key(&self, scopes: &[ApiScope], bound: bool) -> String {
        let project = bound.then_some(self.home.project.id);
        let scopes: BTreeSet<ApiScope> = scopes.iter().copied().collect();
        let (key, raw) =
            ApiKey::issue(self.home.organisation.id, project, None, "key", scopes, None, self.now()).unwrap();
        insert(&*self.store, &key).await;
        raw.expose().to_owned()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, key: &str, body: Option<Value>) -> Reply {
        let mut request = request(method, path).header("authorization", format!("Bearer {key}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &self.home.key, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, &self.home.key, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Reply {
        self.call("PUT", path, &self.home.key, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Reply {
        self.call("PATCH", path, &self.home.key, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, &self.home.key, None).await
    }

    /// A node of a tenant that has registered, and its key.
    pub(crate) async fn node(
        &self,
        tenant: &Tenant,
        name: &str,
        labels: &[(&str, &str)],
    ) -> (NodeId, String) {
        let registration = Registration {
            name: name.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            version: Some("26.2.0".to_owned()),
            ..Registration::default()
        };
        let credential = NewCredential::generate();
        let ids = (tenant.organisation.id, tenant.project.id);
        let node = Node::register(ids, &registration, true, credential.hash, self.now()).unwrap();
        let report = NodeReport::registered(&node, &registration);
        let changes = Changes::new().insert(&node).unwrap().insert(&report).unwrap();
        self.store.commit(changes).await.unwrap();
        self.services.fleet.admit(node.clone(), report);
        (node.id, credential.raw.expose().to_owned())
    }

    /// Runs every job that is due, until none is.
    pub(crate) async fn run_jobs(&self) {
        let lease = Duration::from_secs(60);
        for _ in 0..100 {
            let mut ran = false;
            for queue in Queue::ALL {
                for job in self.store.claim(queue, "test", 10, lease, self.now()).await.unwrap() {
                    ran = true;
                    let handler = self.handlers.iter().find(|handler| handler.kind() == job.job.kind);
                    match handler.unwrap().run(&job).await.unwrap() {
                        JobOutcome::Done => self.store.complete(&job, self.now()).await.unwrap(),
                        JobOutcome::Again(at) => {
                            self.store.fail(&job, "again", Some(at), self.now()).await.unwrap();
                        }
                    }
                }
            }
            if !ran {
                return;
            }
        }
        panic!("jobs never end");
    }

    /// A bundle that was created and compiled.
    pub(crate) async fn compiled(&self, tenant: &Tenant, version: &str) -> String {
        let body = json!({"version": version, "config_source": KDL});
        let reply = self.call("POST", &tenant.path("/bundles"), &tenant.key, Some(body)).await;
        let id = reply.expect(201)["id"].as_str().unwrap().to_owned();
        self.run_jobs().await;
        id
    }

    /// The actions in the audit log that the key may see, oldest first.
    pub(crate) async fn audited(&self) -> Vec<String> {
        let body = self.get("/api/v1/audit/logs?limit=500").await.expect(200);
        let mut actions: Vec<_> = body["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["action"].as_str().unwrap().to_owned())
            .collect();
        actions.reverse();
        actions
    }
}

pub(crate) fn request(method: &str, path: &str) -> http::request::Builder {
    let peer: SocketAddr = "198.51.100.7:50000".parse().unwrap();
    Request::builder().method(method).uri(path).extension(ConnectInfo(peer))
}

pub(crate) async fn insert<T: Record>(store: &dyn Store, record: &T) {
    store.commit(Changes::new().insert(record).unwrap()).await.unwrap();
}

async fn tenant(store: &dyn Store, name: &str, project: &str, now: Timestamp) -> Tenant {
    let organisation = Organisation::new(name, now).unwrap();
    let project = Project::new(organisation.id, project, now).unwrap();
    let scopes = ApiScope::ALL.iter().copied().collect();
    let (key, raw) = ApiKey::issue(organisation.id, None, None, "all", scopes, None, now).unwrap();
    insert(store, &organisation).await;
    insert(store, &project).await;
    insert(store, &key).await;
    Tenant { organisation, project, key: raw.expose().to_owned() }
}

/// A registration token of a tenant.
pub(crate) async fn registration_token(world: &World, tenant: &Tenant) -> RegistrationToken {
    let ids = (tenant.organisation.id, tenant.project.id);
    let until = world.now() + Duration::from_secs(3_600);
    let (token, _) =
        RegistrationToken::issue(ids, "token", BTreeMap::new(), Some(1), until, world.now()).unwrap();
    insert(&*world.store, &token).await;
    token
}

/// Ids of the items of a list, in order.
pub(crate) fn ids(body: &Value, list: &str) -> Vec<String> {
    let items = body[list].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}
