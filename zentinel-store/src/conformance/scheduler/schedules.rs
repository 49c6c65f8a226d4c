//! Periodic jobs.

use super::LEASE;
use crate::conformance::Backend;
use crate::conformance::fixture::*;
use futures_util::future::join_all;
use std::sync::Arc;
use zentinel_core::port::{ClaimedJob, Queue, Schedule, Scheduler};
use zentinel_core::{Kind, Timestamp};

fn schedule(name: &str, cron: &str) -> Schedule {
    Schedule { name: name.to_owned(), queue: Queue::Maintenance, cron: cron.to_owned() }
}

/// A whole minute, and seconds after it.
fn minute(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_790_000_040 + seconds, 0).unwrap()
}

async fn claim(scheduler: &dyn Scheduler, now: Timestamp) -> Vec<ClaimedJob> {
    scheduler.claim(Queue::Maintenance, "worker", 10, LEASE, now).await.unwrap()
}

/// A schedule enqueues one job of its name per due time, in its queue.
pub async fn a_schedule_enqueues_when_due(backend: &dyn Backend) {
    let (_guard, _store, scheduler) = fresh(backend).await;
    scheduler.declare(&[schedule("sweep", "*/15 * * * * *")], minute(1)).await.unwrap();
    assert_eq!(scheduler.enqueue_due(minute(14)).await.unwrap(), 0);
    for due in [15, 30, 45, 60] {
        assert_eq!(scheduler.enqueue_due(minute(due)).await.unwrap(), 1);
        assert_eq!(scheduler.enqueue_due(minute(due + 1)).await.unwrap(), 0);
        let claimed = claim(&*scheduler, minute(due + 1)).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!((claimed[0].job.kind.as_str(), claimed[0].job.queue), ("sweep", Queue::Maintenance));
        scheduler.complete(&claimed[0], minute(due + 2)).await.unwrap();
    }
}

/// Due times that passed while nobody looked are made up for by one job, not by many; and while
/// a job of a schedule waits, no second one does.
pub async fn a_schedule_that_was_missed_runs_once(backend: &dyn Backend) {
    let (_guard, _store, scheduler) = fresh(backend).await;
    scheduler.declare(&[schedule("sweep", "* * * * * *")], minute(0)).await.unwrap();
    assert_eq!(scheduler.enqueue_due(minute(500)).await.unwrap(), 1);
    assert_eq!(scheduler.enqueue_due(minute(500)).await.unwrap(), 0);
    assert_eq!(scheduler.enqueue_due(minute(501)).await.unwrap(), 1);
    assert_eq!(claim(&*scheduler, minute(502)).await.len(), 1);
}

/// Replicas that look at once enqueue a due schedule once.
pub async fn one_replica_enqueues_a_schedule(backend: &dyn Backend) {
    let (_guard, _store, scheduler) = fresh(backend).await;
    scheduler
        .declare(&[schedule("a", "0 * * * * *"), schedule("b", "0 * * * * *")], minute(0))
        .await
        .unwrap();
    for round in 1..=5 {
        let now = minute(round * 60);
        let replicas = (0..8).map(|_| {
            let scheduler = Arc::clone(&scheduler);
            tokio::spawn(async move { scheduler.enqueue_due(now).await.unwrap() })
        });
        let mut count = 0;
        for replica in join_all(replicas).await {
            count += replica.unwrap();
        }
        assert_eq!(count, 2, "round {round}");
        let claimed = claim(&*scheduler, now).await;
        assert_eq!(claimed.len(), 2);
        for job in claimed {
            scheduler.complete(&job, now).await.unwrap();
        }
    }
}

/// Every replica declares the schedules at its start: that must not put off what is due. A
/// changed schedule counts from the declaration.
pub async fn declaring_again_keeps_due_times(backend: &dyn Backend) {
    let (_guard, _store, scheduler) = fresh(backend).await;
    let both = [schedule("kept", "30 * * * * *"), schedule("changed", "30 * * * * *")];
    scheduler.declare(&both, minute(0)).await.unwrap();
    let new = [both[0].clone(), schedule("changed", "50 * * * * *")];
    scheduler.declare(&new, minute(40)).await.unwrap();
    assert_eq!(scheduler.enqueue_due(minute(40)).await.unwrap(), 1);
    assert_eq!(claim(&*scheduler, minute(40)).await[0].job.kind, "kept");
    assert_eq!(scheduler.enqueue_due(minute(50)).await.unwrap(), 1);
    assert_eq!(claim(&*scheduler, minute(50)).await[0].job.kind, "changed");
}

/// Schedules that are not declared any more enqueue nothing.
pub async fn undeclared_schedules_are_gone(backend: &dyn Backend) {
    let (_guard, _store, scheduler) = fresh(backend).await;
    scheduler
        .declare(&[schedule("a", "* * * * * *"), schedule("b", "* * * * * *")], minute(0))
        .await
        .unwrap();
    scheduler.declare(&[schedule("b", "* * * * * *")], minute(0)).await.unwrap();
    assert_eq!(scheduler.enqueue_due(minute(1)).await.unwrap(), 1);
    assert_eq!(claim(&*scheduler, minute(1)).await[0].job.kind, "b");
    scheduler.declare(&[], minute(2)).await.unwrap();
    assert_eq!(scheduler.enqueue_due(minute(90)).await.unwrap(), 0);
}

/// A text that is not six fields of cron, or never comes true, is `Invalid` on `cron`, and the
/// schedules stay as they were.
pub async fn a_wrong_schedule_is_refused(backend: &dyn Backend) {
    let (_guard, _store, scheduler) = fresh(backend).await;
    scheduler.declare(&[schedule("good", "* * * * * *")], minute(0)).await.unwrap();
    for cron in ["", "soon", "* * * * *", "99 * * * * *", "0 0 0 30 2 *", "\0"] {
        let declared = [schedule("new", "* * * * * *"), schedule("bad", cron)];
        let error = scheduler.declare(&declared, minute(0)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{cron:?}");
        assert!(error.fields().contains_key("cron"), "{cron:?}");
    }
    assert_eq!(scheduler.enqueue_due(minute(1)).await.unwrap(), 1);
    assert_eq!(claim(&*scheduler, minute(1)).await[0].job.kind, "good");
}
