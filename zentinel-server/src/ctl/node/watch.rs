//! Changes of nodes as they happen.
//!
//! It polls: what nodes say is in the server's memory, so a look costs it little.

use super::list::{HEADER, row};
use crate::backoff::Backoff;
use crate::ctl::find::{self, every};
use crate::ctl::screen::{clean, instant, short, state, table};
use crate::ctl::session::{Session, Versions};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use zentinel_core::id::NodeId;
use zentinel_core::{Error, Kind, Result};
use zentinel_http::client::{NodeFilter, NodeView, retry_after};

/// Time between two requests at the least, so that a large fleet stays under the rate limit.
const PACE: Duration = Duration::from_millis(100);
/// How many nodes the server gives per request.
const PER_REQUEST: usize = 500;
/// First and longest pause while the control plane is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How many changes are shown below the table.
const RECENT: usize = 8;

/// What counts as a change: a name for people, and where it stands in a node.
const FIELDS: [(&str, &str); 14] = [
    ("status", "/status"),
    ("health", "/health/status"),
    ("active", "/active_bundle_id"),
    ("expected", "/expected_bundle_id"),
    ("staged", "/staged_bundle_id"),
    ("pinned", "/pinned_bundle_id"),
    ("unknown bundle", "/reported_unknown_bundle"),
    ("refused", "/bundle_error"),
    ("drifted", "/drifted"),
    ("approved", "/approved"),
    ("rollout", "/rollout_id"),
    ("version", "/version"),
    ("labels", "/labels"),
    ("host", "/hostname"),
];

type Seen = BTreeMap<NodeId, NodeView>;

pub(super) async fn run(
    session: &Session,
    names: &[String],
    filter: &NodeFilter,
    interval: Duration,
    lines: bool,
) -> Result<()> {
    let mut ids = Vec::new();
    for name in names {
        ids.push(find::node(session, name).await?.id);
    }
    let mut watch = Watch {
        session,
        versions: session.versions().await?,
        table: session.screen.is_live() && !lines,
        drawn: 0,
        recent: VecDeque::new(),
    };
    let (mut before, mut backoff, mut away) = (None::<Seen>, Backoff::new(AWAY.0, AWAY.1), false);
    while !session.screen.is_gone() {
        let pause = match look(session, &ids, filter).await {
            Ok(now) => {
                if std::mem::take(&mut away) {
                    watch.tell("server.back", "the control plane is back")?;
                }
                backoff.reset();
                let requests = if ids.is_empty() { now.len() / PER_REQUEST + 1 } else { ids.len() };
                watch.report(before.as_ref(), &now).await?;
                before = Some(now);
                interval.max(PACE * u32::try_from(requests).unwrap_or(u32::MAX))
            }
            Err(error) if before.is_some() && error.kind().is_transient() => {
                if !std::mem::replace(&mut away, true) {
                    watch.tell("server.away", &format!("{error}; trying again"))?;
                }
                retry_after(&error).unwrap_or_default().max(backoff.pause())
            }
            Err(error) => return Err(error),
        };
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// The nodes as they are now; one that was deleted is missing.
async fn look(session: &Session, ids: &[NodeId], filter: &NodeFilter) -> Result<Seen> {
    let (client, project) = (&session.client, session.project.as_str());
    if ids.is_empty() {
        let page = async |cursor: Option<&str>| client.nodes_where(project, filter, cursor).await;
        let (nodes, _) = every(None, page).await?;
        return Ok(nodes.into_iter().map(|node| (node.id, node)).collect());
    }
    let mut seen = Seen::new();
    for id in ids {
        match client.node(project, *id).await {
            Ok(node) => drop(seen.insert(*id, node)),
            Err(error) if is_deleted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

fn is_deleted(error: &Error) -> bool {
    error.kind() == Kind::NotFound && error.message() == "Node not found"
}

/// One change of one node.
#[derive(Debug, PartialEq)]
struct Change {
    field: &'static str,
    from: Value,
    to: Value,
}

/// What is different; everything for JSON, ids and all.
fn changes(before: &NodeView, after: &NodeView) -> Result<Vec<Change>> {
    let (before, after) = (serde_json::to_value(before)?, serde_json::to_value(after)?);
    let at = |node: &Value, path: &str| node.pointer(path).cloned().unwrap_or_default();
    let both =
        FIELDS.iter().map(|(field, path)| Change { field, from: at(&before, path), to: at(&after, path) });
    Ok(both.filter(|change| change.from != change.to).collect())
}

struct Watch<'a> {
    session: &'a Session,
    versions: Versions,
    table: bool,
    drawn: usize,
    recent: VecDeque<String>,
}

impl Watch<'_> {
    /// Tells of what is different since the last look.
    async fn report(&mut self, before: Option<&Seen>, now: &Seen) -> Result<()> {
        let news = now.values().any(|node| {
            [node.active_bundle_id, node.expected_bundle_id, node.staged_bundle_id]
                .into_iter()
                .any(|id| self.versions.lacks(id))
        });
        if news {
            // A node may name a bundle that was deleted since: then its id is shown.
            self.versions = self.session.versions().await?;
        }
        for node in now.values() {
            match before.map(|before| before.get(&node.id)) {
                None => self.present(node)?,
                Some(None) => self.node("node.added", node, None)?,
                Some(Some(old)) => {
                    for change in changes(old, node)? {
                        self.node("node.changed", node, Some(&change))?;
                    }
                }
            }
        }
        for gone in before.into_iter().flatten().filter(|(id, _)| !now.contains_key(id)) {
            self.node("node.removed", gone.1, None)?;
        }
        if self.table {
            self.draw(now);
        }
        Ok(())
    }

    /// A node as it is when the watch begins; the table shows it anyway.
    fn present(&mut self, node: &NodeView) -> Result<()> {
        if self.session.screen.is_json() {
            return self
                .session
                .screen
                .object(&json!({"event": "node.present", "at": self.at(), "node": node}));
        }
        if !self.table {
            let active = self.versions.of_some(node.active_bundle_id);
            self.line(&format!("{}  {}, runs {active}", clean(&node.name), state(node.status.as_str())));
        }
        Ok(())
    }

    fn node(&mut self, event: &str, node: &NodeView, change: Option<&Change>) -> Result<()> {
        if self.session.screen.is_json() {
            let mut object = json!({"event": event, "at": self.at()});
            match change {
                Some(change) => {
                    object["node"] = json!({"id": node.id, "name": node.name});
                    object["field"] = change.field.into();
                    object["from"] = change.from.clone();
                    object["to"] = change.to.clone();
                }
                None => object["node"] = json!(node),
            }
            return self.session.screen.object(&object);
        }
        let name = clean(&node.name);
        let text = match change {
            Some(change) => {
                let (from, to) = (self.word(change.field, &change.from), self.word(change.field, &change.to));
                format!("{name}  {}: {from} -> {to}", change.field)
            }
            None => format!("{name}  {}", event.trim_start_matches("node.")),
        };
        self.line(&text);
        Ok(())
    }

    /// Something about the connection.
    fn tell(&mut self, event: &str, text: &str) -> Result<()> {
        if self.session.screen.is_json() {
            return self.session.screen.object(&json!({"event": event, "at": self.at(), "message": text}));
        }
        if self.table {
            self.line(&clean(text));
        } else {
            self.session.screen.note(&format!("{}  {}", self.at(), clean(text)));
        }
        Ok(())
    }

    fn line(&mut self, text: &str) {
        let line = format!("{}  {text}", self.at());
        if self.table {
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(line);
        } else {
            self.session.screen.line(&line);
        }
    }

    fn at(&self) -> String {
        instant(self.session.now())
    }

    /// A value as people read it.
    fn word(&self, field: &str, value: &Value) -> String {
        let id = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        match (field, value) {
            (_, Value::Null) => "-".to_owned(),
            ("active" | "expected" | "staged" | "pinned", value) => self.versions.of_some(id(value)),
            ("refused", value) => {
                let text = |name: &str| clean(value[name].as_str().unwrap_or_default());
                let bundle = self.versions.of_some(id(&value["bundle_id"]));
                format!("{bundle} ({}: {})", text("reason"), text("message"))
            }
            ("rollout", Value::String(text)) => {
                text.parse::<uuid::Uuid>().map_or_else(|_| clean(text), short)
            }
            ("status" | "health", Value::String(text)) => state(&clean(text)),
            (_, Value::String(text)) => clean(text),
            (_, other) => clean(&other.to_string()),
        }
    }

    /// The table, what stands out first when not all fits, and the last changes.
    fn draw(&mut self, now: &Seen) {
        let recent = self.recent.len() + usize::from(!self.recent.is_empty());
        let room = self.session.screen.height().saturating_sub(recent + 3).max(1);
        let mut nodes: Vec<&NodeView> = now.values().collect();
        nodes.sort_by(|a, b| {
            let calm =
                |node: &NodeView| node.bundle_error.is_none() && !node.drifted && node.rollout_id.is_none();
            let key = |node: &NodeView| now.len() > room && calm(node);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        let at = self.session.now();
        let rows: Vec<_> = nodes.iter().take(room).map(|node| row(node, &self.versions, at)).collect();
        let mut lines = table(&HEADER, &rows);
        if nodes.len() > room {
            lines.push(format!("… and {} more", nodes.len() - room));
        }
        if !self.recent.is_empty() {
            lines.push(String::new());
            lines.extend(self.recent.iter().cloned());
        }
        self.drawn = self.session.screen.redraw(self.drawn, &lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(status: &str, health: &str) -> NodeView {
        serde_json::from_value(json!({
            "id": NodeId::random(), "name": "edge-1", "status": status, "version": null,
            "last_seen_at": "2026-02-23T10:00:05Z", "health": {"status": health, "uptime_s": 5},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_matters_counts_as_a_change() {
        let before = node("online", "healthy");
        let mut after = before.clone();
        after.last_seen_at = None;
        after.health.insert("uptime_s".to_owned(), 6.into());
        assert_eq!(changes(&before, &after).unwrap(), []);
        after.health.insert("status".to_owned(), "degraded".into());
        after.status = zentinel_core::entity::NodeStatus::Offline;
        let found: Vec<_> = changes(&before, &after).unwrap();
        assert_eq!(found.iter().map(|change| change.field).collect::<Vec<_>>(), ["status", "health"]);
        assert_eq!((&found[0].from, &found[0].to), (&json!("online"), &json!("offline")));
    }
}
