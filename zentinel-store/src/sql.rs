//! What the SQL back ends share: everything but the connection, the types and a few words of SQL.
//!
//! The statements are written once. They use `$n` parameters and the SQL that SQLite and
//! PostgreSQL have in common; [`Backend`] supplies the rest. Sets of rows travel as one JSON
//! parameter, so that a commit takes a number of statements that does not grow with its rows.

pub(crate) mod commit;
pub(crate) mod fault;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod notices;
mod plan;
pub(crate) mod read;
mod rows;
pub(crate) mod statement;

pub(crate) use fault::{Class, Fault};
pub(crate) use rows::{Column, ColumnType};
pub(crate) use statement::{Arg, Cells, Session, Statement};

use serde::Serialize;
use sqlx::{Connection, Database, Pool, Transaction};
use std::future::Future;
use zentinel_core::Timestamp;
use zentinel_core::port::Notice;

/// An instant within a JSON set, as the back end reads it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Instant {
    /// Microseconds since 1970.
    #[cfg(feature = "sqlite")]
    Micros(i64),
    /// RFC 3339.
    #[cfg(feature = "postgres")]
    Text(String),
}

/// One SQL back end.
pub(crate) trait Backend: Send + Sync + 'static {
    /// The driver.
    type Db: Database<Connection = Self::Connection>;
    /// Its connection.
    type Connection: Session + Connection<Database = Self::Db>;

    /// How a transaction that writes begins.
    const BEGIN: &'static str;
    /// Ends a `SELECT` of rows that must stay as they are until the commit.
    const FOR_SHARE: &'static str;
    /// Ends a `SELECT` of rows that will be changed.
    const FOR_UPDATE: &'static str;
    /// The same, but passes over rows that somebody else is changing.
    const SKIP_LOCKED: &'static str;
    /// Before a column: its index is no good here. Only SQLite, which keeps no statistics, needs it.
    const UNINDEXED: &'static str;
    /// A condition that holds where `body` has the label of one bound JSON parameter `?`.
    const HAS_LABEL: &'static str;

    /// The pool for reads.
    fn readers(&self) -> &Pool<Self::Db>;
    /// The pool for writes.
    fn writers(&self) -> &Pool<Self::Db>;
    /// The expression that turns the JSON array in parameter `n` into rows named `x`.
    fn set(n: usize, columns: &[Column]) -> String;
    /// The expression for the UUIDs in the JSON array of one bound parameter `?`.
    fn uuids() -> &'static str;
    /// How an instant is written within a JSON set.
    fn instant(at: Timestamp) -> Instant;
    /// What an error code of the database means.
    fn classify(code: &str) -> Class;
    /// Puts notices into a transaction, where the database carries them.
    fn announce(
        connection: &mut Self::Connection,
        notices: &[Notice],
    ) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Tells the notices of a finished commit, where the database does not carry them.
    fn committed(&self, notices: Vec<Notice>);

    /// Begins a transaction that writes.
    fn begin(&self) -> impl Future<Output = Result<Transaction<'static, Self::Db>, Fault>> + Send {
        async move { Ok(self.writers().begin_with(Self::BEGIN).await?) }
    }
}

/// Implements the ports on a store that holds its back end in `self.inner`.
macro_rules! impl_ports {
    ($store:ty, $backend:ty) => {
        #[async_trait::async_trait]
        impl zentinel_core::port::Store for $store {
            async fn get(
                &self,
                scope: &zentinel_core::Scope,
                kind: zentinel_core::RecordKind,
                id: uuid::Uuid,
            ) -> zentinel_core::Result<Option<zentinel_core::Stored<zentinel_core::Row>>> {
                $crate::sql::read::get::<$backend>(&self.inner, scope, kind, id).await
            }
            async fn lookup(
                &self,
                kind: zentinel_core::RecordKind,
                lookup_key: &str,
            ) -> zentinel_core::Result<Option<zentinel_core::Stored<zentinel_core::Row>>> {
                $crate::sql::read::lookup::<$backend>(&self.inner, kind, lookup_key).await
            }
            async fn query(
                &self,
                scope: &zentinel_core::Scope,
                query: &zentinel_core::port::Query,
            ) -> zentinel_core::Result<zentinel_core::Page<zentinel_core::Stored<zentinel_core::Row>>> {
                $crate::sql::read::query::<$backend>(&self.inner, scope, query).await
            }
            async fn count_by_state(
                &self,
                scope: &zentinel_core::Scope,
                kind: zentinel_core::RecordKind,
            ) -> zentinel_core::Result<std::collections::BTreeMap<String, u64>> {
                $crate::sql::read::count_by_state::<$backend>(&self.inner, scope, kind).await
            }
            async fn commit(
                &self,
                changes: zentinel_core::Changes,
            ) -> zentinel_core::Result<zentinel_core::port::Receipt> {
                $crate::sql::commit::commit::<$backend>(&self.inner, changes).await
            }
            async fn read_log(
                &self,
                scope: &zentinel_core::Scope,
                query: &zentinel_core::log::LogQuery,
            ) -> zentinel_core::Result<Vec<zentinel_core::log::LogEntry>> {
                $crate::sql::logs::read::<$backend>(&self.inner, scope, query).await
            }
            async fn count_log(
                &self,
                scope: &zentinel_core::Scope,
                kind: zentinel_core::log::LogKind,
                owner: Option<uuid::Uuid>,
            ) -> zentinel_core::Result<u64> {
                $crate::sql::logs::count::<$backend>(&self.inner, scope, kind, owner).await
            }
            async fn trim_log(
                &self,
                kind: zentinel_core::log::LogKind,
                retention: zentinel_core::log::Retention,
            ) -> zentinel_core::Result<u64> {
                $crate::sql::logs::trim::<$backend>(&self.inner, kind, retention).await
            }
            fn watch(&self) -> zentinel_core::port::NoticeStream {
                self.inner.notices.watch()
            }
            async fn ping(&self) -> zentinel_core::Result<()> {
                $crate::sql::read::ping::<$backend>(&self.inner).await
            }
        }

        #[async_trait::async_trait]
        impl zentinel_core::port::Scheduler for $store {
            async fn claim(
                &self,
                queue: zentinel_core::port::Queue,
                worker: &str,
                limit: u32,
                lease: std::time::Duration,
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<Vec<zentinel_core::port::ClaimedJob>> {
                let lease = $crate::sql::jobs::Lease::new(queue, worker, limit, lease, now)?;
                $crate::sql::jobs::claim::<$backend>(&self.inner, &lease).await
            }
            async fn claim_abandoned(
                &self,
                queue: zentinel_core::port::Queue,
                worker: &str,
                limit: u32,
                lease: std::time::Duration,
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<Vec<zentinel_core::port::ClaimedJob>> {
                let lease = $crate::sql::jobs::Lease::new(queue, worker, limit, lease, now)?;
                $crate::sql::jobs::claim_abandoned::<$backend>(&self.inner, &lease).await
            }
            async fn extend(
                &self,
                job: &zentinel_core::port::ClaimedJob,
                until: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<()> {
                $crate::sql::jobs::extend::<$backend>(&self.inner, job, until).await
            }
            async fn complete(
                &self,
                job: &zentinel_core::port::ClaimedJob,
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<()> {
                let end = $crate::sql::jobs::End::Done { now };
                $crate::sql::jobs::end::<$backend>(&self.inner, job, end).await
            }
            async fn fail(
                &self,
                job: &zentinel_core::port::ClaimedJob,
                reason: &str,
                retry_at: Option<zentinel_core::Timestamp>,
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<()> {
                let reason = reason.to_owned();
                let end = match retry_at {
                    Some(at) => $crate::sql::jobs::End::Retry { reason, at, now },
                    None => $crate::sql::jobs::End::Failed { reason, now },
                };
                $crate::sql::jobs::end::<$backend>(&self.inner, job, end).await
            }
            async fn defer(
                &self,
                job: &zentinel_core::port::ClaimedJob,
                at: zentinel_core::Timestamp,
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<()> {
                let end = $crate::sql::jobs::End::Deferred { at, now };
                $crate::sql::jobs::end::<$backend>(&self.inner, job, end).await
            }
            async fn declare(
                &self,
                schedules: &[zentinel_core::port::Schedule],
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<()> {
                $crate::sql::jobs::declare::<$backend>(&self.inner, schedules, now).await
            }
            async fn enqueue_due(&self, now: zentinel_core::Timestamp) -> zentinel_core::Result<u32> {
                $crate::sql::jobs::enqueue_due::<$backend>(&self.inner, now).await
            }
            async fn next_due(
                &self,
                queue: zentinel_core::port::Queue,
            ) -> zentinel_core::Result<Option<zentinel_core::Timestamp>> {
                $crate::sql::jobs::next_due::<$backend>(&self.inner, queue).await
            }
            async fn stats(
                &self,
                queue: zentinel_core::port::Queue,
                now: zentinel_core::Timestamp,
            ) -> zentinel_core::Result<zentinel_core::port::QueueStats> {
                $crate::sql::jobs::stats::<$backend>(&self.inner, queue, now).await
            }
            async fn prune(&self, before: zentinel_core::Timestamp) -> zentinel_core::Result<u64> {
                $crate::sql::jobs::prune::<$backend>(&self.inner, before).await
            }
        }
    };
}
pub(crate) use impl_ports;
