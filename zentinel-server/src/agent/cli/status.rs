//! `zentinel-agent status`: what the files in the agent's directory say.

use crate::agent::proxy::{ProcessId, RenderedRelease, recorded};
use crate::agent::settings::AgentSettings;
use crate::agent::state::{NodeState, StateFile};
use crate::cli::Output;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use zentinel_core::id::{BundleId, NodeId, ProjectId};
use zentinel_core::{Error, Result};

/// What is known of a node without asking anybody.
#[derive(Debug, Serialize)]
struct Status {
    node_id: NodeId,
    project_id: ProjectId,
    /// The bundle that serves traffic.
    active_bundle_id: Option<BundleId>,
    /// The highest sequence that was accepted.
    last_sequence: u64,
    /// The sequence of the release that the proxy is to load.
    current_sequence: Option<u64>,
    /// The activation that has begun.
    activating: Option<crate::agent::Activating>,
    /// The bundle that is not tried again.
    refused: Option<crate::agent::Refused>,
    /// What the control plane calls these bundles.
    versions: BTreeMap<BundleId, String>,
    proxy: Proxy,
}

#[derive(Debug, Serialize)]
struct Proxy {
    /// The process, as far as the agent knows one.
    pid: Option<i32>,
    running: bool,
    uptime_s: Option<u64>,
}

pub(super) fn status(settings: &AgentSettings, output: &Output) -> Result<ExitCode> {
    let directory = &settings.directory;
    let state = StateFile::in_directory(directory).load()?.ok_or_else(|| {
        Error::not_found(format!("{} holds no node", directory.display())).with_hint(
            "it has not registered yet; start it with `zentinel-agent run`, or name its --directory",
        )
    })?;
    let process = match &settings.proxy.pid_file {
        Some(file) => {
            std::fs::read_to_string(file).ok().and_then(|pid| pid.trim().parse().ok()).and_then(ProcessId::of)
        }
        None => recorded(directory),
    };
    let status = describe(state, process, directory);
    let details = serde_json::to_value(&status)?;
    output.event("status", details, || text(&status));
    Ok(ExitCode::SUCCESS)
}

fn describe(state: NodeState, process: Option<ProcessId>, directory: &Path) -> Status {
    let living = process.filter(|process| process.is_alive());
    Status {
        node_id: state.node_id,
        project_id: state.project_id,
        active_bundle_id: state.active_bundle_id,
        last_sequence: state.last_sequence,
        current_sequence: RenderedRelease::current(directory).map(|release| release.sequence),
        activating: state.activating,
        refused: state.refused,
        versions: state.versions,
        proxy: Proxy {
            pid: process.map(|process| process.pid),
            running: living.is_some(),
            uptime_s: living.and_then(ProcessId::uptime).map(|uptime| uptime.as_secs()),
        },
    }
}

/// How far values are indented.
const INDENT: &str = "                ";

fn text(status: &Status) -> String {
    let called = |id: BundleId| match status.versions.get(&id) {
        Some(version) => format!("{version} ({id})"),
        None => id.to_string(),
    };
    let mut lines = vec![
        format!("node            {}", status.node_id),
        format!("project         {}", status.project_id),
        format!("active bundle   {}", status.active_bundle_id.map_or_else(|| "none".to_owned(), called)),
        format!("sequence        {}", status.last_sequence),
    ];
    if let Some(activating) = &status.activating {
        lines.push(format!(
            "activating      {}, sequence {}",
            called(activating.bundle_id),
            activating.sequence
        ));
    }
    if let Some(refused) = &status.refused {
        lines.push(format!("refused         {}, sequence {}", called(refused.bundle_id), refused.sequence));
        let mut message = refused.message.lines();
        lines.push(format!("{INDENT}{}: {}", refused.reason, message.next().unwrap_or_default()));
        // The proxy's own lines, below what the agent says of them.
        lines.extend(message.map(|line| format!("{INDENT}  {line}")));
    }
    let proxy = match (status.proxy.pid, status.proxy.running) {
        (Some(pid), true) => format!("process {pid}, for {} s", status.proxy.uptime_s.unwrap_or_default()),
        (Some(pid), false) => format!("process {pid} has ended"),
        (None, _) => "no process known".to_owned(),
    };
    lines.push(format!("proxy           {proxy}"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Activating, Refused};

    #[test]
    fn bundles_have_their_names_and_log_lines_their_place() {
        let (active, bad, unnamed) = (BundleId::random(), BundleId::random(), BundleId::random());
        let status = Status {
            node_id: NodeId::random(),
            project_id: ProjectId::random(),
            active_bundle_id: Some(active),
            last_sequence: 7,
            current_sequence: Some(6),
            activating: Some(Activating { sequence: 8, bundle_id: unnamed }),
            refused: Some(Refused {
                sequence: 7,
                bundle_id: bad,
                reason: "proxy_died".to_owned(),
                message: "the proxy ended\nlast words of the proxy: one\ntwo".to_owned(),
            }),
            versions: BTreeMap::from([(active, "1.0.0".to_owned()), (bad, "1.1.0".to_owned())]),
            proxy: Proxy { pid: None, running: false, uptime_s: None },
        };
        let text = text(&status);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                format!("active bundle   1.0.0 ({active})"),
                "sequence        7".to_owned(),
                format!("activating      {unnamed}, sequence 8"),
                format!("refused         1.1.0 ({bad}), sequence 7"),
                "                proxy_died: the proxy ended".to_owned(),
                "                  last words of the proxy: one".to_owned(),
                "                  two".to_owned(),
                "proxy           no process known".to_owned(),
            ]
        );
    }
}
