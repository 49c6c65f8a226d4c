//! The job queue.

use super::commit::{RETRIES, enqueue, pause};
use super::fault::tell;
use super::plan;
use super::rows::missing;
use super::{Arg, Backend, Cells, Column, ColumnType, Fault, Instant, Session as _, Statement};
use crate::schedule;
use serde::Serialize;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use zentinel_core::id::{JobId, TypedId as _};
use zentinel_core::port::{ClaimedJob, NewJob, Notice, Queue, QueueStats, Schedule};
use zentinel_core::{Error, Result, Timestamp};

/// What a worker asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease<'a> {
    queue: Queue,
    worker: &'a str,
    limit: u32,
    now: Timestamp,
    until: Timestamp,
}

impl<'a> Lease<'a> {
    /// A lease that begins now.
    pub(crate) fn new(
        queue: Queue,
        worker: &'a str,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Self> {
        let length = chrono::TimeDelta::from_std(lease).ok();
        let until = length.and_then(|length| now.checked_add_signed(length));
        let until = until.ok_or_else(|| Error::invalid_field("lease", "is too long"))?;
        Ok(Self { queue, worker, limit, now, until })
    }
}

/// How a worker's hold on a job ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It is done.
    Done { now: Timestamp },
    /// It failed for good.
    Failed { reason: String, now: Timestamp },
    /// It failed and runs again.
    Retry { reason: String, at: Timestamp, now: Timestamp },
    /// It runs again, with its attempts anew.
    Deferred { at: Timestamp, now: Timestamp },
}

/// Work within a transaction.
type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// Runs `work` in a transaction, again when it collides with another one, then tells its notices.
async fn transact<B: Backend, T: Send>(
    backend: &B,
    work: impl for<'c> Fn(&'c mut B::Connection) -> Work<'c, (T, Vec<Notice>)> + Send + Sync,
) -> Result<T> {
    let mut tries = 0;
    loop {
        match once(backend, &work).await {
            Ok((value, notices)) => {
                backend.committed(notices);
                return Ok(value);
            }
            // The unique keys of waiting and of running jobs guard against races only.
            Err(fault) if tries < RETRIES && (fault.is_collision::<B>() || is_taken(&fault)) => {
                tries += 1;
                pause(tries).await;
            }
            Err(fault) => return Err(fault.into_error::<B>()),
        }
    }
}

async fn once<B: Backend, T: Send>(
    backend: &B,
    work: &(impl for<'c> Fn(&'c mut B::Connection) -> Work<'c, (T, Vec<Notice>)> + Send + Sync),
) -> Result<(T, Vec<Notice>), Fault> {
    let mut transaction = backend.begin().await?;
    let (value, notices) = work(&mut transaction).await?;
    if !notices.is_empty() {
        B::announce(&mut transaction, &notices).await?;
    }
    transaction.commit().await?;
    Ok((value, notices))
}

fn is_taken(fault: &Fault) -> bool {
    matches!(fault, Fault::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
}

/// The lease was lost.
fn lost() -> Error {
    Error::stale("the job")
}

/// Due jobs: those that wait, and those whose worker's lease ran out while attempts are left. A
/// job is passed over while another one with its key is held.
const DUE: &str = "((j.state = 'waiting' AND j.run_at <= $4) \
    OR (j.state = 'running' AND j.leased_until <= $4 AND j.attempt < j.max_attempts)) \
    AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.kind = j.kind \
    AND other.unique_key = j.unique_key AND other.state = 'running' AND other.seq <> j.seq)";

/// Jobs whose worker died in their last attempt.
const ABANDONED: &str = "j.state = 'running' AND j.leased_until <= $4 AND j.attempt >= j.max_attempts";

/// Claims due jobs.
pub(crate) async fn claim<B: Backend>(backend: &B, lease: &Lease<'_>) -> Result<Vec<ClaimedJob>> {
    take::<B>(backend, lease, DUE, 1).await
}

/// Claims jobs that are to be given up.
pub(crate) async fn claim_abandoned<B: Backend>(backend: &B, lease: &Lease<'_>) -> Result<Vec<ClaimedJob>> {
    take::<B>(backend, lease, ABANDONED, 0).await
}

async fn take<B: Backend>(
    backend: &B,
    lease: &Lease<'_>,
    which: &str,
    attempts: i64,
) -> Result<Vec<ClaimedJob>> {
    let text = format!(
        "WITH chosen AS MATERIALIZED (SELECT j.seq FROM jobs AS j WHERE j.queue = $1 AND {which} \
         ORDER BY j.run_at, j.seq LIMIT $5{}) \
         UPDATE jobs SET state = 'running', worker = $2, leased_until = $3, \
         attempt = attempt + $6, fence = fence + 1 WHERE seq IN (SELECT seq FROM chosen) \
         RETURNING id, kind, payload, unique_key, run_at, max_attempts, attempt, fence, seq",
        B::SKIP_LOCKED
    );
    let statement = Statement::new(text)
        .arg(lease.queue.name())
        .arg(lease.worker)
        .arg(lease.until)
        .arg(lease.now)
        .arg(i64::from(lease.limit))
        .arg(attempts);
    let (queue, until) = (lease.queue, lease.until);
    let mut claimed = transact::<B, _>(backend, move |connection| {
        let statement = statement.clone();
        Box::pin(async move {
            let rows = connection.rows(statement).await?;
            let jobs = rows.iter().map(|cells| Ok((cells.int(8)?, claimed(cells, queue, until)?)));
            Ok((jobs.collect::<Result<Vec<_>, Fault>>()?, Vec::new()))
        })
    })
    .await?;
    claimed.sort_unstable_by_key(|(seq, claimed)| (claimed.job.run_at, *seq));
    Ok(claimed.into_iter().map(|(_, claimed)| claimed).collect())
}

fn claimed(cells: &impl Cells, queue: Queue, until: Timestamp) -> Result<ClaimedJob, Fault> {
    let id = cells.uuid(0)?.ok_or_else(|| missing("id"))?;
    let number = |column| cells.count(column).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    Ok(ClaimedJob {
        job: NewJob {
            id: JobId::from_uuid(id),
            queue,
            kind: cells.text(1)?.unwrap_or_default(),
            payload: serde_json::from_str(&cells.json(2)?)?,
            run_at: cells.time(4)?.ok_or_else(|| missing("run_at"))?,
            unique_key: cells.text(3)?,
            max_attempts: number(5)?,
        },
        attempt: number(6)?,
        fence: cells.count(7)?,
        leased_until: until,
    })
}

/// Prolongs a lease.
pub(crate) async fn extend<B: Backend>(backend: &B, job: &ClaimedJob, until: Timestamp) -> Result<()> {
    let statement =
        Statement::new(format!("UPDATE jobs SET leased_until = $3 WHERE {HELD}")).args(held(job)).arg(until);
    transact::<B, _>(backend, |connection| {
        let statement = statement.clone();
        Box::pin(async move { Ok((one_or_lost(connection.execute(statement).await?)?, Vec::new())) })
    })
    .await
}

/// A job that is still in the hands of the worker that claimed it.
const HELD: &str = "id = $1 AND fence = $2 AND state = 'running'";

fn held(job: &ClaimedJob) -> [Arg; 2] {
    [Arg::Uuid(job.job.id.uuid()), Arg::Int(i64::try_from(job.fence).unwrap_or(i64::MAX))]
}

fn one_or_lost(count: u64) -> Result<(), Fault> {
    if count == 0 { Err(Fault::Refused(lost())) } else { Ok(()) }
}

/// Ends a worker's hold on a job.
pub(crate) async fn end<B: Backend>(backend: &B, job: &ClaimedJob, end: End) -> Result<()> {
    let job = job.clone();
    transact::<B, _>(backend, move |connection| {
        let (job, end) = (job.clone(), end.clone());
        Box::pin(async move {
            let wakes = end_in::<B>(connection, &job, end).await?;
            Ok(((), wakes.then_some(Notice::Jobs).into_iter().collect()))
        })
    })
    .await
}

/// Returns whether a job waits now.
async fn end_in<B: Backend>(
    connection: &mut B::Connection,
    job: &ClaimedJob,
    end: End,
) -> Result<bool, Fault> {
    let lock = format!("SELECT 1 FROM jobs WHERE {HELD}{}", B::FOR_UPDATE);
    let rows = connection.rows(Statement::new(lock).args(held(job))).await?.len();
    one_or_lost(rows as u64)?;
    let again = match end {
        End::Retry { at, .. } | End::Deferred { at, .. } => Some(at),
        End::Done { .. } | End::Failed { .. } => None,
    };
    let sibling_waits = sibling::<B>(connection, job, again).await?;
    connection.execute(ending(job, end, sibling_waits)).await?;
    Ok(sibling_waits || again.is_some())
}

/// Whether another job with the same key waits. With an instant it is due by then.
async fn sibling<B: Backend>(
    connection: &mut B::Connection,
    job: &ClaimedJob,
    due: Option<Timestamp>,
) -> Result<bool, Fault> {
    let Some(key) = &job.job.unique_key else {
        return Ok(false);
    };
    let which = "kind = $1 AND unique_key = $2 AND state = 'waiting'";
    let statement = match due {
        None => Statement::new(format!("SELECT 1 FROM jobs WHERE {which}")),
        Some(_) => Statement::new(format!(
            "UPDATE jobs SET run_at = CASE WHEN run_at > $3 THEN $3 ELSE run_at END \
             WHERE {which} RETURNING seq"
        )),
    };
    let statement = statement.arg(job.job.kind.as_str()).arg(key.as_str());
    let statement = due.into_iter().fold(statement, Statement::arg);
    Ok(!connection.rows(statement).await?.is_empty())
}

/// The update that ends a hold. A job that wants to run again, while another one with its key
/// waits, is done: the other one runs for both.
fn ending(job: &ClaimedJob, end: End, sibling_waits: bool) -> Statement {
    let ended = |state: &str| {
        format!(
            "UPDATE jobs SET state = '{state}', ended_at = $3, last_error = coalesce($4, last_error), \
             worker = NULL, leased_until = NULL WHERE {HELD}"
        )
    };
    let again = |attempt: &str| {
        format!(
            "UPDATE jobs SET state = 'waiting', run_at = $3, last_error = coalesce($4, last_error), \
             worker = NULL, leased_until = NULL{attempt} WHERE {HELD}"
        )
    };
    let (text, at, reason) = match end {
        End::Done { now } => (ended("done"), now, None),
        End::Failed { reason, now } => (ended("failed"), now, Some(reason)),
        End::Retry { reason, now, .. } if sibling_waits => (ended("done"), now, Some(reason)),
        End::Deferred { now, .. } if sibling_waits => (ended("done"), now, None),
        End::Retry { reason, at, .. } => (again(""), at, Some(reason)),
        End::Deferred { at, .. } => (again(", attempt = 0"), at, None),
    };
    Statement::new(text).args(held(job)).arg(at).arg(Arg::Text(reason))
}

/// A schedule within a JSON set.
#[derive(Serialize)]
struct ScheduleItem<'a> {
    name: &'a str,
    queue: &'static str,
    cron: &'a str,
    next_run: Instant,
}

const SCHEDULE: [Column; 4] = [
    ("name", ColumnType::Text),
    ("queue", ColumnType::Text),
    ("cron", ColumnType::Text),
    ("next_run", ColumnType::Time),
];

/// Declares the periodic jobs.
pub(crate) async fn declare<B: Backend>(backend: &B, schedules: &[Schedule], now: Timestamp) -> Result<()> {
    let mut names = HashSet::new();
    let mut items = Vec::with_capacity(schedules.len());
    for schedule in schedules {
        if !names.insert(&schedule.name) {
            return Err(Error::invalid_field("name", "has already been taken"));
        }
        items.push(ScheduleItem {
            name: &schedule.name,
            queue: schedule.queue.name(),
            cron: &schedule.cron,
            next_run: B::instant(schedule::next_due(schedule, now)?),
        });
    }
    // Two servers that start at once lock the rows in the same order.
    items.sort_unstable_by_key(|item| item.name);
    let set = serde_json::to_string(&items)?;
    let source = B::set(1, &SCHEDULE);
    let upsert = Statement::new(format!(
        "INSERT INTO schedules (name, queue, cron, next_run) \
         SELECT x.name, x.queue, x.cron, x.next_run FROM {source} WHERE true \
         ON CONFLICT (name) DO UPDATE SET queue = excluded.queue, cron = excluded.cron, \
         next_run = CASE WHEN schedules.cron = excluded.cron AND schedules.queue = excluded.queue \
         THEN schedules.next_run ELSE excluded.next_run END"
    ))
    .arg(Arg::Json(set.clone()));
    let remove =
        Statement::new(format!("DELETE FROM schedules WHERE name NOT IN (SELECT x.name FROM {source})"))
            .arg(Arg::Json(set));
    transact::<B, _>(backend, |connection| {
        let statements = [upsert.clone(), remove.clone()];
        Box::pin(async move {
            for statement in statements {
                connection.execute(statement).await?;
            }
            Ok(((), Vec::new()))
        })
    })
    .await
}

/// Enqueues the periodic jobs that are due.
pub(crate) async fn enqueue_due<B: Backend>(backend: &B, now: Timestamp) -> Result<u32> {
    transact::<B, _>(backend, |connection| Box::pin(enqueue_due_in::<B>(connection, now))).await
}

async fn enqueue_due_in<B: Backend>(
    connection: &mut B::Connection,
    now: Timestamp,
) -> Result<(u32, Vec<Notice>), Fault> {
    let due = Statement::new(format!(
        "SELECT name, queue, cron, next_run FROM schedules WHERE next_run <= $1 ORDER BY name{}",
        B::SKIP_LOCKED
    ))
    .arg(now);
    let mut jobs = Vec::new();
    for cells in &connection.rows(due).await? {
        let stored = cells.text(1)?.unwrap_or_default();
        let queue = Queue::ALL.into_iter().find(|queue| queue.name() == stored);
        let schedule = Schedule {
            name: cells.text(0)?.unwrap_or_default(),
            queue: queue.ok_or_else(|| missing("known queue"))?,
            cron: cells.text(2)?.unwrap_or_default(),
        };
        let advance = Statement::new("UPDATE schedules SET next_run = $2 WHERE name = $1")
            .arg(schedule.name.as_str())
            .arg(schedule::next_due(&schedule, now)?);
        connection.execute(advance).await?;
        jobs.push(schedule::job(&schedule, cells.time(3)?.ok_or_else(|| missing("next_run"))?));
    }
    if jobs.is_empty() {
        return Ok((0, Vec::new()));
    }
    enqueue::<B>(connection, &plan::jobs::<B>(&jobs)?).await?;
    Ok((u32::try_from(jobs.len()).unwrap_or(u32::MAX), vec![Notice::Jobs]))
}

/// When the next waiting job of a queue is due.
pub(crate) async fn next_due<B: Backend>(backend: &B, queue: Queue) -> Result<Option<Timestamp>> {
    let statement = Statement::new("SELECT min(run_at) FROM jobs WHERE queue = $1 AND state = 'waiting'")
        .arg(queue.name());
    let due = async {
        let rows = backend.readers().acquire().await?.rows(statement).await?;
        Ok(rows.first().map_or(Ok(None), |cells| cells.time(0))?)
    };
    tell::<B, _>(due.await)
}

/// How full a queue is.
pub(crate) async fn stats<B: Backend>(backend: &B, queue: Queue, now: Timestamp) -> Result<QueueStats> {
    let statement = Statement::new(
        "SELECT count(CASE WHEN state = 'waiting' AND run_at <= $2 THEN 1 END), \
         count(CASE WHEN state = 'waiting' AND run_at > $2 THEN 1 END), \
         count(CASE WHEN state = 'running' THEN 1 END), \
         count(CASE WHEN state = 'failed' THEN 1 END) \
         FROM jobs WHERE queue = $1 AND state IN ('waiting', 'running', 'failed')",
    )
    .arg(queue.name())
    .arg(now);
    let stats = async {
        let rows = backend.readers().acquire().await?.rows(statement).await?;
        let Some(cells) = rows.first() else {
            return Ok(QueueStats::default());
        };
        Ok(QueueStats {
            due: cells.count(0)?,
            later: cells.count(1)?,
            running: cells.count(2)?,
            failed: cells.count(3)?,
        })
    };
    tell::<B, _>(stats.await)
}

/// Drops jobs that ended before an instant.
pub(crate) async fn prune<B: Backend>(backend: &B, before: Timestamp) -> Result<u64> {
    let statement = Statement::new("DELETE FROM jobs WHERE ended_at < $1").arg(before);
    transact::<B, _>(backend, |connection| {
        let statement = statement.clone();
        Box::pin(async move { Ok((connection.execute(statement).await?, Vec::new())) })
    })
    .await
}
