//! The conformance suite on every back end, and what only some back ends promise.
//!
//! The PostgreSQL tests need a server: `ZENTINEL_TEST_DATABASE_URL` names a database of it, whose
//! user may create databases. Every case gets a database of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod database;
mod postgres_faults;
mod schema;
mod sqlite_process;

use async_trait::async_trait;
use database::Database;
use std::sync::Arc;
use zentinel_core::entity::Organisation;
use zentinel_core::port::{Clock as _, Order, Query, Scheduler, Store, SystemClock};
use zentinel_core::{Changes, Record as _, RecordKind, Revision, Row, Scope, Write};
use zentinel_store::MemoryStore;
use zentinel_store::conformance::{Backend, Guard};
use zentinel_store::postgres::PostgresStore;
use zentinel_store::sqlite::SqliteStore;

struct Memory;

#[async_trait]
impl Backend for Memory {
    async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
        let store = Arc::new(MemoryStore::new());
        (Guard::new(()), store.clone(), store)
    }
}

struct Sqlite;

#[async_trait]
impl Backend for Sqlite {
    async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
        let guard = Guard::new(tempfile::tempdir().unwrap());
        let (store, scheduler) = self.reopen(&guard).await.unwrap();
        (guard, store, scheduler)
    }

    async fn reopen(&self, guard: &Guard) -> Option<(Arc<dyn Store>, Arc<dyn Scheduler>)> {
        let path = guard.get::<tempfile::TempDir>()?.path().join("zentinel.db");
        let store = Arc::new(SqliteStore::open(&path).await.unwrap());
        Some((store.clone(), store))
    }
}

struct Postgres;

#[async_trait]
impl Backend for Postgres {
    async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
        let guard = Guard::new(Database::create().await);
        let (store, scheduler) = self.reopen(&guard).await.unwrap();
        (guard, store, scheduler)
    }

    async fn reopen(&self, guard: &Guard) -> Option<(Arc<dyn Store>, Arc<dyn Scheduler>)> {
        let store = Arc::new(PostgresStore::connect(&guard.get::<Database>()?.url, 6).await.unwrap());
        Some((store.clone(), store))
    }
}

mod memory {
    zentinel_store::conformance::store_suite!(super::Memory);
    zentinel_store::conformance::scheduler_suite!(super::Memory);
}

mod sqlite {
    zentinel_store::conformance::store_suite!(super::Sqlite);
    zentinel_store::conformance::scheduler_suite!(super::Sqlite);
    zentinel_store::conformance::durable_suite!(super::Sqlite);
}

mod postgres {
    zentinel_store::conformance::store_suite!(super::Postgres);
    zentinel_store::conformance::scheduler_suite!(super::Postgres);
    zentinel_store::conformance::durable_suite!(super::Postgres);
}

/// Renaming along a chain in one commit works in the order of the writes, however the back end
/// groups them; in the wrong order the key is taken.
async fn names_move_along_a_chain(backend: &dyn Backend) {
    let (_guard, store, _) = backend.fresh().await;
    let now = SystemClock.now();
    let names = |number: usize| format!("name-{number:03}");
    let rows: Vec<Row> =
        (0..50).map(|number| Organisation::new(&names(number), now).unwrap().to_row().unwrap()).collect();
    let write = |writes: Vec<Write>| Changes { writes, ..Changes::new() };
    store.commit(write(rows.iter().cloned().map(Write::Insert).collect())).await.unwrap();
    let up = |(number, row): (usize, &Row)| Write::Update {
        row: Row { natural_key: Some(names(number + 1)), ..row.clone() },
        expected: Revision(1),
    };
    let wrong: Vec<Write> = rows.iter().enumerate().map(up).collect();
    let error = store.commit(write(wrong.clone())).await.unwrap_err();
    assert_eq!(error.fields()["slug"], ["has already been taken"]);
    store.commit(write(wrong.into_iter().rev().collect())).await.unwrap();
    let query = Query::all(RecordKind::Organisation).ordered(Order::Name);
    let page = store.query(&Scope::Instance, &query).await.unwrap();
    let found: Vec<_> = page.items.iter().map(|row| (row.id, row.revision)).collect();
    let expected: Vec<_> = rows.iter().map(|row| (row.id, Revision(2))).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn names_move_along_a_chain_on_every_back_end() {
    names_move_along_a_chain(&Memory).await;
    names_move_along_a_chain(&Sqlite).await;
    names_move_along_a_chain(&Postgres).await;
}
