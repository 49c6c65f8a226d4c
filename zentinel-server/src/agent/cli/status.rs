//! `zentinel-agent status`: what the files in the agent's directory say.

use crate::agent::proxy::{ProcessId, RenderedRelease, recorded};
use crate::agent::settings::AgentSettings;
use crate::agent::state::{NodeState, StateFile};
use crate::cli::Output;
use serde::Serialize;
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
        proxy: Proxy {
            pid: process.map(|process| process.pid),
            running: living.is_some(),
            uptime_s: living.and_then(ProcessId::uptime).map(|uptime| uptime.as_secs()),
        },
    }
}

fn text(status: &Status) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let mut lines = vec![
        format!("node            {}", status.node_id),
        format!("project         {}", status.project_id),
        format!("active bundle   {}", or_none(status.active_bundle_id.map(|id| id.to_string()))),
        format!("sequence        {}", status.last_sequence),
    ];
    if let Some(activating) = &status.activating {
        lines.push(format!("activating      {} (sequence {})", activating.bundle_id, activating.sequence));
    }
    if let Some(refused) = &status.refused {
        lines.push(format!("refused         {} (sequence {})", refused.bundle_id, refused.sequence));
        lines.push(format!("                {}: {}", refused.reason, refused.message));
    }
    let proxy = match (status.proxy.pid, status.proxy.running) {
        (Some(pid), true) => format!("process {pid}, for {} s", status.proxy.uptime_s.unwrap_or_default()),
        (Some(pid), false) => format!("process {pid} has ended"),
        (None, _) => "no process known".to_owned(),
    };
    lines.push(format!("proxy           {proxy}"));
    lines.join("\n")
}
