//! One PostgreSQL database per case, copied from a migrated one and dropped afterwards.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;
use tokio::sync::OnceCell;
use zentinel_store::postgres::PostgresStore;

/// Where the server is.
fn server() -> String {
    std::env::var("ZENTINEL_TEST_DATABASE_URL").expect(
        "ZENTINEL_TEST_DATABASE_URL is not set: this test needs a PostgreSQL server. \
         Run the test command of the README, which starts one.",
    )
}

/// The URL of another database of the same server.
fn sibling(name: &str) -> String {
    let mut url: url::Url = server().parse().expect("ZENTINEL_TEST_DATABASE_URL is not a URL");
    url.set_path(name);
    url.into()
}

async fn admin() -> PgConnection {
    PgConnection::connect(&server()).await.expect("the server of ZENTINEL_TEST_DATABASE_URL does not answer")
}

async fn execute(connection: &mut PgConnection, sql: String) {
    connection.execute(AssertSqlSafe(sql.clone())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The migrated database that others are copied from. Its name follows from the schema, so that
/// it is made once per server.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE.get_or_init(make_template).await
}

async fn make_template() -> String {
    let mut hasher = DefaultHasher::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres")).unwrap() {
        std::fs::read_to_string(entry.unwrap().path()).unwrap().hash(&mut hasher);
    }
    let name = format!("zentinel_template_{:016x}", hasher.finish());
    let mut admin = admin().await;
    // Test processes that start at once make it once.
    execute(&mut admin, "SELECT pg_advisory_lock(72656564)".to_owned()).await;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    if !there {
        let making = format!("{name}_making");
        execute(&mut admin, format!("DROP DATABASE IF EXISTS {making} WITH (FORCE)")).await;
        execute(&mut admin, format!("CREATE DATABASE {making} TEMPLATE template0")).await;
        PostgresStore::connect(&sibling(&making), 1).await.unwrap().close().await;
        // A database is renamed once its last connection is gone.
        let rename = format!("ALTER DATABASE {making} RENAME TO {name}");
        for attempt in 0.. {
            match admin.execute(AssertSqlSafe(rename.clone())).await {
                Ok(_) => break,
                Err(error) if attempt == 100 => panic!("{rename}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    admin.close().await.unwrap();
    name
}

/// A database of one test.
pub(crate) struct Database {
    name: String,
    /// For [`PostgresStore::connect`].
    pub(crate) url: String,
}

impl Database {
    /// A fresh database with the current schema.
    pub(crate) async fn create() -> Self {
        Self::from(template().await).await
    }

    /// A fresh database without any schema.
    pub(crate) async fn create_empty() -> Self {
        Self::from("template0").await
    }

    async fn from(template: &str) -> Self {
        let name = format!("zentinel_test_{}", uuid::Uuid::new_v4().simple());
        let mut admin = admin().await;
        execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        admin.close().await.unwrap();
        Self { url: sibling(&name), name }
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A runtime of its own: this may run within another one, which must not block.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { execute(&mut admin().await, drop).await });
        });
        if dropping.join().is_err() && !std::thread::panicking() {
            panic!("the database of the test could not be dropped");
        }
    }
}
