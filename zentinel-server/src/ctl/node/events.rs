//! What happened to a node, out of all that is kept about it.

use crate::ctl::find::{self, every};
use crate::ctl::screen::{clean, instant, table};
use crate::ctl::session::Session;
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::{Value, json};
use zentinel_core::id::BundleId;
use zentinel_core::{Result, Timestamp};
use zentinel_http::client::{DriftFilter, ReportedView};

/// A node that was silent for longer was offline.
const OFFLINE: TimeDelta = TimeDelta::seconds(120);

/// One thing that happened.
#[derive(Debug, Serialize)]
struct Happened {
    at: Timestamp,
    event: &'static str,
    what: String,
}

pub(super) async fn run(session: &Session, text: &str, limit: u32) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    let node = find::node(session, text).await?;
    let versions = session.versions().await?;
    let mut all = Vec::new();
    let mut add = |at, event, what: String| all.push(Happened { at, event, what });
    if let Some(at) = node.registered_at {
        add(at, "registered", String::new());
    }
    for event in client.node_events(project, node.id, limit).await?.items {
        let text = |name: &str| event.reported.get(name).and_then(Value::as_str).unwrap_or_default();
        add(event.inserted_at, "reported", clean(&format!("{}: {}", text("event_type"), text("message"))));
    }
    let mut beats = client.node_heartbeats(project, node.id, 500).await?.items;
    beats.reverse();
    let active = |beat: &ReportedView| -> Option<BundleId> {
        beat.reported.get("active_bundle_id").and_then(Value::as_str)?.parse().ok()
    };
    for pair in beats.windows(2) {
        let [before, after] = pair else { continue };
        if after.inserted_at - before.inserted_at > OFFLINE {
            add(before.inserted_at + OFFLINE, "offline", "silent for two minutes".to_owned());
            add(after.inserted_at, "online", String::new());
        }
        if active(before) != active(after) {
            let what =
                format!("{}, after {}", versions.of_some(active(after)), versions.of_some(active(before)));
            add(after.inserted_at, "activated", what);
        }
    }
    let filter = DriftFilter { status: None, node_id: Some(node.id) };
    let page = async |cursor: Option<&str>| client.drift_events(project, &filter, cursor).await;
    for drift in every(Some(500), page).await?.0 {
        let what = format!("{} ({})", drift.kind.as_str(), drift.severity.as_str());
        add(drift.detected_at, "drifted", what);
        for tried in &drift.remediations {
            add(tried.at, "being brought back", format!("rollout {}", tried.rollout_id));
        }
        if let (Some(at), Some(how)) = (drift.resolved_at, drift.resolution) {
            add(at, "drift ended", how.as_str().to_owned());
        }
    }
    if let Some(refused) = &node.bundle_error {
        let what = format!("{}: {}", versions.of(refused.bundle_id), clean(&refused.reason));
        add(node.last_seen_at.unwrap_or_else(|| session.now()), "refused", what);
    }
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if session.screen.is_json() {
        return session.screen.object(&json!({"node_id": node.id, "events": all}));
    }
    let rows: Vec<Vec<String>> =
        all.iter().map(|one| vec![instant(one.at), one.event.to_owned(), one.what.clone()]).collect();
    for line in table(&["TIME", "EVENT", "WHAT"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}
