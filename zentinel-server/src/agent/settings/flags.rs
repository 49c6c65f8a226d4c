//! Settings from a file, the environment and flags.

use super::AgentSettings;
use clap::Args;
use config::{Config, File, FileFormat};
use std::path::Path;
use zentinel_core::{Error, Result};

/// The settings file that is read when no other is named and it exists.
pub const DEFAULT_FILE: &str = "/etc/zentinel/agent.toml";

/// Every setting as a flag and an environment variable. What is not given is not there, so that the
/// file's value holds.
#[derive(Clone, Args)]
pub struct Flags {
    /// Base URL of the control plane.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Slug of the project to register in.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROJECT", value_name = "SLUG")]
    project: Option<String>,
    /// Registration token; only needed before the first registration.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// File that holds the registration token.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<String>,
    /// Name of the node, unique in the project; the host name when absent.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_NAME", value_name = "NAME")]
    name: Option<String>,
    /// A label for selectors; may be repeated.
    #[arg(
        long = "label",
        global = true,
        env = "ZENTINEL_AGENT_LABELS",
        value_delimiter = ',',
        value_name = "KEY=VALUE"
    )]
    labels: Vec<String>,
    /// Directory for everything that the agent keeps.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_DIRECTORY", value_name = "DIR")]
    directory: Option<String>,
    /// Time between heartbeats.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_HEARTBEAT_INTERVAL_SECONDS", value_name = "SECONDS")]
    heartbeat_interval_seconds: Option<String>,
    /// How long one poll may wait for news.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_LONG_POLL_SECONDS", value_name = "SECONDS")]
    long_poll_seconds: Option<String>,
    /// How long the marker of a release may take to answer.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROOF_TIMEOUT_SECONDS", value_name = "SECONDS")]
    proof_timeout_seconds: Option<String>,
    /// How long the proxy must live after the proof before a bundle counts as active.
    #[arg(
        long,
        global = true,
        env = "ZENTINEL_AGENT_SETTLE_SECONDS",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    settle_seconds: Option<String>,
    /// Two ends of the proxy within this time take a new bundle back.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_CRASH_WINDOW_SECONDS", value_name = "SECONDS")]
    crash_window_seconds: Option<String>,
    /// The proxy's program.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROXY_BINARY", value_name = "FILE")]
    proxy_binary: Option<String>,
    /// Shell command that makes the proxy load its configuration again.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROXY_RELOAD_COMMAND", value_name = "COMMAND")]
    proxy_reload_command: Option<String>,
    /// Shell command that starts the proxy anew.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROXY_RESTART_COMMAND", value_name = "COMMAND")]
    proxy_restart_command: Option<String>,
    /// File that holds the number of the proxy's process.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROXY_PID_FILE", value_name = "FILE")]
    proxy_pid_file: Option<String>,
    /// Where the proxy is to answer the agent's marker.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_PROBE_LISTEN", value_name = "ADDRESS")]
    probe_listen: Option<String>,
    /// Where the proxy reports its measurements; taken from the bundle when absent.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_METRICS_URL", value_name = "URL")]
    metrics_url: Option<String>,
    /// How long listeners may take to accept connections after the marker has answered.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_LISTEN_WAIT_SECONDS", value_name = "SECONDS")]
    listen_wait_seconds: Option<String>,
    /// Whether a proxy that the agent runs ends with it.
    #[arg(
        long,
        global = true,
        env = "ZENTINEL_AGENT_STOP_WITH_AGENT",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    stop_with_agent: Option<String>,
    /// Shell command that brings a new slot or weight to whatever stands in front of this node.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_TRAFFIC_HOOK", value_name = "COMMAND")]
    traffic_hook: Option<String>,
    /// How log lines look: `text` or `json`.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<String>,
    /// A `tracing` filter for log lines.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_LOG", value_name = "FILTER")]
    log_filter: Option<String>,
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token among them must not be shown.
        f.debug_struct("Flags").finish_non_exhaustive()
    }
}

impl Flags {
    /// Whether a setting was given.
    pub(in crate::agent) fn gives(&self, path: &str) -> bool {
        self.given().any(|(given, _)| given == path)
    }

    /// What was given, by the path of its setting.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all: [(&'static str, &Option<String>); 22] = [
            ("server", &self.server),
            ("project", &self.project),
            ("token", &self.token),
            ("token_file", &self.token_file),
            ("name", &self.name),
            ("directory", &self.directory),
            ("heartbeat_interval_seconds", &self.heartbeat_interval_seconds),
            ("long_poll_seconds", &self.long_poll_seconds),
            ("proof_timeout_seconds", &self.proof_timeout_seconds),
            ("settle_seconds", &self.settle_seconds),
            ("crash_window_seconds", &self.crash_window_seconds),
            ("proxy.binary", &self.proxy_binary),
            ("proxy.reload_command", &self.proxy_reload_command),
            ("proxy.restart_command", &self.proxy_restart_command),
            ("proxy.pid_file", &self.proxy_pid_file),
            ("proxy.probe_listen", &self.probe_listen),
            ("proxy.metrics_url", &self.metrics_url),
            ("proxy.listen_wait_seconds", &self.listen_wait_seconds),
            ("proxy.stop_with_agent", &self.stop_with_agent),
            ("proxy.traffic_hook", &self.traffic_hook),
            ("log.format", &self.log_format),
            ("log.filter", &self.log_filter),
        ];
        all.into_iter().filter_map(|(path, value)| Some((path, value.as_deref()?)))
    }
}

/// Loads the settings; without a named file, [`DEFAULT_FILE`] when it exists. They are not checked
/// yet: not every command needs all of them.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) naming the setting and the reason.
pub fn load(file: Option<&Path>, flags: &Flags) -> Result<AgentSettings> {
    let default = Path::new(DEFAULT_FILE);
    load_from(file.or_else(|| default.exists().then_some(default)), flags)
}

/// As [`load`], from this file or none.
pub(in crate::agent) fn load_from(file: Option<&Path>, flags: &Flags) -> Result<AgentSettings> {
    let invalid =
        |error: config::ConfigError| Error::invalid(format!("settings: {error}")).with_source(error);
    let mut builder = Config::builder();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::invalid(format!("settings file {}: {error}", path.display())))?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    for (path, value) in flags.given() {
        builder = builder.set_override(path, value).map_err(invalid)?;
    }
    let mut settings: AgentSettings = builder.build().and_then(Config::try_deserialize).map_err(invalid)?;
    for label in &flags.labels {
        let (key, value) = label.split_once('=').ok_or_else(|| {
            Error::invalid_field("labels", format!("`{label}` is not of the form key=value"))
        })?;
        settings.labels.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(settings)
}

/// The flags alone, for tests.
#[cfg(test)]
#[derive(clap::Parser)]
pub(super) struct Probe {
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flag's id of a setting's path, for tests.
#[cfg(test)]
pub(super) fn id_of(path: &str) -> String {
    match path.strip_prefix("proxy.") {
        Some(
            name @ ("probe_listen"
            | "metrics_url"
            | "listen_wait_seconds"
            | "stop_with_agent"
            | "traffic_hook"),
        ) => name.to_owned(),
        _ => path.replace('.', "_"),
    }
}
