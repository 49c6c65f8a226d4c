//! Listing nodes.

use crate::ctl::find::{self, every};
use crate::ctl::screen::{age, clean, labels, state, table};
use crate::ctl::session::{Session, Versions};
use serde_json::json;
use zentinel_core::{Result, Timestamp};
use zentinel_http::client::{NodeFilter, NodeView};

pub(super) const HEADER: [&str; 8] =
    ["NAME", "STATUS", "ACTIVE", "EXPECTED", "VERSION", "LAST SEEN", "LABELS", "NOTE"];

pub(super) async fn run(
    session: &Session,
    filter: &NodeFilter,
    bundle: Option<&str>,
    limit: Option<usize>,
) -> Result<()> {
    let bundle = match bundle {
        Some(text) => Some(find::bundle(session, text).await?.id),
        None => None,
    };
    // The server does not filter by bundle, so the limit is for what is left of all.
    let page =
        async |cursor: Option<&str>| session.client.nodes_where(&session.project, filter, cursor).await;
    let (mut nodes, mut total) = every(limit.filter(|_| bundle.is_none()), page).await?;
    if bundle.is_some() {
        nodes.retain(|node| node.active_bundle_id == bundle);
        total = nodes.len() as u64;
        nodes.truncate(limit.unwrap_or(usize::MAX));
    }
    show(session, &nodes, total).await
}

/// Shows nodes as they are listed.
pub(in crate::ctl) async fn show(session: &Session, nodes: &[NodeView], total: u64) -> Result<()> {
    if session.screen.is_json() {
        return session.screen.object(&json!({"nodes": nodes, "total": total}));
    }
    let versions = session.versions().await?;
    let rows: Vec<Vec<String>> = nodes.iter().map(|node| row(node, &versions, session.now())).collect();
    for line in table(&HEADER, &rows) {
        session.screen.line(&line);
    }
    if (nodes.len() as u64) < total {
        session.screen.note(&format!("{} of {total} nodes", nodes.len()));
    }
    Ok(())
}

/// A node as a row of the table.
pub(super) fn row(node: &NodeView, versions: &Versions, now: Timestamp) -> Vec<String> {
    vec![
        clean(&node.name),
        state(node.status.as_str()),
        versions.of_some(node.active_bundle_id),
        versions.of_some(node.expected_bundle_id),
        node.version.as_deref().map_or_else(|| "-".to_owned(), clean),
        age(node.last_seen_at, now),
        labels(&node.labels),
        note(node, versions),
    ]
}

/// What stands out.
fn note(node: &NodeView, versions: &Versions) -> String {
    let mut notes = Vec::new();
    if let Some(refused) = &node.bundle_error {
        notes.push(format!("refused {}: {}", versions.of(refused.bundle_id), clean(&refused.reason)));
    }
    if node.drifted {
        notes.push("drifted".to_owned());
    }
    if node.cordoned {
        notes.push("cordoned".to_owned());
    }
    if !node.approved {
        notes.push("not approved".to_owned());
    }
    if node.rollout_id.is_some() {
        notes.push("in a rollout".to_owned());
    }
    notes.join(", ")
}
