//! Records, logs and jobs in memory.

mod jobs;
mod journal;
mod query;
mod stage;
mod table;

use crate::journal::{audit_row, event_row};
use crate::notice::records;
use async_trait::async_trait;
use futures_util::stream;
use jobs::Jobs;
use journal::Logs;
use parking_lot::Mutex;
use stage::{Applied, Stage};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use table::Tables;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::port::{
    ClaimedJob, Notice, NoticeStream, Query, Queue, QueueStats, Receipt, Schedule, Scheduler, Store,
};
use zentinel_core::{Changes, Error, Page, RecordKind, Result, Row, Scope, Stored, Timestamp};

/// How many notices a watcher may be behind before it is told that it lagged.
const NOTICE_BACKLOG: usize = 1024;

/// A linearizable [`Store`] and [`Scheduler`] in memory: one lock around everything. Clones share
/// their content, which lives as long as the last of them. Nothing is durable.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    notices: broadcast::Sender<Notice>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    logs: Logs,
    jobs: Jobs,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                notices: broadcast::Sender::new(NOTICE_BACKLOG),
            }),
        }
    }

    /// Tells the watchers. Called under the lock, so that notices follow commit order; whoever
    /// reads upon one waits for the lock and then sees the commit.
    fn tell(&self, notice: Notice) {
        // No receiver means that nobody watches.
        drop(self.inner.notices.send(notice));
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Records hold credential digests: they stay out.
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl State {
    /// Checks everything, then applies everything.
    fn commit(&mut self, changes: Changes) -> Result<(Applied, Receipt)> {
        let mut stage = Stage::new(&self.tables, &self.logs);
        for write in changes.writes {
            stage.write(write)?;
        }
        for entry in &changes.audit {
            stage.append(audit_row(entry)?)?;
        }
        let publishes = !changes.events.is_empty();
        for event in &changes.events {
            stage.append(event_row(event)?)?;
        }
        self.jobs.check(&changes.jobs)?;

        let staged = stage.finish();
        let mut applied = self.tables.apply(staged.rows);
        for row in staged.entries {
            self.logs.append(row);
        }
        applied.jobs = !changes.jobs.is_empty();
        for job in changes.jobs {
            self.jobs.enqueue(job);
        }
        applied.events = publishes;
        let last_event_seq = publishes.then(|| self.logs.last_seq(LogKind::Event));
        Ok((applied, Receipt { last_event_seq }))
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>> {
        let state = self.inner.state.lock();
        let found = state.tables.get(kind, id);
        Ok(found.filter(|row| scope.contains(row.organisation_id, row.project_id)).cloned())
    }

    async fn lookup(&self, kind: RecordKind, lookup_key: &str) -> Result<Option<Stored<Row>>> {
        let state = self.inner.state.lock();
        let holder = state.tables.lookup_holder(kind, lookup_key);
        Ok(holder.and_then(|id| state.tables.get(kind, id)).cloned())
    }

    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
        query::run(&self.inner.state.lock().tables, scope, query)
    }

    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>> {
        let state = self.inner.state.lock();
        let mut counts = BTreeMap::new();
        for row in state.tables.rows(kind).filter(|row| scope.contains(row.organisation_id, row.project_id)) {
            *counts.entry(row.state.clone().unwrap_or_default()).or_default() += 1;
        }
        Ok(counts)
    }

    async fn commit(&self, mut changes: Changes) -> Result<Receipt> {
        let renewed = std::mem::take(&mut changes.renewed);
        let mut state = self.inner.state.lock();
        let (applied, receipt) = state.commit(changes)?;
        for (kind, changed) in applied.records {
            for notice in records(kind, changed.common_project(), changed.ids, &renewed) {
                self.tell(notice);
            }
        }
        if applied.events {
            self.tell(Notice::Events);
        }
        if applied.jobs {
            self.tell(Notice::Jobs);
        }
        drop(state);
        Ok(receipt)
    }

    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
        Ok(self.inner.state.lock().logs.read(scope, query))
    }

    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64> {
        if kind == LogKind::Audit {
            return Err(Error::invalid("the audit log is never trimmed"));
        }
        Ok(self.inner.state.lock().logs.trim(kind, retention))
    }

    fn watch(&self) -> NoticeStream {
        let receiver = self.inner.notices.subscribe();
        Box::pin(stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(notice) => Some((notice, receiver)),
                Err(RecvError::Lagged(_)) => Some((Notice::Lagged, receiver)),
                Err(RecvError::Closed) => None,
            }
        }))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Scheduler for MemoryStore {
    async fn claim(
        &self,
        queue: Queue,
        worker: &str,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<ClaimedJob>> {
        let mut state = self.inner.state.lock();
        Ok(state.jobs.claim(queue, worker, limit, now + lease, now))
    }

    async fn claim_abandoned(
        &self,
        queue: Queue,
        worker: &str,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<ClaimedJob>> {
        let mut state = self.inner.state.lock();
        Ok(state.jobs.claim_abandoned(queue, worker, limit, now + lease, now))
    }

    async fn extend(&self, job: &ClaimedJob, until: Timestamp) -> Result<()> {
        self.inner.state.lock().jobs.extend(job, until)
    }

    async fn complete(&self, job: &ClaimedJob, now: Timestamp) -> Result<()> {
        let mut state = self.inner.state.lock();
        if state.jobs.complete(job, now)? {
            self.tell(Notice::Jobs);
        }
        Ok(())
    }

    async fn fail(
        &self,
        job: &ClaimedJob,
        reason: &str,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()> {
        let mut state = self.inner.state.lock();
        if state.jobs.fail(job, reason, retry_at, now)? {
            self.tell(Notice::Jobs);
        }
        Ok(())
    }

    async fn defer(&self, job: &ClaimedJob, at: Timestamp, now: Timestamp) -> Result<()> {
        let mut state = self.inner.state.lock();
        if state.jobs.defer(job, at, now)? {
            self.tell(Notice::Jobs);
        }
        Ok(())
    }

    async fn declare(&self, schedules: &[Schedule], now: Timestamp) -> Result<()> {
        self.inner.state.lock().jobs.declare(schedules, now)
    }

    async fn enqueue_due(&self, now: Timestamp) -> Result<u32> {
        let mut state = self.inner.state.lock();
        let count = state.jobs.enqueue_due(now)?;
        if count > 0 {
            self.tell(Notice::Jobs);
        }
        Ok(count)
    }

    async fn next_due(&self, queue: Queue) -> Result<Option<Timestamp>> {
        Ok(self.inner.state.lock().jobs.next_due(queue))
    }

    async fn stats(&self, queue: Queue, now: Timestamp) -> Result<QueueStats> {
        Ok(self.inner.state.lock().jobs.stats(queue, now))
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        Ok(self.inner.state.lock().jobs.prune(before))
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::MemoryStore;
    use crate::conformance::{self, Backend, Guard};
    use async_trait::async_trait;
    use futures_util::StreamExt as _;
    use std::sync::Arc;
    use zentinel_core::entity::Organisation;
    use zentinel_core::port::{Notice, Scheduler, Store};
    use zentinel_core::{Changes, Timestamp};

    struct Memory;

    #[async_trait]
    impl Backend for Memory {
        async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
            let store = MemoryStore::new();
            (Guard::new(()), Arc::new(store.clone()), Arc::new(store))
        }
    }

    mod store {
        crate::conformance::store_suite!(super::Memory);
    }

    mod scheduler {
        crate::conformance::scheduler_suite!(super::Memory);
    }

    #[tokio::test]
    async fn a_watcher_that_falls_behind_is_told() {
        let store = MemoryStore::new();
        let mut notices = store.watch();
        for number in 0..=super::NOTICE_BACKLOG {
            let organisation = Organisation::new(&format!("n{number}"), Timestamp::UNIX_EPOCH).unwrap();
            store.commit(Changes::new().insert(&organisation).unwrap()).await.unwrap();
        }
        assert_eq!(notices.next().await, Some(Notice::Lagged));
        assert!(matches!(notices.next().await, Some(Notice::Records { .. })));
    }

    #[tokio::test]
    async fn the_stream_ends_with_the_store() {
        let store = MemoryStore::new();
        let mut notices = store.watch();
        drop(store);
        assert_eq!(notices.next().await, None);
    }

    #[test]
    fn debug_shows_no_records() {
        assert_eq!(format!("{:?}", MemoryStore::new()), "MemoryStore { .. }");
    }

    #[tokio::test]
    async fn clocks_keep_the_contract() {
        use zentinel_core::port::{ManualClock, SystemClock};
        conformance::clock::suite(Arc::new(SystemClock), |_| ()).await;
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        conformance::clock::suite(clock.clone(), |by| clock.advance(by)).await;
    }
}
