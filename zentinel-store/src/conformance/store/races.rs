//! Concurrent writers.

use super::records::is_taken;
use crate::conformance::Backend;
use crate::conformance::fixture::*;
use futures_util::future::join_all;
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;
use zentinel_core::log::{LogKind, LogQuery, LogRow};
use zentinel_core::port::{Query, Store};
use zentinel_core::{Changes, Kind, RecordKind, Result, Revision, Row, Scope, Write};

/// Of writers that read the same revision one wins; the others are `Stale`.
pub async fn one_of_two_writers_wins(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = Tenant::random().row(RecordKind::Node);
    insert(&*store, &row).await;
    for revision in 1..=25u64 {
        let attempts = (0..2).map(|writer| {
            let row = with_body(&row, json!({ "writer": writer, "revision": revision }));
            commit(&store, writes([update(&row, revision)]))
        });
        let outcomes: Vec<Result<()>> = join_all(attempts).await;
        let winner = outcomes.iter().position(Result::is_ok).expect("nobody won");
        let loser = outcomes[1 - winner].as_ref().expect_err("both won");
        assert_eq!(loser.kind(), Kind::Stale, "{loser:?}");
        let read = get(&*store, &row).await.unwrap();
        assert_eq!(read.revision, Revision(revision + 1));
        assert_eq!(read.body["writer"], winner);
    }
}

/// Of many insertions of one unique key one wins; the others are told that it is taken.
pub async fn one_of_many_inserts_of_a_key_wins(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    for round in 0..5 {
        let name = format!("{round}.0");
        let by_name = join_all((0..8).map(|_| commit(&store, inserts([&tenant.named(&name)])))).await;
        let keyed = || Row { lookup_key: Some(name.clone()), ..Tenant::random().row(RecordKind::Bundle) };
        let by_key = join_all((0..8).map(|_| commit(&store, inserts([&keyed()])))).await;
        for outcomes in [by_name, by_key] {
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
            for error in outcomes.into_iter().filter_map(Result::err) {
                is_taken(error, "version");
            }
        }
    }
}

/// Read, add one, write, again upon `Stale`: no addition is lost.
pub async fn increments_are_not_lost(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let row = with_body(&Tenant::random().row(RecordKind::Project), json!({ "count": 0 }));
    insert(&*store, &row).await;
    let tasks = (0..8).map(|_| {
        let (store, row) = (Arc::clone(&store), row.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                increment(&*store, &row).await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let read = get(&*store, &row).await.unwrap();
    assert_eq!((read.revision, &read.body["count"]), (Revision(81), &json!(80)));
}

async fn increment(store: &dyn Store, row: &Row) {
    loop {
        let read = get(store, row).await.unwrap();
        let count = read.body["count"].as_u64().unwrap();
        // Lets others in between, also where reads and writes never wait.
        tokio::task::yield_now().await;
        let new = with_body(row, json!({ "count": count + 1 }));
        match store.commit(writes([update(&new, read.revision.0)])).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.kind(), Kind::Stale, "{error:?}"),
        }
    }
}

/// A commit that checks a record and one that changes it do not both succeed on one revision:
/// of "insert unless closed" and "close", nothing is inserted after the closing.
pub async fn a_check_holds_against_concurrent_writers(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    for round in 0..10 {
        let owner = Row { state: Some("open".to_owned()), ..tenant.row(RecordKind::Rollout) };
        insert(&*store, &owner).await;
        let closed = Row { state: Some("closed".to_owned()), ..owner.clone() };
        let children = (0..4).map(|_| {
            let child = Row { owner: owner.id, ..tenant.row(RecordKind::RolloutStep) };
            commit(&store, writes([check(&owner, 1), Write::Insert(child)]))
        });
        let closing = async {
            let count = async || {
                let query = owned_by(Query::all(RecordKind::RolloutStep), owner.id);
                store.query(&Scope::Instance, &query).await.unwrap().total
            };
            commit(&store, writes([update(&closed, 1)])).await.unwrap();
            count().await
        };
        let (outcomes, at_closing) = futures_util::join!(join_all(children), closing);
        let inserted = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        assert_eq!(inserted, at_closing, "round {round}: an insertion came after the closing");
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), Kind::Stale, "{error:?}");
        }
    }
}

/// Many writers at once: the audit and event logs have no gap, no repeat, and every number that a
/// receipt named is that of the writer's own event.
pub async fn sequences_have_no_gaps_under_load(backend: &dyn Backend) {
    const WRITERS: usize = 16;
    const COMMITS: usize = 8;
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let taken = tenant.named("taken");
    insert(&*store, &taken).await;
    let tasks = (0..WRITERS).map(|writer| {
        let (store, taken) = (Arc::clone(&store), taken.clone());
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for number in 0..COMMITS {
                let event = tenant.event(&format!("load.{writer}_{number}"));
                let told = Changes::new().audit(tenant.audit("load.sent")).event(event.clone());
                if number % 3 == 0 {
                    let failing = told.clone().and(inserts([&taken]));
                    store.commit(failing).await.unwrap_err();
                }
                let seq = store.commit(told).await.unwrap().last_event_seq.unwrap();
                mine.push((seq, event.kind));
            }
            mine
        })
    });
    let mut receipts: Vec<(u64, String)> = Vec::new();
    for task in join_all(tasks).await {
        receipts.extend(task.unwrap());
    }
    receipts.sort();
    let expected: Vec<u64> = (1..=(WRITERS * COMMITS) as u64).collect();
    for kind in [LogKind::Audit, LogKind::Event] {
        let entries = store.read_log(&Scope::Instance, &LogQuery::after(kind, 0, 500)).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), expected, "{kind:?}");
        if kind == LogKind::Event {
            let logged =
                entries.iter().map(|entry| (entry.seq, entry.row.body["type"].as_str().unwrap().to_owned()));
            assert_eq!(logged.collect::<Vec<_>>(), receipts);
        }
    }
}

/// A deduplication key that many send at once is added once, and nobody sees an error.
pub async fn concurrent_repeats_are_dropped(backend: &dyn Backend) {
    let (_guard, store) = fresh_store(backend).await;
    let tenant = Tenant::random();
    let owner = Uuid::new_v4();
    let sends = (0..12).map(|number| {
        let key = format!("key {}", number % 3);
        let row = LogRow { dedup_key: Some(key), ..tenant.entry(LogKind::NodeEvent, owner, 0) };
        commit(&store, appends([&row]))
    });
    for outcome in join_all(sends).await {
        outcome.unwrap();
    }
    let entries = store.read_log(&Scope::Instance, &LogQuery::newest(LogKind::NodeEvent, 100)).await.unwrap();
    assert_eq!(entries.len(), 3);
}

/// Commits on a task of its own, so that commits truly run at once.
async fn commit(store: &Arc<dyn Store>, changes: Changes) -> Result<()> {
    let store = Arc::clone(store);
    let task = tokio::spawn(async move { store.commit(changes).await });
    task.await.expect("the commit panicked").map(drop)
}
