//! The conformance suite on every back end, and what only some back ends promise.
//!
//! The PostgreSQL tests need a server: `ZENTINEL_TEST_DATABASE_URL` names a database of it, whose
//! user may create databases. Every case gets a database of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod database;
mod postgres_faults;
mod schema;
mod sqlite_process;

use async_trait::async_trait;
use database::Database;
use std::sync::Arc;
use zentinel_core::port::{Scheduler, Store};
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
        let store = Arc::new(
            PostgresStore::connect(&guard.get::<Database>()?.url, 6)
                .await
                .unwrap(),
        );
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
