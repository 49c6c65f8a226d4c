//! A proxy that the agent starts itself.

use super::control::{ControlFault, ProxyControl, ProxyState};
use super::log::ProxyLog;
use super::process::{ProcessId, find};
use crate::agent::activator::CURRENT;
use crate::agent::check::CONFIG;
use crate::agent::state::write_durably;
use async_trait::async_trait;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::process::Command;

/// Largest log file in bytes; there are at most two.
const LOG_LIMIT: u64 = 8 << 20;
/// How long a process may take to end before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Starts the proxy in a process group of its own, with `proxy.log` for its output. The proxy
/// outlives the agent: `proxy.json` says which process it is, and the next agent takes it over.
#[derive(Debug)]
pub struct SupervisedProxy {
    binary: PathBuf,
    directory: PathBuf,
    config: String,
    log: ProxyLog,
    process: Mutex<Option<ProcessId>>,
    /// How the last process that this agent started has ended.
    ending: Arc<Mutex<Option<String>>>,
}

impl SupervisedProxy {
    /// Runs `<binary> run -c <directory>/current/zentinel.kdl`, and takes over a process that was
    /// started so and still lives.
    #[must_use]
    pub fn new(binary: PathBuf, directory: PathBuf) -> Self {
        let config = directory.join(CURRENT).join(CONFIG).display().to_string();
        let log = ProxyLog::new(&directory, LOG_LIMIT);
        let supervised =
            Self { binary, directory, config, log, process: Mutex::default(), ending: Arc::default() };
        if let Some(process) = supervised.living() {
            tracing::info!(pid = process.pid, "taking over the running proxy");
            supervised.remember(process);
        }
        supervised
    }

    fn arguments(&self) -> [&str; 3] {
        ["run", "-c", &self.config]
    }

    /// The process that an earlier agent started. It may have ended before it wrote that down.
    fn living(&self) -> Option<ProcessId> {
        recorded(&self.directory)
            .filter(|process| process.is_alive())
            .or_else(|| find(&self.binary, &self.arguments()))
    }

    fn remember(&self, process: ProcessId) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        let written = serde_json::to_vec(&process)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_durably(&self.directory.join(FILE), &bytes));
        if let Err(error) = written {
            // It is found by its command line as well.
            tracing::warn!(%error, "{FILE} was not written");
        }
    }

    fn start(&self) -> Result<(), ControlFault> {
        let failed = |what: &Path, error: &std::io::Error| {
            ControlFault::new("proxy_start_failed", format!("{}: {error}", what.display()))
        };
        let output = self.log.open().map_err(|error| failed(&self.directory, &error))?;
        let errors = output.try_clone().map_err(|error| failed(&self.directory, &error))?;
        let mut command = Command::new(&self.binary);
        // The agent's own settings, its token among them, are not the proxy's business.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ZENTINEL_AGENT_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(self.arguments())
            .current_dir(&self.directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(&self.binary, &error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let ending = Arc::clone(&self.ending);
        // Nothing else waits for it, and a process that nobody waits for is never quite gone.
        tokio::spawn(async move {
            let told = match child.wait().await {
                Ok(status) => format!("the proxy ended with {status}"),
                Err(error) => format!("the proxy could not be waited for: {error}"),
            };
            *ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        });
        match pid.and_then(ProcessId::of) {
            Some(process) => {
                tracing::info!(pid = process.pid, "proxy started");
                self.remember(process);
                Ok(())
            }
            None => Err(ControlFault::new("proxy_died", "the proxy ended at once")),
        }
    }

    fn current(&self) -> Option<ProcessId> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).filter(|process| process.is_alive())
    }
}

const FILE: &str = "proxy.json";

/// The process that `proxy.json` in the agent's directory names, dead or alive.
pub(crate) fn recorded(directory: &Path) -> Option<ProcessId> {
    serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()
}

#[async_trait]
impl ProxyControl for SupervisedProxy {
    fn state(&self) -> ProxyState {
        self.current().map_or(ProxyState::Dead, ProxyState::Running)
    }

    async fn reload(&self) -> Result<(), ControlFault> {
        let gone = || ControlFault::new("proxy_died", "the proxy does not run");
        let process = self.current().ok_or_else(gone)?;
        process.signal(Signal::HUP).map_err(|error| ControlFault::new("reload_failed", error.to_string()))
    }

    async fn restart(&self) -> Result<(), ControlFault> {
        if !self.stop().await {
            return Err(ControlFault::new("restart_failed", "the old process does not end"));
        }
        self.start()
    }

    async fn stop(&self) -> bool {
        let Some(process) = self.current() else {
            return true;
        };
        if let Err(error) = process.signal(Signal::TERM) {
            tracing::warn!(pid = process.pid, %error, "the proxy could not be asked to end");
        }
        if process.ended_within(STOP_PATIENCE).await {
            return true;
        }
        tracing::warn!(pid = process.pid, "the proxy did not end in time and is killed");
        process.kill_group();
        process.ended_within(STOP_PATIENCE).await
    }

    fn dismiss(&self) {
        if let Some(Err(error)) = self.current().map(|process| process.signal(Signal::TERM)) {
            tracing::warn!(%error, "the proxy could not be asked to end");
        }
    }

    fn supervises(&self) -> bool {
        true
    }

    fn last_words(&self) -> Option<String> {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let parts: Vec<String> = ending.into_iter().chain(self.log.tail()).collect();
        (!parts.is_empty()).then(|| parts.join("\n"))
    }

    fn tidy(&self) {
        if let Err(error) = self.log.turn_over() {
            tracing::warn!(%error, "the proxy's log could not be turned over");
        }
    }
}
