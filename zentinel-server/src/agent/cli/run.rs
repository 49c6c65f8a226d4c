//! `zentinel-agent run`.

use crate::agent::health::ProxyHealth;
use crate::agent::proxy::{
    ExternalCommands, ExternalProxy, ProxyActivator, ProxyControl, ProxyOptions, SupervisedProxy, version_of,
};
use crate::agent::settings::{AgentSettings, ProxySettings, seconds};
use crate::agent::state::StateFile;
use crate::agent::{Agent, AgentOptions};
use crate::backoff::Backoff;
use crate::cli::{Output, start_logs, stop_signal};
use serde_json::json;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zentinel_compiler::validate::IsolatedValidator;
use zentinel_core::port::{Clock, SystemClock};
use zentinel_core::{Error, Kind, Result};

/// Runs the agent until it is told to end.
pub(super) fn run(settings: &AgentSettings, output: &Output) -> Result<ExitCode> {
    settings.check()?;
    start_logs(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the runtime did not start").with_source(error))?;
    let ended = runtime.block_on(serve(settings, output));
    // A thread that still reads or writes a file has nothing more to say.
    runtime.shutdown_background();
    ended
}

async fn serve(settings: &AgentSettings, output: &Output) -> Result<ExitCode> {
    let directory = prepare(&settings.directory)?;
    let _lock = lock(&directory)?;
    // A damaged identity is told of before anything is touched.
    StateFile::in_directory(&directory).load()?;
    // Somebody reloads all daemons: the agent has nothing to reload, and must not end for it.
    let hangups = signal(SignalKind::hangup());
    let _hangups = hangups.map_err(|error| Error::internal("signals can't be watched").with_source(error))?;
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    let signals = tokio::spawn(async move {
        let stopped = stop_signal().await;
        stopping.cancel();
        stopped
    });
    let control = control(&settings.proxy, &directory);
    let activator = Arc::new(ProxyActivator::new(
        proxy_options(settings, &directory),
        control,
        Arc::new(IsolatedValidator::default()),
        clock(),
    ));
    let options = agent_options(settings, directory).await?;
    let enrolled = shutdown.run_until_cancelled(enrol(&options, settings, &activator)).await;
    if let Some(agent) = enrolled {
        let agent = agent?;
        let details =
            json!({ "node_id": agent.node_id(), "name": options.name, "directory": options.directory });
        output.event("ready", details, || format!("node {} ({})", options.name, agent.node_id()));
        agent.run(shutdown).await;
    }
    match signals.await {
        Ok(stopped) => stopped.map(|()| ExitCode::SUCCESS),
        Err(error) => Err(Error::internal("signals can't be watched").with_source(error)),
    }
}

#[cfg(not(feature = "crash-points"))]
fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// The clock, off by as many seconds as a test asks for.
#[cfg(feature = "crash-points")]
fn clock() -> Arc<dyn Clock> {
    let seconds = std::env::var("ZENTINEL_CLOCK_OFFSET_SECONDS").ok().and_then(|text| text.parse().ok());
    Arc::new(WrongClock(chrono::TimeDelta::seconds(seconds.unwrap_or(0))))
}

#[cfg(feature = "crash-points")]
#[derive(Debug)]
struct WrongClock(chrono::TimeDelta);

#[cfg(feature = "crash-points")]
#[async_trait::async_trait]
impl Clock for WrongClock {
    fn now(&self) -> zentinel_core::Timestamp {
        SystemClock.now() + self.0
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

/// Registers, if need be for as long as it takes: a node may start before its control plane.
async fn enrol(
    options: &AgentOptions,
    settings: &AgentSettings,
    activator: &Arc<ProxyActivator>,
) -> Result<Agent> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
    loop {
        let interval = seconds(settings.heartbeat_interval_seconds);
        let health = Arc::new(ProxyHealth::new(Arc::clone(activator), interval));
        let activator = Arc::clone(activator);
        match Agent::enrol(options.clone(), clock(), activator, health).await {
            Err(error) if error.kind().is_transient() => {
                tracing::warn!(%error, "not registered yet");
                tokio::time::sleep(backoff.pause()).await;
            }
            enrolled => return enrolled.map_err(|error| explained(error, options)),
        }
    }
}

/// A refusal, with what to do about it.
fn explained(error: Error, options: &AgentOptions) -> Error {
    let project = &options.project;
    let anew = format!("make another one: zentinelctl node token create NAME --project {project}");
    match (error.kind(), &options.token) {
        (Kind::Unauthenticated, None) => {
            error.with_hint(format!("give one with --token-file, --token or ZENTINEL_AGENT_TOKEN; {anew}"))
        }
        // The control plane tells a stranger no more than that.
        (Kind::Unauthenticated, Some(_)) => Error::unauthenticated(format!(
            "{} does not accept the registration token: it is unknown, revoked, used up, or has ended",
            options.server
        ))
        .with_source(error)
        .with_hint(anew),
        (Kind::NotFound, Some(_)) => Error::not_found(format!(
            "the registration token is not for the project {project}, or there is no such project"
        ))
        .with_source(error)
        .with_hint(format!("name the token's project with --project, or {anew}")),
        (Kind::Invalid, _) if error.fields().contains_key("name") => {
            error.with_hint("choose another --name, or delete the node that has it: zentinelctl node delete")
        }
        _ => error,
    }
}

/// Makes the directory, for the agent's user alone: bundles may hold private keys.
fn prepare(directory: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| {
        Error::unavailable(format!("directory {}: {error}", directory.display()))
            .with_source(error)
            .with_hint("choose another one with --directory, or let this user write to it")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    std::fs::canonicalize(directory).map_err(failed)
}

/// Two agents on one directory would undo each other's work.
pub(in crate::agent) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("agent.lock");
    let failed =
        |error: std::io::Error| Error::unavailable(format!("{}: {error}", path.display())).with_source(error);
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another agent runs in {}", directory.display());
            Err(Error::conflict(message).with_hint("stop it, or choose another --directory"))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn control(proxy: &ProxySettings, directory: &Path) -> Arc<dyn ProxyControl> {
    match &proxy.binary {
        Some(binary) if !proxy.is_external() => {
            Arc::new(SupervisedProxy::new(absolute(binary), directory.to_path_buf()))
        }
        _ => Arc::new(ExternalProxy::new(ExternalCommands {
            reload: proxy.reload_command.clone(),
            restart: proxy.restart_command.clone(),
            pid_file: proxy.pid_file.clone(),
        })),
    }
}

/// The proxy runs in the agent's directory: a relative path would mean something else there. A bare
/// name is looked up in `PATH`.
fn absolute(binary: &Path) -> PathBuf {
    if binary.components().count() == 1 {
        return binary.to_path_buf();
    }
    std::path::absolute(binary).unwrap_or_else(|_| binary.to_path_buf())
}

fn proxy_options(settings: &AgentSettings, directory: &Path) -> ProxyOptions {
    ProxyOptions {
        directory: directory.to_path_buf(),
        binary: settings.proxy.binary.as_deref().map(absolute),
        probe_listen: settings.proxy.probe_listen,
        metrics_url: settings.proxy.metrics_url.clone(),
        proof_timeout: seconds(settings.proof_timeout_seconds),
        listen_wait: seconds(settings.proxy.listen_wait_seconds),
        settle: seconds(settings.settle_seconds),
        crash_window: seconds(settings.crash_window_seconds),
        stop_with_agent: settings.proxy.stop_with_agent,
    }
}

async fn agent_options(settings: &AgentSettings, directory: PathBuf) -> Result<AgentOptions> {
    let version = match &settings.proxy.binary {
        Some(binary) => version_of(&absolute(binary)).await.unwrap_or_default(),
        None => String::new(),
    };
    let host_name = || {
        let unnamed = |_| Error::invalid_field("name", "the host has no name; choose one");
        sysinfo::System::host_name().map_err(unnamed)
    };
    Ok(AgentOptions {
        server: settings.server.clone().ok_or_else(|| Error::invalid_field("server", "can't be blank"))?,
        project: settings.project.clone(),
        token: settings.registration_token()?,
        name: settings.name.clone().map_or_else(host_name, Ok)?,
        labels: settings.labels.clone(),
        version,
        directory,
        heartbeat_interval: seconds(settings.heartbeat_interval_seconds),
        long_poll: seconds(settings.long_poll_seconds),
        traffic_hook: settings.proxy.traffic_hook.clone().filter(|hook| !hook.trim().is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::Secret;

    #[test]
    fn a_refused_registration_says_what_is_wrong_and_what_to_do() {
        let options = |token: Option<&str>| AgentOptions {
            server: "http://127.0.0.1:4000".parse().unwrap(),
            project: "edge".to_owned(),
            token: token.map(Secret::new),
            name: "edge-1".to_owned(),
            labels: std::collections::BTreeMap::new(),
            version: String::new(),
            directory: PathBuf::new(),
            heartbeat_interval: Duration::from_secs(1),
            long_poll: Duration::from_secs(1),
            traffic_hook: None,
        };
        let said = |error: Error, token| {
            let error = explained(error, &options(token));
            (error.kind(), error.to_string(), error.hint().unwrap_or_default().to_owned())
        };
        let required = || Error::unauthenticated("Registration token required");
        let (kind, text, hint) = said(required(), Some("nonsense"));
        assert_eq!(kind, Kind::Unauthenticated);
        assert!(
            text.contains("http://127.0.0.1:4000") && text.contains("unknown") && text.contains("used up")
        );
        assert!(!text.contains("nonsense"), "{text}");
        assert!(hint.contains("zentinelctl node token create NAME --project edge"), "{hint}");
        let (_, text, hint) = said(required(), None);
        assert!(text.contains("required") && hint.contains("--token-file") && hint.contains("token create"));
        let (kind, text, hint) = said(Error::not_found("Project not found"), Some("of another project"));
        assert_eq!(kind, Kind::NotFound);
        assert!(text.contains("project edge") && hint.contains("--project"), "{text} {hint}");
        let (_, _, hint) = said(Error::invalid_field("name", "has already been taken"), Some("good"));
        assert!(hint.contains("--name"), "{hint}");
    }
}
