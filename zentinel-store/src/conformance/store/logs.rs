//! The append-only logs.

use crate::conformance::Backend;
use crate::conformance::fixture::*;
use serde_json::json;
use uuid::Uuid;
use zentinel_core::entity::{AuditEntry, Event};
use zentinel_core::id::TypedId as _;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, LogRow, Retention};
use zentinel_core::port::Store;
use zentinel_core::{Changes, Scope};

/// Audit entries and events come back whole, numbered from 1 without gaps in commit order; the
/// receipt tells the last event's number.
pub async fn audit_and_events_are_logged_in_commit_order(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let audits: Vec<AuditEntry> = (0..6).map(|number| tenant.audit(&format!("bundle.{number}"))).collect();
    let events: Vec<Event> = (0..6).map(|number| tenant.event(&format!("bundle.{number}"))).collect();
    for number in [0, 2, 4] {
        let changes = Changes::new()
            .audit(audits[number].clone())
            .audit(audits[number + 1].clone())
            .event(events[number].clone())
            .event(events[number + 1].clone());
        let receipt = store.commit(changes).await.unwrap();
        assert_eq!(receipt.last_event_seq, Some(number as u64 + 2));
    }
    let quiet = Changes::new().audit(tenant.audit("quiet.done"));
    assert_eq!(store.commit(quiet).await.unwrap().last_event_seq, None);
    let read = read(&*store, &LogQuery::after(LogKind::Event, 0, 100)).await;
    assert_eq!(numbers(&read), [1, 2, 3, 4, 5, 6]);
    for (entry, event) in read.iter().zip(&events) {
        assert_eq!(serde_json::from_value::<Event>(entry.row.body.clone()).unwrap(), *event);
        assert_eq!((entry.row.id, entry.row.at), (event.id.uuid(), event.emitted_at));
        assert_eq!(
            (entry.row.organisation_id, entry.row.project_id),
            (event.organisation_id, event.project_id)
        );
    }
    let entries = store.read_log(&Scope::Instance, &LogQuery::after(LogKind::Audit, 0, 100)).await.unwrap();
    assert_eq!(numbers(&entries), [1, 2, 3, 4, 5, 6, 7]);
    for (entry, audit) in entries.iter().zip(&audits) {
        assert_eq!(serde_json::from_value::<AuditEntry>(entry.row.body.clone()).unwrap(), *audit);
        assert_eq!(entry.row.id, audit.id.uuid());
    }
}

/// A log is read forwards after a place and backwards before one, in pages.
pub async fn logs_read_both_ways(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let owner = Uuid::new_v4();
    let rows: Vec<LogRow> = (0..25).map(|second| tenant.entry(LogKind::NodeEvent, owner, second)).collect();
    store.commit(appends(&rows)).await.unwrap();
    let mut forwards = Vec::new();
    let mut seq = 0;
    loop {
        let page = read(&*store, &LogQuery::after(LogKind::NodeEvent, seq, 10)).await;
        let Some(last) = page.last() else { break };
        seq = last.seq;
        forwards.extend(page);
    }
    assert_eq!(forwards.iter().map(|entry| entry.row.clone()).collect::<Vec<_>>(), rows);
    assert!(numbers(&forwards).is_sorted_by(|a, b| a < b));
    let mut backwards = Vec::new();
    let mut query = LogQuery::newest(LogKind::NodeEvent, 10);
    loop {
        let page = read(&*store, &query).await;
        let Some(last) = page.last() else { break };
        query.beyond = Some(last.seq);
        backwards.extend(page);
    }
    backwards.reverse();
    assert_eq!(backwards, forwards);
    let oldest = LogQuery { beyond: None, ..LogQuery::after(LogKind::NodeEvent, 0, 3) };
    assert_eq!(read(&*store, &oldest).await, forwards[..3]);
    assert_eq!(read(&*store, &LogQuery::after(LogKind::NodeEvent, seq, 500)).await, []);
    assert_eq!(read(&*store, &LogQuery::newest(LogKind::Heartbeat, 500)).await, []);
}

/// Reads are limited to an owner and to what the scope shows.
pub async fn logs_read_by_owner_and_scope(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let (mine, other) = (Tenant::random(), Tenant::random());
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    let rows = [
        mine.entry(LogKind::Metric, first, 0),
        other.entry(LogKind::Metric, first, 1),
        mine.entry(LogKind::Metric, second, 2),
        mine.entry(LogKind::WafEvent, first, 3),
    ];
    store.commit(appends(&rows)).await.unwrap();
    let query = LogQuery::newest(LogKind::Metric, 10);
    for (scope, query, expected) in [
        (Scope::Instance, query.clone(), vec![2, 1, 0]),
        (mine.scope(), query.clone(), vec![2, 0]),
        (Scope::Organisation(other.organisation), query.clone(), vec![1]),
        (Scope::Project(other.organisation, mine.project), query.clone(), vec![]),
        (Scope::Instance, query.clone().about(first), vec![1, 0]),
        (mine.scope(), query.clone().about(first), vec![0]),
        (mine.scope(), query.about(Uuid::new_v4()), vec![]),
    ] {
        let entries = store.read_log(&scope, &query).await.unwrap();
        let read: Vec<LogRow> = entries.into_iter().map(|entry| entry.row).collect();
        let expected: Vec<LogRow> = expected.into_iter().map(|index: usize| rows[index].clone()).collect();
        assert_eq!(read, expected, "{scope:?} {query:?}");
        let count = store.count_log(&scope, query.kind, query.owner).await.unwrap();
        assert_eq!(count, expected.len() as u64, "{scope:?} {query:?}");
    }
}

/// An entry whose key the log already holds for that owner is dropped without an error, within a
/// commit and between commits; other owners, logs and entries without a key are not touched.
pub async fn a_repeated_deduplication_key_adds_nothing(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let (owner, other) = (Uuid::new_v4(), Uuid::new_v4());
    let keyed =
        |kind, owner, key: &str| LogRow { dedup_key: Some(key.to_owned()), ..tenant.entry(kind, owner, 0) };
    let first = keyed(LogKind::NodeEvent, owner, "a");
    let kept = [
        first.clone(),
        keyed(LogKind::NodeEvent, owner, "b"),
        keyed(LogKind::NodeEvent, other, "a"),
        tenant.entry(LogKind::NodeEvent, owner, 0),
        tenant.entry(LogKind::NodeEvent, owner, 0),
    ];
    let repeat = || keyed(LogKind::NodeEvent, owner, "a");
    store.commit(appends([&kept[0], &repeat(), &kept[1]])).await.unwrap();
    store.commit(appends([&repeat(), &kept[2], &kept[3], &repeat(), &kept[4], &first])).await.unwrap();
    store.commit(appends([&keyed(LogKind::WafEvent, owner, "a")])).await.unwrap();
    let entries = read(&*store, &LogQuery::after(LogKind::NodeEvent, 0, 100)).await;
    assert_eq!(entries.into_iter().map(|entry| entry.row).collect::<Vec<_>>(), kept);
    assert_eq!(read(&*store, &LogQuery::newest(LogKind::WafEvent, 10)).await.len(), 1);
}

/// A retention by count keeps the newest entries of each owner.
pub async fn retention_by_count_is_per_owner(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let owners = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    for second in 0..10 {
        let due = owners.iter().take(if second < 2 { 3 } else { 2 });
        let rows: Vec<LogRow> = due.map(|owner| tenant.entry(LogKind::Heartbeat, *owner, second)).collect();
        store.commit(appends(&rows)).await.unwrap();
    }
    store.commit(appends([&tenant.entry(LogKind::NodeEvent, owners[0], 0)])).await.unwrap();
    let retention = Retention { per_owner: Some(4), not_before: None };
    assert_eq!(store.trim_log(LogKind::Heartbeat, retention).await.unwrap(), 12);
    assert_eq!(store.trim_log(LogKind::Heartbeat, retention).await.unwrap(), 0);
    for (owner, expected) in owners.into_iter().zip([vec![6, 7, 8, 9], vec![6, 7, 8, 9], vec![0, 1]]) {
        let query = LogQuery::after(LogKind::Heartbeat, 0, 100).about(owner);
        assert_eq!(seconds(&read(&*store, &query).await), expected);
    }
    assert_eq!(read(&*store, &LogQuery::newest(LogKind::NodeEvent, 10)).await.len(), 1);
}

/// A retention by age drops what happened before the instant, not what happened at it.
pub async fn retention_by_age_drops_the_old(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let rows = [3, 0, 5, 4, 1].map(|second| tenant.entry(LogKind::RequestLog, Uuid::new_v4(), second));
    store.commit(appends(&rows)).await.unwrap();
    let retention = Retention { per_owner: None, not_before: Some(at(4)) };
    assert_eq!(store.trim_log(LogKind::RequestLog, retention).await.unwrap(), 3);
    let left = read(&*store, &LogQuery::after(LogKind::RequestLog, 0, 10)).await;
    assert_eq!(seconds(&left), [5, 4]);
    assert_eq!(store.trim_log(LogKind::RequestLog, Retention::default()).await.unwrap(), 0);
}

/// With both conditions an entry goes when either says so.
pub async fn both_retentions_apply(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let (busy, quiet) = (Uuid::new_v4(), Uuid::new_v4());
    let mut rows: Vec<LogRow> = (0..6).map(|second| tenant.entry(LogKind::NodeEvent, busy, second)).collect();
    rows.extend([0, 4].map(|second| tenant.entry(LogKind::NodeEvent, quiet, second)));
    store.commit(appends(&rows)).await.unwrap();
    let retention = Retention { per_owner: Some(2), not_before: Some(at(2)) };
    assert_eq!(store.trim_log(LogKind::NodeEvent, retention).await.unwrap(), 5);
    let query = LogQuery::after(LogKind::NodeEvent, 0, 100);
    assert_eq!(seconds(&read(&*store, &query.clone().about(busy)).await), [4, 5]);
    assert_eq!(seconds(&read(&*store, &query.about(quiet)).await), [4]);
}

/// A log that was trimmed to nothing goes on counting; its deduplication keys are free again.
pub async fn trimming_does_not_reset_the_sequence(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let owner = Uuid::new_v4();
    for kind in [LogKind::Event, LogKind::NodeEvent] {
        let add = async |second| {
            let mut changes = Changes::new();
            if kind == LogKind::Event {
                changes.events.push(Event { emitted_at: at(second), ..tenant.event("node.seen") });
            } else {
                changes = appends([&LogRow {
                    dedup_key: Some("k".to_owned()),
                    ..tenant.entry(kind, owner, second)
                }]);
            }
            store.commit(changes).await.unwrap();
            read(&*store, &LogQuery::newest(kind, 1)).await[0].seq
        };
        let first = add(1).await;
        let retention = Retention { per_owner: None, not_before: Some(at(100)) };
        assert_eq!(store.trim_log(kind, retention).await.unwrap(), 1);
        assert_eq!(read(&*store, &LogQuery::newest(kind, 10)).await, []);
        let second = add(2).await;
        assert!(second > first, "{kind:?} went from {first} to {second}");
        if kind == LogKind::Event {
            assert_eq!(second, first + 1, "a gap in the event log");
        }
    }
}

/// Trimming the audit log is an error and drops nothing.
pub async fn the_audit_log_is_never_trimmed(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    store.commit(Changes::new().audit(tenant.audit("bundle.created"))).await.unwrap();
    let retention = Retention { per_owner: Some(0), not_before: Some(at(1_000)) };
    store.trim_log(LogKind::Audit, retention).await.unwrap_err();
    assert_eq!(read(&*store, &LogQuery::newest(LogKind::Audit, 10)).await.len(), 1);
}

async fn read(store: &dyn Store, query: &LogQuery) -> Vec<LogEntry> {
    store.read_log(&Scope::Instance, query).await.unwrap()
}

fn numbers(entries: &[LogEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

fn seconds(entries: &[LogEntry]) -> Vec<i64> {
    let second = |entry: &LogEntry| (entry.row.at - at(0)).num_seconds();
    assert!(entries.iter().all(|entry| entry.row.body == json!({ "second": second(entry) })));
    entries.iter().map(second).collect()
}
