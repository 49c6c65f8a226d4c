//! A node for the tests of the activator: its directory, its proxy, its bundles.

use super::super::journal::Journal;
use super::super::*;
use crate::agent::activator::{Activator, Release};
use crate::agent::release;
use async_trait::async_trait;
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
use zentinel_core::port::SystemClock;
use zentinel_store::MemorySigner;

pub(super) const CONFIG: &str =
    include_str!("../../../../../zentinel-compiler/tests/vectors/minimal/zentinel.kdl");

/// A proxy that is part of the test.
#[derive(Debug)]
pub(super) struct FakeProxy {
    pub(super) config: PathBuf,
    /// The text whose routes serve.
    pub(super) routes: Arc<Mutex<String>>,
    pub(super) process: Mutex<Option<ProcessId>>,
    pub(super) starts: AtomicU64,
    pub(super) reloads: AtomicU64,
    /// Whether a reload has begun that never ends.
    pub(super) hangs: AtomicBool,
    pub(super) listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl FakeProxy {
    pub(super) fn new(directory: &Path) -> Self {
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

    pub(super) fn die(&self) {
        *self.process.lock().unwrap() = None;
        for listener in self.listeners.lock().unwrap().drain(..) {
            listener.abort();
        }
    }

    pub(super) fn counted(&self) -> (u64, u64) {
        (self.starts.load(Ordering::SeqCst), self.reloads.load(Ordering::SeqCst))
    }

    pub(super) async fn listen(&self, text: &str) {
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

pub(super) struct Site {
    pub(super) directory: tempfile::TempDir,
    pub(super) proxy: Arc<FakeProxy>,
    pub(super) ports: [u16; 2],
    pub(super) binary: Option<PathBuf>,
}

pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Site {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let proxy = Arc::new(FakeProxy::new(directory.path()));
        Self { directory, proxy, ports: [free_port(), free_port()], binary: None }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn activator(&self) -> ProxyActivator {
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
    pub(super) async fn release(&self, sequence: u64, special: &str, activation: Activation) -> Release {
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
    pub(super) async fn started(&self) -> (ProxyActivator, Release) {
        let activator = self.activator();
        let first = self.release(1, "fine", Activation::Restart).await;
        activator.activate(&first).await.unwrap();
        assert_eq!(self.proxy.counted(), (1, 0));
        (activator, first)
    }

    pub(super) fn journal(&self) -> Journal {
        Journal::in_directory(self.path())
    }
}
