//! Records, logs and jobs in SQLite: one server, one file.
//!
//! The database runs in WAL mode: one connection writes, a pool of read-only connections reads
//! beside it. A commit that returned survives a crash of the process; whether it also survives a
//! power cut is [`Durability`].

mod driver;

use crate::sql::notices::Notices;
use crate::sql::{Backend, Class, Column, ColumnType, Fault, Instant, impl_ports};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Pool, Sqlite, SqliteConnection};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};
use zentinel_core::port::Notice;
use zentinel_core::{Error, Result, Timestamp};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a call waits for a connection or for another process's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the start waits for another process that creates or migrates the same file.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Distinct statements kept prepared per connection.
const PREPARED: usize = 256;

/// What a commit that returned survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the process (`synchronous=NORMAL`). A power cut may undo the last commits, but
    /// never damages the file.
    #[default]
    Process,
    /// A power cut too (`synchronous=FULL`): every commit waits for the disk.
    Power,
}

/// How a database file is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// The file; created with mode 0600 when it is absent.
    pub path: PathBuf,
    /// What a commit survives.
    pub durability: Durability,
    /// Number of connections that read.
    pub readers: u32,
}

impl SqliteOptions {
    /// The defaults for a file: durable against a crash of the process, four readers.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), durability: Durability::default(), readers: 4 }
    }
}

/// A [`Store`](zentinel_core::port::Store) and [`Scheduler`](zentinel_core::port::Scheduler) in
/// one SQLite file. Clones share their connections.
///
/// Several processes may open the same file; notices reach only the watchers of the process that
/// committed. Use PostgreSQL for several servers.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Lite>,
}

pub(crate) struct Lite {
    writer: Pool<Sqlite>,
    readers: Pool<Sqlite>,
    notices: Notices,
}

impl SqliteStore {
    /// Opens or creates a database file with the default options and brings its schema up to date.
    ///
    /// # Errors
    /// As [`SqliteStore::open_with`].
    pub async fn open(path: &Path) -> Result<Self> {
        Self::open_with(&SqliteOptions::new(path)).await
    }

    /// Opens or creates a database file and brings its schema up to date.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened or stays locked, `Internal` when it is no
    /// database or has another program's or a newer version's schema.
    pub async fn open_with(options: &SqliteOptions) -> Result<Self> {
        create_private(&options.path)?;
        let connect = SqliteConnectOptions::new()
            .filename(&options.path)
            .foreign_keys(true)
            .busy_timeout(PATIENCE)
            .statement_cache_capacity(PREPARED)
            .pragma("temp_store", "memory");
        // The system keeps the file's pages too: only the one connection that changes them gains much.
        let reading = connect.clone().read_only(true).pragma("cache_size", "-4096");
        let writing = connect
            .pragma("cache_size", "-32768")
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match options.durability {
                Durability::Process => SqliteSynchronous::Normal,
                Durability::Power => SqliteSynchronous::Full,
            })
            .pragma("journal_size_limit", "67108864")
            // Reports are spread over the whole file: the longer the log, the more of them meet in a page.
            .pragma("wal_autocheckpoint", "8192");
        migrate(&writing).await?;
        let pool =
            || SqlitePoolOptions::new().acquire_timeout(PATIENCE).max_lifetime(None).idle_timeout(None);
        let open = async {
            let writer = pool()
                .max_connections(1)
                .min_connections(1)
                .after_release(|connection, _| Box::pin(is_idle(connection)));
            let writer = writer.connect_with(writing).await?;
            let readers = pool().max_connections(options.readers.max(1)).connect_with(reading).await?;
            Ok(Lite { writer, readers, notices: Notices::new() })
        };
        let lite = open.await.map_err(|error: sqlx::Error| Fault::from(error).into_error::<Lite>())?;
        Ok(Self { inner: Arc::new(lite) })
    }

    /// Waits for running calls and closes every connection. Later calls fail with `Unavailable`.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.inner.writer.connect_options().get_filename())
            .finish()
    }
}

/// Creates an absent file readable by its owner only; SQLite gives its companions the same mode.
fn create_private(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::unavailable("the database file cannot be created").with_source(error)),
    }
}

/// Brings the schema up to date. The whole migration is one transaction under the file's write
/// lock, so that of several processes that start at once one migrates and the others wait.
async fn migrate(options: &SqliteConnectOptions) -> Result<()> {
    let start = Monotonic::now();
    loop {
        match try_migrate(options).await {
            Ok(()) => return Ok(()),
            // Two processes that switch a new file to WAL at once may refuse each other at once.
            Err(MigrateError::Execute(error)) if is_busy(&error) && start.elapsed() < START_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(rand::random_range(5..50))).await;
            }
            Err(MigrateError::Execute(error)) => return Err(Fault::from(error).into_error::<Lite>()),
            Err(error) => {
                return Err(Error::internal("the database schema cannot be migrated").with_source(error));
            }
        }
    }
}

async fn try_migrate(options: &SqliteConnectOptions) -> Result<(), MigrateError> {
    let mut connection = SqliteConnection::connect_with(options).await?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATIONS.run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}

/// Whether the connection can be used again. When the disk is full SQLite ends the transaction by
/// itself; the driver, whose own rollback then fails, would take the connection for busy ever after.
async fn is_idle(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // A queued rollback is carried out first.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| primary(&code));
    matches!(code, Some(BUSY | LOCKED))
}

const BUSY: u32 = 5;
const LOCKED: u32 = 6;

/// The primary result code of an extended one.
fn primary(code: &str) -> u32 {
    code.parse::<u32>().unwrap_or_default() & 0xff
}

impl Backend for Lite {
    type Db = Sqlite;
    type Connection = SqliteConnection;

    // A deferred transaction that turns into a writing one is refused at once when busy.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const FOR_SHARE: &'static str = "";
    const FOR_UPDATE: &'static str = "";
    const SKIP_LOCKED: &'static str = "";
    const UNINDEXED: &'static str = "+";
    const HAS_LABEL: &'static str = "EXISTS (SELECT 1 FROM json_each(?) AS wanted, \
        json_each(body, '$.labels') AS has WHERE has.key = wanted.key AND has.type = 'text' \
        AND has.value = wanted.value)";

    fn readers(&self) -> &Pool<Sqlite> {
        &self.readers
    }

    fn writers(&self) -> &Pool<Sqlite> {
        &self.writer
    }

    fn set(n: usize, columns: &[Column]) -> String {
        let column = |(name, kind): &Column| match kind {
            ColumnType::Json => format!("value -> '{name}' AS {name}"),
            _ => format!("value ->> '{name}' AS {name}"),
        };
        let columns: Vec<String> = columns.iter().map(column).collect();
        // `json_each` would write every row out as text again for each of its columns.
        format!("(SELECT {} FROM jsonb_each(${n})) AS x", columns.join(", "))
    }

    fn uuids() -> &'static str {
        "(SELECT value FROM json_each(?))"
    }

    fn instant(at: Timestamp) -> Instant {
        Instant::Micros(at.timestamp_micros())
    }

    fn classify(code: &str) -> Class {
        match primary(code) {
            // BUSY, LOCKED, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
            BUSY | LOCKED | 8..=10 | 13..=15 => Class::Away,
            // TOOBIG, MISMATCH.
            18 | 20 => Class::Value,
            _ => Class::Defect,
        }
    }

    async fn announce(_: &mut SqliteConnection, _: &[Notice]) -> Result<(), Fault> {
        Ok(())
    }

    fn committed(&self, notices: Vec<Notice>) {
        for notice in notices {
            self.notices.tell(notice);
        }
    }
}

impl_ports!(SqliteStore, Lite);

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::entity::Event;
    use zentinel_core::port::Store as _;
    use zentinel_core::{Changes, Scope};

    #[tokio::test]
    async fn a_transaction_that_sqlite_ended_itself_blocks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("test.db")).await.unwrap();
        let mut transaction = store.inner.writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
        // What SQLite does when the disk is full.
        sqlx::raw_sql("ROLLBACK").execute(&mut *transaction).await.unwrap();
        assert!(transaction.commit().await.is_err());
        let event = Event::new(&Scope::Instance, "test.after", serde_json::json!({}), Timestamp::UNIX_EPOCH);
        let receipt = store.commit(Changes::new().event(event)).await.expect("the next one is not concerned");
        assert!(receipt.last_event_seq.is_some());
    }

    #[test]
    fn extended_codes_mean_what_their_primary_code_means() {
        // BUSY_SNAPSHOT, IOERR_FSYNC, CANTOPEN_ISDIR, FULL, TOOBIG, CORRUPT, CONSTRAINT_UNIQUE.
        for (code, class) in [
            ("517", Class::Away),
            ("1034", Class::Away),
            ("526", Class::Away),
            ("13", Class::Away),
            ("18", Class::Value),
            ("11", Class::Defect),
            ("2067", Class::Defect),
            ("", Class::Defect),
        ] {
            assert_eq!(Lite::classify(code), class, "{code}");
        }
    }
}
