use super::work::retry_delay;
use super::*;
use crate::MemoryStore;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zentinel_core::port::{ClaimedJob, JobOutcome, ManualClock, NewJob, QueueStats, Store, SystemClock};
use zentinel_core::{Changes, Error, Result};

type Script = Box<dyn Fn(&ClaimedJob) -> Step + Send + Sync>;

/// What the scripted handler does next.
enum Step {
    Done,
    Again(Timestamp),
    Fail,
    Panic,
    Hang,
}

struct Scripted {
    kind: String,
    script: Script,
    runs: AtomicU32,
    at_once: AtomicU32,
    most_at_once: AtomicU32,
    given_up: Mutex<Vec<String>>,
    /// What the next attempts to clean up come to, instead of success.
    broken_clean_ups: Mutex<Vec<Step>>,
    took: Duration,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    fn new(kind: &str, script: impl Fn(&ClaimedJob) -> Step + Send + Sync + 'static) -> Self {
        Self {
            kind: kind.to_owned(),
            script: Box::new(script),
            runs: AtomicU32::new(0),
            at_once: AtomicU32::new(0),
            most_at_once: AtomicU32::new(0),
            given_up: Mutex::default(),
            broken_clean_ups: Mutex::default(),
            took: Duration::ZERO,
        }
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl JobHandler for Scripted {
    fn kind(&self) -> &str {
        &self.kind
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.took).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        match (self.script)(job) {
            Step::Done => Ok(JobOutcome::Done),
            Step::Again(at) => Ok(JobOutcome::Again(at)),
            Step::Fail => Err(Error::unavailable("not now")),
            Step::Panic => panic!("on purpose"),
            Step::Hang => future::pending().await,
        }
    }

    async fn give_up(&self, _job: &NewJob, reason: &str) -> Result<()> {
        let broken = self.broken_clean_ups.lock().pop();
        match broken {
            Some(Step::Panic) => panic!("on purpose"),
            Some(_) => Err(Error::unavailable("the store is away")),
            None => {
                self.given_up.lock().push(reason.to_owned());
                Ok(())
            }
        }
    }
}

struct Bench {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    handler: Arc<Scripted>,
    stats: RunnerStats,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

/// A runner over a clock that the test moves.
fn bench(handler: Scripted, configure: impl FnOnce(Runner) -> Runner) -> Bench {
    bench_over(MemoryStore::new(), handler, configure)
}

fn bench_over(store: MemoryStore, handler: Scripted, configure: impl FnOnce(Runner) -> Runner) -> Bench {
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let handler = Arc::new(handler);
    let runner = Runner::new(Arc::new(store.clone()), clock.clone(), store.watch()).register(handler.clone());
    let runner = configure(runner);
    let stats = runner.stats();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(runner.run(shutdown.clone()));
    Bench { store, clock, handler, stats, shutdown, running }
}

impl Bench {
    fn job(&self) -> NewJob {
        NewJob::new(Queue::Default, &self.handler.kind, Value::Null, self.clock.now())
    }

    async fn enqueue(&self, jobs: impl IntoIterator<Item = NewJob>) {
        self.store.commit(Changes { jobs: jobs.into_iter().collect(), ..Changes::new() }).await.unwrap();
    }

    /// Waits in real time, the clock standing still.
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.expect("it never came true");
    }

    /// Moves the clock in steps until it comes true.
    async fn moving_until(&self, step: Duration, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                self.clock.advance(step);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.expect("it never came true");
    }

    fn kind_stats(&self) -> KindStats {
        self.stats.snapshot().get(&self.handler.kind).copied().unwrap_or_default()
    }

    async fn queue(&self) -> QueueStats {
        self.store.stats(Queue::Default, self.clock.now()).await.unwrap()
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(20), &mut self.running).await.expect("it never stopped").unwrap();
    }
}

#[tokio::test]
async fn a_notice_starts_a_job_at_once() {
    let mut bench = bench(Scripted::new("j", |_| Step::Done), |runner| runner);
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.enqueue([bench.job(), bench.job()]).await;
    bench.until(|bench| bench.kind_stats().runs == 2).await;
    bench.stop().await;
    assert_eq!(bench.queue().await, QueueStats::default());
    assert_eq!(bench.kind_stats(), KindStats { runs: 2, ..KindStats::default() });
}

#[tokio::test]
async fn a_job_starts_when_it_is_due() {
    let mut bench = bench(Scripted::new("j", |_| Step::Done), |runner| runner);
    let mut job = bench.job();
    job.run_at += Duration::from_millis(300);
    bench.enqueue([job]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(bench.handler.runs(), 0);
    bench.clock.advance(Duration::from_millis(300));
    bench.until(|bench| bench.handler.runs() == 1).await;
    bench.stop().await;
}

#[tokio::test]
async fn failures_are_retried_and_then_given_up() {
    let mut bench = bench(Scripted::new("j", |_| Step::Fail), |runner| runner);
    bench.enqueue([bench.job()]).await;
    bench.moving_until(Duration::from_millis(100), |bench| !bench.handler.given_up.lock().is_empty()).await;
    bench.stop().await;
    assert_eq!(bench.handler.runs(), 3);
    assert_eq!(*bench.handler.given_up.lock(), ["not now"]);
    assert_eq!(bench.queue().await.failed, 1);
    let stats = bench.kind_stats();
    assert_eq!((stats.runs, stats.failures, stats.given_up, stats.running), (3, 3, 1, 0));
}

#[tokio::test]
async fn a_job_is_given_up_again_until_its_handler_has_cleaned_up() {
    let handler = Scripted {
        broken_clean_ups: Mutex::new(vec![Step::Panic, Step::Fail]),
        ..Scripted::new("j", |_| Step::Fail)
    };
    let mut bench = bench(handler, |runner| runner);
    bench.enqueue([bench.job()]).await;
    bench.moving_until(Duration::from_millis(100), |bench| bench.handler.runs() == 3).await;
    bench.until(|bench| bench.handler.broken_clean_ups.lock().len() == 1).await;
    assert_eq!(bench.queue().await.failed, 0, "it is not given up yet");
    bench.moving_until(Duration::from_secs(1), |bench| !bench.handler.given_up.lock().is_empty()).await;
    bench.until(|bench| bench.kind_stats().given_up == 1).await;
    bench.stop().await;
    assert_eq!(*bench.handler.given_up.lock(), ["its worker went away in the last attempt"]);
    assert_eq!(bench.queue().await, QueueStats { failed: 1, ..QueueStats::default() });
    let stats = bench.kind_stats();
    assert_eq!((stats.runs, stats.failures, stats.given_up, stats.running), (3, 3, 1, 0));
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let script = |job: &ClaimedJob| if job.attempt == 1 { Step::Panic } else { Step::Done };
    let mut bench = bench(Scripted::new("j", script), |runner| runner);
    bench.enqueue([bench.job()]).await;
    bench.moving_until(Duration::from_millis(100), |bench| bench.handler.runs() == 2).await;
    bench.stop().await;
    assert_eq!(bench.queue().await, QueueStats::default());
    assert_eq!(bench.kind_stats().failures, 1);
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_stopped() {
    let options = RunnerOptions { time_limit: Duration::from_secs(100), ..RunnerOptions::default() };
    let mut bench = bench(Scripted::new("j", |_| Step::Hang), |runner| runner.options(options));
    let mut job = bench.job();
    job.max_attempts = 1;
    bench.enqueue([job]).await;
    bench.moving_until(Duration::from_secs(1), |bench| !bench.handler.given_up.lock().is_empty()).await;
    bench.stop().await;
    assert_eq!(*bench.handler.given_up.lock(), ["took longer than 100s"]);
    assert_eq!(bench.handler.runs(), 1, "the lease was prolonged meanwhile");
}

#[tokio::test]
async fn a_deferred_job_is_not_used_up() {
    let left = AtomicU32::new(6);
    let script = move |job: &ClaimedJob| {
        if job.attempt > 1 {
            return Step::Fail;
        }
        match left.fetch_sub(1, Ordering::SeqCst) {
            0 => Step::Done,
            _ => Step::Again(job.leased_until - Duration::from_secs(55)),
        }
    };
    let mut bench = bench(Scripted::new("j", script), |runner| runner);
    bench.enqueue([bench.job()]).await;
    bench.moving_until(Duration::from_millis(500), |bench| bench.handler.runs() == 7).await;
    bench.until(|bench| bench.kind_stats().runs == 7).await;
    bench.stop().await;
    assert_eq!(bench.queue().await, QueueStats::default());
    assert_eq!(bench.kind_stats().failures, 0);
}

#[tokio::test]
async fn workers_are_limited_per_queue() {
    let handler = Scripted { took: Duration::from_millis(5), ..Scripted::new("j", |_| Step::Done) };
    let mut bench = bench(handler, |runner| runner.workers(Queue::Default, 3));
    let jobs: Vec<NewJob> = (0..30).map(|_| bench.job()).collect();
    bench.enqueue(jobs).await;
    bench.until(|bench| bench.kind_stats().runs == 30).await;
    bench.stop().await;
    assert_eq!(bench.handler.most_at_once.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_key_runs_one_job_after_the_other() {
    let handler = Scripted { took: Duration::from_millis(5), ..Scripted::new("j", |_| Step::Done) };
    let mut bench = bench(handler, |runner| runner);
    for round in 1..=5 {
        bench.enqueue([bench.job().unique("key")]).await;
        bench.until(|bench| bench.handler.runs() == round).await;
    }
    bench.until(|bench| bench.kind_stats().runs == 5).await;
    bench.stop().await;
    assert_eq!(bench.handler.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutting_down_finishes_what_is_in_flight() {
    let handler = Scripted { took: Duration::from_millis(60), ..Scripted::new("j", |_| Step::Done) };
    let mut bench = bench(handler, |runner| runner.workers(Queue::Default, 1));
    bench.enqueue([bench.job(), bench.job()]).await;
    bench.until(|bench| bench.handler.runs() == 1).await;
    bench.stop().await;
    assert_eq!((bench.handler.runs(), bench.kind_stats().runs), (1, 1));
    assert_eq!(bench.queue().await, QueueStats { due: 1, ..QueueStats::default() });
}

#[tokio::test]
async fn jobs_of_dead_workers_run_again_and_are_given_up_in_the_end() {
    let start = Timestamp::UNIX_EPOCH;
    let store = MemoryStore::new();
    let last = NewJob { max_attempts: 1, ..NewJob::new(Queue::Default, "j", json!("last"), start) };
    let retried = NewJob::new(Queue::Default, "j", json!("retried"), start);
    store.commit(Changes::new().job(last).job(retried)).await.unwrap();
    // This worker never says anything again.
    let claimed = store.claim(Queue::Default, "dead", 2, Duration::from_secs(10), start).await.unwrap();
    assert_eq!(claimed.len(), 2);

    let mut bench = bench_over(store, Scripted::new("j", |_| Step::Done), |runner| runner);
    let step = Duration::from_millis(500);
    bench.moving_until(step, |bench| !bench.handler.given_up.lock().is_empty()).await;
    bench.moving_until(step, |bench| bench.handler.runs() == 1).await;
    bench.stop().await;
    assert_eq!(*bench.handler.given_up.lock(), ["its worker went away in the last attempt"]);
    assert_eq!(bench.queue().await, QueueStats { failed: 1, ..QueueStats::default() });
}

#[tokio::test]
async fn a_job_that_was_taken_over_is_stopped() {
    let mut bench = bench(Scripted::new("j", |_| Step::Hang), |runner| runner);
    bench.enqueue([bench.job()]).await;
    bench.until(|bench| bench.handler.runs() == 1).await;
    // As if this process had slept through its lease.
    let later = bench.clock.now() + Duration::from_secs(61);
    let heir = bench.store.claim(Queue::Default, "other", 1, Duration::from_secs(600), later).await.unwrap();
    assert_eq!(heir.len(), 1);
    bench.moving_until(Duration::from_secs(1), |bench| bench.kind_stats().runs == 1).await;
    bench.stop().await;
    bench.store.complete(&heir[0], bench.clock.now()).await.unwrap();
    assert!(bench.handler.given_up.lock().is_empty());
}

#[tokio::test]
async fn schedules_enqueue_their_jobs() {
    let schedule = |name: &str| Schedule {
        name: name.to_owned(),
        queue: Queue::Maintenance,
        cron: "*/10 * * * * *".to_owned(),
    };
    let mut bench =
        bench(Scripted::new("sweep", |_| Step::Done), |runner| runner.schedule(schedule("sweep")));
    bench.moving_until(Duration::from_millis(250), |bench| bench.handler.runs() == 3).await;
    bench.stop().await;
    assert!(bench.clock.now().timestamp() >= 30, "one run every ten seconds");
}

#[tokio::test]
async fn an_unknown_kind_is_left_to_others() {
    let mut bench = bench(Scripted::new("j", |_| Step::Done), |runner| runner);
    let job =
        NewJob { max_attempts: 1, ..NewJob::new(Queue::Default, "new", Value::Null, bench.clock.now()) };
    bench.enqueue([job, bench.job()]).await;
    bench.until(|bench| bench.handler.runs() == 1).await;
    bench.stop().await;
    assert_eq!(bench.queue().await, QueueStats { later: 1, ..QueueStats::default() });
}

#[tokio::test]
async fn the_fallback_poll_works_without_notices() {
    let store = MemoryStore::new();
    let handler = Arc::new(Scripted::new("j", |_| Step::Done));
    let silent = Box::pin(futures_util::stream::pending());
    let options = RunnerOptions { poll_interval: Duration::from_millis(20), ..RunnerOptions::default() };
    let runner = Runner::new(Arc::new(store.clone()), Arc::new(SystemClock), silent)
        .register(handler.clone())
        .options(options);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(runner.run(shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let job = NewJob::new(Queue::Rollouts, "j", Value::Null, Timestamp::UNIX_EPOCH);
    store.commit(Changes::new().job(job)).await.unwrap();
    let wait = async {
        while handler.runs() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("it never ran");
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_wrong_schedule_does_not_stop_the_jobs() {
    let wrong = Schedule { name: "wrong".to_owned(), queue: Queue::Maintenance, cron: "soon".to_owned() };
    let mut bench = bench(Scripted::new("j", |_| Step::Done), |runner| runner.schedule(wrong));
    bench.enqueue([bench.job()]).await;
    bench.until(|bench| bench.handler.runs() == 1).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_queue_without_workers_is_left_alone() {
    let none = |runner: Runner| Queue::ALL.into_iter().fold(runner, |runner, queue| runner.workers(queue, 0));
    let mut bench = bench(Scripted::new("j", |_| Step::Done), none);
    bench.enqueue([bench.job()]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!bench.running.is_finished(), "it runs until it is told to stop");
    bench.stop().await;
    assert_eq!(bench.handler.runs(), 0);
}

#[test]
fn delays_double_up_to_the_limit() {
    let options = RunnerOptions::default();
    let longest = |attempt| retry_delay(&options, attempt, 1.0).as_secs();
    assert_eq!([1, 2, 3, 4, 9, 10, 1_000].map(longest), [1, 2, 4, 8, 256, 300, 300]);
    assert_eq!(retry_delay(&options, 2, 0.0), Duration::from_secs(1));
}
