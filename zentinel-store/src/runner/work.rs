//! One job, from the claim to its end.

use super::{RunnerOptions, RunnerStats};
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;
use zentinel_core::port::{ClaimedJob, Clock, JobHandler, JobOutcome, Scheduler};
use zentinel_core::{Error, Kind, Result, Timestamp};

/// How long a job waits whose kind nobody here knows; a newer replica may.
const UNKNOWN_KIND_DELAY: Duration = Duration::from_secs(60);
/// How often the end of a job is told to a scheduler that is away.
const SETTLE_TRIES: u32 = 4;
/// The pause between two such tries.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

/// What every run needs.
pub(super) struct Worker {
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) handlers: HashMap<String, Arc<dyn JobHandler>>,
    pub(super) options: RunnerOptions,
    pub(super) stats: RunnerStats,
    /// Unique among all runners, for people who look into the queue.
    pub(super) name: String,
}

/// How a watched task ended.
enum End<T> {
    /// By itself.
    Returned(Result<T>),
    /// By a panic or the time limit.
    Broken(String),
    /// The lease was lost: somebody else has the job now.
    Lost,
}

/// What to tell the scheduler.
enum Verdict {
    Done,
    Again(Timestamp),
    Retry(String, Timestamp),
    GivenUp(String),
}

impl Worker {
    /// Runs a job and tells the scheduler how it ended.
    pub(super) async fn run(self: Arc<Self>, job: ClaimedJob) {
        let span = tracing::info_span!(
            "job",
            kind = job.job.kind,
            id = %job.job.id,
            queue = job.job.queue.name(),
            attempt = job.attempt
        );
        let verdict = self.try_run(&job).instrument(span.clone()).await;
        if let Some(verdict) = verdict {
            self.settle(&job, verdict).instrument(span).await;
        }
    }

    /// Gives up a job whose worker died in the last attempt.
    pub(super) async fn bury(self: Arc<Self>, job: ClaimedJob) {
        let span = tracing::info_span!("abandoned_job", kind = job.job.kind, id = %job.job.id);
        let reason = "its worker went away in the last attempt".to_owned();
        if let Some(handler) = self.handlers.get(&job.job.kind).cloned() {
            let verdict = self.give_up(handler, &job, reason).instrument(span.clone()).await;
            if let Some(verdict) = verdict {
                self.settle(&job, verdict).instrument(span).await;
            }
        } else {
            // Whoever knows the kind finds it when this lease is over.
            tracing::warn!(kind = job.job.kind, id = %job.job.id, "no handler to give the job up");
        }
    }

    /// What came of a run; nothing when the lease was lost.
    async fn try_run(&self, job: &ClaimedJob) -> Option<Verdict> {
        let Some(handler) = self.handlers.get(&job.job.kind).cloned() else {
            tracing::warn!("no handler for this kind of job; leaving it to others");
            return Some(Verdict::Again(self.clock.now() + UNKNOWN_KIND_DELAY));
        };
        let begun = self.clock.now();
        let running = self.stats.running(&job.job.kind);
        let task = {
            let (handler, job) = (Arc::clone(&handler), job.clone());
            async move { handler.run(&job).await }
        };
        let end = self.watch(job, task).await;
        drop(running);
        let took = (self.clock.now() - begun).to_std().unwrap_or_default();
        let failed = !matches!(end, End::Returned(Ok(_)));
        self.stats.ended(&job.job.kind, took, failed);
        let reason = match end {
            End::Returned(Ok(JobOutcome::Done)) => {
                tracing::debug!(?took, "job done");
                return Some(Verdict::Done);
            }
            End::Returned(Ok(JobOutcome::Again(at))) => {
                tracing::debug!(?took, %at, "job runs again");
                return Some(Verdict::Again(at));
            }
            End::Lost => {
                tracing::warn!(?took, "the lease was lost; the job was stopped");
                return None;
            }
            End::Returned(Err(error)) => describe(&error),
            End::Broken(reason) => reason,
        };
        if job.attempt >= job.job.max_attempts {
            return self.give_up(handler, job, reason).await;
        }
        let delay = retry_delay(&self.options, job.attempt, rand::random());
        tracing::warn!(reason, ?delay, "job failed; trying again");
        Some(Verdict::Retry(reason, self.clock.now() + delay))
    }

    /// Lets the handler clean up. When that fails nothing is recorded: the lease runs out, the job
    /// counts as abandoned, and whoever claims it then gives it up once more.
    async fn give_up(
        &self,
        handler: Arc<dyn JobHandler>,
        job: &ClaimedJob,
        reason: String,
    ) -> Option<Verdict> {
        tracing::error!(reason, attempts = job.attempt, "job given up");
        let task = {
            let (job, reason) = (job.job.clone(), reason.clone());
            async move { handler.give_up(&job, &reason).await }
        };
        let failure = match self.watch(job, task).await {
            End::Returned(Ok(())) => {
                self.stats.given_up(&job.job.kind);
                return Some(Verdict::GivenUp(reason));
            }
            End::Returned(Err(error)) => describe(&error),
            End::Broken(failure) => failure,
            End::Lost => return None,
        };
        tracing::error!(failure, "giving up failed; trying again when the lease is over");
        None
    }

    /// Runs a task beside the caller's, so that a panic ends only the task. Prolongs the lease
    /// meanwhile; stops the task when it takes too long or the lease is lost.
    async fn watch<T: Send + 'static>(
        &self,
        job: &ClaimedJob,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> End<T> {
        let deadline = self.clock.now() + self.options.time_limit;
        let mut task = AbortOnDropHandle::new(tokio::spawn(task.in_current_span()));
        loop {
            let left = (deadline - self.clock.now()).to_std().unwrap_or_default();
            tokio::select! {
                ended = &mut task => return match ended {
                    Ok(result) => End::Returned(result),
                    Err(error) => End::Broken(match error.try_into_panic() {
                        Ok(panic) => format!("panicked: {}", panic_text(&*panic)),
                        Err(error) => error.to_string(),
                    }),
                },
                () = self.clock.sleep(left.min(self.options.lease / 3)) => {}
            }
            let now = self.clock.now();
            if now >= deadline {
                return End::Broken(format!("took longer than {:?}", self.options.time_limit));
            }
            match self.scheduler.extend(job, now + self.options.lease).await {
                Err(error) if error.kind() == Kind::Stale => return End::Lost,
                Err(error) => tracing::warn!(%error, "the lease could not be prolonged"),
                Ok(()) => {}
            }
        }
    }

    /// Tells the scheduler how a job ended. When that fails for good the job runs again after its
    /// lease; handlers are idempotent.
    async fn settle(&self, job: &ClaimedJob, verdict: Verdict) {
        for attempt in 1..=SETTLE_TRIES {
            let now = self.clock.now();
            let told = match &verdict {
                Verdict::Done => self.scheduler.complete(job, now).await,
                Verdict::Again(at) => self.scheduler.defer(job, *at, now).await,
                Verdict::Retry(reason, at) => self.scheduler.fail(job, reason, Some(*at), now).await,
                Verdict::GivenUp(reason) => self.scheduler.fail(job, reason, None, now).await,
            };
            match told {
                Ok(()) => return,
                Err(error) if error.kind() == Kind::Stale => {
                    // After an unknown outcome this may also be our own, earlier word.
                    tracing::warn!("the job was taken over meanwhile");
                    return;
                }
                Err(error) => tracing::warn!(%error, attempt, "the job's end could not be recorded"),
            }
            if attempt < SETTLE_TRIES {
                self.clock.sleep(SETTLE_PAUSE).await;
            }
        }
    }
}

/// Doubles with every attempt up to the limit; `luck`, 0 to 1, spreads retries over its second half.
pub(super) fn retry_delay(options: &RunnerOptions, attempt: u32, luck: f64) -> Duration {
    let factor = 2_u32.saturating_pow(attempt.saturating_sub(1).min(31));
    let delay = options.retry_delay.saturating_mul(factor).min(options.max_retry_delay);
    delay.mul_f64(0.5 + luck.clamp(0.0, 1.0) / 2.0)
}

/// The message with its causes, for the log and the queue.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}
