//! Records, logs and jobs in PostgreSQL: several servers, one database.
//!
//! Every replica hears of every commit through `LISTEN`/`NOTIFY`: a commit's notices are part of
//! its transaction. Work that collides with other work is tried again inside.

mod driver;
mod listener;
mod nul;

use crate::sql::notices::Notices;
use crate::sql::{
    Arg, Backend, Class, Column, ColumnType, Fault, Instant, Session as _, Statement, impl_ports,
};
use chrono::SecondsFormat;
use listener::{CHANNEL, payloads};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, Pool, Postgres};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use zentinel_core::port::Notice;
use zentinel_core::{Error, Result, Timestamp};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a call waits for a connection, a new one included.
const PATIENCE: Duration = Duration::from_secs(5);
/// An idle connection is tested before use once it was idle for this long.
const TRUSTED: Duration = Duration::from_secs(1);
/// Distinct statements kept prepared per connection.
const PREPARED: usize = 256;
/// No statement runs for ever, and no lost client keeps locks.
const SESSION: &str = "SET statement_timeout = '60s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '60s'";

/// A [`Store`](zentinel_core::port::Store) and [`Scheduler`](zentinel_core::port::Scheduler) in
/// one PostgreSQL database (version 14 or newer). Clones share their connections.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Pg>,
}

struct Pg {
    pool: Pool<Postgres>,
    notices: Notices,
    listener: AbortHandle,
}

impl Drop for Pg {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl PostgresStore {
    /// Connects to the database of `url` (`postgres://user:password@host:port/database`), with at
    /// most `pool_size` connections and one more that listens, and brings its schema up to date.
    /// Of several servers that start at once one migrates and the others wait.
    ///
    /// # Errors
    /// `Invalid` for a URL that is none, `Unavailable` when the database does not answer,
    /// `Internal` when it has another program's or a newer version's schema.
    pub async fn connect(url: &str, pool_size: u32) -> Result<Self> {
        let options: PgConnectOptions = url
            .parse()
            .map_err(|error: sqlx::Error| Error::invalid("the database URL is invalid").with_source(error))?;
        let options = options.application_name("zentinel").statement_cache_capacity(PREPARED);
        migrate(&options).await?;
        let open = async {
            let pool = pool(pool_size).connect_with(options.clone()).await?;
            Ok((pool, listener::listen(&options).await?))
        };
        let (pool, listener) = open.await.map_err(told)?;
        let notices = Notices::new();
        let listener = tokio::spawn(listener::run(listener, options, notices.clone())).abort_handle();
        Ok(Self { inner: Arc::new(Pg { pool, notices, listener }) })
    }

    /// Waits for running calls and closes every connection. Later calls fail with `Unavailable`.
    pub async fn close(&self) {
        self.inner.listener.abort();
        self.inner.pool.close().await;
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection options hold a password: they stay out.
        f.debug_struct("PostgresStore").field("connections", &self.inner.pool.size()).finish_non_exhaustive()
    }
}

fn told(error: sqlx::Error) -> Error {
    Fault::from(error).into_error::<Pg>()
}

fn pool(size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size.max(1))
        .acquire_timeout(PATIENCE)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(SESSION).execute(connection).await?;
                Ok(())
            })
        })
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

/// Brings the schema up to date, under the migrator's advisory lock.
async fn migrate(options: &PgConnectOptions) -> Result<()> {
    let connecting = tokio::time::timeout(PATIENCE, PgConnection::connect_with(options)).await;
    let connecting =
        connecting.map_err(|error| Error::unavailable("the database is not available").with_source(error))?;
    let mut connection = connecting.map_err(told)?;
    match MIGRATIONS.run_direct(None, &mut connection, false).await {
        Ok(()) => connection.close().await.map_err(told),
        Err(MigrateError::Execute(error)) => Err(told(error)),
        Err(error) => Err(Error::internal("the database schema cannot be migrated").with_source(error)),
    }
}

impl Backend for Pg {
    type Db = Postgres;
    type Connection = PgConnection;

    const BEGIN: &'static str = "BEGIN";
    const FOR_SHARE: &'static str = " FOR SHARE";
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    const SKIP_LOCKED: &'static str = " FOR UPDATE SKIP LOCKED";
    const UNINDEXED: &'static str = "";
    const HAS_LABEL: &'static str = "body->'labels' @> ?";

    fn readers(&self) -> &Pool<Postgres> {
        &self.pool
    }

    fn writers(&self) -> &Pool<Postgres> {
        &self.pool
    }

    fn set(n: usize, columns: &[Column]) -> String {
        let column = |(name, kind): &Column| {
            let kind = match kind {
                ColumnType::Uuid => "uuid",
                ColumnType::Text => "text",
                ColumnType::Int => "bigint",
                ColumnType::Time => "timestamptz",
                ColumnType::Json => "jsonb",
            };
            format!("{name} {kind}")
        };
        let columns: Vec<String> = columns.iter().map(column).collect();
        format!("jsonb_to_recordset(${n}) AS x({})", columns.join(", "))
    }

    fn uuids() -> &'static str {
        "(SELECT value::uuid FROM jsonb_array_elements_text(?))"
    }

    fn instant(at: Timestamp) -> Instant {
        Instant::Text(at.to_rfc3339_opts(SecondsFormat::Micros, true))
    }

    fn classify(code: &str) -> Class {
        match code {
            // Serialization failure, deadlock.
            "40001" | "40P01" => Class::Collision,
            // A standby, a lock or statement timeout, a server that shuts down or starts.
            "25006" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" => Class::Away,
            // No such database, or one that takes no connections.
            "3D000" | "55000" => Class::Away,
            // Connection exceptions, refused logins, insufficient resources, system errors.
            _ if ["08", "28", "53", "58"].iter().any(|class| code.starts_with(class)) => Class::Away,
            _ if code.starts_with("22") => Class::Value,
            _ => Class::Defect,
        }
    }

    async fn announce(connection: &mut PgConnection, notices: &[Notice]) -> Result<(), Fault> {
        let payloads = serde_json::to_string(&payloads(notices)?)?;
        let notify = Statement::new("SELECT pg_notify($1, value) FROM jsonb_array_elements_text($2)")
            .arg(CHANNEL)
            .arg(Arg::Json(payloads));
        connection.rows(notify).await?;
        Ok(())
    }

    fn committed(&self, _: Vec<Notice>) {}
}

impl_ports!(PostgresStore, Pg);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_what_a_caller_can_do() {
        for (code, class) in [
            ("40001", Class::Collision),
            ("40P01", Class::Collision),
            ("57P01", Class::Away),
            ("08006", Class::Away),
            ("53300", Class::Away),
            ("55P03", Class::Away),
            ("25006", Class::Away),
            ("22003", Class::Value),
            ("42P01", Class::Defect),
            ("23505", Class::Defect),
        ] {
            assert_eq!(Pg::classify(code), class, "{code}");
        }
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_invalid() {
        let error = PostgresStore::connect("not a url", 1).await.unwrap_err();
        assert_eq!(error.kind(), zentinel_core::Kind::Invalid);
    }
}
