//! A running control plane on each set of back ends, and nodes that take part.

use crate::binary::{self, Server};
use crate::cluster::Cluster;
use crate::postgres::Database;
use crate::s3::{self, S3Server};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;
use zentinel_compiler::validate::InProcessValidator;
use zentinel_core::port::SystemClock;
use zentinel_core::{Secret, id::BundleId};
use zentinel_http::client::OperatorClient;
use zentinel_server::agent::{Agent, AgentOptions, DirectoryActivator, HealthSource};
use zentinel_server::bootstrap::{Names, bootstrap, join_token};
use zentinel_server::compose::App;
use zentinel_server::settings::{Overrides, load};

/// A control plane under test.
#[derive(Debug)]
pub struct Plane {
    /// Its base URL; stays the same over restarts.
    pub url: Url,
    /// An API key with every scope.
    pub api_key: String,
    /// Slug of the project.
    pub project: String,
    /// A registration token of the project.
    pub join_token: String,
    /// The database server, where there is one.
    pub database: Option<Database>,
    /// The S3 server, where there is one.
    pub s3: Option<S3Server>,
    running: Running,
    directory: TempDir,
}

#[derive(Debug)]
enum Running {
    InProcess(Box<App>),
    Binary { server: Option<Server>, environment: Vec<(String, String)> },
}

/// Settings that make tests quick and leave their request rates alone.
const QUICK: [(&str, &str); 3] = [
    ("ZENTINEL__NODES__POLL_INTERVAL_SECONDS", "5"),
    (
        "ZENTINEL__HTTP__RATE_LIMITS",
        "default=1000000, node=1000000, registration=1000000, nodes:read=1000000, nodes:write=1000000, \
         bundles:read=1000000, bundles:write=1000000, rollouts:read=1000000, rollouts:write=1000000, \
         api_keys:admin=1000000",
    ),
    ("ZENTINEL_LOG", "warn"),
];

impl Plane {
    /// Everything in memory, in this process.
    pub async fn in_memory() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut overrides = Overrides::default();
        for pair in ["listen=127.0.0.1:0", "database.url=memory", "blobs.kind=memory"] {
            overrides.set_pair(pair).expect("a pair");
        }
        overrides.set("data_dir", directory.path().display().to_string());
        let environment = owned(&QUICK);
        let settings = load(None, environment, &overrides).expect("settings");
        // Test binaries can't be re-executed as the parser's child, so the parser runs in process.
        let app = App::start_with(&settings, Some(Arc::new(InProcessValidator::default())))
            .await
            .expect("it starts");
        let names = Names {
            organisation: "Example".into(),
            projects: vec!["Edge".into()],
            email: "ops@example.com".into(),
        };
        let store = &*app.services.store;
        let made = bootstrap(store, &SystemClock, &names).await.expect("bootstrap");
        let token = join_token(store, &SystemClock, &made.projects[0]).await.expect("token");
        Self {
            url: app.public_url.clone(),
            api_key: made.api_key.expose().to_owned(),
            project: made.projects[0].slug.to_string(),
            join_token: token.expose().to_owned(),
            database: None,
            s3: None,
            running: Running::InProcess(Box::new(app)),
            directory,
        }
    }

    /// The binary on embedded SQLite and a local directory.
    pub async fn embedded() -> Self {
        Self::embedded_with(&[]).await
    }

    /// As [`Plane::embedded`], with further environment variables.
    pub async fn embedded_with(settings: &[(&str, &str)]) -> Self {
        Self::binary(None, None, owned(settings)).await
    }

    /// The binary on PostgreSQL and S3.
    pub async fn production() -> Self {
        Self::production_with(&[]).await
    }

    /// As [`Plane::production`], with further environment variables.
    pub async fn production_with(settings: &[(&str, &str)]) -> Self {
        let (database, s3) = (Database::create().await, S3Server::start().await);
        let environment = on_services(&database.url(), &s3, settings);
        Self::binary(Some(database), Some(s3), environment).await
    }

    /// The binary on a PostgreSQL server of the test's own and S3, with further environment variables.
    pub async fn on_cluster(cluster: &Cluster, settings: &[(&str, &str)]) -> Self {
        let s3 = S3Server::start().await;
        let environment = on_services(&cluster.url(), &s3, settings);
        Self::binary(None, Some(s3), environment).await
    }

    async fn binary(
        database: Option<Database>,
        s3: Option<S3Server>,
        mut environment: Vec<(String, String)>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let own = [
            ("ZENTINEL_DATA_DIR", directory.path().join("data").display().to_string()),
            ("ZENTINEL_LISTEN", format!("127.0.0.1:{}", free_port())),
        ];
        let given = std::mem::take(&mut environment);
        environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
        environment.extend(owned(&QUICK));
        // Of two variables with one name the later one counts.
        environment.extend(given);
        // Both start other processes and wait for them, while this process may serve S3.
        let (environment, made, server) = tokio::task::spawn_blocking(move || {
            let made = initialise(&environment, "ops@example.com", &[]);
            let server = Server::start(&environment);
            (environment, made, server)
        })
        .await
        .expect("it starts");
        let text = |field: &str| made[field].as_str().expect("text").to_owned();
        Self {
            url: Url::parse(&server.url).expect("a URL"),
            api_key: text("api_key"),
            project: text("project"),
            join_token: text("join_token"),
            database,
            s3,
            running: Running::Binary { server: Some(server), environment },
            directory,
        }
    }

    /// `kill -9` and start again on the same data and address.
    ///
    /// # Panics
    /// For a plane in this process.
    pub async fn kill_and_restart(&mut self) {
        let Running::Binary { server, environment } = &mut self.running else {
            panic!("only the binary can be killed")
        };
        let (old, environment) = (server.take(), environment.clone());
        let restart = move || {
            old.expect("it runs").kill();
            Server::start(&environment)
        };
        *server = Some(tokio::task::spawn_blocking(restart).await.expect("it starts again"));
    }

    /// `kill -9`; it stays away until [`Plane::start_again`]. Does nothing when it is away.
    ///
    /// # Panics
    /// For a plane in this process.
    pub async fn kill(&mut self) {
        let Running::Binary { server, .. } = &mut self.running else {
            panic!("only the binary can be killed")
        };
        if let Some(server) = server.take() {
            tokio::task::spawn_blocking(move || server.kill()).await.expect("it is killed");
        }
    }

    /// Starts it again on the same data and address.
    ///
    /// # Panics
    /// For a plane in this process.
    pub async fn start_again(&mut self) {
        let Running::Binary { server, environment } = &mut self.running else {
            panic!("only the binary can be started again")
        };
        let environment = environment.clone();
        let start = move || Server::start(&environment);
        *server = Some(tokio::task::spawn_blocking(start).await.expect("it starts again"));
    }

    /// Another administrator's API key, made as an operator of the server makes one. Best while the server is away.
    ///
    /// # Panics
    /// For a plane in this process.
    pub async fn second_person(&self, email: &str) -> String {
        let Running::Binary { environment, .. } = &self.running else {
            panic!("only the binary has a command line")
        };
        let (environment, email) = (environment.clone(), email.to_owned());
        let made = tokio::task::spawn_blocking(move || initialise(&environment, &email, &["--new-secrets"]));
        let made = made.await.expect("it ends");
        made["api_key"].as_str().expect("text").to_owned()
    }

    /// A second process on the same data, on an address of its own. Only where the back ends are shared.
    ///
    /// # Panics
    /// For a plane in this process.
    pub async fn replica(&self) -> Replica {
        let Running::Binary { environment, .. } = &self.running else {
            panic!("only the binary can be doubled")
        };
        let mut environment = environment.clone();
        environment.push(("ZENTINEL_LISTEN".to_owned(), format!("127.0.0.1:{}", free_port())));
        let mut replica = Replica { server: None, environment, url: self.url.clone() };
        replica.start_again().await;
        replica.url = Url::parse(&replica.server.as_ref().expect("it runs").url).expect("a URL");
        replica
    }

    /// The process id of the binary; `None` in this process or while it is away.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        match &self.running {
            Running::InProcess(_) => None,
            Running::Binary { server, .. } => server.as_ref().map(Server::process_id),
        }
    }

    /// Where the binary keeps its data.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends it in order and removes what it used; answers whether it ended well.
    pub async fn stop(self) -> bool {
        let well = match self.running {
            Running::InProcess(app) => {
                app.stop().await;
                true
            }
            Running::Binary { server, .. } => {
                let server = server.expect("it runs");
                tokio::task::spawn_blocking(move || server.terminate()).await.expect("it ends")
            }
        };
        if let Some(database) = self.database {
            database.destroy().await;
        }
        well
    }

    /// An operator's client.
    #[must_use]
    pub fn operator(&self) -> OperatorClient {
        OperatorClient::new(self.url.clone(), Secret::new(self.api_key.clone())).expect("a client")
    }

    /// Starts nodes named `node-0`, `node-1`, ...
    pub async fn nodes(&self, count: usize) -> Vec<TestNode> {
        let mut nodes = Vec::with_capacity(count);
        for index in 0..count {
            nodes.push(TestNode::start(self, &format!("node-{index}")).await);
        }
        nodes
    }
}

/// Another process on the back ends of a [`Plane`]; killed when dropped.
#[derive(Debug)]
pub struct Replica {
    server: Option<Server>,
    environment: Vec<(String, String)>,
    /// Its base URL; stays the same over restarts.
    pub url: Url,
}

impl Replica {
    /// `kill -9`. Does nothing when it is away.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            tokio::task::spawn_blocking(move || server.kill()).await.expect("it is killed");
        }
    }

    /// Starts it on its address.
    pub async fn start_again(&mut self) {
        let environment = self.environment.clone();
        let start = move || Server::start(&environment);
        self.server = Some(tokio::task::spawn_blocking(start).await.expect("it starts"));
    }
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The environment of a server on PostgreSQL and S3.
fn on_services(database: &str, s3: &S3Server, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut environment = owned(&[
        ("DATABASE_URL", database),
        ("ZENTINEL__BLOBS__KIND", "s3"),
        ("S3_ENDPOINT", &s3.endpoint()),
        ("S3_BUCKET", s3::BUCKET),
        ("S3_ACCESS_KEY_ID", s3::ACCESS_KEY),
        ("S3_SECRET_ACCESS_KEY", s3::SECRET_KEY),
    ]);
    environment.extend(owned(settings));
    environment
}

/// A port of 127.0.0.1 that nobody else takes, not even for an outgoing connection: it is below
/// the range that the system hands out, and no two calls give the same.
///
/// # Panics
/// When none is left.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes at the same time begin at different places.
    let start = std::process::id() % 80 * 200;
    for _ in 0..PORTS {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(FIRST_PORT + offset).expect("below 32768");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}

/// Ports for servers under test.
const FIRST_PORT: u32 = 16_000;
const PORTS: u32 = 16_000;

fn initialise(environment: &[(String, String)], email: &str, more: &[&str]) -> Value {
    let arguments = ["--json", "init", "--organisation", "Example", "--project", "Edge", "--email", email];
    let arguments = [arguments.as_slice(), more].concat();
    let output = binary::command(&arguments, environment).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Notes the weights that it is told, so that tests can see that it was.
const HOOK: &str = "echo $ZENTINEL_TRAFFIC_WEIGHT >> \"$(dirname \"$ZENTINEL_TRAFFIC_FILE\")/hook.log\"";

/// A real agent with a directory of its own; stopped when dropped.
#[derive(Debug)]
pub struct TestNode {
    /// The agent.
    pub agent: Arc<Agent>,
    /// Absolute paths of configurations are looked up below this.
    pub file_root: PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Healthy;

#[async_trait::async_trait]
impl HealthSource for Healthy {
    async fn sample(&self, _: Option<BundleId>) -> (Map<String, Value>, Map<String, Value>) {
        let health = [("status".to_owned(), "healthy".into())];
        let metrics = [("error_rate".to_owned(), 0.1.into()), ("latency_p99_ms".to_owned(), 12.into())];
        (health.into_iter().collect(), metrics.into_iter().collect())
    }
}

impl TestNode {
    /// Registers a node and lets it run.
    pub async fn start(plane: &Plane, name: &str) -> Self {
        let directory = plane.directory.path().join("nodes").join(name);
        let file_root = directory.join("root");
        std::fs::create_dir_all(&file_root).expect("node directory");
        let validator = Arc::new(InProcessValidator::default());
        let activator = DirectoryActivator::new(directory.clone(), file_root.clone(), validator);
        let options = AgentOptions {
            server: plane.url.clone(),
            project: plane.project.clone(),
            token: Some(Secret::new(plane.join_token.clone())),
            name: name.to_owned(),
            labels: BTreeMap::from([("region".to_owned(), "eu".to_owned())]),
            version: "0.6.45".to_owned(),
            directory,
            heartbeat_interval: Duration::from_millis(500),
            long_poll: Duration::from_secs(5),
            traffic_hook: Some(HOOK.to_owned()),
        };
        let agent = Agent::enrol(options, Arc::new(SystemClock), Arc::new(activator), Arc::new(Healthy));
        let agent = Arc::new(agent.await.expect("it registers"));
        let shutdown = CancellationToken::new();
        let (running, until) = (Arc::clone(&agent), shutdown.clone());
        let task = tokio::spawn(async move { running.run(until).await });
        Self { agent, file_root, shutdown, task }
    }

    /// Gives the node a directory that a configuration serves files from.
    pub fn with_directory(&self, path: &str) {
        std::fs::create_dir_all(self.file_root.join(path.trim_start_matches('/'))).expect("directory");
    }

    /// The bundle it runs.
    #[must_use]
    pub fn active(&self) -> Option<BundleId> {
        self.agent.active_bundle_id()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.task.abort();
    }
}

/// A configuration from the examples.
#[must_use]
pub fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/configs").join(name);
    std::fs::read_to_string(path).expect("the example is there")
}
