//! All that is known of one node.

use crate::ctl::find;
use crate::ctl::screen::{age, clean, instant, labels, pairs, paragraph, state, table};
use crate::ctl::session::{Session, Versions};
use serde_json::{Map, Value, json};
use zentinel_core::{Result, Timestamp};
use zentinel_http::client::{NodeView, ReportedView};

pub(super) async fn run(session: &Session, text: &str, history: u32) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    let node = find::node(session, text).await?;
    let events = client.node_events(project, node.id, history).await?.items;
    let heartbeats = client.node_heartbeats(project, node.id, history).await?.items;
    let screen = &session.screen;
    if screen.is_json() {
        return screen.object(&json!({"node": node, "events": events, "heartbeats": heartbeats}));
    }
    let versions = session.versions().await?;
    screen.line(&facts(&node, &versions, session.now()));
    screen.line("");
    section(session, "EVENT", &events, event_row(&events), &["TIME", "SEVERITY", "EVENT", "MESSAGE"]);
    screen.line("");
    let rows = heartbeats.iter().map(|beat| heartbeat_row(beat, &versions)).collect();
    section(session, "HEARTBEAT", &heartbeats, rows, &["TIME", "HEALTH", "ACTIVE", "METRICS"]);
    Ok(())
}

fn section(session: &Session, what: &str, items: &[ReportedView], rows: Vec<Vec<String>>, header: &[&str]) {
    if items.is_empty() {
        session.screen.line(&format!("no {}s yet", what.to_lowercase()));
        return;
    }
    for line in table(header, &rows) {
        session.screen.line(&line);
    }
}

fn facts(node: &NodeView, versions: &Versions, now: Timestamp) -> String {
    let text = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), clean);
    let bundle = |id: Option<zentinel_core::id::BundleId>| match id {
        Some(id) => format!("{} ({id})", versions.of(id)),
        None => "-".to_owned(),
    };
    let seen = node.last_seen_at.map_or_else(String::new, |at| format!(" ({})", instant(at)));
    let or_dash = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(", ") };
    let mut lines = vec![
        ("name", clean(&node.name)),
        ("id", node.id.to_string()),
        ("status", state(node.status.as_str())),
        ("last seen", format!("{}{seen}", age(node.last_seen_at, now))),
        ("registered", node.registered_at.map_or_else(|| "-".to_owned(), instant)),
        ("labels", labels(&node.labels)),
        ("version", text(&node.version)),
        ("host", format!("{} {}", text(&node.hostname), text(&node.ip))),
        ("active", bundle(node.active_bundle_id)),
        ("expected", bundle(node.expected_bundle_id)),
        ("staged", bundle(node.staged_bundle_id)),
        ("before", bundle(node.previous_bundle_id)),
        ("pinned to", bundle(node.pinned_bundle_id)),
        ("versions", format!("{} to {}", text(&node.min_bundle_version), text(&node.max_bundle_version))),
        ("cordoned", yes(node.cordoned)),
        ("rollout", node.rollout_id.map_or_else(|| "-".to_owned(), |id| id.to_string())),
        ("groups", or_dash(node.group_ids.iter().map(ToString::to_string).collect())),
        ("capabilities", or_dash(node.capabilities.iter().map(|name| clean(name)).collect())),
        ("credential", clean(&node.auth_method)),
        ("approved", yes(node.approved)),
        ("drifted", yes(node.drifted)),
        ("health", object(&node.health)),
        ("metrics", object(&node.metrics)),
        ("metadata", object(&node.metadata)),
    ];
    if let Some(unknown) = node.reported_unknown_bundle {
        lines.push(("unknown", format!("it says it runs {unknown}, which this project does not have")));
    }
    if let Some(refused) = &node.bundle_error {
        let why = format!("{}: {}", clean(&refused.reason), paragraph(&refused.message));
        lines.push(("refused", format!("{}: {why}", bundle(Some(refused.bundle_id)))));
    }
    pairs(&lines)
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// `name=value` of an object's fields.
fn object(map: &Map<String, Value>) -> String {
    if map.is_empty() {
        return "-".to_owned();
    }
    let fields = map.iter().map(|(name, value)| match value {
        Value::String(text) => clean(&format!("{name}={text}")),
        // Whatever the node counts in, a count reads as one.
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => {
            clean(&format!("{name}={}", number.to_string().trim_end_matches(".0")))
        }
        other => clean(&format!("{name}={other}")),
    });
    fields.collect::<Vec<_>>().join(" ")
}

fn field<'a>(report: &'a ReportedView, name: &str) -> &'a str {
    report.reported.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn event_row(events: &[ReportedView]) -> Vec<Vec<String>> {
    let row = |event: &ReportedView| {
        vec![
            instant(event.inserted_at),
            state(&clean(field(event, "severity"))),
            clean(field(event, "event_type")),
            paragraph(field(event, "message")),
        ]
    };
    events.iter().map(row).collect()
}

fn heartbeat_row(beat: &ReportedView, versions: &Versions) -> Vec<String> {
    let inner = |name: &str| beat.reported.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let health = inner("health").get("status").and_then(Value::as_str).unwrap_or("-").to_owned();
    let active = field(beat, "active_bundle_id").parse().ok();
    vec![
        instant(beat.inserted_at),
        state(&clean(&health)),
        versions.of_some(active),
        object(&inner("metrics")),
    ]
}
