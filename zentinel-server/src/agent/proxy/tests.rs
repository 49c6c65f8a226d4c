//! The activator with a proxy inside the test: it listens and answers as the real one does, and
//! obeys special lines in its configuration.

use super::journal::{Entry, Journal, Phase};
use super::*;
use crate::agent::activator::{Activator, Incident, Outcome, Rejection, Release};
use crate::agent::release;
use async_trait::async_trait;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use zentinel_compiler::pipeline::Compiler;
use zentinel_compiler::source::{Source, SourceFile};
use zentinel_compiler::validate::InProcessValidator;
use zentinel_core::Scope;
use zentinel_core::entity::Activation;
use zentinel_core::id::{BundleId, OrganisationId};
use zentinel_core::port::{Clock as _, SystemClock};
use zentinel_store::MemorySigner;

const CONFIG: &str = include_str!("../../../../zentinel-compiler/tests/vectors/minimal/zentinel.kdl");

/// A proxy that is part of the test.
#[derive(Debug)]
struct FakeProxy {
    config: PathBuf,
    /// The text whose routes serve.
    routes: Arc<Mutex<String>>,
    process: Mutex<Option<ProcessId>>,
    starts: AtomicU64,
    reloads: AtomicU64,
    /// Whether a reload has begun that never ends.
    hangs: AtomicBool,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl FakeProxy {
    fn new(directory: &Path) -> Self {
        Self {
            config: directory.join("current/zentinel.kdl"),
            routes: Arc::default(),
            process: Mutex::default(),
            starts: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            hangs: AtomicBool::new(false),
            listeners: Mutex::default(),
        }
    }

    fn die(&self) {
        *self.process.lock().unwrap() = None;
        for listener in self.listeners.lock().unwrap().drain(..) {
            listener.abort();
        }
    }

    fn counted(&self) -> (u64, u64) {
        (self.starts.load(Ordering::SeqCst), self.reloads.load(Ordering::SeqCst))
    }

    async fn listen(&self, text: &str) {
        let addresses =
            text.lines().filter_map(|line| line.trim().strip_prefix("address \"")?.strip_suffix('"'));
        for address in addresses.filter(|_| !text.contains("// no listeners")) {
            let socket = loop {
                // The listener of an aborted task goes a moment later.
                match TcpListener::bind(address).await {
                    Ok(socket) => break socket,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            let routes = Arc::clone(&self.routes);
            let serving = tokio::spawn(async move {
                while let Ok((mut peer, _)) = socket.accept().await {
                    let mut head = [0_u8; 2048];
                    let read = peer.read(&mut head).await.unwrap_or_default();
                    let head = String::from_utf8_lossy(&head[..read]).into_owned();
                    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
                    let marked = routes.lock().unwrap().contains(&format!("path \"{path}\""));
                    let status = if marked { "302 Found" } else { "404 Not Found" };
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    drop(peer.write_all(answer.as_bytes()).await);
                }
            });
            self.listeners.lock().unwrap().push(serving);
        }
    }
}

#[async_trait]
impl ProxyControl for FakeProxy {
    fn state(&self) -> ProxyState {
        self.process.lock().unwrap().map_or(ProxyState::Dead, ProxyState::Running)
    }

    async fn reload(&self) -> Result<(), ControlFault> {
        self.reloads.fetch_add(1, Ordering::SeqCst);
        let text = std::fs::read_to_string(&self.config).unwrap();
        if text.contains("// hang") {
            self.hangs.store(true, Ordering::SeqCst);
        }
        if self.hangs.load(Ordering::SeqCst) {
            return Ok(());
        }
        if text.contains("// die") {
            self.die();
        } else if !text.contains("// ignore reload") {
            *self.routes.lock().unwrap() = text;
        }
        Ok(())
    }

    async fn restart(&self) -> Result<(), ControlFault> {
        self.die();
        self.hangs.store(false, Ordering::SeqCst);
        let started = self.starts.fetch_add(1, Ordering::SeqCst) + 1;
        let text = std::fs::read_to_string(&self.config).unwrap();
        if text.contains("// die") {
            return Ok(());
        }
        self.listen(&text).await;
        *self.routes.lock().unwrap() = text;
        *self.process.lock().unwrap() = Some(ProcessId { pid: std::process::id().cast_signed(), started });
        Ok(())
    }

    async fn stop(&self) -> bool {
        self.die();
        true
    }

    fn dismiss(&self) {
        self.die();
    }

    fn supervises(&self) -> bool {
        true
    }

    fn last_words(&self) -> Option<String> {
        Some("famous last words".to_owned())
    }
}

struct Site {
    directory: tempfile::TempDir,
    proxy: Arc<FakeProxy>,
    ports: [u16; 2],
    binary: Option<PathBuf>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let proxy = Arc::new(FakeProxy::new(directory.path()));
        Self { directory, proxy, ports: [free_port(), free_port()], binary: None }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn activator(&self) -> ProxyActivator {
        let options = ProxyOptions {
            directory: self.path().to_path_buf(),
            binary: self.binary.clone(),
            probe_listen: ([127, 0, 0, 1], self.ports[0]).into(),
            metrics_url: None,
            proof_timeout: Duration::from_millis(600),
            listen_wait: Duration::from_millis(200),
            settle: Duration::from_millis(100),
            crash_window: Duration::from_secs(20),
            stop_with_agent: true,
        };
        let control: Arc<dyn ProxyControl> = Arc::clone(&self.proxy) as Arc<dyn ProxyControl>;
        ProxyActivator::new(options, control, Arc::new(InProcessValidator::default()), Arc::new(SystemClock))
    }

    /// A bundle whose configuration has a route and a special line of its own.
    async fn release(&self, sequence: u64, special: &str, activation: Activation) -> Release {
        let address = format!("127.0.0.1:{}", self.ports[1]);
        let kdl = CONFIG
            .replace("127.0.0.1:8080", &address)
            .replace("enabled #true\n        address \"127.0.0.1:9090\"", "enabled #false")
            .replace("path-prefix \"/\"", &format!("path-prefix \"/v{sequence}\""))
            .replacen("routes {", &format!("// {special}\nroutes {{"), 1);
        let asset = SourceFile::new("ca/root.pem", format!("asset {sequence}").into_bytes());
        let source = Source::new(kdl, vec![asset], false).unwrap();
        let compiler = Compiler::new(Arc::new(InProcessValidator::default()));
        let scope = Scope::Organisation(OrganisationId::random());
        let signed = compiler.build(source, None, &MemorySigner::generate(), &scope).await.unwrap();
        let bundle_id = BundleId::random();
        let directory = self.path().join("bundles").join(bundle_id.to_string());
        std::fs::create_dir_all(self.path().join("bundles")).unwrap();
        release::install(&directory, signed.bytes()).unwrap();
        Release { sequence, bundle_id, directory, activation, compare: false }
    }

    /// An activator with the first release serving.
    async fn started(&self) -> (ProxyActivator, Release) {
        let activator = self.activator();
        let first = self.release(1, "fine", Activation::Restart).await;
        activator.activate(&first).await.unwrap();
        assert_eq!(self.proxy.counted(), (1, 0));
        (activator, first)
    }

    fn journal(&self) -> Journal {
        Journal::in_directory(self.path())
    }
}

#[tokio::test]
async fn releases_are_rendered_switched_and_proved() {
    let site = Site::new();
    let activator = site.activator();
    assert_eq!((activator.active(), activator.recover().await), (None, None));
    assert_eq!(site.proxy.counted(), (0, 0), "without a bundle nothing is started");
    let (activator, first) = site.started().await;
    assert_eq!(activator.active(), Some(first.bundle_id));
    let process = activator.proxy_state();
    let second = site.release(2, "fine", Activation::Reload).await;
    activator.activate(&second).await.unwrap();
    assert_eq!((activator.proxy_state(), site.proxy.counted()), (process, (1, 1)), "the same process");
    assert_eq!(activator.active(), Some(second.bundle_id));
    activator.answers().await.unwrap();
    let asset = std::fs::read_to_string(site.path().join("current/ca/root.pem")).unwrap();
    assert_eq!(asset, "asset 2");
    let bundle = std::fs::read_to_string(second.directory.join("zentinel.kdl")).unwrap();
    let rendered = std::fs::read_to_string(site.path().join("current/zentinel.kdl")).unwrap();
    assert!(rendered.starts_with(&bundle) && rendered.len() > bundle.len());

    // Only what may be needed again is kept.
    activator.activate(&site.release(3, "fine", Activation::Reload).await).await.unwrap();
    let mut kept: Vec<_> = std::fs::read_dir(site.path().join("releases"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["2", "3"]);
}

#[tokio::test]
async fn what_a_signal_does_not_apply_takes_a_new_process() {
    let site = Site::new();
    let (activator, _) = site.started().await;
    // The statement compared with another bundle than the one that serves here.
    let mut changed = site.release(2, "fine", Activation::Reload).await;
    let config = changed.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap().replace("worker-threads 1", "worker-threads 2");
    std::fs::write(&config, text).unwrap();
    activator.activate(&changed).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 0));
    changed.sequence = 3;
    changed.activation = Activation::Restart;
    activator.activate(&changed).await.unwrap();
    assert_eq!(site.proxy.counted(), (3, 0), "the statement asks for it");
}

#[tokio::test]
async fn a_reload_that_is_not_proved_is_taken_back() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let bad = site.release(2, "ignore reload", Activation::Reload).await;
    let rejection = activator.activate(&bad).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("reload_not_proven", false));
    assert!(rejection.message.contains("release 1") && rejection.message.contains("proved"), "{rejection:?}");
    assert!(rejection.message.ends_with("famous last words"), "{rejection:?}");
    assert_eq!(activator.active(), Some(first.bundle_id));
    assert_eq!(site.proxy.counted(), (1, 2), "and back by a signal");
    activator.answers().await.unwrap();
    let Some(Entry { phase: Phase::Restored(noted), .. }) = site.journal().load() else {
        panic!("the end is noted");
    };
    assert_eq!(noted, rejection);
}

#[tokio::test]
async fn a_restore_is_not_proved_by_routes_that_were_there_all_along() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let bad = site.release(2, "hang", Activation::Reload).await;
    let rejection = activator.activate(&bad).await.unwrap_err();
    assert_eq!(rejection.reason, "reload_not_proven");
    assert!(rejection.message.contains("release 1") && rejection.message.contains("proved"), "{rejection:?}");
    assert_eq!(site.proxy.counted(), (2, 2), "a signal was tried, and a new process came");
    assert_eq!(activator.active(), Some(first.bundle_id));
    // The next agent finds the marker that the restored copy has.
    let next = site.activator();
    next.answers().await.unwrap();
    next.activate(&site.release(3, "fine", Activation::Reload).await).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 3), "and is told of by a signal");
}

#[tokio::test]
async fn where_the_statement_knows_nothing_the_node_compares() {
    let site = Site::new();
    let (activator, _) = site.started().await;
    let compared = async |sequence| {
        let release = site.release(sequence, "fine", Activation::Restart).await;
        Release { compare: true, ..release }
    };
    activator.activate(&compared(2).await).await.unwrap();
    assert_eq!(site.proxy.counted(), (1, 1), "routes take a signal");

    // A file that the proxy reads at its start alone; every release has another one.
    let with_schema = async |sequence| {
        let release = compared(sequence).await;
        let config = release.directory.join("zentinel.kdl");
        let text = std::fs::read_to_string(&config).unwrap();
        let schema = site.path().join("current/ca/root.pem");
        let schema = format!("api-schema {{\n schema-file \"{}\"\n }}\n upstream \"api\"", schema.display());
        std::fs::write(&config, text.replace("upstream \"api\"\n    }", &format!("{schema}\n    }}")))
            .unwrap();
        release
    };
    activator.activate(&with_schema(3).await).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 1), "a schema is new");
    let same_text = with_schema(4).await;
    activator.activate(&same_text).await.unwrap();
    assert_eq!(site.proxy.counted(), (3, 1), "its file is another");
    let schema = |sequence: u64| site.path().join(format!("releases/{sequence}/ca/root.pem"));
    assert_ne!(std::fs::read(schema(3)).unwrap(), std::fs::read(schema(4)).unwrap());
    activator.activate(&Release { sequence: 5, ..same_text }).await.unwrap();
    assert_eq!(site.proxy.counted(), (3, 2), "or the same");

    // What serves is not what the agent believes.
    site.proxy.routes.lock().unwrap().clear();
    activator.activate(&compared(6).await).await.unwrap();
    assert_eq!(site.proxy.counted().0, 4);
}

#[tokio::test]
async fn a_proxy_that_dies_comes_back_with_the_release_before() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    for activation in [Activation::Reload, Activation::Restart] {
        let bad = site.release(2, "die", activation).await;
        let rejection = activator.activate(&bad).await.unwrap_err();
        assert_eq!(rejection.reason, "proxy_died");
        assert_eq!(activator.active(), Some(first.bundle_id));
        activator.answers().await.unwrap();
    }
    let silent = site.release(3, "no listeners", Activation::Restart).await;
    assert_eq!(activator.activate(&silent).await.unwrap_err().reason, "restart_not_proven");
    activator.answers().await.unwrap();
}

#[tokio::test]
async fn a_missing_listener_is_no_proof() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let mut moved = site.release(2, "fine", Activation::Reload).await;
    // A proxy that was told of a new listener, and does not open it.
    let config = moved.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap();
    let extra = format!("listeners {{ listener \"more\" {{ address  \"127.0.0.1:{}\"; }} }}\n", free_port());
    std::fs::write(&config, text + &extra).unwrap();
    moved.activation = Activation::Restart;
    assert_eq!(activator.activate(&moved).await.unwrap_err().reason, "listener_missing");
    assert_eq!(activator.active(), Some(first.bundle_id));
}

#[tokio::test]
async fn a_taken_address_is_found_while_the_old_process_serves() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let more = |name: &str, address: &str| {
        format!("listeners {{ listener \"{name}\" {{ address  \"{address}\"; }} }}\n")
    };
    let release = site.release(2, "fine", Activation::Reload).await;
    let config = release.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.clone() + &more("more", &taken.to_string())).unwrap();
    let rejection = activator.activate(&release).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("address_in_use", false));
    assert!(
        rejection.message.contains("\"more\"") && rejection.message.contains(&taken.to_string()),
        "{rejection:?}"
    );
    // Measurements that the agent is to look at have an address as well.
    let measured = text.replace("enabled #false", &format!("enabled #true\n        address  \"{taken}\""));
    assert_ne!(measured, text);
    std::fs::write(&config, &measured).unwrap();
    let rejection = activator.activate(&release).await.unwrap_err();
    assert!(rejection.message.starts_with(&format!("the metrics address {taken}")), "{rejection:?}");
    assert_eq!((site.proxy.counted(), activator.active()), ((1, 0), Some(first.bundle_id)));
    activator.answers().await.unwrap();
    assert!(!site.path().join("releases/2").exists() && site.journal().load().unwrap().sequence == 1);

    // What the process that serves gives up with its end is not taken.
    let everywhere =
        text.replace(&format!("127.0.0.1:{}", site.ports[1]), &format!("0.0.0.0:{}", site.ports[1]));
    assert_ne!(everywhere, text);
    std::fs::write(&config, everywhere).unwrap();
    activator.activate(&release).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 0));
}

#[tokio::test]
async fn the_agents_own_address_is_tried_before_the_first_start() {
    let site = Site::new();
    let mut activator = site.activator();
    activator.options.probe_listen = ([192, 0, 2, 1], site.ports[0]).into();
    let release = site.release(1, "fine", Activation::Restart).await;
    let rejection = activator.activate(&release).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("address_not_available", true));
    assert!(rejection.message.contains("proxy.probe_listen"), "{rejection:?}");
    assert_eq!(site.proxy.counted(), (0, 0));
}

#[tokio::test]
async fn files_that_are_not_there_are_found_before_the_switch() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let release = site.release(2, "fine", Activation::Restart).await;
    let config = release.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap();
    let refused = |kdl: String| {
        std::fs::write(&config, text.clone() + &kdl).unwrap();
        let (activator, release) = (&activator, &release);
        async move { activator.activate(release).await.unwrap_err() }
    };
    let port = free_port();
    let listener = |key: &Path| {
        let (certificate, key) = (site.path().join("current/ca/root.pem"), key.display());
        let certificate = certificate.display();
        format!(
            "listeners {{\n listener \"tls\" {{\n address  \"127.0.0.1:{port}\"\n protocol \"https\"\n \
             tls {{\n cert-file \"{certificate}\"\n key-file \"{key}\"\n }}\n }}\n}}\n"
        )
    };
    let absent = site.path().join("absent.pem");
    let rejection = refused(listener(&absent)).await;
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("missing_file", false));
    let where_ = "(listeners/tls/tls/key-file)";
    assert!(rejection.message.contains("absent.pem") && rejection.message.contains(where_), "{rejection:?}");
    let rejection = refused(listener(site.path())).await;
    assert_eq!(rejection.reason, "missing_file", "a directory is no key");
    let authority = format!(
        "upstreams {{\n upstream \"tls\" {{\n target \"127.0.0.1:{port}\"\n tls {{\n ca-cert \"{}\"\n }}\n }}\n}}\n",
        absent.display()
    );
    let rejection = refused(authority).await;
    assert!(rejection.message.contains("(upstreams/tls/tls/ca-cert)"), "{rejection:?}");
    assert_eq!((site.proxy.counted(), activator.active()), ((1, 0), Some(first.bundle_id)));
    std::fs::write(&absent, "a key").unwrap();
    let rejection = refused(listener(&absent)).await;
    assert_eq!(rejection.reason, "bad_certificate", "{rejection:?}");
    assert_eq!((site.proxy.counted(), activator.active()), ((1, 0), Some(first.bundle_id)));
}

#[tokio::test]
async fn without_a_release_before_the_node_is_without_a_bundle() {
    let site = Site::new();
    let activator = site.activator();
    let bad = site.release(1, "die", Activation::Restart).await;
    let rejection = activator.activate(&bad).await.unwrap_err();
    assert!(rejection.message.contains("without a bundle"), "{rejection:?}");
    assert_eq!(activator.active(), None);
    assert!(!site.path().join("current").exists());
    let news = tokio::time::timeout(Duration::from_secs(1), activator.watch()).await;
    assert!(news.is_err(), "there is nothing to watch");
    assert_eq!(site.proxy.counted(), (1, 0), "and nothing is started over and over");
    let good = site.release(2, "fine", Activation::Restart).await;
    activator.activate(&good).await.unwrap();
    assert_eq!(activator.active(), Some(good.bundle_id));
}

#[tokio::test]
async fn the_proxys_own_test_comes_before_the_switch() {
    let mut site = Site::new();
    let (_, first) = site.started().await;
    let script = site.path().join("proxy.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\necho \"$@\" >> tested\ngrep -q 'fine' \"$3\" || { echo no >&2; exit 1; }\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    site.binary = Some(script);
    let activator = site.activator();
    let rejection = activator.activate(&site.release(2, "odd", Activation::Reload).await).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("proxy_test_failed", false));
    assert!(rejection.message.ends_with("no"), "{rejection:?}");
    assert_eq!(
        (activator.active(), site.proxy.counted()),
        (Some(first.bundle_id), (1, 0)),
        "nothing was touched"
    );
    activator.activate(&site.release(3, "fine", Activation::Reload).await).await.unwrap();
    let tested = std::fs::read_to_string(site.path().join("tested")).unwrap();
    assert_eq!(tested.lines().count(), 2, "{tested}");
    // A binary that is away is the node's fault.
    site.binary = Some(site.path().join("absent"));
    let rejection =
        site.activator().activate(&site.release(4, "fine", Activation::Reload).await).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("proxy_test_unavailable", true));
}

#[tokio::test]
async fn files_of_a_bundle_may_be_named_below_current() {
    let site = Site::new();
    let (activator, _) = site.started().await;
    let release = site.release(2, "fine", Activation::Restart).await;
    std::fs::create_dir_all(release.directory.join("site")).unwrap();
    let config = release.directory.join("zentinel.kdl");
    let root = site.path().join("current/site").display().to_string();
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "upstream \"api\"\n    }\n}",
        &format!("static-files {{\n root \"{root}\"\n }}\n    }}\n}}"),
    );
    std::fs::write(&config, text).unwrap();
    activator.activate(&release).await.unwrap();
    let tested = std::fs::read_to_string(site.path().join("releases/2/test.kdl")).unwrap();
    assert!(tested.contains("/releases/2/site") && !tested.contains(&root));
    std::fs::remove_dir(release.directory.join("site")).unwrap();
    let gone = Release { sequence: 3, ..release };
    assert_eq!(activator.activate(&gone).await.unwrap_err().reason, "missing_static_root");
}

#[tokio::test]
async fn a_disk_without_room_changes_nothing() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let second = site.release(2, "fine", Activation::Reload).await;
    // A folder in the place of a draft makes writing fail, as a full disk does.
    for draft in ["activation.json.new", "current.new/x", "releases"] {
        let path = site.path().join(draft);
        let kept = site.path().join("kept");
        if draft == "releases" {
            std::fs::rename(&path, &kept).unwrap();
            std::fs::write(&path, "").unwrap();
        } else {
            std::fs::create_dir_all(&path).unwrap();
        }
        let rejection = activator.activate(&second).await.unwrap_err();
        assert!(rejection.retryable, "{draft}: {rejection:?}");
        assert_eq!(site.proxy.counted(), (1, 0), "{draft}: the proxy was left alone");
        if draft == "releases" {
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(&kept, &path).unwrap();
        } else {
            std::fs::remove_dir_all(site.path().join(draft.split('/').next().unwrap())).unwrap();
        }
        assert_eq!(site.activator().active(), Some(first.bundle_id), "{draft}");
        activator.answers().await.unwrap();
    }
    activator.activate(&second).await.unwrap();
}

#[tokio::test]
async fn one_death_is_mended_and_two_take_the_bundle_back() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let second = site.release(2, "fine", Activation::Reload).await;
    activator.activate(&second).await.unwrap();
    let news = || tokio::time::timeout(Duration::from_secs(20), activator.watch());
    site.proxy.die();
    let Incident::ProxyDied(message) = news().await.unwrap() else { panic!("it died") };
    assert!(message.contains("famous last words"));
    assert!(matches!(news().await.unwrap(), Incident::ProxyReturned(_)));
    activator.answers().await.unwrap();
    assert_eq!(activator.active(), Some(second.bundle_id), "once is no proof of anything");
    site.proxy.die();
    let Incident::TakenBack(outcome) = news().await.unwrap() else { panic!("it was taken back") };
    assert_eq!((outcome.sequence, outcome.bundle_id), (2, second.bundle_id));
    let rejection = outcome.result.unwrap_err();
    assert_eq!(rejection.reason, "proxy_crashed");
    assert!(rejection.message.contains("release 1"), "{rejection:?}");
    assert_eq!(activator.active(), Some(first.bundle_id));
    activator.answers().await.unwrap();
    // The one before is not on probation any more: it is only started again.
    for _ in 0..3 {
        site.proxy.die();
        assert!(matches!(news().await.unwrap(), Incident::ProxyDied(_)));
        assert!(matches!(news().await.unwrap(), Incident::ProxyReturned(_)));
    }
    assert_eq!(activator.active(), Some(first.bundle_id));
}

#[tokio::test]
async fn the_next_agent_ends_what_was_begun() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let second = site.release(2, "fine", Activation::Reload).await;
    activator.activate(&second).await.unwrap();
    let entry = |phase| Entry { sequence: 2, bundle_id: second.bundle_id, previous: Some(1), phase };

    // Ended after the switch: the marker answers, so nobody is told again.
    site.journal().save(&entry(Phase::Switching)).unwrap();
    let next = site.activator();
    assert_eq!(next.active(), Some(first.bundle_id), "not proved, so it does not count");
    let outcome = Outcome { sequence: 2, bundle_id: second.bundle_id, result: Ok(()) };
    assert_eq!(next.recover().await, Some(outcome));
    assert_eq!((next.active(), site.proxy.counted()), (Some(second.bundle_id), (1, 1)));

    // Ended before the switch: nothing had changed.
    let begun = Entry { sequence: 9, ..entry(Phase::Switching) };
    site.journal().save(&begun).unwrap();
    let next = site.activator();
    assert_eq!((next.recover().await, next.active()), (None, Some(second.bundle_id)));

    // Ended on the way back, and the proxy is gone as well.
    let cause = Rejection::new("proxy_died", "the proxy ended");
    site.journal().save(&entry(Phase::Restoring(cause))).unwrap();
    site.proxy.die();
    let next = site.activator();
    assert_eq!(next.active(), Some(first.bundle_id));
    let outcome = next.recover().await.unwrap();
    assert_eq!(outcome.result.as_ref().unwrap_err().reason, "proxy_died");
    next.answers().await.unwrap();
    assert_eq!(next.active(), Some(first.bundle_id));

    // Ended when that was done and not noted: a reload is asked for again, for the marker of a release
    // that served all along does not prove that the proxy took it back. No process is started.
    let (started, reloaded) = site.proxy.counted();
    let cause = Rejection::new("proxy_died", "the proxy ended");
    site.journal().save(&entry(Phase::Restoring(cause))).unwrap();
    let again = site.activator().recover().await;
    assert_eq!((again.as_ref(), site.proxy.counted()), (Some(&outcome), (started, reloaded + 1)));

    // Ended after that: the outcome is told until it is noted.
    assert_eq!(site.activator().recover().await, Some(outcome));
}

#[tokio::test]
async fn a_dead_proxy_is_started_with_the_agent_and_ends_with_it_if_so_set() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    site.proxy.die();
    drop(activator);
    let next = site.activator();
    assert_eq!((next.recover().await, next.active()), (None, Some(first.bundle_id)));
    next.answers().await.unwrap();
    next.stop().await;
    assert_eq!(next.proxy_state(), ProxyState::Dead);
    // An old activation is on probation no longer.
    let at = SystemClock.now() - chrono::TimeDelta::hours(1);
    let entry =
        Entry { sequence: 1, bundle_id: first.bundle_id, previous: None, phase: Phase::Served { at } };
    site.journal().save(&entry).unwrap();
    let next = site.activator();
    next.recover().await;
    for _ in 0..2 {
        site.proxy.die();
        let news = tokio::time::timeout(Duration::from_secs(20), next.watch()).await.unwrap();
        assert!(matches!(news, Incident::ProxyDied(_)), "{news:?}");
        tokio::time::timeout(Duration::from_secs(20), next.watch()).await.unwrap();
    }
    assert_eq!(next.active(), Some(first.bundle_id));
}
