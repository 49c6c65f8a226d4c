//! Cases for back ends that outlive their process.

use super::fixture::*;
use super::{Backend, Guard};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{NewJob, Query, Queue, Schedule, Scheduler, Store};
use zentinel_core::{RecordKind, Revision, Row, Scope, Timestamp};

/// Expands every case of [`conformance::durable`](crate::conformance::durable) into a
/// `#[tokio::test]`, for back ends that implement
/// [`Backend::reopen`](crate::conformance::Backend::reopen).
#[macro_export]
macro_rules! durable_suite {
    ($backend:expr) => {
        $crate::__conformance_cases! { $backend, durable:
            commits_outlive_the_process
            claims_outlive_the_process
            schedules_outlive_the_process
            a_commit_cut_short_is_whole_or_absent
        }
    };
}

const LEASE: Duration = Duration::from_secs(60);

async fn reopen(backend: &dyn Backend, guard: &Guard) -> (Arc<dyn Store>, Arc<dyn Scheduler>) {
    backend.reopen(guard).await.expect("a durable back end implements `reopen`")
}

/// Rows, revisions, keys, log entries and sequences are there after a crash.
pub async fn commits_outlive_the_process(backend: &dyn Backend) {
    let (guard, store, scheduler) = backend.fresh().await;
    let tenant = Tenant::random();
    let row = Row { lookup_key: Some("digest".to_owned()), ..tenant.named("1.0") };
    insert(&*store, &row).await;
    let told = || writes([]).audit(tenant.audit("bundle.created")).event(tenant.event("bundle.created"));
    store.commit(told().and(writes([update(&row, 1)]))).await.unwrap();
    drop((store, scheduler));

    let (store, _scheduler) = reopen(backend, &guard).await;
    let read = store.lookup(row.kind, "digest").await.unwrap().unwrap();
    assert_eq!((read.revision, read.value), (Revision(2), row));
    store.commit(inserts([&tenant.named("1.0")])).await.unwrap_err();
    assert_eq!(store.commit(told()).await.unwrap().last_event_seq, Some(2));
    let audit = store.read_log(&Scope::Instance, &LogQuery::after(LogKind::Audit, 0, 10)).await.unwrap();
    assert_eq!(audit.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2]);
}

/// A job that was held when the process died is held until its lease runs out, then claimed
/// again; one that was waiting waits; the dead worker's answer is refused.
pub async fn claims_outlive_the_process(backend: &dyn Backend) {
    let (guard, store, scheduler) = backend.fresh().await;
    let job = |kind, due| NewJob::new(Queue::Default, kind, json!({ "n": 1 }), at(due));
    let mut changes = writes([]).job(job("held", 0).unique("key")).job(job("waiting", 30));
    changes.jobs.push(job("done", 0));
    store.commit(changes).await.unwrap();
    let claimed = scheduler.claim(Queue::Default, "dead", 2, LEASE, at(0)).await.unwrap();
    let (held, done) = (&claimed[0], &claimed[1]);
    scheduler.complete(done, at(1)).await.unwrap();
    drop((store, scheduler));

    let (_store, scheduler) = reopen(backend, &guard).await;
    let waiting = scheduler.claim(Queue::Default, "new", 9, LEASE, at(59)).await.unwrap();
    assert_eq!(waiting.iter().map(|job| job.job.kind.as_str()).collect::<Vec<_>>(), ["waiting"]);
    let again = scheduler.claim(Queue::Default, "new", 9, LEASE, at(60)).await.unwrap();
    assert_eq!((again.len(), &again[0].job, again[0].attempt), (1, &held.job, 2));
    scheduler.complete(held, at(61)).await.unwrap_err();
    scheduler.complete(&again[0], at(61)).await.unwrap();
}

/// The due time of a schedule that was declared before the crash still counts.
pub async fn schedules_outlive_the_process(backend: &dyn Backend) {
    let (guard, store, scheduler) = backend.fresh().await;
    let minute = |seconds: i64| Timestamp::from_timestamp(1_790_000_040 + seconds, 0).unwrap();
    let daily = Schedule { name: "s".to_owned(), queue: Queue::Maintenance, cron: "30 * * * * *".to_owned() };
    scheduler.declare(std::slice::from_ref(&daily), minute(0)).await.unwrap();
    drop((store, scheduler));
    let (_store, scheduler) = reopen(backend, &guard).await;
    scheduler.declare(&[daily], minute(45)).await.unwrap();
    assert_eq!(scheduler.enqueue_due(minute(45)).await.unwrap(), 1);
}

/// A commit whose caller went away half-way is there as a whole or not at all.
pub async fn a_commit_cut_short_is_whole_or_absent(backend: &dyn Backend) {
    let (guard, store, scheduler) = backend.fresh().await;
    let tenant = Tenant::random();
    for round in 0..20u64 {
        let rows: Vec<Row> = (0..50).map(|_| tenant.row(RecordKind::Node)).collect();
        let changes = inserts(&rows).event(tenant.event("node.seen"));
        // Dropping the future is what a cancelled request does.
        let cut = tokio::time::timeout(Duration::from_micros(round * 150), store.commit(changes)).await;
        drop(cut);
    }
    drop((store, scheduler));
    let (store, _scheduler) = reopen(backend, &guard).await;
    let rows = store.query(&Scope::Instance, &Query::all(RecordKind::Node)).await.unwrap().total;
    let events = store.read_log(&Scope::Instance, &LogQuery::after(LogKind::Event, 0, 100)).await.unwrap();
    assert_eq!(rows, events.len() as u64 * 50);
    let expected: Vec<u64> = (1..=events.len() as u64).collect();
    assert_eq!(events.iter().map(|entry| entry.seq).collect::<Vec<_>>(), expected);
    let receipt = store.commit(writes([]).event(tenant.event("node.seen"))).await.unwrap();
    assert_eq!(receipt.last_event_seq, Some(events.len() as u64 + 1));
}
