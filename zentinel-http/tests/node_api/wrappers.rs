//! The real back ends, watched and interrupted.

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use url::Url;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::port::{BlobMeta, BlobStore, NoticeStream, Query, Receipt, Store};
use zentinel_core::{Changes, Error, Page, RecordKind, Result, Row, Scope, Sha256Digest, Stored, Timestamp};

/// A store that counts what is read.
#[derive(Debug)]
pub struct CountingStore {
    pub inner: Arc<dyn Store>,
    pub reads: AtomicUsize,
}

impl CountingStore {
    fn read(&self) -> &dyn Store {
        self.reads.fetch_add(1, Ordering::SeqCst);
        &*self.inner
    }
}

#[async_trait]
impl Store for CountingStore {
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>> {
        self.read().get(scope, kind, id).await
    }
    async fn lookup(&self, kind: RecordKind, key: &str) -> Result<Option<Stored<Row>>> {
        // As with a database, others get their turn meanwhile.
        tokio::task::yield_now().await;
        self.read().lookup(kind, key).await
    }
    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
        self.read().query(scope, query).await
    }
    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>> {
        self.read().count_by_state(scope, kind).await
    }
    async fn commit(&self, changes: Changes) -> Result<Receipt> {
        self.inner.commit(changes).await
    }
    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
        self.read().read_log(scope, query).await
    }
    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64> {
        self.inner.trim_log(kind, retention).await
    }
    fn watch(&self) -> NoticeStream {
        self.inner.watch()
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

/// A blob store that can go away.
#[derive(Debug)]
pub struct FlakyBlobs {
    pub inner: Arc<dyn BlobStore>,
    pub away: AtomicBool,
}

impl FlakyBlobs {
    fn there(&self) -> Result<&dyn BlobStore> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the object store is away"));
        }
        Ok(&*self.inner)
    }
}

#[async_trait]
impl BlobStore for FlakyBlobs {
    async fn put(&self, key: &str, bytes: Bytes, digest: &Sha256Digest) -> Result<()> {
        self.there()?.put(key, bytes, digest).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.there()?.get(key, range).await
    }
    async fn head(&self, key: &str) -> Result<Option<BlobMeta>> {
        self.there()?.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.there()?.delete(key).await
    }
    async fn presign_get(&self, key: &str, now: Timestamp, expires: Timestamp) -> Result<Url> {
        self.there()?.presign_get(key, now, expires).await
    }
    async fn ping(&self) -> Result<()> {
        self.there()?.ping().await
    }
}
