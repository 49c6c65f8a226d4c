//! A real node: the agent's binary, a proxy that it runs, and ports of their own.

use crate::binary;
use crate::plane::{Plane, free_port};
use crate::wait_for;
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use zentinel_core::id::{BundleId, NodeId};
use zentinel_http::client::{BundleView, NewBundle, NewRegistrationToken, NodeView};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The proxy that nodes run: what `ZENTINEL_PROXY_BINARY` names, or the stand-in.
#[must_use]
pub fn proxy_binary() -> PathBuf {
    std::env::var_os("ZENTINEL_PROXY_BINARY").map_or_else(stand_in_binary, PathBuf::from)
}

/// The stand-in; see [`stand_in`](crate::stand_in).
#[must_use]
pub fn stand_in_binary() -> PathBuf {
    binary::path_of("stand-in-proxy").to_owned()
}

/// A configuration for one proxy. Requests to everything go to the upstream; `/which` is redirected
/// to a host named after the version, so that it can be seen which configuration serves.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// What `/which` names.
    pub version: String,
    /// Where the proxy serves.
    pub listen: u16,
    /// More listeners.
    pub more_listeners: Vec<u16>,
    /// Where its metrics are.
    pub metrics: u16,
    /// Where requests go.
    pub upstream: SocketAddr,
    /// Comments that make the stand-in misbehave.
    pub special: Vec<&'static str>,
    /// More text.
    pub more: String,
}

impl ProxyConfig {
    /// The KDL text.
    #[must_use]
    pub fn kdl(&self) -> String {
        let special: String = self.special.iter().map(|line| format!("// stand-in: {line}\n")).collect();
        let listeners = std::iter::once(&self.listen).chain(&self.more_listeners);
        let listeners: String = listeners
            .map(|port| format!("listener \"on-{port}\" {{\n    address \"127.0.0.1:{port}\"\n}}\n"))
            .collect();
        let Self { version, metrics, upstream, more, .. } = self;
        format!(
            r#"{special}schema-version "1.0"
system {{
    worker-threads 1
}}
listeners {{
{listeners}}}
upstreams {{
    upstream "app" {{
        target "{upstream}"
    }}
}}
filters {{
    filter "which" {{
        type "redirect"
        hostname "{version}.invalid"
        status-code 302
    }}
}}
routes {{
    route "app" {{
        matches {{
            path-prefix "/"
        }}
        upstream "app"
    }}
    route "which" {{
        priority "high"
        matches {{
            path "/which"
        }}
        filters "which"
    }}
}}
observability {{
    metrics {{
        enabled #true
        address "127.0.0.1:{metrics}"
        path "/metrics"
    }}
    logging {{
        error-log {{
            enabled #false
        }}
    }}
}}
{more}"#
        )
    }

    /// The same in another version.
    #[must_use]
    pub fn version(&self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self.clone() }
    }

    /// The same with a special line more.
    #[must_use]
    pub fn special(&self, line: &'static str) -> Self {
        Self { special: [self.special.as_slice(), &[line]].concat(), ..self.clone() }
    }
}

/// A file with a certificate and its key.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn certificate() -> tempfile::NamedTempFile {
    let made = rcgen::generate_simple_self_signed(["edge.invalid".to_owned()]).expect("a certificate");
    file(&(made.cert.pem() + &made.signing_key.serialize_pem()))
}

/// A file with this text.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

/// A listener with a certificate and its key from one file, for clients that another file lists.
#[must_use]
pub fn tls_listener(port: u16, pem: &Path, clients: Option<&Path>) -> String {
    let pem = pem.display();
    let clients = clients.map_or_else(String::new, |clients| {
        format!("            client-auth #true\n            ca-file \"{}\"\n", clients.display())
    });
    format!(
        r#"listeners {{
    listener "tls" {{
        address "127.0.0.1:{port}"
        protocol "https"
        tls {{
            cert-file "{pem}"
            key-file "{pem}"
{clients}        }}
    }}
}}
"#
    )
}

/// Compiles a configuration.
///
/// # Panics
/// When it does not compile.
pub async fn compile(plane: &Plane, version: &str, kdl: &str) -> BundleView {
    compile_in(plane, &plane.project, version, kdl).await
}

/// Makes another project of a plane; its slug and a registration token.
///
/// # Panics
/// When the control plane does not.
pub async fn new_project(plane: &Plane, name: &str) -> (String, String) {
    let client = plane.operator();
    let project = client.create_project(name).await.expect("created").slug.to_string();
    let token = client
        .create_registration_token(
            &project,
            &NewRegistrationToken { name: name.to_owned(), ..NewRegistrationToken::default() },
        )
        .await;
    (project, token.expect("created").token.expose().to_owned())
}

async fn compile_in(plane: &Plane, project: &str, version: &str, kdl: &str) -> BundleView {
    let client = plane.operator();
    let request = NewBundle { version: version.into(), config_source: kdl.into(), ..NewBundle::default() };
    let created = client.create_bundle(project, &request).await.expect("created");
    let bundle = client.wait_until_compiled(project, created.id, LIMIT).await.expect("compiled");
    assert_eq!(bundle.status, zentinel_core::entity::BundleStatus::Compiled, "{bundle:?}");
    bundle
}

/// Which version answers on a port, if one does.
pub async fn which(port: u16) -> Option<String> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()
        .expect("a client");
    let answer = client.get(format!("http://127.0.0.1:{port}/which")).send().await.ok()?;
    let location = answer.headers().get("location")?.to_str().ok()?;
    Some(location.strip_prefix("http://")?.split_once(".invalid")?.0.to_owned())
}

/// A node; its agent and its proxy are killed when it is dropped.
#[derive(Debug)]
pub struct Node {
    /// Its directory.
    pub directory: PathBuf,
    /// Its id.
    pub id: NodeId,
    project: String,
    /// Its first configuration; others are made from it.
    pub config: ProxyConfig,
    environment: Vec<(String, String)>,
    agent: Option<Child>,
    _temporary: tempfile::TempDir,
}

/// How a node differs from the others.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// The control plane's URL, when it is not reached directly.
    pub server: Option<String>,
    /// The proxy; [`proxy_binary`] by default.
    pub proxy: Option<PathBuf>,
    /// The directory; a temporary one by default.
    pub directory: Option<PathBuf>,
    /// The slug of its project and a registration token; the plane's by default.
    pub project: Option<(String, String)>,
    /// More environment variables of the agent.
    pub environment: Vec<(&'static str, String)>,
    /// A point at which the first agent is killed; another one takes its place.
    pub crash_at: Option<&'static str>,
}

impl Node {
    /// Starts an agent and waits until it has registered.
    pub async fn start(plane: &Plane, name: &str, upstream: SocketAddr) -> Self {
        Self::start_with(plane, name, upstream, NodeOptions::default()).await
    }

    /// The same, different.
    pub async fn start_with(plane: &Plane, name: &str, upstream: SocketAddr, options: NodeOptions) -> Self {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let directory = options.directory.unwrap_or_else(|| temporary.path().join("agent"));
        let server = options.server.unwrap_or_else(|| plane.url.to_string());
        let (project, token) =
            options.project.unwrap_or_else(|| (plane.project.clone(), plane.join_token.clone()));
        let own = [
            ("SERVER", server),
            ("PROJECT", project.clone()),
            ("TOKEN", token),
            ("NAME", name.to_owned()),
            ("DIRECTORY", directory.display().to_string()),
            ("HEARTBEAT_INTERVAL_SECONDS", "0.5".to_owned()),
            ("LONG_POLL_SECONDS", "5".to_owned()),
            ("PROOF_TIMEOUT_SECONDS", "5".to_owned()),
            ("SETTLE_SECONDS", "0.5".to_owned()),
            ("LISTEN_WAIT_SECONDS", "5".to_owned()),
            ("PROXY_BINARY", options.proxy.unwrap_or_else(proxy_binary).display().to_string()),
            ("PROBE_LISTEN", format!("127.0.0.1:{}", free_port())),
        ];
        let mut environment: Vec<_> =
            own.map(|(name, value)| (format!("ZENTINEL_AGENT_{name}"), value)).into();
        let others = options.environment.into_iter();
        environment.extend(others.map(|(name, value)| (name.to_owned(), value)));
        let config = ProxyConfig {
            version: "v1".to_owned(),
            listen: free_port(),
            more_listeners: Vec::new(),
            metrics: free_port(),
            upstream,
            special: Vec::new(),
            more: String::new(),
        };
        let id = NodeId::random();
        let mut node =
            Self { directory, id, project, config, environment, agent: None, _temporary: temporary };
        if let Some(point) = options.crash_at {
            node.start_agent(&[("ZENTINEL_CRASH_AT", point)]);
            let status = node.agent_ended().await;
            assert_eq!(status.signal(), Some(9), "{point}: the agent was killed there, not {status}");
        }
        node.start_agent(&[]);
        let found = wait_for("the node to register", LIMIT, || async {
            plane
                .operator()
                .nodes(&node.project, None)
                .await
                .ok()?
                .items
                .iter()
                .find_map(|found| (found.name == name).then_some(found.id))
        })
        .await;
        node.id = found;
        node
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::path_of("zentinel-agent"));
        command.args(arguments).env_clear().envs(self.environment.iter().cloned()).stdin(Stdio::null());
        for name in ["PATH", "RUST_LOG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
    }

    /// Starts the agent, with more environment variables.
    ///
    /// # Panics
    /// When one runs already.
    pub fn start_agent(&mut self, environment: &[(&str, &str)]) {
        assert!(self.agent.is_none(), "one agent at a time");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file());
        let log = log.expect("a log file");
        let mut command = self.command(&["run"]);
        command.envs(environment.iter().copied());
        command.stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn().expect("the agent starts"));
    }

    /// What the agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self._temporary.path().join("agent.log")
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When no agent runs.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().expect("kill");
        agent.wait().expect("wait");
    }

    /// SIGTERM; answers how it ended.
    ///
    /// # Panics
    /// When no agent runs, or it does not end.
    pub async fn stop_agent(&mut self) -> ExitStatus {
        let id = self.agent.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.agent_ended().await
    }

    /// Waits until the agent has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn agent_ended(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("it runs");
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = agent.try_wait().expect("wait") {
                return status;
            }
            if begun.elapsed() > LIMIT {
                self.agent = Some(agent);
                panic!("the agent goes on");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `zentinel-agent status --json` says.
    ///
    /// # Panics
    /// When it says no JSON.
    #[must_use]
    pub fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().expect("it runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// The process of the proxy that the agent runs.
    #[must_use]
    pub fn proxy_pid(&self) -> Option<i64> {
        let bytes = std::fs::read(self.directory.join("proxy.json")).ok()?;
        let pid = serde_json::from_slice::<Value>(&bytes).ok()?["pid"].as_i64()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = self.directory.display().to_string();
        String::from_utf8_lossy(&arguments).contains(&ours).then_some(pid)
    }

    /// What the control plane knows of it.
    ///
    /// # Panics
    /// When it knows nothing.
    pub async fn view(&self, plane: &Plane) -> NodeView {
        plane.operator().node(&self.project, self.id).await.expect("the node is known")
    }

    /// Compiles a configuration and hands it to this node.
    pub async fn assign(&self, plane: &Plane, config: &ProxyConfig) -> BundleView {
        let name = format!("{}-{}", self.id, config.version);
        let bundle = compile_in(plane, &self.project, &name, &config.kdl()).await;
        self.assign_bundle(plane, bundle.id).await;
        bundle
    }

    /// Hands a bundle to this node.
    ///
    /// # Panics
    /// When the control plane does not take it.
    pub async fn assign_bundle(&self, plane: &Plane, bundle: BundleId) {
        let assigned = plane.operator().assign_bundle(&self.project, bundle, &[self.id]).await;
        assert_eq!(assigned.expect("assigned"), 1);
    }

    /// Waits until the node runs a bundle, by its own files, by the control plane's record and by
    /// what answers.
    pub async fn runs(&self, plane: &Plane, bundle: BundleId, version: &str) {
        wait_for(&format!("{version} to serve"), LIMIT, || async {
            (which(self.config.listen).await.as_deref() == Some(version)).then_some(())
        })
        .await;
        wait_for(&format!("the control plane to know of {version}"), LIMIT, || async {
            (self.view(plane).await.active_bundle_id == Some(bundle)).then_some(())
        })
        .await;
        let status = self.status();
        assert_eq!(status["active_bundle_id"], bundle.to_string(), "{status}");
    }

    /// Gives the node its first bundle and waits until it runs.
    pub async fn first(&self, plane: &Plane) -> BundleView {
        let bundle = self.assign(plane, &self.config).await;
        self.runs(plane, bundle.id, &self.config.version).await;
        bundle
    }

    /// Waits until the node says that it refused a bundle, and why.
    pub async fn refused(&self, bundle: BundleId) -> (String, String) {
        wait_for("the bundle to be refused", LIMIT, || async {
            let status = self.status();
            let refused = &status["refused"];
            let text = |field: &str| refused[field].as_str().map(str::to_owned);
            (refused["bundle_id"] == bundle.to_string()).then_some((text("reason")?, text("message")?))
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // Already gone when it ended by itself.
            drop(agent.kill());
            drop(agent.wait());
        }
        if let Some(pid) = self.proxy_pid() {
            drop(Command::new("kill").args(["-KILL", &pid.to_string()]).status());
        }
        if std::thread::panicking() {
            eprintln!("status: {:?}", std::fs::read_to_string(self.directory.join("node.json")));
            for (name, path) in [("agent", self.log_file()), ("proxy", self.directory.join("proxy.log"))] {
                eprintln!("--- {name} of {}:\n{}", self.id, tail(&path));
            }
        }
    }
}

fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
