//! Unique keys.

use super::{LEASE, claim, claim_one, enqueue, job, kinds};
use crate::conformance::Backend;
use crate::conformance::fixture::*;
use futures_util::future::join_all;
use serde_json::json;
use std::sync::Arc;
use zentinel_core::port::{Queue, QueueStats};

/// Of jobs with one kind and key only the first waits, within a commit and between commits.
pub async fn a_key_waits_once(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let first = job("tick", 0).unique("r1");
    enqueue(&*store, [first.clone(), job("tick", 0).unique("r1"), job("tick", 0).unique("r2")]).await;
    enqueue(&*store, [job("tick", 0).unique("r1"), job("tick", 0), job("tick", 0)]).await;
    let claimed = claim(&*scheduler, 0).await;
    assert_eq!(claimed.len(), 4);
    assert_eq!(claimed[0].job, first);
}

/// A second job brings the first one forward, never back, and changes nothing else of it.
pub async fn a_second_job_brings_the_first_forward(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let first = job("tick", 50).unique("r1");
    let mut sooner = job("tick", 20).unique("r1");
    sooner.payload = json!({ "other": true });
    enqueue(&*store, [first.clone()]).await;
    enqueue(&*store, [sooner]).await;
    enqueue(&*store, [job("tick", 90).unique("r1")]).await;
    assert_eq!(scheduler.next_due(Queue::Default).await.unwrap(), Some(at(20)));
    assert_eq!(claim(&*scheduler, 19).await, []);
    let claimed = claim_one(&*scheduler, 20).await;
    assert_eq!((claimed.job.id, &claimed.job.payload), (first.id, &first.payload));
    assert_eq!(claimed.job.run_at, at(20));
    assert_eq!(claim(&*scheduler, 50).await, []);
}

/// While a job runs one more with its key may wait; it is claimed when the first has ended.
pub async fn a_key_never_runs_twice_at_once(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let tick = |due| job("tick", due).unique("r1");
    enqueue(&*store, [tick(0)]).await;
    let first = claim_one(&*scheduler, 0).await;
    enqueue(&*store, [tick(5)]).await;
    enqueue(&*store, [tick(1), job("other", 2)]).await;
    assert_eq!(kinds(&claim(&*scheduler, 10).await), ["other"]);
    scheduler.complete(&first, at(11)).await.unwrap();
    let second = claim_one(&*scheduler, 12).await;
    assert_ne!(second.job.id, first.job.id);
    assert_eq!(claim(&*scheduler, 13).await, []);
    scheduler.fail(&second, "no", None, at(14)).await.unwrap();
    enqueue(&*store, [tick(0)]).await;
    claim_one(&*scheduler, 15).await;
}

/// Of claimers that come at once only one gets a job with the key, also when another job with
/// it was enqueued meanwhile.
pub async fn claimers_of_a_key_exclude_each_other(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    for round in 0..10 {
        let key = format!("r{round}");
        enqueue(&*store, [job("tick", 0).unique(&key)]).await;
        let workers = (0..6).map(|_| {
            let (scheduler, store, key) = (Arc::clone(&scheduler), Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let claimed = scheduler.claim(Queue::Default, "worker", 5, LEASE, at(0)).await.unwrap();
                enqueue(&*store, [job("tick", 0).unique(&key)]).await;
                let more = scheduler.claim(Queue::Default, "worker", 5, LEASE, at(0)).await.unwrap();
                [claimed, more].concat()
            })
        });
        let mut held = Vec::new();
        for claimed in join_all(workers).await {
            held.extend(claimed.unwrap());
        }
        assert_eq!(held.len(), 1, "round {round}: {held:?}");
        scheduler.complete(&held[0], at(1)).await.unwrap();
        let rest = claim_one(&*scheduler, 1).await;
        scheduler.complete(&rest, at(2)).await.unwrap();
    }
}

/// Commits that enqueue the same key at once all succeed and make one job.
pub async fn concurrent_enqueues_of_a_key_make_one_job(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let commits = (0..16).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { enqueue(&*store, [job("tick", number).unique("r1")]).await })
    });
    for commit in join_all(commits).await {
        commit.unwrap();
    }
    let stats = scheduler.stats(Queue::Default, at(100)).await.unwrap();
    assert_eq!(stats, QueueStats { due: 1, ..QueueStats::default() });
    assert_eq!(claim_one(&*scheduler, 100).await.job.run_at, at(0));
}

/// A retry or deferral while another job with the key waits leaves that one alone, due at the
/// earlier of both instants.
pub async fn a_retry_merges_into_the_waiting_job(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let tick = |due| job("tick", due).unique("r1");
    enqueue(&*store, [tick(0)]).await;
    let failing = claim_one(&*scheduler, 0).await;
    let waiting = tick(50);
    enqueue(&*store, [waiting.clone()]).await;
    scheduler.fail(&failing, "no", Some(at(30)), at(1)).await.unwrap();
    let stats = scheduler.stats(Queue::Default, at(1)).await.unwrap();
    assert_eq!(stats, QueueStats { later: 1, ..QueueStats::default() });
    let merged = claim_one(&*scheduler, 30).await;
    assert_eq!((merged.job.id, merged.attempt), (waiting.id, 1));
    enqueue(&*store, [tick(40)]).await;
    scheduler.defer(&merged, at(90), at(31)).await.unwrap();
    claim_one(&*scheduler, 40).await;
    assert_eq!(claim(&*scheduler, 90).await, []);
}

/// A job whose lease ran out is claimed before another one with its key, not beside it.
pub async fn an_overdue_job_goes_before_its_successor(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let tick = |due| job("tick", due).unique("r1");
    enqueue(&*store, [tick(10)]).await;
    let lost = claim_one(&*scheduler, 10).await;
    // Even one that has been due for longer has to wait.
    enqueue(&*store, [tick(0)]).await;
    let heir = claim_one(&*scheduler, 70).await;
    assert_eq!((heir.job.id, heir.attempt), (lost.job.id, 2));
    assert_eq!(claim(&*scheduler, 71).await, []);
    scheduler.complete(&heir, at(72)).await.unwrap();
    claim_one(&*scheduler, 73).await;
}

/// A key means something within its kind only.
pub async fn keys_of_different_kinds_are_different(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    enqueue(&*store, [job("compile", 0).unique("id"), job("deliver", 0).unique("id")]).await;
    assert_eq!(claim(&*scheduler, 0).await.len(), 2);
}
