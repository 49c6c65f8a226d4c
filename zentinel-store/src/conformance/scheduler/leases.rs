//! Leases, fences, retries.

use super::{LEASE, claim, claim_one, enqueue, job};
use crate::conformance::Backend;
use crate::conformance::fixture::*;
use futures_util::future::join_all;
use std::sync::Arc;
use zentinel_core::port::{ClaimedJob, Queue, QueueStats, Scheduler};
use zentinel_core::{Kind, Result};

/// When a lease runs out the job goes to the next claimer, with a higher fence and attempt;
/// whatever the slow worker then says is `Stale` and changes nothing.
pub async fn a_lease_that_ran_out_hands_the_job_over(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("j", 0)]).await;
    let slow = claim_one(&*scheduler, 0).await;
    assert_eq!(claim(&*scheduler, 59).await, [], "the lease still holds");
    let next = claim_one(&*scheduler, 60).await;
    assert_eq!((next.job.id, next.attempt), (slow.job.id, 2));
    assert!(next.fence > slow.fence);
    assert_eq!(next.leased_until, at(60) + LEASE);
    is_refused(&*scheduler, &slow).await;
    scheduler.complete(&next, at(61)).await.unwrap();
    assert_eq!(claim(&*scheduler, 10_000).await, []);
}

/// An extended lease holds until the new instant.
pub async fn a_lease_is_kept_by_extending_it(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("j", 0)]).await;
    let held = claim_one(&*scheduler, 0).await;
    scheduler.extend(&held, at(200)).await.unwrap();
    assert_eq!(claim(&*scheduler, 199).await, []);
    scheduler.extend(&held, at(300)).await.unwrap();
    assert_eq!(claim(&*scheduler, 299).await, []);
    let next = claim_one(&*scheduler, 300).await;
    is_refused(&*scheduler, &held).await;
    scheduler.complete(&next, at(301)).await.unwrap();
}

/// A job that is complete, given up, waiting again or unknown takes no more answers.
pub async fn a_job_that_ended_refuses_more(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, (0..4).map(|_| job("j", 0))).await;
    let claimed = claim(&*scheduler, 0).await;
    scheduler.complete(&claimed[0], at(1)).await.unwrap();
    scheduler.fail(&claimed[1], "no", None, at(1)).await.unwrap();
    scheduler.fail(&claimed[2], "no", Some(at(500)), at(1)).await.unwrap();
    scheduler.defer(&claimed[3], at(500), at(1)).await.unwrap();
    for job in &claimed {
        is_refused(&*scheduler, job).await;
    }
    let unknown = ClaimedJob { job: job("unknown", 0), ..claimed[0].clone() };
    is_refused(&*scheduler, &unknown).await;
    let stats = scheduler.stats(Queue::Default, at(2)).await.unwrap();
    assert_eq!(stats, QueueStats { due: 0, later: 2, running: 0, failed: 1 });
}

/// A retry waits for its time and counts as the next attempt, beyond `max_attempts` if asked so.
pub async fn a_failed_job_runs_again_at_its_time(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("j", 0)]).await;
    let mut fence = 0;
    for attempt in 1..=5u32 {
        let now = i64::from(attempt) * 10;
        if attempt > 1 {
            assert_eq!(claim(&*scheduler, now - 1).await, []);
        }
        let claimed = claim_one(&*scheduler, now).await;
        assert_eq!(claimed.attempt, attempt);
        assert!(claimed.fence > fence);
        fence = claimed.fence;
        scheduler.fail(&claimed, "try again", Some(at(now + 10)), at(now)).await.unwrap();
    }
}

/// A failure without a retry ends the job.
pub async fn a_job_without_retry_is_given_up(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("j", 0).unique("key")]).await;
    let claimed = claim_one(&*scheduler, 0).await;
    scheduler.fail(&claimed, "it's 'broken' \0 ü", None, at(1)).await.unwrap();
    assert_eq!(claim(&*scheduler, 10_000).await, []);
    assert_eq!(scheduler.stats(Queue::Default, at(1)).await.unwrap().failed, 1);
    // Its key is free.
    enqueue(&*store, [job("j", 0).unique("key")]).await;
    assert_eq!(claim_one(&*scheduler, 2).await.attempt, 1);
}

/// A job whose worker died in the last attempt is not tried again: it is handed out to be given
/// up, as often as it takes.
pub async fn an_abandoned_job_is_handed_out_to_be_given_up(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let abandoned =
        async |now| scheduler.claim_abandoned(Queue::Default, "sweeper", 10, LEASE, at(now)).await.unwrap();
    let mut twice = job("j", 0);
    twice.max_attempts = 2;
    enqueue(&*store, [twice]).await;
    let first = claim_one(&*scheduler, 0).await;
    assert_eq!(abandoned(100).await, [], "an attempt is left");
    let second = claim_one(&*scheduler, 100).await;
    assert_eq!(abandoned(159).await, [], "the lease still holds");
    assert_eq!(claim(&*scheduler, 160).await, [], "no attempt is left");
    let swept = abandoned(160).await;
    assert_eq!(swept.len(), 1);
    assert_eq!((swept[0].job.id, swept[0].attempt), (first.job.id, 2));
    assert!(swept[0].fence > second.fence);
    is_refused(&*scheduler, &second).await;
    assert_eq!(abandoned(200).await, [], "the sweeper holds it");
    let again = abandoned(220).await;
    assert_eq!(again.len(), 1, "the sweeper died");
    is_refused(&*scheduler, &swept[0]).await;
    scheduler.fail(&again[0], "the worker died", None, at(221)).await.unwrap();
    assert_eq!(abandoned(10_000).await, []);
    assert_eq!(scheduler.stats(Queue::Default, at(221)).await.unwrap().failed, 1);
}

/// A deferred job waits for its time and has all its attempts again.
pub async fn a_deferred_job_starts_anew(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let mut once = job("j", 0);
    once.max_attempts = 1;
    enqueue(&*store, [once]).await;
    for round in 0..4 {
        let claimed = claim_one(&*scheduler, round * 10).await;
        assert_eq!(claimed.attempt, 1);
        scheduler.defer(&claimed, at(round * 10 + 10), at(round * 10 + 1)).await.unwrap();
        assert_eq!(claim(&*scheduler, round * 10 + 9).await, []);
    }
    assert_eq!(scheduler.stats(Queue::Default, at(0)).await.unwrap().failed, 0);
}

/// Many claimers find leases that ran out: each job has one heir.
pub async fn a_lost_lease_has_one_heir(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, (0..50).map(|_| job("j", 0))).await;
    let lost = claim(&*scheduler, 0).await;
    assert_eq!(lost.len(), 50);
    let claims = (0..8).map(|_| {
        let scheduler = Arc::clone(&scheduler);
        tokio::spawn(async move { claim(&*scheduler, 60).await })
    });
    let mut heirs = Vec::new();
    for claimed in join_all(claims).await {
        heirs.extend(claimed.unwrap());
    }
    heirs.extend(claim(&*scheduler, 60).await);
    let mut ids: Vec<_> = heirs.iter().map(|job| job.job.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), heirs.len()), (50, 50));
    for job in &heirs {
        scheduler.complete(job, at(61)).await.unwrap();
    }
    is_refused(&*scheduler, &lost[0]).await;
}

async fn is_refused(scheduler: &dyn Scheduler, job: &ClaimedJob) {
    let outcomes: [Result<()>; 5] = [
        scheduler.extend(job, at(50_000)).await,
        scheduler.complete(job, at(61)).await,
        scheduler.fail(job, "slow", Some(at(61)), at(61)).await,
        scheduler.fail(job, "slow", None, at(61)).await,
        scheduler.defer(job, at(61), at(61)).await,
    ];
    for outcome in outcomes {
        assert_eq!(outcome.expect_err("the lease was lost").kind(), Kind::Stale);
    }
}
