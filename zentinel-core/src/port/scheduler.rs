//! Durable background work.

use crate::error::Result;
use crate::id::JobId;
use crate::value::Timestamp;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Debug;
use std::time::Duration;

/// A queue and, in the reference server, its number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Compiles and deliveries; 10 workers.
    Default,
    /// Rollout ticks; 5 workers.
    Rollouts,
    /// Periodic work; 2 workers.
    Maintenance,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Default, Self::Rollouts, Self::Maintenance];

    /// The stored name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Rollouts => "rollouts",
            Self::Maintenance => "maintenance",
        }
    }

    /// How many jobs the reference server runs at once.
    #[must_use]
    pub fn workers(self) -> u32 {
        match self {
            Self::Default => 10,
            Self::Rollouts => 5,
            Self::Maintenance => 2,
        }
    }
}

/// Work to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// Where it waits.
    pub queue: Queue,
    /// Which handler runs it.
    pub kind: String,
    /// What the handler needs; usually one id.
    pub payload: Value,
    /// Not before this instant.
    pub run_at: Timestamp,
    /// At most one *waiting* job per `(kind, unique_key)`: a second one only brings `run_at`
    /// forward. Two jobs with the same key never run at the same time.
    pub unique_key: Option<String>,
    /// How often it is tried before it is given up, at least 1.
    pub max_attempts: u32,
}

impl NewJob {
    /// A job to run at `run_at`, tried three times.
    #[must_use]
    pub fn new(queue: Queue, kind: &str, payload: Value, run_at: Timestamp) -> Self {
        Self {
            id: JobId::random(),
            queue,
            kind: kind.to_owned(),
            payload,
            run_at,
            unique_key: None,
            max_attempts: 3,
        }
    }

    /// See [`NewJob::unique_key`].
    #[must_use]
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }
}

/// A job that a worker holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedJob {
    /// What to do.
    pub job: NewJob,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// Grows with every claim: a worker that lost its lease cannot finish the job.
    pub fence: u64,
    /// Until when the job is this worker's.
    pub leased_until: Timestamp,
}

/// A periodic job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Unique name, also the kind of the job.
    pub name: String,
    /// Where its jobs wait.
    pub queue: Queue,
    /// Six-field cron expression with seconds, in UTC, for example `*/15 * * * * *`.
    pub cron: String,
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    /// Waiting and due.
    pub due: u64,
    /// Waiting for a later instant.
    pub later: u64,
    /// Held by a worker.
    pub running: u64,
    /// Given up.
    pub failed: u64,
}

/// A durable job queue. Jobs enter through [`Changes::jobs`](crate::Changes::jobs), in the same
/// commit as the data they are about.
///
/// # Contract
/// While its lease holds, a job is held by one worker. When the lease runs out the job is claimed
/// again; what the slow worker then says is refused. A finished job is never claimed again.
///
/// # Errors
/// `Stale` when the lease was lost, `Unavailable` when the back end is away.
///
/// # Testing
/// `zentinel_store::conformance::scheduler`.
#[async_trait]
pub trait Scheduler: Debug + Send + Sync + 'static {
    /// Claims up to `limit` due jobs for `lease`, oldest due first. Jobs whose lease has run out
    /// are due again; those out of attempts are left to [`Scheduler::claim_abandoned`]. A job is
    /// passed over while another one with its unique key is held or abandoned.
    async fn claim(
        &self,
        queue: Queue,
        worker: &str,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<ClaimedJob>>;
    /// Claims up to `limit` jobs that are out of attempts and whose lease has run out, because
    /// their worker died. The caller gives them up: it cleans up, then calls [`Scheduler::fail`]
    /// without a retry. If it dies as well, they are claimed here again. Their attempt stays.
    ///
    /// The default claims nothing: right only where [`Scheduler::claim`] itself ends such jobs.
    async fn claim_abandoned(
        &self,
        _queue: Queue,
        _worker: &str,
        _limit: u32,
        _lease: Duration,
        _now: Timestamp,
    ) -> Result<Vec<ClaimedJob>> {
        Ok(Vec::new())
    }
    /// Prolongs the lease to `until`.
    async fn extend(&self, job: &ClaimedJob, until: Timestamp) -> Result<()>;
    /// The job is done.
    async fn complete(&self, job: &ClaimedJob, now: Timestamp) -> Result<()>;
    /// The job failed; it runs again at `retry_at`, or never when that is `None`. Where another
    /// job with its unique key waits by then, the two become one: that other job, due at the
    /// earlier of both instants.
    async fn fail(
        &self,
        job: &ClaimedJob,
        reason: &str,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<()>;
    /// The job did not fail but wants to run again at `at`; its attempts start anew.
    ///
    /// The default counts it as a failed attempt.
    async fn defer(&self, job: &ClaimedJob, at: Timestamp, now: Timestamp) -> Result<()> {
        self.fail(job, "deferred", Some(at), now).await
    }
    /// Declares the periodic jobs; those not named any more are removed. Keeps the due times of
    /// schedules that did not change.
    async fn declare(&self, schedules: &[Schedule], now: Timestamp) -> Result<()>;
    /// Enqueues every periodic job that is due, once, and advances its due time. Returns how many.
    async fn enqueue_due(&self, now: Timestamp) -> Result<u32>;
    /// When the next job of a queue is due, if any waits.
    async fn next_due(&self, queue: Queue) -> Result<Option<Timestamp>>;
    /// How full a queue is.
    async fn stats(&self, queue: Queue, now: Timestamp) -> Result<QueueStats>;
    /// Drops jobs that ended before `before`; returns how many.
    async fn prune(&self, before: Timestamp) -> Result<u64>;
}

/// What a handler says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Done.
    Done,
    /// Try again then, whatever the number of attempts.
    Again(Timestamp),
}

/// Runs the jobs of one kind. Must be idempotent: a job may run again after a crash.
#[async_trait]
pub trait JobHandler: Debug + Send + Sync + 'static {
    /// The kind of the jobs it runs.
    fn kind(&self) -> &str;
    /// Runs one job.
    ///
    /// # Errors
    /// Any error makes the job be retried with a growing delay, up to its number of attempts.
    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome>;
    /// Called when a job is given up, so that nothing stays half done. Must be idempotent.
    ///
    /// # Errors
    /// Any error makes it be called again, after the job's lease has run out.
    async fn give_up(&self, _job: &NewJob, _reason: &str) -> Result<()> {
        Ok(())
    }
}
