//! Events that nodes report.

use super::auth::Caller;
use super::batch::{bounded, item, object};
use super::item::{Item, MAX_TEXT};
use super::wire::{EventsAck, EventsRequest};
use crate::error::{ApiError, ApiResult};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zentinel_core::id::TypedId;
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::{Changes, Error, Result, Timestamp};
use zentinel_rollout::fleet::KnownNode;

const TYPES: &[&str] = &["config_reload", "bundle_switch", "error", "startup", "shutdown", "warning", "info"];
const SEVERITIES: &[&str] = &["debug", "info", "warn", "error"];

/// Report events
///
/// A single event or `{"events": […]}`, at most 1000; all or none are stored. An `event_id` makes
/// a repeated call add nothing.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/events", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)), request_body = EventsRequest,
    responses((status = 201, body = EventsAck), ChangeRefusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn report(
    State(api): State<Api>,
    caller: Caller,
    body: Body,
) -> ApiResult<(StatusCode, Json<EventsAck>)> {
    let (body, check_nul) = object::<Map<String, Value>>(body, api.options.body_limit).await?;
    let events = events(body)?;
    bounded(&events, "events")?;
    let now = api.now();
    let count = events.len() as u64;
    let mut changes = Changes::new();
    for event in events {
        changes = changes.append(row(&caller.node, item(event, check_nul).map_err(not_an_event)?, now)?);
    }
    if !changes.is_empty() {
        api.store.commit(changes).await?;
    }
    let status = "ok".to_owned();
    Ok((StatusCode::CREATED, Json(EventsAck { status, count })))
}

fn events(mut body: Map<String, Value>) -> ApiResult<Vec<Value>> {
    match body.remove("events") {
        Some(Value::Array(events)) => Ok(events),
        Some(_) => Err(Error::invalid_field("events", "is invalid").into()),
        None if body.contains_key("event_type") => Ok(vec![Value::Object(body)]),
        None => Err(ApiError::bad_request("expected an event or a list of `events`")),
    }
}

fn not_an_event(_: Error) -> Error {
    Error::invalid_field("events", "is invalid")
}

fn row(node: &KnownNode, fields: Map<String, Value>, now: Timestamp) -> Result<LogRow> {
    let mut item = Item::new(fields);
    item.demand("event_type");
    item.demand("message");
    let event_type = item.word("event_type", TYPES);
    let severity = item.word("severity", SEVERITIES).unwrap_or("info");
    let message = item.text("message", MAX_TEXT);
    let metadata = item.object("metadata");
    let occurred_at = item.time("occurred_at");
    let event_id = item.text("event_id", 255);
    item.finish()?;
    Ok(LogRow {
        kind: LogKind::NodeEvent,
        id: Uuid::new_v4(),
        organisation_id: Some(node.organisation_id),
        project_id: Some(node.project_id),
        owner: node.id.uuid(),
        // A node's clock may be wrong; what it says is in the entry.
        at: now,
        body: json!({
            "event_type": event_type, "severity": severity, "message": message, "metadata": metadata,
            "occurred_at": occurred_at, "event_id": event_id,
        }),
        dedup_key: event_id,
    })
}
