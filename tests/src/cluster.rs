//! A PostgreSQL server of the test's own, with everything on that durability needs, that can be killed.

use crate::plane::free_port;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long the server may take to answer; after a kill it recovers first.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server with one database; killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    port: u16,
    postmaster: Option<Child>,
}

impl Cluster {
    /// Makes a cluster and starts its server.
    ///
    /// # Panics
    /// When PostgreSQL is not installed: `.ci/services.sh` installs it.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let data = directory.path().join("data");
        let make = move |directory: &Path| {
            if is_root() {
                run(Command::new("chown").arg("postgres").arg(directory));
            }
            let mut initdb = as_server(&program("initdb"));
            let arguments = ["-U", "zentinel", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];
            run(initdb.arg("-D").arg(&data).args(arguments).current_dir("/"));
        };
        let path = directory.path().to_owned();
        tokio::task::spawn_blocking(move || make(&path)).await.expect("initdb");
        let mut cluster = Self { directory, port: free_port(), postmaster: None };
        cluster.start_again().await;
        let mut connection = cluster.connect("postgres").await.expect("it answers");
        connection.execute("CREATE DATABASE zentinel").await.expect("a database");
        cluster
    }

    /// The URL of its database.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("zentinel")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://zentinel@127.0.0.1:{}/{database}", self.port)
    }

    async fn connect(&self, database: &str) -> Option<PgConnection> {
        PgConnection::connect(&self.url_of(database)).await.ok()
    }

    /// Kills the server and all its processes with SIGKILL; what they had not made durable is lost.
    pub async fn kill(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        let kill = move || {
            let mut processes = vec![postmaster.id().to_string()];
            processes.extend(children_of(postmaster.id()));
            // Some may be gone by now, which is as good.
            drop(Command::new("kill").arg("-KILL").args(&processes).stderr(Stdio::null()).status());
            postmaster.wait().expect("it is killed");
        };
        tokio::task::spawn_blocking(kill).await.expect("it is killed");
    }

    /// Starts it on its data and port, and waits until it has recovered.
    pub async fn start_again(&mut self) {
        let data = self.directory.path().join("data");
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.directory.path().display()),
            "max_connections=100".to_owned(),
            "fsync=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            "full_page_writes=on".to_owned(),
        ];
        let start = || {
            let mut command = as_server(&program("postgres"));
            command.arg("-D").arg(&data).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).process_group(0);
            settings.iter().for_each(|setting| {
                command.arg("-c").arg(setting);
            });
            command.spawn().expect("it starts")
        };
        let begun = std::time::Instant::now();
        let mut child = start();
        loop {
            if self.connect("postgres").await.is_some() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not answer");
            if child.try_wait().expect("a child").is_some() {
                // A process of the server that was killed still holds its shared memory.
                tokio::time::sleep(Duration::from_millis(200)).await;
                child = start();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.postmaster = Some(child);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            drop(postmaster.kill());
            drop(postmaster.wait());
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

/// PostgreSQL refuses to run as root.
fn as_server(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

/// Debian keeps the server's programs off the PATH, by version.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn children_of(parent: u32) -> Vec<String> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    children.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
