//! Web application firewall events that nodes report.

use super::auth::Caller;
use super::batch::{bounded, object};
use super::item::{Item, MAX_TEXT};
use super::memory::Memory;
use super::metrics::{Batch, check_project, digest, log_row};
use super::wire::{WafEventsAck, WafEventsRequest};
use crate::error::{ApiError, ApiResult};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::body::Body;
use axum::extract::State;
use chrono::TimeDelta;
use http::StatusCode;
use serde_json::{Map, Value, json};
use zentinel_core::entity::Event;
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::{Result, Timestamp};
use zentinel_rollout::fleet::KnownNode;

const RULE_TYPES: &[&str] =
    &["sqli", "xss", "rfi", "lfi", "rce", "scanner", "custom", "protocol", "data_leak"];
const ACTIONS: &[&str] = &["blocked", "logged", "challenged"];
const SEVERITIES: &[&str] = &["critical", "high", "medium", "low"];
/// Headers that carry credentials.
const SECRET_HEADERS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-zentinel-node-key",
];
/// How long blocked requests are collected before another event tells of them, in seconds.
const COALESCE: i64 = 60;

/// Report firewall events
///
/// At most 1000. Items that are wrong are listed in `rejected`, the others are stored, each once.
/// Headers that carry credentials are redacted.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/waf-events", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)), request_body = WafEventsRequest,
    responses((status = 200, body = WafEventsAck), ChangeRefusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn report(
    State(api): State<Api>,
    caller: Caller,
    body: Body,
) -> ApiResult<Json<WafEventsAck>> {
    let (mut body, check_nul) = object::<Map<String, Value>>(body, api.options.body_limit).await?;
    let Some(Value::Array(events)) = body.remove("events") else {
        let text = "Expected 'events' list in request body";
        return Err(ApiError::stated(StatusCode::BAD_REQUEST, text));
    };
    bounded(&events, "events")?;
    let now = api.now();
    let mut blocked = 0;
    let mut batch = Batch::new(&caller.node, check_nul);
    let events_ingested = batch.read("events", events, |node, fields| {
        let (row, is_blocked) = row(node, fields, now)?;
        blocked += u64::from(is_blocked);
        Ok(row)
    });
    let Batch { mut changes, rejected, .. } = batch;
    let told = tell(&caller.memory, &caller.node, blocked, now);
    if let Some(count) = told {
        let event = Event::new(&caller.node.scope(), "security.waf_blocked", json!({ "count": count }), now);
        changes = changes.event(event);
    }
    if !changes.is_empty()
        && let Err(error) = api.store.commit(changes).await
    {
        untell(&caller.memory, &caller.node, blocked, told);
        return Err(error.into());
    }
    Ok(Json(WafEventsAck { status: "ok".to_owned(), events_ingested, rejected }))
}

fn row(node: &KnownNode, mut fields: Map<String, Value>, now: Timestamp) -> Result<(LogRow, bool)> {
    let has_time = fields.get("timestamp").is_some_and(|value| !value.is_null());
    let digest = digest(&fields)?;
    // What older nodes say.
    rename(&mut fields, "rule_type", "crs", "custom");
    rename(&mut fields, "severity", "warn", "medium");
    let mut item = Item::new(fields);
    item.demand("rule_type");
    item.demand("action");
    check_project(&mut item, node);
    let timestamp = item.time("timestamp").unwrap_or(now);
    let action = item.word("action", ACTIONS);
    let event_id = item.text("event_id", 255);
    let body = json!({
        "timestamp": timestamp, "rule_type": item.word("rule_type", RULE_TYPES),
        "rule_id": rule_id(&mut item), "action": action, "severity": item.word("severity", SEVERITIES),
        "service_id": item.uuid("service_id"), "client_ip": item.text("client_ip", 255),
        "method": item.text("method", 64), "path": item.text("path", MAX_TEXT),
        "matched_data": item.text("matched_data", MAX_TEXT), "user_agent": item.text("user_agent", MAX_TEXT),
        "geo_country": item.text("geo_country", 64), "request_headers": redacted(item.object("request_headers")),
        "metadata": item.object("metadata"), "event_id": event_id,
    });
    item.finish()?;
    // Without an id and a time, two alike items may be two events.
    let dedup_key =
        event_id.map(|id| format!("id:{id}")).or_else(|| has_time.then(|| format!("sha256:{digest}")));
    let row = log_row(node, LogKind::WafEvent, timestamp, dedup_key, body);
    Ok((row, action == Some("blocked")))
}

fn rename(fields: &mut Map<String, Value>, name: &str, old: &str, new: &str) {
    if let Some(value) = fields.get_mut(name).filter(|value| value.as_str() == Some(old)) {
        *value = new.into();
    }
}

/// Rule ids are texts; engines number them.
fn rule_id(item: &mut Item) -> Option<String> {
    match item.take("rule_id")? {
        Value::String(text) if text.chars().count() <= 255 => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => {
            item.that("rule_id", false, "is invalid");
            None
        }
    }
}

fn redacted(mut headers: Map<String, Value>) -> Map<String, Value> {
    for (name, value) in &mut headers {
        if SECRET_HEADERS.iter().any(|secret| name.trim().eq_ignore_ascii_case(secret)) {
            *value = "[REDACTED]".into();
        }
    }
    headers
}

/// How many blocked requests an event should tell of now: at most one event per project and
/// minute.
fn tell(memory: &Memory, node: &KnownNode, blocked: u64, now: Timestamp) -> Option<u64> {
    if blocked == 0 {
        return None;
    }
    let mut entry = memory.blocked.entry(node.project_id).or_default();
    let (last, waiting) = &mut *entry;
    *waiting += blocked;
    if last.is_some_and(|last| now - last < TimeDelta::seconds(COALESCE)) {
        return None;
    }
    *last = Some(now);
    Some(std::mem::take(waiting))
}

/// The commit failed: the node sends the report again.
fn untell(memory: &Memory, node: &KnownNode, blocked: u64, told: Option<u64>) {
    if blocked == 0 {
        return;
    }
    let mut entry = memory.blocked.entry(node.project_id).or_default();
    let (last, waiting) = &mut *entry;
    match told {
        Some(count) => {
            *last = None;
            *waiting += count.saturating_sub(blocked);
        }
        None => *waiting = waiting.saturating_sub(blocked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;
    use zentinel_core::credential::CredentialHash;
    use zentinel_core::entity::{Node, Registration};
    use zentinel_core::id::{OrganisationId, ProjectId};

    fn node() -> KnownNode {
        let registration = Registration { name: "edge".to_owned(), ..Registration::default() };
        let scope = (OrganisationId::random(), ProjectId::random());
        let key = CredentialHash::of("k");
        Node::register(scope, &registration, true, key, DateTime::UNIX_EPOCH).unwrap().into()
    }

    fn at(seconds: i64) -> Timestamp {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_project_hears_of_blocked_requests_once_a_minute() {
        let (memory, node) = (Memory::default(), node());
        assert_eq!(tell(&memory, &node, 0, at(0)), None);
        assert_eq!(tell(&memory, &node, 3, at(0)), Some(3));
        assert_eq!(tell(&memory, &node, 4, at(59)), None);
        assert_eq!(tell(&memory, &node, 5, at(60)), Some(9));
        untell(&memory, &node, 5, Some(9));
        assert_eq!(tell(&memory, &node, 5, at(61)), Some(9));
    }

    #[test]
    fn older_words_and_credentials_are_rewritten() {
        let fields = json!({
            "rule_type": "crs", "action": "blocked", "severity": "warn", "rule_id": 942_100,
            "request_headers": {"Authorization": "Bearer x", "COOKIE": "a=b", "Accept": "*/*"},
        });
        let Value::Object(fields) = fields else { panic!() };
        let (row, blocked) = row(&node(), fields, at(5)).unwrap();
        assert!(blocked);
        assert_eq!(row.body["rule_type"], "custom");
        assert_eq!(row.body["severity"], "medium");
        assert_eq!(row.body["rule_id"], "942100");
        assert_eq!(row.body["request_headers"]["Authorization"], "[REDACTED]");
        assert_eq!(row.body["request_headers"]["COOKIE"], "[REDACTED]");
        assert_eq!(row.body["request_headers"]["Accept"], "*/*");
        assert_eq!((row.at, row.dedup_key), (at(5), None));
    }

    proptest! {
        #[test]
        fn only_the_contracts_words_are_stored(rule in "[a-z]{0,8}", action in "[a-z]{0,8}") {
            let Value::Object(fields) = json!({"rule_type": rule, "action": action}) else { panic!() };
            let known = (rule == "crs" || RULE_TYPES.contains(&rule.as_str())) && ACTIONS.contains(&action.as_str());
            prop_assert_eq!(row(&node(), fields, at(0)).is_ok(), known);
        }
    }
}
