//! A store whose commits can be held up or refused.

use async_trait::async_trait;
use std::collections::BTreeMap;
use tokio::sync::watch;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::port::{NoticeStream, Query, Receipt, Store};
use zentinel_core::{Changes, Error, Page, RecordKind, Result, Row, Scope, Stored, Write};
use zentinel_store::MemoryStore;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Commits wait.
    Held,
    /// Commits fail.
    Away,
    /// Commits succeed, but nobody hears of it.
    Mute,
    /// Units of work with log entries are refused for good.
    Picky,
}

#[derive(Debug)]
pub(crate) struct GatedStore {
    pub(crate) inner: MemoryStore,
    pub(crate) gate: watch::Sender<Gate>,
}

impl GatedStore {
    pub(crate) fn new(inner: MemoryStore) -> Self {
        Self { inner, gate: watch::Sender::new(Gate::Open) }
    }

    async fn pass(&self) -> Result<()> {
        let mut gate = self.gate.subscribe();
        match *gate.wait_for(|gate| *gate != Gate::Held).await.unwrap() {
            Gate::Away => Err(Error::unavailable("the store is away")),
            Gate::Open | Gate::Held | Gate::Mute | Gate::Picky => Ok(()),
        }
    }
}

#[async_trait]
impl Store for GatedStore {
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>> {
        self.inner.get(scope, kind, id).await
    }
    async fn lookup(&self, kind: RecordKind, lookup_key: &str) -> Result<Option<Stored<Row>>> {
        self.inner.lookup(kind, lookup_key).await
    }
    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
        self.inner.query(scope, query).await
    }
    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>> {
        self.inner.count_by_state(scope, kind).await
    }
    async fn commit(&self, changes: Changes) -> Result<Receipt> {
        self.pass().await?;
        let gate = *self.gate.borrow();
        let logs = changes.writes.iter().any(|write| matches!(write, Write::Append(_)));
        if gate == Gate::Picky && logs {
            return Err(Error::internal("no log entries, please"));
        }
        let receipt = self.inner.commit(changes).await?;
        if gate == Gate::Mute {
            return Err(Error::unavailable("the connection is gone"));
        }
        Ok(receipt)
    }
    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
        self.inner.read_log(scope, query).await
    }
    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64> {
        self.inner.trim_log(kind, retention).await
    }
    fn watch(&self) -> NoticeStream {
        self.inner.watch()
    }
    async fn ping(&self) -> Result<()> {
        self.pass().await
    }
}
