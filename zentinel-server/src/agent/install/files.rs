//! What is written where.

use super::AgentSettings;
use serde_json::Value;
use std::path::PathBuf;
use zentinel_core::Result;

/// The settings.
pub(super) const SETTINGS: &str = "/etc/zentinel/agent.toml";
/// The registration token.
pub(super) const TOKEN: &str = "/etc/zentinel/registration.token";
/// The unit.
pub(super) const UNIT: &str = "/etc/systemd/system/zentinel-agent.service";
/// The system user.
pub(super) const SYSUSERS: &str = "/etc/sysusers.d/zentinel-agent.conf";

/// The settings file: what differs from the defaults. The token stays in its own file.
///
/// # Errors
/// `Internal` when the settings cannot be written down.
pub(super) fn settings(settings: &AgentSettings, keeps_token: bool) -> Result<String> {
    let mut shown = settings.clone();
    shown.token = AgentSettings::default().token;
    shown.token_file = keeps_token.then(|| PathBuf::from(TOKEN));
    let (given, defaults) = (serde_json::to_value(shown)?, serde_json::to_value(AgentSettings::default())?);
    let mut text = String::from("# Written by `zentinel-agent install`. Every setting: docs/agent.md.\n");
    section(&mut text, None, &given, &defaults);
    Ok(text)
}

/// The values of a table, then its tables: TOML wants them in this order.
fn section(text: &mut String, name: Option<&str>, given: &Value, defaults: &Value) {
    let Value::Object(fields) = given else { return };
    let changed =
        || fields.iter().filter(|(key, value)| defaults.get(key) != Some(value) && !value.is_null());
    let mut header = name.map(|name| format!("\n[{name}]\n"));
    for (key, value) in changed().filter(|(_, value)| !value.is_object()) {
        text.push_str(&header.take().unwrap_or_default());
        text.push_str(&format!("{} = {value}\n", quoted(key)));
    }
    for (key, value) in changed().filter(|(_, value)| value.is_object()) {
        let path = name.map_or_else(|| quoted(key), |name| format!("{name}.{}", quoted(key)));
        section(text, Some(&path), value, defaults.get(key).unwrap_or(&Value::Null));
    }
}

/// A key as TOML takes it. JSON strings, numbers and booleans are TOML as they are.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if bare { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::settings::{Flags, load};
    use clap::Parser;

    #[derive(Parser)]
    struct NoFlags {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn the_file_reads_back_as_what_was_given() {
        let mut given = AgentSettings {
            server: Some("https://cp.example.com/fleet".parse().unwrap()),
            project: "edge \"1\"\n[x]".to_owned(),
            name: Some("edge-1".to_owned()),
            heartbeat_interval_seconds: 0.5,
            ..AgentSettings::default()
        };
        given.labels.insert("topology.kubernetes.io/zone".to_owned(), "eu-1".to_owned());
        given.labels.insert("region".to_owned(), "eu".to_owned());
        given.proxy.binary = Some(PathBuf::from("/usr/local/bin/zentinel"));
        given.proxy.stop_with_agent = true;
        let text = settings(&given, true).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let read = load(Some(file.path()), &NoFlags::parse_from(["x"]).flags).unwrap();
        given.token_file = Some(PathBuf::from(TOKEN));
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&given).unwrap(), "{text}");
        assert!(!text.contains("probe_listen"), "defaults stay out: {text}");
    }
}
