//! Enqueuing and claiming.

use super::{LEASE, claim, claim_one, enqueue, job, kinds};
use crate::conformance::Backend;
use crate::conformance::fixture::*;
use futures_util::future::join_all;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use zentinel_core::RecordKind;
use zentinel_core::id::JobId;
use zentinel_core::port::{NewJob, Queue, QueueStats};

/// Every field of a job reaches the worker, with the first attempt and the lease asked for.
pub async fn a_claimed_job_is_what_was_enqueued(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let payload = json!({ "bundle_id": "ü\"", "numbers": [1, 2.5, null] });
    let mut job = NewJob::new(Queue::Rollouts, "rollout.tick", payload, at(3)).unique("key 'ü'");
    job.max_attempts = 7;
    enqueue(&*store, [job.clone()]).await;
    let claimed = scheduler.claim(Queue::Rollouts, "worker ü", 5, LEASE, at(3)).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].job, job);
    assert_eq!((claimed[0].attempt, claimed[0].leased_until), (1, at(3) + LEASE));
}

/// A job is not claimed before its time.
pub async fn a_job_waits_until_it_is_due(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("later", 10)]).await;
    assert_eq!(claim(&*scheduler, 9).await, []);
    claim_one(&*scheduler, 10).await;
}

/// The job that is due longest comes first; of equals the one that was enqueued first.
pub async fn claims_go_oldest_due_first(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("c", 3), job("a", 1), job("e", 9), job("b", 2)]).await;
    enqueue(&*store, [job("d", 3)]).await;
    assert_eq!(kinds(&claim(&*scheduler, 5).await), ["a", "b", "c", "d"]);
    assert_eq!(kinds(&claim(&*scheduler, 9).await), ["e"]);
}

/// A worker of one queue never gets another queue's jobs.
pub async fn queues_are_separate(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    for queue in Queue::ALL {
        enqueue(&*store, [NewJob::new(queue, queue.name(), json!(null), at(0))]).await;
    }
    for queue in Queue::ALL {
        let claimed = scheduler.claim(queue, "worker", 10, LEASE, at(0)).await.unwrap();
        assert_eq!(kinds(&claimed), [queue.name()]);
        assert_eq!(
            scheduler.stats(queue, at(0)).await.unwrap(),
            QueueStats { running: 1, ..QueueStats::default() }
        );
    }
}

/// A claim returns at most as many jobs as asked for; none for 0.
pub async fn a_claim_keeps_to_its_limit(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, (0..7).map(|_| job("j", 0))).await;
    for expected in [3, 3, 1, 0] {
        let claimed = scheduler.claim(Queue::Default, "worker", 3, LEASE, at(0)).await.unwrap();
        assert_eq!(claimed.len(), expected);
    }
    enqueue(&*store, [job("j", 0)]).await;
    assert_eq!(scheduler.claim(Queue::Default, "worker", 0, LEASE, at(0)).await.unwrap(), []);
}

/// What is complete stays so, long after its lease.
pub async fn a_finished_job_is_never_claimed_again(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("j", 0)]).await;
    let claimed = claim_one(&*scheduler, 0).await;
    scheduler.complete(&claimed, at(1)).await.unwrap();
    assert_eq!(claim(&*scheduler, 100_000).await, []);
    assert_eq!(scheduler.stats(Queue::Default, at(2)).await.unwrap(), QueueStats::default());
}

/// Jobs enter with their commit or not at all.
pub async fn a_job_of_a_failed_commit_never_runs(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let row = Tenant::random().row(RecordKind::Bundle);
    let with_job = || inserts([&row]).job(job("compile", 0));
    store.commit(with_job()).await.unwrap();
    store.commit(with_job()).await.unwrap_err();
    assert_eq!(claim(&*scheduler, 1).await.len(), 1);
}

/// Sixteen workers share a thousand jobs: each job is held by one of them, once.
pub async fn each_of_a_thousand_jobs_goes_to_one_worker(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, (0..1_000).map(|number| job("j", number % 10))).await;
    let workers = (0..16).map(|number| {
        let scheduler = Arc::clone(&scheduler);
        tokio::spawn(async move {
            let (name, mut mine) = (format!("worker {number}"), Vec::new());
            loop {
                let claimed = scheduler.claim(Queue::Default, &name, 9, LEASE, at(10)).await.unwrap();
                if claimed.is_empty() {
                    return mine;
                }
                for job in claimed {
                    scheduler.complete(&job, at(11)).await.unwrap();
                    mine.push(job.job.id);
                }
            }
        })
    });
    let mut runs: HashMap<JobId, u32> = HashMap::new();
    for worker in join_all(workers).await {
        for id in worker.unwrap() {
            *runs.entry(id).or_default() += 1;
        }
    }
    // A worker may see nothing free while others hold the rest; whatever is left is left whole.
    for job in claim(&*scheduler, 10).await {
        *runs.entry(job.job.id).or_default() += 1;
    }
    assert_eq!(runs.len(), 1_000);
    assert!(runs.values().all(|count| *count == 1), "a job ran twice");
}

/// The earliest due time of the waiting jobs of a queue, past ones included.
pub async fn the_next_due_time_is_told(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    assert_eq!(scheduler.next_due(Queue::Default).await.unwrap(), None);
    enqueue(&*store, [job("b", 20), job("a", 10)]).await;
    assert_eq!(scheduler.next_due(Queue::Default).await.unwrap(), Some(at(10)));
    assert_eq!(scheduler.next_due(Queue::Maintenance).await.unwrap(), None);
    let claimed = claim_one(&*scheduler, 15).await;
    assert_eq!(scheduler.next_due(Queue::Default).await.unwrap(), Some(at(20)));
    scheduler.fail(&claimed, "no", Some(at(17)), at(16)).await.unwrap();
    assert_eq!(scheduler.next_due(Queue::Default).await.unwrap(), Some(at(17)));
}

/// Due, later, running and given up are told apart.
pub async fn stats_count_what_is_where(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, (0..5).map(|_| job("now", 0)).chain((0..3).map(|_| job("later", 50)))).await;
    let claimed = scheduler.claim(Queue::Default, "worker", 3, LEASE, at(0)).await.unwrap();
    scheduler.complete(&claimed[0], at(1)).await.unwrap();
    scheduler.fail(&claimed[1], "no", None, at(1)).await.unwrap();
    let stats = scheduler.stats(Queue::Default, at(1)).await.unwrap();
    assert_eq!(stats, QueueStats { due: 2, later: 3, running: 1, failed: 1 });
    let stats = scheduler.stats(Queue::Default, at(50)).await.unwrap();
    assert_eq!((stats.due, stats.later), (5, 0));
}

/// Pruning drops complete and given-up jobs that ended before an instant, and nothing else.
pub async fn pruning_drops_what_ended(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, (0..5).map(|_| job("j", 0))).await;
    let claimed = scheduler.claim(Queue::Default, "worker", 4, LEASE, at(0)).await.unwrap();
    scheduler.complete(&claimed[0], at(1)).await.unwrap();
    scheduler.fail(&claimed[1], "no", None, at(2)).await.unwrap();
    scheduler.complete(&claimed[2], at(3)).await.unwrap();
    assert_eq!(scheduler.prune(at(1)).await.unwrap(), 0);
    assert_eq!(scheduler.prune(at(3)).await.unwrap(), 2);
    assert_eq!(scheduler.prune(at(900)).await.unwrap(), 1);
    let stats = scheduler.stats(Queue::Default, at(1)).await.unwrap();
    assert_eq!(stats, QueueStats { due: 1, later: 0, running: 1, failed: 0 });
    scheduler.complete(&claimed[3], at(4)).await.unwrap();
}
