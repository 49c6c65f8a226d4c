//! The worker pool: runs the jobs of any [`Scheduler`].

mod stats;
#[cfg(test)]
mod tests;
mod work;

pub use stats::{KindStats, RunnerStats};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, future};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use work::Worker;
use zentinel_core::port::{Clock, JobHandler, Notice, NoticeStream, Queue, Schedule, Scheduler};
use zentinel_core::{Kind, Timestamp};

/// How a [`Runner`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// How long a job is this process's before it must be prolonged; prolonged after a third of
    /// it. After a crash a job waits this long. 60 s.
    pub lease: Duration,
    /// How often the queues are looked at without any notice, and how often schedules are. 1 s.
    pub poll_interval: Duration,
    /// How long one run of a job may take before it is stopped and counted as failed. 10 min.
    pub time_limit: Duration,
    /// The delay after the first failure; doubled by each further one. 1 s.
    pub retry_delay: Duration,
    /// The longest delay. 5 min.
    pub max_retry_delay: Duration,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            poll_interval: Duration::from_secs(1),
            time_limit: Duration::from_secs(600),
            retry_delay: Duration::from_secs(1),
            max_retry_delay: Duration::from_secs(300),
        }
    }
}

/// Claims jobs and runs them with the registered handlers, a fixed number per queue at once.
///
/// * It wakes up on [`Notice::Jobs`], when the next job is due, and every second.
/// * It prolongs the lease of a job that takes long, and stops one that lost its lease.
/// * A handler that fails, panics or takes too long is retried with growing, jittered delays;
///   out of attempts its [`JobHandler::give_up`] is called. So it is for jobs whose worker died
///   in the last attempt.
/// * Any number of runners may share a scheduler.
///
/// ```
/// use std::sync::Arc;
/// use tokio_util::sync::CancellationToken;
/// use zentinel_core::port::{Store, SystemClock};
/// use zentinel_store::{MemoryStore, Runner};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let runner = Runner::new(Arc::new(store.clone()), Arc::new(SystemClock), store.watch());
/// let shutdown = CancellationToken::new();
/// let running = tokio::spawn(runner.run(shutdown.clone()));
/// shutdown.cancel();
/// running.await.unwrap();
/// # });
/// ```
#[must_use = "a runner does nothing until `run` is awaited"]
pub struct Runner {
    scheduler: Arc<dyn Scheduler>,
    clock: Arc<dyn Clock>,
    wakeups: NoticeStream,
    handlers: HashMap<String, Arc<dyn JobHandler>>,
    schedules: Vec<Schedule>,
    workers: BTreeMap<Queue, u32>,
    options: RunnerOptions,
    stats: RunnerStats,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("handlers", &self.handlers.keys())
            .field("schedules", &self.schedules)
            .field("workers", &self.workers)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// A runner without handlers. `wakeups` comes from [`Store::watch`](zentinel_core::port::Store::watch).
    pub fn new(scheduler: Arc<dyn Scheduler>, clock: Arc<dyn Clock>, wakeups: NoticeStream) -> Self {
        Self {
            scheduler,
            clock,
            wakeups,
            handlers: HashMap::new(),
            schedules: Vec::new(),
            workers: Queue::ALL.into_iter().map(|queue| (queue, queue.workers())).collect(),
            options: RunnerOptions::default(),
            stats: RunnerStats::default(),
        }
    }

    /// Replaces the options.
    pub fn options(mut self, options: RunnerOptions) -> Self {
        self.options = options;
        self
    }

    /// How many jobs of a queue run at once, [`Queue::workers`] by default; 0 leaves the queue to
    /// other processes.
    pub fn workers(mut self, queue: Queue, count: u32) -> Self {
        self.workers.insert(queue, count);
        self
    }

    /// Runs jobs of the handler's kind with it; a second handler of a kind replaces the first.
    pub fn register(mut self, handler: Arc<dyn JobHandler>) -> Self {
        self.handlers.insert(handler.kind().to_owned(), handler);
        self
    }

    /// Enqueues a job of the schedule's name whenever it is due. Every runner of a scheduler must
    /// be given the same schedules; one without any leaves them to the others.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedules.push(schedule);
        self
    }

    /// A handle to the figures, for metrics; it stays valid while the runner runs.
    #[must_use]
    pub fn stats(&self) -> RunnerStats {
        self.stats.clone()
    }

    /// Works until `shutdown` is cancelled, then finishes what is in flight. Dropping the future
    /// stops everything at once; the jobs in flight run again when their leases have run out.
    pub async fn run(self, shutdown: CancellationToken) {
        let worker = Worker {
            scheduler: self.scheduler,
            clock: self.clock,
            handlers: self.handlers,
            options: self.options,
            stats: self.stats,
            name: format!("runner-{}", uuid::Uuid::new_v4()),
        };
        let worker = Arc::new(worker);
        let bells: Vec<Notify> = self.workers.iter().map(|_| Notify::new()).collect();
        let pumps = self.workers.iter().zip(&bells).map(|((queue, count), bell)| {
            let pump = Pump { worker: Arc::clone(&worker), queue: *queue, count: *count as usize, bell };
            pump.run(&shutdown)
        });
        // What never ends by itself ends with the pumps.
        tokio::select! {
            _ = join_all(pumps) => {}
            () = listen(self.wakeups, &bells) => {}
            () = enqueue_periodic(&worker, &self.schedules, &bells, &shutdown) => {}
        }
        tracing::debug!(worker = worker.name, "all jobs in flight have ended");
    }
}

/// Rings all the bells whenever there may be something to do. Never ends.
async fn listen(mut wakeups: NoticeStream, bells: &[Notify]) {
    while let Some(notice) = wakeups.next().await {
        if matches!(notice, Notice::Jobs | Notice::Lagged) {
            bells.iter().for_each(Notify::notify_one);
        }
    }
    future::pending().await
}

/// Declares the schedules and enqueues their jobs. Never ends.
async fn enqueue_periodic(
    worker: &Worker,
    schedules: &[Schedule],
    bells: &[Notify],
    shutdown: &CancellationToken,
) {
    let mut declared = false;
    while !schedules.is_empty() && !shutdown.is_cancelled() {
        let now = worker.clock.now();
        if !declared {
            match worker.scheduler.declare(schedules, now).await {
                Ok(()) => declared = true,
                Err(error) if error.kind() == Kind::Invalid => {
                    tracing::error!(%error, details = ?error.details(), "no periodic jobs: a schedule is wrong");
                    break;
                }
                Err(error) => tracing::warn!(%error, "schedules could not be declared; trying again"),
            }
        }
        if declared {
            match worker.scheduler.enqueue_due(now).await {
                Ok(0) => {}
                Ok(_) => bells.iter().for_each(Notify::notify_one),
                Err(error) => tracing::warn!(%error, "periodic jobs could not be enqueued; trying again"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = worker.clock.sleep(worker.options.poll_interval) => {}
        }
    }
    future::pending().await
}

/// Keeps the workers of one queue busy.
struct Pump<'a> {
    worker: Arc<Worker>,
    queue: Queue,
    count: usize,
    bell: &'a Notify,
}

impl Pump<'_> {
    async fn run(self, shutdown: &CancellationToken) {
        if self.count == 0 {
            return shutdown.cancelled().await;
        }
        let mut running = JoinSet::new();
        let mut next_sweep = self.worker.clock.now();
        while !shutdown.is_cancelled() {
            let free = self.count - running.len();
            let pause = match free {
                // Nothing to do before a worker is free; the poll is harmless.
                0 => self.worker.options.poll_interval,
                _ => self.fill(&mut running, free, &mut next_sweep).await,
            };
            let all_busy = running.len() >= self.count;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.bell.notified(), if !all_busy => {}
                () = self.worker.clock.sleep(pause) => {}
                Some(ended) = running.join_next() => log_defect(ended),
            }
        }
        while let Some(ended) = running.join_next().await {
            log_defect(ended);
        }
    }

    /// Claims as many jobs as workers are free and starts them; tells how long to wait for more.
    async fn fill(&self, running: &mut JoinSet<()>, free: usize, next_sweep: &mut Timestamp) -> Duration {
        let worker = &self.worker;
        let options = &worker.options;
        let now = worker.clock.now();
        let limit = u32::try_from(free).unwrap_or(u32::MAX);
        let jobs = match worker.scheduler.claim(self.queue, &worker.name, limit, options.lease, now).await {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::warn!(%error, queue = self.queue.name(), "jobs could not be claimed; trying again");
                return options.poll_interval;
            }
        };
        let left = limit.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        for job in jobs {
            running.spawn(Arc::clone(worker).run(job));
        }
        if left == 0 {
            return options.poll_interval;
        }
        if *next_sweep <= now {
            *next_sweep = now + options.lease / 2;
            self.sweep(running, left, now).await;
        }
        match worker.scheduler.next_due(self.queue).await {
            // What is due already but was not claimed waits for another job's end.
            Ok(Some(due)) if due > now => (due - now).to_std().unwrap_or_default().min(options.poll_interval),
            _ => options.poll_interval,
        }
    }

    /// Gives up jobs whose worker died in the last attempt.
    async fn sweep(&self, running: &mut JoinSet<()>, limit: u32, now: Timestamp) {
        let worker = &self.worker;
        let lease = worker.options.lease;
        let claimed = worker.scheduler.claim_abandoned(self.queue, &worker.name, limit, lease, now).await;
        match claimed {
            Ok(jobs) => {
                for job in jobs {
                    running.spawn(Arc::clone(worker).bury(job));
                }
            }
            Err(error) => {
                tracing::warn!(%error, queue = self.queue.name(), "abandoned jobs could not be claimed");
            }
        }
    }
}

fn log_defect(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a worker ended unexpectedly; its job runs again when the lease is over");
    }
}
