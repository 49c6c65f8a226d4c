//! Units of work and their notices.

use super::records::is_taken;
use crate::conformance::Backend;
use crate::conformance::fixture::*;
use futures_util::StreamExt as _;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{NewJob, Notice, NoticeStream, Query, Queue, QueueStats, Receipt};
use zentinel_core::{Changes, Kind, RecordKind, Revision, Row, Scope, Write};

/// Nothing to do is no error.
pub async fn an_empty_commit_succeeds(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    assert_eq!(store.commit(Changes::new()).await.unwrap(), Receipt::default());
}

/// A unit of work that fails at its last write leaves no row, entry, event or job behind.
pub async fn a_failed_commit_leaves_nothing(backend: &dyn Backend) {
    let (_guard, store, scheduler) = fresh(backend).await;
    let tenant = Tenant::random();
    let (kept, gone) = (tenant.named("kept"), tenant.named("gone"));
    store.commit(inserts([&kept, &gone])).await.unwrap();
    let new = tenant.named("new");
    let mut changes = writes([
        Write::Insert(new.clone()),
        update(&with_body(&kept, json!({ "changed": true })), 1),
        Write::Upsert(tenant.row(RecordKind::NodeReport)),
        delete(&gone, 1),
        Write::Append(tenant.entry(LogKind::NodeEvent, Uuid::new_v4(), 1)),
        check(&kept, 7),
    ]);
    changes.audit.push(tenant.audit("bundle.created"));
    changes.events.push(tenant.event("bundle.created"));
    changes.jobs.push(NewJob::new(Queue::Default, "compile", json!({}), at(0)));
    assert_eq!(store.commit(changes).await.unwrap_err().kind(), Kind::Stale);

    assert!(get(&*store, &new).await.is_none());
    assert_eq!(get(&*store, &kept).await.unwrap().value, kept);
    assert_eq!(get(&*store, &gone).await.unwrap().revision, Revision(1));
    let reports = store.query(&Scope::Instance, &Query::all(RecordKind::NodeReport)).await.unwrap();
    assert_eq!(reports.total, 0);
    for kind in LogKind::ALL {
        let entries = store.read_log(&Scope::Instance, &LogQuery::newest(kind, 10)).await.unwrap();
        assert_eq!(entries, [], "{kind:?}");
    }
    assert_eq!(scheduler.stats(Queue::Default, at(9)).await.unwrap(), QueueStats::default());
    // The keys of what was not inserted are free.
    insert(&*store, &new).await;
}

/// Failed units of work take no sequence number.
pub async fn a_failed_commit_leaves_no_gap(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    insert(&*store, &tenant.named("taken")).await;
    for number in 1..=3u64 {
        let told =
            || Changes::new().audit(tenant.audit("bundle.created")).event(tenant.event("bundle.created"));
        let failing = told().and(inserts([&tenant.named("taken")]));
        is_taken(store.commit(failing).await.unwrap_err(), "version");
        assert_eq!(store.commit(told()).await.unwrap().last_event_seq, Some(number));
    }
    for kind in [LogKind::Audit, LogKind::Event] {
        let entries = store.read_log(&Scope::Instance, &LogQuery::after(kind, 0, 10)).await.unwrap();
        let numbers: Vec<u64> = entries.iter().map(|entry| entry.seq).collect();
        assert_eq!(numbers, [1, 2, 3], "{kind:?}");
    }
}

/// A check writes nothing, lets the commit pass while the revision holds, and stops it after.
pub async fn a_check_guards_the_commit(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let guarded = tenant.named("guarded");
    insert(&*store, &guarded).await;
    let (first, second) = (tenant.named("first"), tenant.named("second"));
    store.commit(writes([check(&guarded, 1), Write::Insert(first.clone())])).await.unwrap();
    assert_eq!(get(&*store, &guarded).await.unwrap().revision, Revision(1));
    store.commit(writes([update(&guarded, 1)])).await.unwrap();
    let error = store.commit(writes([Write::Insert(second.clone()), check(&guarded, 1)])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Stale);
    assert!(get(&*store, &first).await.is_some());
    assert!(get(&*store, &second).await.is_none());
}

/// Writes are carried out in order; a later one sees what an earlier one did.
pub async fn writes_see_earlier_ones_of_their_commit(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().row(RecordKind::Node);
    let second = with_body(&row, json!({ "number": 2 }));
    let third = with_body(&row, json!({ "number": 3 }));
    let changes = writes([
        Write::Insert(row.clone()),
        update(&second, 1),
        check(&row, 2),
        Write::Upsert(third.clone()),
    ]);
    store.commit(changes).await.unwrap();
    let read = get(&*store, &row).await.unwrap();
    assert_eq!((read.revision, read.value), (Revision(3), third));
    let changes = writes([delete(&row, 3), Write::Insert(row.clone())]);
    store.commit(changes).await.unwrap();
    assert_eq!(get(&*store, &row).await.unwrap().revision, Revision(1));
    let twice = writes([update(&row, 1), update(&row, 1)]);
    assert_eq!(store.commit(twice).await.unwrap_err().kind(), Kind::Stale);
}

/// A key that one write frees can be taken by a later write of the same commit.
pub async fn keys_change_hands_in_one_commit(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let keyed = |name| Row { lookup_key: Some(format!("digest of {name}")), ..tenant.named(name) };
    let (old, new) = (keyed("1.0"), keyed("1.0"));
    insert(&*store, &old).await;
    store.commit(writes([delete(&old, 1), Write::Insert(new.clone())])).await.unwrap();
    assert_eq!(store.lookup(new.kind, "digest of 1.0").await.unwrap().unwrap().value.id, new.id);
    let renamed = Row { natural_key: None, lookup_key: None, ..new.clone() };
    let third = keyed("1.0");
    store.commit(writes([update(&renamed, 1), Write::Insert(third.clone())])).await.unwrap();
    assert_eq!(store.lookup(new.kind, "digest of 1.0").await.unwrap().unwrap().value.id, third.id);
    let twins = inserts([&keyed("2.0"), &keyed("2.0")]);
    is_taken(store.commit(twins).await.unwrap_err(), "version");
}

/// Thousands of writes are one unit of work, too.
pub async fn a_large_commit_is_one_commit(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let rows: Vec<Row> = (0..3_000).map(|number| tenant.named(&format!("{number}"))).collect();
    let mut changes = inserts(&rows);
    changes.writes.push(Write::Insert(tenant.named("17")));
    is_taken(store.commit(changes).await.unwrap_err(), "version");
    let all = Query::all(RecordKind::Bundle);
    assert_eq!(store.query(&Scope::Instance, &all).await.unwrap().total, 0);
    store.commit(inserts(&rows)).await.unwrap();
    assert_eq!(store.query(&Scope::Instance, &all).await.unwrap().total, 3_000);
    let upserts = rows.iter().map(|row| Write::Upsert(with_body(row, json!({ "again": true }))));
    store.commit(writes(upserts)).await.unwrap();
    assert_eq!(get(&*store, &rows[2_999]).await.unwrap().revision, Revision(2));
}

/// A commit is told to watchers, by kind and id, with the project where it is one; events and
/// jobs are told, too. What a notice is about is visible when it arrives.
pub async fn watchers_hear_of_commits(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let (tenant, other) = (Tenant::random(), Tenant::random());
    let mut notices = store.watch();
    let (bundle, node) = (tenant.named("1.0"), tenant.row(RecordKind::Node));
    let foreign = other.row(RecordKind::Node);
    let mut changes = inserts([&bundle, &node, &foreign]).event(tenant.event("bundle.created"));
    changes.jobs.push(NewJob::new(Queue::Default, "compile", json!({}), at(0)));
    store.commit(changes).await.unwrap();
    let (mut bundles, mut nodes, mut projects) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let (mut events, mut jobs) = (false, false);
    while bundles.is_empty() || nodes.len() < 2 || !events || !jobs {
        match next(&mut notices).await {
            Notice::Records { kind: RecordKind::Bundle, project_id, ids, .. } => {
                assert_eq!(project_id, Some(tenant.project));
                assert!(get(&*store, &bundle).await.is_some());
                bundles.extend(ids);
            }
            Notice::Records { kind: RecordKind::Node, project_id, ids, .. } => {
                nodes.extend(ids);
                projects.push(project_id);
            }
            Notice::Events => events = true,
            Notice::Jobs => jobs = true,
            notice => panic!("unexpected {notice:?}"),
        }
    }
    assert_eq!(bundles, BTreeSet::from([bundle.id]));
    assert_eq!(nodes, BTreeSet::from([node.id, foreign.id]));
    assert!(projects.len() > 1 || projects == [None], "two projects in one notice: {projects:?}");
    store.commit(writes([delete(&bundle, 1)])).await.unwrap();
    assert_eq!(records(next(&mut notices).await), (RecordKind::Bundle, vec![bundle.id]));
}

/// Watchers can tell records that were only renewed from changed ones of the same commit.
pub async fn watchers_tell_renewals_from_changes(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let (changed, renewed) = (tenant.row(RecordKind::Node), tenant.row(RecordKind::Node));
    let mut notices = store.watch();
    store.commit(inserts([&changed, &renewed])).await.unwrap();
    // Heard before the next commit: a notice may come late.
    let inserted = BTreeSet::from([(changed.id, false), (renewed.id, false)]);
    assert_eq!(two_records(&mut notices).await, inserted);
    let mut changes = writes([Write::Upsert(changed.clone()), Write::Upsert(renewed.clone())]);
    changes.renewed.insert(renewed.id);
    store.commit(changes).await.unwrap();
    assert_eq!(two_records(&mut notices).await, BTreeSet::from([(changed.id, false), (renewed.id, true)]));
}

/// The next two records that are heard of, and whether they were only renewed.
async fn two_records(notices: &mut NoticeStream) -> BTreeSet<(Uuid, bool)> {
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        match next(notices).await {
            Notice::Records { kind: RecordKind::Node, ids, renewed, .. } => {
                heard.extend(ids.into_iter().map(|id| (id, renewed)));
            }
            notice => panic!("unexpected {notice:?}"),
        }
    }
    heard
}

/// Watchers hear nothing of a unit of work that failed.
pub async fn watchers_hear_nothing_of_failed_commits(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let mut notices = store.watch();
    let failing = inserts([&tenant.named("1.0"), &tenant.named("1.0")]).event(tenant.event("bundle.created"));
    store.commit(failing).await.unwrap_err();
    let marker = tenant.row(RecordKind::Node);
    insert(&*store, &marker).await;
    assert_eq!(records(next(&mut notices).await), (RecordKind::Node, vec![marker.id]));
}

/// Every watcher hears every commit since it began to watch, in order.
pub async fn every_watcher_hears(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let mut watchers: Vec<NoticeStream> = (0..3).map(|_| store.watch()).collect();
    let rows: Vec<Row> = (0..20).map(|_| tenant.row(RecordKind::Node)).collect();
    for row in &rows {
        insert(&*store, row).await;
    }
    for watcher in &mut watchers {
        for row in &rows {
            assert_eq!(records(next(watcher).await), (RecordKind::Node, vec![row.id]));
        }
    }
    drop(watchers);
    insert(&*store, &tenant.row(RecordKind::Node)).await;
}

/// The back end says that it is there.
pub async fn the_store_answers_a_ping(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    store.ping().await.unwrap();
}

async fn next(notices: &mut NoticeStream) -> Notice {
    let notice = tokio::time::timeout(Duration::from_secs(20), notices.next()).await;
    notice.expect("no notice within 20 s").expect("the stream ended")
}

fn records(notice: Notice) -> (RecordKind, Vec<Uuid>) {
    match notice {
        Notice::Records { kind, ids, .. } => (kind, ids),
        notice => panic!("unexpected {notice:?}"),
    }
}
