//! Dependencies that are away, slow or broken.

use crate::world::{KDL, Reply, World, request};
use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use url::Url;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::port::{
    BlobMeta, BlobStore, ConfigValidator, Diagnostic, NoticeStream, Query, Receipt, Store,
};
use zentinel_core::{Changes, Error, Page, RecordKind, Result, Row, Scope, Sha256Digest, Stored, Timestamp};
use zentinel_http::{Services, router};

/// Back ends that can be switched off.
#[derive(Debug)]
struct Away<T: ?Sized> {
    away: AtomicBool,
    inner: Arc<T>,
}

impl<T: ?Sized> Away<T> {
    fn new(inner: Arc<T>) -> Arc<Self> {
        Arc::new(Self { away: AtomicBool::new(false), inner })
    }

    fn set(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<&T> {
        if self.away.load(Ordering::SeqCst) {
            Err(Error::unavailable("The back end is away"))
        } else {
            Ok(&self.inner)
        }
    }
}

#[async_trait]
impl Store for Away<dyn Store> {
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>> {
        self.reach()?.get(scope, kind, id).await
    }
    async fn lookup(&self, kind: RecordKind, lookup_key: &str) -> Result<Option<Stored<Row>>> {
        self.reach()?.lookup(kind, lookup_key).await
    }
    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
        self.reach()?.query(scope, query).await
    }
    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>> {
        self.reach()?.count_by_state(scope, kind).await
    }
    async fn commit(&self, changes: Changes) -> Result<Receipt> {
        self.reach()?.commit(changes).await
    }
    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
        self.reach()?.read_log(scope, query).await
    }
    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64> {
        self.reach()?.trim_log(kind, retention).await
    }
    fn watch(&self) -> NoticeStream {
        self.inner.watch()
    }
    async fn ping(&self) -> Result<()> {
        self.reach()?.ping().await
    }
}

#[async_trait]
impl BlobStore for Away<dyn BlobStore> {
    async fn put(&self, key: &str, bytes: Bytes, digest: &Sha256Digest) -> Result<()> {
        self.reach()?.put(key, bytes, digest).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.reach()?.get(key, range).await
    }
    async fn head(&self, key: &str) -> Result<Option<BlobMeta>> {
        self.reach()?.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.reach()?.delete(key).await
    }
    async fn presign_get(&self, key: &str, now: Timestamp, expires: Timestamp) -> Result<Url> {
        self.reach()?.presign_get(key, now, expires).await
    }
    async fn ping(&self) -> Result<()> {
        self.reach()?.ping().await
    }
}

/// A validator with a defect.
#[derive(Debug)]
enum Broken {
    Panics,
    NeverAnswers,
    /// Until the first call is over, and then there is nothing to say.
    HangsOnce(AtomicBool),
}

#[async_trait]
impl ConfigValidator for Broken {
    async fn validate(&self, _: &str, _: bool) -> Result<Vec<Diagnostic>> {
        match self {
            Self::Panics => panic!("a defect that nobody knows of"),
            Self::HangsOnce(done) if done.swap(true, Ordering::SeqCst) => Ok(Vec::new()),
            Self::NeverAnswers | Self::HangsOnce(_) => std::future::pending().await,
        }
    }
}

impl World {
    /// The same control plane behind changed services.
    fn rebuilt(mut self, change: impl FnOnce(&mut Services)) -> Self {
        let mut services = (*self.services).clone();
        change(&mut services);
        self.app = router(Arc::new(services));
        self
    }
}

async fn probe(world: &World, path: &str) -> Reply {
    world.send(request("GET", path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_database_that_is_away_is_503_and_comes_back() {
    let world = World::new().await;
    let store = Away::<dyn Store>::new(world.services.store.clone());
    let behind: Arc<dyn Store> = store.clone();
    let world = world.rebuilt(|services| services.store = behind);
    let path = world.home.path("/bundles");
    world.get(&path).await.expect(200);

    store.set(true);
    let reply = world.get(&path).await;
    assert_eq!(reply.headers["retry-after"], "5");
    reply.expect_error(503, "The back end is away");
    let body = json!({"version": "1", "config_source": KDL});
    world.post(&path, body.clone()).await.expect_error(503, "The back end is away");
    // A key that is not remembered cannot be checked: that is no refusal of the key.
    let reply = world.call("GET", &path, "another", None).await;
    reply.expect_error(503, "The back end is away");
    let ready = probe(&world, "/ready").await.expect(503);
    assert_eq!(ready, json!({"status": "unavailable", "reason": "database unavailable"}));
    probe(&world, "/health").await.expect(200);

    store.set(false);
    assert_eq!(world.get(&path).await.expect(200)["total"], 0);
    world.post(&path, body).await.expect(201);
    probe(&world, "/ready").await.expect(200);
}

#[tokio::test]
async fn an_object_store_that_is_away_is_503() {
    let world = World::new().await;
    let bundle = world.compiled(&world.home, "1").await;
    let blobs = Away::<dyn BlobStore>::new(world.services.blobs.clone());
    let behind: Arc<dyn BlobStore> = blobs.clone();
    let world = world.rebuilt(|services| services.blobs = behind);
    let path = |rest: &str| world.home.path(&format!("/bundles/{bundle}/{rest}"));
    blobs.set(true);
    world.get(&path("download")).await.expect_error(503, "The back end is away");
    let verify = world.get(&path("verify")).await;
    verify.expect_error(503, "Failed to retrieve bundle for verification");
    let ready = probe(&world, "/ready").await.expect(503);
    assert_eq!(ready, json!({"status": "unavailable", "reason": "object store unavailable"}));
    // What needs no archive goes on.
    world.get(&path("source")).await.expect(200);
    blobs.set(false);
    world.get(&path("download")).await.expect(200);
}

#[tokio::test]
async fn a_panic_is_a_500_that_says_nothing() {
    let world = World::new().await.rebuilt(|services| services.validator = Arc::new(Broken::Panics));
    let reply = world.post(&world.home.path("/bundles/validate"), json!({"config_source": KDL})).await;
    assert_eq!(reply.headers["x-request-id"].len(), 36);
    assert!(reply.headers.contains_key("x-ratelimit-limit"));
    assert_eq!(reply.expect(500), json!({"errors": {"detail": "Internal Server Error"}}));
    world.get(&world.home.path("/bundles")).await.expect(200);
}

#[tokio::test]
async fn configurations_are_validated_one_at_a_time() {
    let world = World::new().await.rebuilt(|services| {
        services.validator = Arc::new(Broken::HangsOnce(AtomicBool::new(false)));
        services.options.request_timeout = Duration::from_secs(6);
    });
    let path = world.home.path("/bundles/validate");
    let validate = || world.post(&path, json!({"config_source": KDL}));
    // The caller goes away, its work goes on.
    tokio::time::timeout(Duration::from_millis(100), validate()).await.unwrap_err();
    let begun = std::time::Instant::now();
    let reply = validate().await;
    assert_eq!(reply.headers["retry-after"], "5");
    reply.expect_error(503, "Other configurations are being validated; try again");
    assert!(begun.elapsed() >= Duration::from_secs(5));
    world.get(&world.home.path("/bundles")).await.expect(200);
    // The time limit ends the turn of the one that hangs.
    validate().await.expect(200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let world = World::new().await.rebuilt(|services| {
        services.validator = Arc::new(Broken::NeverAnswers);
        services.options.request_timeout = Duration::from_millis(50);
    });
    let reply = world.post(&world.home.path("/bundles/validate"), json!({"config_source": KDL})).await;
    assert_eq!(reply.headers["retry-after"], "5");
    reply.expect_error(503, "The request took too long");
}
