//! The suite must notice back ends that break their promises: each fault below fails its case.

use super::{Backend, Guard, scheduler, store};
use crate::MemoryStore;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::port::{NoticeStream, Query, Receipt, Scheduler, Store};
use zentinel_core::{Changes, Page, RecordKind, Result, Revision, Row, Scope, Stored, Write};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Shows every tenant's rows.
    IgnoresScope,
    /// Commits one write after the other.
    TearsCommits,
    /// Does not compare revisions.
    LastWriterWins,
    /// Counts pages by rows instead of keys.
    SkipsARow,
    /// Forgets the jobs of a commit.
    LosesJobs,
    /// Tells nobody.
    IsSilent,
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    fault: Fault,
}

#[async_trait]
impl Backend for Fault {
    async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
        let inner = MemoryStore::new();
        (Guard::new(()), Arc::new(Faulty { inner: inner.clone(), fault: *self }), Arc::new(inner))
    }
}

#[async_trait]
impl Store for Faulty {
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>> {
        let scope = if self.fault == Fault::IgnoresScope { &Scope::Instance } else { scope };
        self.inner.get(scope, kind, id).await
    }

    async fn lookup(&self, kind: RecordKind, lookup_key: &str) -> Result<Option<Stored<Row>>> {
        self.inner.lookup(kind, lookup_key).await
    }

    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
        let mut page = self.inner.query(scope, query).await?;
        if self.fault == Fault::SkipsARow && query.page.cursor.is_some() {
            page.items.pop();
        }
        Ok(page)
    }

    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>> {
        self.inner.count_by_state(scope, kind).await
    }

    async fn commit(&self, mut changes: Changes) -> Result<Receipt> {
        match self.fault {
            Fault::TearsCommits => {
                for write in std::mem::take(&mut changes.writes) {
                    self.inner.commit(Changes { writes: vec![write], ..Changes::new() }).await?;
                }
            }
            Fault::LastWriterWins => {
                for write in &mut changes.writes {
                    if let Write::Update { row, expected } = write {
                        let read = self.inner.get(&Scope::Instance, row.kind, row.id).await?;
                        *expected = read.map_or(Revision(1), |read| read.revision);
                    }
                }
            }
            Fault::LosesJobs => changes.jobs.clear(),
            _ => {}
        }
        self.inner.commit(changes).await
    }

    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
        self.inner.read_log(scope, query).await
    }

    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64> {
        self.inner.trim_log(kind, retention).await
    }

    fn watch(&self) -> NoticeStream {
        match self.fault {
            Fault::IsSilent => Box::pin(futures_util::stream::empty()),
            _ => self.inner.watch(),
        }
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

/// Asserts that a case holds without the fault and fails with it.
macro_rules! notices {
    ($($test:ident: $fault:ident fails $module:ident::$case:ident;)*) => {$(
        #[tokio::test]
        async fn $test() {
            $module::$case(&Fault::None).await;
            let broken = tokio::spawn(async { $module::$case(&Fault::$fault).await });
            assert!(broken.await.is_err_and(|error| error.is_panic()));
        }
    )*};
}

notices! {
    a_leaking_scope: IgnoresScope fails store::a_scope_shows_only_its_rows;
    a_torn_commit: TearsCommits fails store::a_failed_commit_leaves_nothing;
    a_torn_large_commit: TearsCommits fails store::a_large_commit_is_one_commit;
    a_lost_update: LastWriterWins fails store::a_stale_update_is_refused;
    two_winners: LastWriterWins fails store::one_of_two_writers_wins;
    lost_increments: LastWriterWins fails store::increments_are_not_lost;
    a_skipped_row: SkipsARow fails store::pages_show_every_row_once_in_each_order;
    a_lost_job: LosesJobs fails scheduler::a_claimed_job_is_what_was_enqueued;
    silence: IsSilent fails store::watchers_hear_of_commits;
}
