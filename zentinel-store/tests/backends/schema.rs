//! The two schemas agree, and start-up is safe.

use crate::database::Database;
use futures_util::future::join_all;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Executor as _, Row as _, SqliteConnection};
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{AuditEntry, Organisation};
use zentinel_core::log::LogKind;
use zentinel_core::port::{Clock as _, Store as _, SystemClock};
use zentinel_core::{Actor, Changes, Error, RecordKind, Scope};
use zentinel_store::postgres::PostgresStore;
use zentinel_store::sqlite::SqliteStore;

type Tables = BTreeMap<String, BTreeSet<String>>;

async fn sqlite_tables(connection: &mut SqliteConnection) -> Tables {
    let sql = "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c \
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'";
    let mut tables = Tables::new();
    for row in sqlx::query(sql).fetch_all(connection).await.unwrap() {
        tables.entry(row.get(0)).or_default().insert(row.get(1));
    }
    tables
}

/// Both migrations declare the same tables with the same columns, one for every kind.
#[tokio::test]
async fn both_schemas_have_the_same_tables_and_columns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zentinel.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let options = SqliteConnectOptions::new().filename(&path);
    let sqlite = sqlite_tables(&mut SqliteConnection::connect_with(&options).await.unwrap()).await;

    let database = Database::create().await;
    let mut postgres = Tables::new();
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns \
        WHERE table_schema = 'public'";
    for row in sqlx::query(sql).fetch_all(&mut database.connect().await).await.unwrap() {
        postgres.entry(row.get(0)).or_default().insert(row.get(1));
    }
    assert_eq!(sqlite, postgres);
    let named = RecordKind::ALL.map(RecordKind::table).into_iter().chain(LogKind::ALL.map(LogKind::table));
    for table in named {
        assert!(sqlite.contains_key(table), "no table {table}");
    }
}

fn audited() -> Changes {
    let entry = AuditEntry::new(&Scope::Instance, Actor::System, "test.started", "x", SystemClock.now());
    Changes::new().audit(entry)
}

/// Nothing changes the audit log but appending to it, not even SQL.
#[tokio::test]
async fn the_audit_log_refuses_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zentinel.db");
    let lite = SqliteStore::open(&path).await.unwrap();
    lite.commit(audited()).await.unwrap();
    let options = SqliteConnectOptions::new().filename(&path);
    let mut sqlite = SqliteConnection::connect_with(&options).await.unwrap();
    let database = Database::create().await;
    let store = PostgresStore::connect(&database.url, 2).await.unwrap();
    store.commit(audited()).await.unwrap();
    let mut postgres = database.connect().await;
    for sql in ["UPDATE audit_log SET owner = owner", "DELETE FROM audit_log"] {
        let refused = sqlite.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{refused}");
        let refused = postgres.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{refused}");
    }
    let refused = postgres.execute("TRUNCATE audit_log").await.unwrap_err().to_string();
    assert!(refused.contains("append-only"), "{refused}");
    assert_eq!(lite.count_log(&Scope::Instance, LogKind::Audit, None).await.unwrap(), 1);
    assert_eq!(store.count_log(&Scope::Instance, LogKind::Audit, None).await.unwrap(), 1);
}

/// Many handles that open the same fresh database at once all get a working store.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_open_a_fresh_database_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zentinel.db");
    let opened = join_all((0..6).map(|number| {
        let path = path.clone();
        tokio::spawn(async move {
            let store = SqliteStore::open(&path).await?;
            store.commit(Changes::new().insert(&organisation(number))?).await
        })
    }));
    for outcome in opened.await {
        outcome.unwrap().unwrap();
    }
    let counts = SqliteStore::open(&path).await.unwrap();
    let counts = counts.count_by_state(&Scope::Instance, RecordKind::Organisation).await.unwrap();
    assert_eq!(counts.values().sum::<u64>(), 6);

    let database = Database::create_empty().await;
    let opened = join_all((0..6).map(|number| {
        let url = database.url.clone();
        tokio::spawn(async move {
            let store = PostgresStore::connect(&url, 2).await?;
            store.commit(Changes::new().insert(&organisation(number))?).await
        })
    }));
    for outcome in opened.await {
        outcome.unwrap().unwrap();
    }
    let counts = PostgresStore::connect(&database.url, 1).await.unwrap();
    let counts = counts.count_by_state(&Scope::Instance, RecordKind::Organisation).await.unwrap();
    assert_eq!(counts.values().sum::<u64>(), 6);
}

fn organisation(number: u32) -> Organisation {
    Organisation::new(&format!("Example {number}"), SystemClock.now()).unwrap()
}

/// What is not ours is refused, not overwritten.
#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zentinel.db");
    let text = "This is not a database, but a text of some length.\n".repeat(40);
    std::fs::write(&path, &text).unwrap();
    SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let missing: Error = SqliteStore::open(&directory.path().join("a/b.db")).await.unwrap_err();
    assert_eq!(missing.kind(), zentinel_core::Kind::Unavailable);
}
