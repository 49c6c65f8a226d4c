//! What only shows between processes: crashes, and files.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use zentinel_core::entity::{Event, Organisation};
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{Clock as _, NewJob, Query, Queue, Scheduler as _, Store as _, SystemClock};
use zentinel_core::{Changes, PageRequest, RecordKind, Scope};
use zentinel_store::sqlite::SqliteStore;

const DATABASE: &str = "ZENTINEL_TEST_CHILD_DATABASE";
const NAME: &str = "ZENTINEL_TEST_CHILD_NAME";

/// Not a test of its own: the tests below run it as a child. Commits two records, an event and a
/// job at a time until it is killed, and prints the number of every commit that returned.
#[tokio::test]
async fn child_that_commits() {
    let Ok(path) = std::env::var(DATABASE) else { return };
    let name = std::env::var(NAME).unwrap();
    let store = SqliteStore::open(Path::new(&path)).await.unwrap();
    for number in 0..u32::MAX {
        let now = SystemClock.now();
        let first = Organisation::new(&format!("{name} {number} first"), now).unwrap();
        let second = Organisation::new(&format!("{name} {number} second"), now).unwrap();
        let changes = Changes::new()
            .insert(&first)
            .and_then(|changes| changes.insert(&second))
            .unwrap()
            .event(Event::new(&Scope::Instance, "child.committed", number.into(), now))
            .job(NewJob::new(Queue::Default, "child", number.into(), now));
        store.commit(changes).await.unwrap();
        println!("committed {number}");
    }
}

struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(path: &Path, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite_process::child_that_commits", "--nocapture"])
            .env(DATABASE, path)
            .env(NAME, name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Waits until the child says that it committed `number`.
    fn wait_for(&mut self, number: u32) {
        while self.next() != Some(number) {}
    }

    /// The next commit that the child tells of; `None` for another line.
    fn next(&mut self) -> Option<u32> {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the child ended by itself");
        line.trim().rsplit_once("committed ").and_then(|(_, number)| number.parse().ok())
    }

    /// Kills the child with SIGKILL; returns the last commit that it told of.
    fn kill(mut self, mut last: u32) -> u32 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let (true, Some((_, number))) = (line.ends_with('\n'), line.trim().rsplit_once("committed ")) {
                last = number.parse().unwrap();
            }
            line.clear();
        }
        last
    }
}

/// Nothing that was acknowledged is lost when the process is killed, and nothing is half there.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zentinel.db");
    let mut total = 0;
    for round in 0..3u64 {
        let mut running = Running::start(&path, &format!("round {round}"));
        running.wait_for(60);
        let acknowledged = u64::from(running.kill(60)) + 1;

        let store = SqliteStore::open(&path).await.unwrap();
        let bulk = PageRequest { limit: 10_000, cursor: None };
        let all = Query::all(RecordKind::Organisation).page(bulk);
        let organisations = store.query(&Scope::Instance, &all).await.unwrap().total;
        let newest = store.read_log(&Scope::Instance, &LogQuery::newest(LogKind::Event, 1)).await.unwrap();
        let events = store.count_log(&Scope::Instance, LogKind::Event, None).await.unwrap();
        let jobs = store.stats(Queue::Default, SystemClock.now()).await.unwrap();
        assert_eq!(organisations, 2 * events);
        assert_eq!(jobs.due + jobs.later, events);
        assert_eq!(newest[0].seq, events, "a gap in the sequence");
        // One commit may have been made that the child could not tell of any more.
        assert!(
            (total + acknowledged..=total + acknowledged + 1).contains(&events),
            "{events} events, {total} before, {acknowledged} acknowledged"
        );
        total = events;
        store.close().await;
    }
    let mut connection = {
        use sqlx::Connection as _;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        sqlx::SqliteConnection::connect_with(&options).await.unwrap()
    };
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(check, "ok");
}

/// Processes that create the same file at once take turns, also when they write.
#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_fresh_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zentinel.db");
    let mut running: Vec<Running> =
        (0..3).map(|number| Running::start(&path, &format!("process {number}"))).collect();
    for process in &mut running {
        process.wait_for(20);
    }
    let told: u64 = running.into_iter().map(|process| u64::from(process.kill(20)) + 1).sum();
    let store = SqliteStore::open(&path).await.unwrap();
    let events = store.count_log(&Scope::Instance, LogKind::Event, None).await.unwrap();
    assert!((told..=told + 3).contains(&events), "{events} events, {told} told of");
}

/// Only the owner reads the database and what SQLite keeps beside it.
#[cfg(unix)]
#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("zentinel.db")).await.unwrap();
    let organisation = Organisation::new("Example", SystemClock.now()).unwrap();
    store.commit(Changes::new().insert(&organisation).unwrap()).await.unwrap();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?} has mode {mode:o}", entry.path());
        files.push(entry.file_name().into_string().unwrap());
    }
    files.sort();
    assert_eq!(files, ["zentinel.db", "zentinel.db-shm", "zentinel.db-wal"]);
}
