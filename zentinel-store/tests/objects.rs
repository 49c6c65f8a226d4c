//! The blob and signer back ends against their conformance suites; S3 against a real
//! S3-compatible server on loopback that verifies signatures.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use bytes::Bytes;
use chrono::TimeDelta;
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::collections::BTreeMap;
use std::sync::Arc;
use url::Url;
use uuid::Uuid;
use zentinel_core::id::OrganisationId;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::page::Page;
use zentinel_core::port::{BlobStore, Clock, NoticeStream, Query, Receipt, Signer, Store, SystemClock};
use zentinel_core::presign::UrlSigner;
use zentinel_core::record::{Row, Stored};
use zentinel_core::{Changes, Kind, RecordKind, Result, Scope, Secret, Sha256Digest};
use zentinel_store::conformance;
use zentinel_store::{MasterKey, MemorySigner, MemoryStore, ObjectBlobStore, S3Options, SealedSigner};

fn base() -> Url {
    Url::parse("http://127.0.0.1:4000").unwrap()
}

/// Serves the bucket `bundles` below `root`; answers its endpoint.
async fn s3_server(root: &std::path::Path) -> Url {
    std::fs::create_dir_all(root.join("bundles")).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("test-access", "test-secret"));
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    endpoint
}

fn s3(endpoint: Url, secret: &str) -> ObjectBlobStore {
    let mut options = S3Options::new("bundles", "test-access", Secret::new(secret));
    options.endpoint = Some(endpoint);
    options.timeout = std::time::Duration::from_secs(5);
    ObjectBlobStore::s3(options).unwrap()
}

#[tokio::test]
async fn blobs_in_memory() {
    conformance::blob::suite(Arc::new(ObjectBlobStore::memory(base(), UrlSigner::new([1; 32])))).await;
}

#[tokio::test]
async fn blobs_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || ObjectBlobStore::local(dir.path(), base(), UrlSigner::new([1; 32])).unwrap();
    conformance::blob::suite(Arc::new(open())).await;
    open().put("a/b", Bytes::from_static(b"x"), &Sha256Digest::of(b"x")).await.unwrap();
    assert_eq!(open().get("a/b", None).await.unwrap(), "x", "survives reopening");
}

#[tokio::test]
async fn blobs_in_s3() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = s3(s3_server(dir.path()).await, "test-secret");
    conformance::blob::suite(Arc::new(blobs)).await;
}

#[tokio::test]
async fn s3_presigned_urls_are_checked_by_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = s3_server(dir.path()).await;
    let blobs = s3(endpoint.clone(), "test-secret");
    blobs
        .put("bundles/x.tar.zst", Bytes::from_static(b"0123456789"), &Sha256Digest::of(b"0123456789"))
        .await
        .unwrap();
    let now = SystemClock.now();
    let url = blobs.presign_get("bundles/x.tar.zst", now, now + TimeDelta::seconds(60)).await.unwrap();
    let http = reqwest::Client::new();
    let whole = http.get(url.clone()).send().await.unwrap();
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.bytes().await.unwrap(), "0123456789");
    let part = http.get(url.clone()).header("range", "bytes=4-6").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.text().await.unwrap().as_str()), (206, "456"));

    let mut tampered = url.clone();
    tampered.set_path("/bundles/bundles/y.tar.zst");
    let mut unsigned = url.clone();
    unsigned.set_query(None);
    let short = blobs.presign_get("bundles/x.tar.zst", now, now + TimeDelta::seconds(1)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    for refused in [tampered, unsigned, short] {
        assert_eq!(http.get(refused.clone()).send().await.unwrap().status(), 403, "{refused}");
    }

    let wrong = s3(endpoint, "wrong-secret");
    let error = wrong.get("bundles/x.tar.zst", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(!format!("{error:?}").contains("wrong-secret"));
}

#[tokio::test]
async fn s3_away_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let blobs = s3(endpoint, "test-secret");
    assert_eq!(blobs.ping().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(blobs.get("a", None).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn keys_in_memory() {
    conformance::signer::suite(Arc::new(MemorySigner::generate()), Scope::Instance, true).await;
}

#[tokio::test]
async fn keys_sealed_in_the_store() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let open = |master: [u8; 32]| {
        SealedSigner::new(Arc::clone(&store), Arc::clone(&clock), MasterKey::from_bytes(master))
    };
    let scope = Scope::Organisation(OrganisationId::random());
    conformance::signer::suite(Arc::new(open([5; 32])), scope, true).await;

    let before = open([5; 32]).sign(&scope, b"x").await.unwrap();
    assert_eq!(open([5; 32]).sign(&scope, b"x").await.unwrap(), before, "survives a restart");
    let foreign = Scope::Organisation(OrganisationId::random());
    assert_eq!(
        open([5; 32]).public_key(&foreign, &before.key_id).await.unwrap(),
        None,
        "tenants don't share keys"
    );
    assert_ne!(open([5; 32]).sign(&foreign, b"x").await.unwrap().key_id, before.key_id);
    assert_eq!(
        open([6; 32]).sign(&scope, b"x").await.unwrap_err().kind(),
        Kind::Internal,
        "another master key"
    );
    assert_eq!(open([5; 32]).sign(&Scope::Instance, b"x").await.unwrap_err().kind(), Kind::Forbidden);
}

/// A replica's store: its first listing waits until the other replica has listed, too.
#[derive(Debug)]
struct Replica {
    store: Arc<dyn Store>,
    both: Arc<tokio::sync::Barrier>,
    listed: std::sync::atomic::AtomicUsize,
    ends: bool,
}

#[async_trait::async_trait]
impl Store for Replica {
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>> {
        self.store.get(scope, kind, id).await
    }
    async fn lookup(&self, kind: RecordKind, key: &str) -> Result<Option<Stored<Row>>> {
        self.store.lookup(kind, key).await
    }
    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
        let page = self.store.query(scope, query).await;
        // Twice before a replica may make a key, then the listing that decides on its generation.
        if self.listed.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 {
            self.both.wait().await;
        }
        page
    }
    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>> {
        self.store.count_by_state(scope, kind).await
    }
    async fn commit(&self, changes: Changes) -> Result<Receipt> {
        self.store.commit(changes).await
    }
    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
        self.store.read_log(scope, query).await
    }
    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64> {
        self.store.trim_log(kind, retention).await
    }
    fn watch(&self) -> NoticeStream {
        if self.ends { Box::pin(futures_util::stream::empty()) } else { self.store.watch() }
    }
    async fn ping(&self) -> Result<()> {
        self.store.ping().await
    }
}

#[tokio::test]
async fn two_replicas_agree_on_the_first_key_and_on_the_order_of_the_next() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let replica = || {
        let (store, both) = (Arc::clone(&store), Arc::clone(&both));
        let replica = Replica { store, both, listed: 0.into(), ends: true };
        SealedSigner::new(Arc::new(replica), Arc::new(SystemClock), MasterKey::from_bytes([5; 32]))
    };
    let (a, b) = (replica(), replica());
    let scope = Scope::Organisation(OrganisationId::random());
    let (first, second) = tokio::join!(a.sign(&scope, b"x"), b.sign(&scope, b"x"));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(a.public_keys(&scope).await.unwrap().len(), 1);
    let (first, second) = tokio::join!(a.rotate(&scope), b.rotate(&scope));
    assert_ne!(first.unwrap(), second.unwrap());
    assert_eq!(a.public_keys(&scope).await.unwrap(), b.public_keys(&scope).await.unwrap());
    assert_eq!(
        a.public_keys(&scope).await.unwrap().len(),
        3,
        "each notice stream has ended, nothing is stale"
    );
}

#[tokio::test]
async fn a_key_that_does_not_open_is_skipped_and_a_wrong_master_key_is_noticed() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let open = |master| {
        SealedSigner::new(Arc::clone(&store), Arc::new(SystemClock), MasterKey::from_bytes([master; 32]))
    };
    let scope = Scope::Organisation(OrganisationId::random());
    open(5).check().await.unwrap();
    let old = open(5).sign(&scope, b"x").await.unwrap();
    open(5).check().await.unwrap();
    let error = open(6).check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.hint().unwrap().contains("master_key_file"));
    assert_eq!(open(6).sign(&scope, b"x").await.unwrap_err().kind(), Kind::Internal, "and makes no key");

    // A key that was sealed with another master key does not stop the one that opens.
    let stray = open(6).rotate(&scope).await.unwrap();
    let signer = open(5);
    assert_eq!(signer.sign(&scope, b"x").await.unwrap(), old);
    let keys = signer.public_keys(&scope).await.unwrap();
    let names: Vec<_> = keys.iter().map(|key| key.key_id.as_str()).collect();
    assert_eq!(names, [stray.as_str(), old.key_id.as_str()]);
    signer.check().await.unwrap();
}

#[tokio::test]
async fn concurrent_first_signatures_agree_on_one_key() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let signer = Arc::new(SealedSigner::new(store, Arc::new(SystemClock), MasterKey::from_bytes([5; 32])));
    let scope = Scope::Organisation(OrganisationId::random());
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let signer = Arc::clone(&signer);
            tokio::spawn(async move { signer.sign(&scope, b"x").await.unwrap().key_id })
        })
        .collect();
    let mut names = std::collections::BTreeSet::new();
    for call in calls {
        names.insert(call.await.unwrap());
    }
    assert_eq!(names.len(), 1);
}
