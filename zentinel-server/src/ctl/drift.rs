//! `zentinelctl drift`.

use super::find::{self, every};
use super::screen::{age, clean, instant, pairs, state, table};
use super::session::{Session, Versions};
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use zentinel_core::id::{DriftEventId, TypedId as _};
use zentinel_core::{Error, Result};
use zentinel_http::client::{DriftFilter, DriftView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List drift events, newest first.
    List {
        /// Closed ones too.
        #[arg(long)]
        all: bool,
        /// Only those of this node (name, id or its beginning).
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a drift event: what differs, and what was tried.
    Show {
        /// Id or its beginning, or the name of a node with an open event.
        event: String,
    },
    /// Count managed, drifted, in-sync and silent nodes.
    Stats,
    /// Close a drift event. A node that still differs gets a new one at the next look.
    Resolve {
        /// Id or its beginning, or the name of a node with an open event.
        event: String,
    },
    /// Close every open drift event.
    ResolveAll {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Write every drift event to stdout or a file.
    Export {
        /// `json` or `csv`.
        #[arg(long, default_value = "json", value_parser = ["json", "csv"])]
        format: String,
        /// Detected at this instant or later (RFC 3339).
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Detected at this instant or before (RFC 3339).
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// `active`, `resolved` or `all`.
        #[arg(long, default_value = "all", value_parser = ["active", "resolved", "all"])]
        status: String,
        /// The file, which must not be there yet.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List { all, node, limit } => list(session, all, node.as_deref(), limit).await,
        Command::Show { event } => {
            let event = named(session, &event).await?;
            let versions = session.versions().await?;
            session.screen.answer(&event, || facts(&event, &versions))
        }
        Command::Stats => {
            let stats = client.drift_stats(project).await?;
            session.screen.answer(&stats, || {
                let number = |number: u64| number.to_string();
                pairs(&[
                    ("managed", number(stats.total_managed)),
                    ("drifted", number(stats.drifted)),
                    ("in sync", number(stats.in_sync)),
                    ("silent", number(stats.unknown)),
                    ("open events", number(stats.active_events)),
                    ("closed today", number(stats.resolved_today)),
                ])
            })
        }
        Command::Resolve { event } => {
            let found = named(session, &event).await?;
            let closed = client.resolve_drift(project, found.id).await?;
            session.screen.answer(&closed, || format!("the drift of {} is closed", clean(&closed.node_name)))
        }
        Command::ResolveAll { yes } => {
            session.screen.confirm("Close every open drift event of the project?", yes)?;
            let count = client.resolve_all_drift(project).await?;
            session
                .screen
                .answer(&json!({"resolved_count": count}), || format!("{count} drift events closed"))
        }
        Command::Export { format, since, until, status, output } => {
            let mut parameters = vec![("format", format), ("status", status)];
            parameters.extend(since.map(|since| ("since", since)));
            parameters.extend(until.map(|until| ("until", until)));
            export(session, &parameters, output.as_deref()).await
        }
    }
}

async fn list(session: &Session, all: bool, node: Option<&str>, limit: Option<usize>) -> Result<()> {
    let node_id = match node {
        Some(text) => Some(find::node(session, text).await?.id),
        None => None,
    };
    let filter = DriftFilter { status: (!all).then(|| "active".to_owned()), node_id };
    let page =
        async |cursor: Option<&str>| session.client.drift_events(&session.project, &filter, cursor).await;
    let (events, total) = every(limit, page).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"drift_events": events, "total": total}));
    }
    let versions = session.versions().await?;
    let row = |event: &DriftView| {
        let id: String = event.id.to_string().chars().take(8).collect();
        vec![
            id,
            clean(&event.node_name),
            event.kind.as_str().to_owned(),
            state(event.severity.as_str()),
            versions.of(event.expected_bundle_id),
            versions.of_some(event.actual_bundle_id),
            age(Some(event.detected_at), session.now()),
            event.resolution.map_or_else(|| "-".to_owned(), |how| how.as_str().to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = events.iter().map(row).collect();
    let header = ["ID", "NODE", "KIND", "SEVERITY", "EXPECTED", "ACTUAL", "DETECTED", "RESOLUTION"];
    for line in table(&header, &rows) {
        session.screen.line(&line);
    }
    if (events.len() as u64) < total {
        session.screen.note(&format!("{} of {total} drift events", events.len()));
    }
    Ok(())
}

/// An event by its id or the beginning, or the open one of a node of that name.
async fn named(session: &Session, text: &str) -> Result<DriftView> {
    if let Ok(id) = text.parse::<DriftEventId>() {
        return session.client.drift_event(&session.project, id).await;
    }
    let page = async |filter: &DriftFilter| {
        let page =
            async |cursor: Option<&str>| session.client.drift_events(&session.project, filter, cursor).await;
        every(None, page).await.map(|(events, _)| events)
    };
    let open = DriftFilter { status: Some("active".to_owned()), node_id: None };
    if let Some(found) = page(&open).await?.into_iter().find(|event| event.node_name == text) {
        return Ok(found);
    }
    let begins = |event: &DriftView| event.id.uuid().to_string().starts_with(&text.to_ascii_lowercase());
    let mut found: Vec<DriftView> = page(&DriftFilter::default()).await?.into_iter().filter(begins).collect();
    let hint = "`zentinelctl drift list --all` shows what there is";
    match found.pop() {
        Some(event) if found.is_empty() && text.len() >= 4 => Ok(event),
        Some(_) => {
            Err(Error::invalid(format!("`{}` may be several drift events", clean(text))).with_hint(hint))
        }
        None => Err(Error::not_found(format!("there is no drift event `{}`", clean(text))).with_hint(hint)),
    }
}

fn facts(event: &DriftView, versions: &Versions) -> String {
    let when = |at: Option<zentinel_core::Timestamp>| at.map_or_else(|| "-".to_owned(), instant);
    let lines = event.diff_stats.map_or_else(
        || "-".to_owned(),
        |stats| {
            format!("{} added, {} missing, {} the same", stats.additions, stats.deletions, stats.unchanged)
        },
    );
    let tried: Vec<String> = event
        .remediations
        .iter()
        .map(|tried| format!("rollout {} at {}", tried.rollout_id, instant(tried.at)))
        .collect();
    let mut rows = vec![
        ("id", event.id.to_string()),
        ("node", format!("{} ({})", clean(&event.node_name), event.node_id)),
        ("kind", event.kind.as_str().to_owned()),
        ("severity", state(event.severity.as_str())),
        ("expected", versions.of(event.expected_bundle_id)),
        ("actual", versions.of_some(event.actual_bundle_id)),
        ("lines", lines),
        ("detected", instant(event.detected_at)),
        ("resolved", when(event.resolved_at)),
        ("resolution", event.resolution.map_or_else(|| "-".to_owned(), |how| how.as_str().to_owned())),
    ];
    if !tried.is_empty() {
        rows.push(("tried", tried.join("\n")));
    }
    if let Some(why) = &event.remediation_error {
        rows.push(("not tried", clean(why)));
    }
    pairs(&rows)
}

async fn export(session: &Session, parameters: &[(&str, String)], output: Option<&Path>) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    let Some(path) = output else {
        let mut text = Vec::new();
        let collect = |piece: &[u8]| {
            text.extend_from_slice(piece);
            Ok(())
        };
        client.export_drift(project, parameters, collect).await?;
        session.screen.line(String::from_utf8_lossy(&text).trim_end());
        return Ok(());
    };
    let failed = |error: std::io::Error| {
        Error::invalid(format!("{}: {error}", path.display())).with_hint("name a file that is not there yet")
    };
    let mut file = File::create_new(path).map_err(failed)?;
    client.export_drift(project, parameters, |piece| file.write_all(piece).map_err(failed)).await?;
    file.sync_all().map_err(failed)?;
    session.screen.answer(&json!({"file": path}), || format!("drift events are in {}", path.display()))
}
