//! Every setting of `zentinel-agent`.
//!
//! Later sources win: defaults, the TOML file, environment variables, flags. The table in
//! `docs/agent.md`, which follows, is tested against these structs.
//!
#![doc = include_str!("../../docs/agent.md")]

mod flags;

pub(in crate::agent) use flags::load_from;
pub use flags::{DEFAULT_FILE, Flags, load};

use crate::settings::{HiddenText, Log};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;
use zentinel_core::error::Checks;
use zentinel_core::{Error, Result, Secret};

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// Base URL of the control plane.
    pub server: Option<Url>,
    /// Slug of the project to register in.
    pub project: String,
    /// Registration token; only needed before the first registration.
    pub token: HiddenText,
    /// File that holds the registration token.
    pub token_file: Option<PathBuf>,
    /// Name of the node, unique in the project; the host name when absent.
    pub name: Option<String>,
    /// Labels for selectors, told at the registration.
    pub labels: BTreeMap<String, String>,
    /// Directory for everything that the agent keeps.
    pub directory: PathBuf,
    /// Time between heartbeats.
    pub heartbeat_interval_seconds: f64,
    /// How long one poll may wait for news.
    pub long_poll_seconds: f64,
    /// How long the marker of a release may take to answer.
    pub proof_timeout_seconds: f64,
    /// How long the proxy must live after the proof before a bundle counts as active.
    pub settle_seconds: f64,
    /// Two ends of the proxy within this time take a new bundle back.
    pub crash_window_seconds: f64,
    /// The proxy.
    pub proxy: ProxySettings,
    /// Logs.
    pub log: Log,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            server: None,
            project: String::new(),
            token: HiddenText::default(),
            token_file: None,
            name: None,
            labels: BTreeMap::new(),
            directory: PathBuf::from("/var/lib/zentinel-agent"),
            heartbeat_interval_seconds: 10.0,
            long_poll_seconds: 30.0,
            proof_timeout_seconds: 10.0,
            settle_seconds: 10.0,
            crash_window_seconds: 60.0,
            proxy: ProxySettings::default(),
            log: Log::default(),
        }
    }
}

/// The proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxySettings {
    /// The proxy's program. Without the three settings that follow, the agent runs it.
    pub binary: Option<PathBuf>,
    /// Shell command that makes the proxy load its configuration again.
    pub reload_command: Option<String>,
    /// Shell command that starts the proxy anew.
    pub restart_command: Option<String>,
    /// File that holds the number of the proxy's process.
    pub pid_file: Option<PathBuf>,
    /// Where the proxy is to answer the agent's marker.
    pub probe_listen: SocketAddr,
    /// Where the proxy reports its measurements; taken from the bundle when absent.
    pub metrics_url: Option<Url>,
    /// How long listeners may take to accept connections after the marker has answered.
    pub listen_wait_seconds: f64,
    /// Whether a proxy that the agent runs ends with it.
    pub stop_with_agent: bool,
    /// Shell command that brings a new slot or weight to whatever stands in front of this node.
    pub traffic_hook: Option<String>,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            binary: None,
            reload_command: None,
            restart_command: None,
            pid_file: None,
            probe_listen: SocketAddr::from(([127, 0, 0, 1], 9180)),
            metrics_url: None,
            listen_wait_seconds: 5.0,
            stop_with_agent: false,
            traffic_hook: None,
        }
    }
}

impl ProxySettings {
    /// Whether another supervisor runs the proxy.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.reload_command.is_some() || self.restart_command.is_some() || self.pid_file.is_some()
    }
}

/// Longest duration that makes sense: a day.
const LONGEST: f64 = 86_400.0;

impl AgentSettings {
    /// Checks what a running agent needs.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) with every wrong setting.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        let http = |url: &Url| matches!(url.scheme(), "http" | "https");
        let given =
            self.server.as_ref().map_or_else(|| "it is not set".to_owned(), |url| format!("not {url}"));
        checks.that(
            "server",
            self.server.as_ref().is_some_and(http),
            format!("must be the control plane's http or https URL; {given}"),
        );
        checks.that(
            "project",
            !self.project.is_empty(),
            "can't be blank: the slug of the project to register in",
        );
        let named = self.name.as_ref().is_none_or(|name| !name.is_empty());
        checks.that("name", named, "can't be blank; leave it out for the host name");
        checks.that(
            "proxy.binary",
            self.proxy.binary.is_some() || self.proxy.is_external(),
            "can't be blank unless another supervisor runs the proxy \
             (proxy.pid_file, proxy.reload_command, proxy.restart_command)",
        );
        checks.that(
            "proxy.reload_command",
            !self.proxy.is_external() || self.proxy.reload_command.is_some() || self.proxy.pid_file.is_some(),
            "can't be blank without proxy.pid_file: the agent must be able to reload the proxy",
        );
        // The page is read without TLS and without credentials.
        let plain = self.proxy.metrics_url.as_ref().is_none_or(|url| url.scheme() == "http");
        checks.that("proxy.metrics_url", plain, "must be an http URL");
        checks.that("proxy.probe_listen", self.proxy.probe_listen.port() != 0, "must have a port");
        for (name, seconds) in [
            ("heartbeat_interval_seconds", self.heartbeat_interval_seconds),
            ("long_poll_seconds", self.long_poll_seconds),
            ("proof_timeout_seconds", self.proof_timeout_seconds),
            ("crash_window_seconds", self.crash_window_seconds),
            ("proxy.listen_wait_seconds", self.proxy.listen_wait_seconds),
        ] {
            checks.that(name, seconds > 0.0 && seconds <= LONGEST, "must be above 0 and at most a day");
        }
        let settles = (0.0..=LONGEST).contains(&self.settle_seconds);
        checks.that("settle_seconds", settles, "must be from 0 to a day");
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log.filter);
        checks.that(
            "log.filter",
            filter.is_ok(),
            "is not a tracing filter such as info,zentinel_server=debug",
        );
        checks.finish()
    }

    /// The registration token, from the setting or its file.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) when the file can't be read.
    pub fn registration_token(&self) -> Result<Option<Secret>> {
        if let Some(token) = self.token.get() {
            return Ok(Some(token.clone()));
        }
        let Some(file) = &self.token_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::invalid_field("token_file", format!("{}: {error}", file.display())).with_source(error)
        })?;
        Ok(Some(Secret::new(text.trim())))
    }
}

/// A checked number of seconds.
pub(super) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, FromArgMatches as _};

    fn from_flags(flags: &[&str]) -> Result<AgentSettings> {
        let command = super::flags::Probe::command();
        let matches = command.try_get_matches_from([&["x"], flags].concat()).unwrap();
        load(None, &super::flags::Probe::from_arg_matches(&matches).unwrap().flags)
    }

    fn paths(prefix: &str, value: &serde_json::Value, found: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    paths(&format!("{prefix}{name}."), value, found);
                }
            }
            serde_json::Value::Null => found.push((prefix.to_owned(), "unset".to_owned())),
            serde_json::Value::String(text) if text.is_empty() => {
                found.push((prefix.to_owned(), "unset".to_owned()));
            }
            serde_json::Value::String(text) => found.push((prefix.to_owned(), text.clone())),
            other => found.push((prefix.to_owned(), other.to_string())),
        }
    }

    #[test]
    fn the_documentation_lists_every_setting_with_default_flag_and_variable() {
        let documented = include_str!("../../docs/agent.md");
        let mut settings = Vec::new();
        paths("", &serde_json::to_value(AgentSettings::default()).unwrap(), &mut settings);
        let command = super::flags::Probe::command();
        for (path, default) in &settings {
            let path = path.trim_end_matches('.');
            let id = super::flags::id_of(path);
            let flag = command.get_arguments().find(|flag| flag.get_id() == id.as_str());
            let flag = flag.unwrap_or_else(|| panic!("no flag for {path}"));
            let (long, variable) = (flag.get_long().unwrap(), flag.get_env().unwrap().to_str().unwrap());
            let row = format!("| `{path}` | `{default}` | `--{long}` | `{variable}` |");
            assert!(documented.contains(&row), "docs/agent.md lacks a row that starts with: {row}");
        }
        assert_eq!(settings.len(), documented.lines().filter(|line| line.starts_with("| `")).count());
    }

    #[test]
    fn later_sources_win_and_fractions_are_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        let text = "server = \"http://one\"\nproject = \"edge\"\nsettle_seconds = 3\n\
                    [labels]\n\"a/b\" = \"file\"\nzone = \"z\"\n[proxy]\nbinary = \"/bin/proxy\"\n";
        std::fs::write(&file, text).unwrap();
        let flags = ["--server", "http://two", "--heartbeat-interval-seconds", "0.2", "--label", "a/b=flag"];
        let matches =
            super::flags::Probe::command().try_get_matches_from([&["x"], &flags[..]].concat()).unwrap();
        let flags = super::flags::Probe::from_arg_matches(&matches).unwrap().flags;
        let settings = load(Some(&file), &flags).unwrap();
        settings.check().unwrap();
        assert_eq!(settings.server.as_ref().unwrap().as_str(), "http://two/");
        assert_eq!((settings.project.as_str(), settings.settle_seconds), ("edge", 3.0));
        assert_eq!(seconds(settings.heartbeat_interval_seconds), Duration::from_millis(200));
        assert_eq!(settings.labels["a/b"], "flag");
        assert_eq!(settings.labels["zone"], "z");
        assert!(!settings.proxy.is_external() && !settings.proxy.stop_with_agent);
    }

    #[test]
    fn wrong_settings_are_named() {
        let error = from_flags(&[]).unwrap().check().unwrap_err();
        let fields: Vec<_> = error.fields().keys().cloned().collect();
        assert_eq!(fields, ["project", "proxy.binary", "server"]);
        let wrong = from_flags(&["--probe-listen", "nowhere"]).unwrap_err().to_string();
        assert!(wrong.contains("probe_listen"), "{wrong}");
        assert!(from_flags(&["--label", "zone"]).unwrap_err().to_string().contains("zone"));
        let settings = from_flags(&["--proxy-restart-command", "x", "--settle-seconds", "-1"]);
        let fields = settings.unwrap().check().unwrap_err();
        assert!(fields.fields().contains_key("proxy.reload_command"));
        assert!(fields.fields().contains_key("settle_seconds"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        std::fs::write(&file, "heartbeat = 3\n").unwrap();
        let flags =
            super::flags::Probe::from_arg_matches(&super::flags::Probe::command().get_matches_from(["x"]));
        let error = load(Some(&file), &flags.unwrap().flags).unwrap_err().to_string();
        assert!(error.contains("heartbeat"), "{error}");
    }

    #[test]
    fn the_token_is_read_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "hunter2\n").unwrap();
        let mut settings =
            from_flags(&["--token-file", file.to_str().unwrap(), "--stop-with-agent"]).unwrap();
        assert!(settings.proxy.stop_with_agent);
        assert_eq!(settings.registration_token().unwrap(), Some(Secret::new("hunter2")));
        settings.token_file = Some(directory.path().join("absent"));
        assert!(settings.registration_token().unwrap_err().fields().contains_key("token_file"));
        let settings = from_flags(&["--token", "hunter3"]).unwrap();
        assert_eq!(settings.registration_token().unwrap(), Some(Secret::new("hunter3")));
        let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
