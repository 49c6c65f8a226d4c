//! Measurements and single requests that nodes report.

use super::auth::Caller;
use super::batch::{bounded, item, object};
use super::item::{Item, MAX_TEXT, complaint};
use super::wire::{MetricsAck, MetricsRequest, Rejected};
use crate::error::ApiResult;
use crate::extract::Field;
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zentinel_core::error::Checks;
use zentinel_core::id::TypedId;
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::{Changes, Result, Sha256Digest, Timestamp};
use zentinel_rollout::fleet::KnownNode;

/// A report as it arrives.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Incoming {
    metrics: Field<Vec<Value>>,
    request_logs: Field<Vec<Value>>,
}

/// Report measurements and requests
///
/// At most 1000 of each. Items that are wrong are listed in `rejected`, the others are stored. A
/// rollup is stored once per service and period, a request once: a report may be sent again.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/metrics", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)), request_body = MetricsRequest,
    responses((status = 200, body = MetricsAck), ChangeRefusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn report(
    State(api): State<Api>,
    caller: Caller,
    body: Body,
) -> ApiResult<Json<MetricsAck>> {
    let (incoming, check_nul) = object::<Incoming>(body, api.options.body_limit).await?;
    let mut checks = Checks::new();
    let metrics = incoming.metrics.optional("metrics", &mut checks).unwrap_or_default();
    let requests = incoming.request_logs.optional("request_logs", &mut checks).unwrap_or_default();
    checks.finish()?;
    bounded(&metrics, "metrics")?;
    bounded(&requests, "request logs")?;
    let mut batch = Batch::new(&caller.node, check_nul);
    let metrics_ingested = batch.read("metrics", metrics, rollup);
    let logs_ingested = batch.read("request_logs", requests, request);
    if !batch.changes.is_empty() {
        api.store.commit(batch.changes).await?;
    }
    Ok(Json(MetricsAck {
        status: "ok".to_owned(),
        metrics_ingested,
        logs_ingested,
        rejected: batch.rejected,
    }))
}

/// What is stored of a report, and what is not.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    node: &'a KnownNode,
    check_nul: bool,
    pub(super) changes: Changes,
    pub(super) rejected: Vec<Rejected>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(node: &'a KnownNode, check_nul: bool) -> Self {
        Self { node, check_nul, changes: Changes::new(), rejected: Vec::new() }
    }

    /// Reads a list; returns how many items are accepted.
    pub(super) fn read(
        &mut self,
        list: &str,
        items: Vec<Value>,
        mut row: impl FnMut(&KnownNode, Map<String, Value>) -> Result<LogRow>,
    ) -> u64 {
        let mut accepted = 0;
        for (index, value) in items.into_iter().enumerate() {
            match item(value, self.check_nul).and_then(|fields| row(self.node, fields)) {
                Ok(row) => {
                    self.changes = std::mem::take(&mut self.changes).append(row);
                    accepted += 1;
                }
                Err(error) => {
                    self.rejected.push(Rejected { list: list.to_owned(), index, error: complaint(&error) })
                }
            }
        }
        accepted
    }
}

/// A log entry of a node. The node and its project are the control plane's own knowledge.
pub(super) fn log_row(
    node: &KnownNode,
    kind: LogKind,
    at: Timestamp,
    dedup_key: Option<String>,
    mut body: Value,
) -> LogRow {
    body["node_id"] = json!(node.id);
    body["project_id"] = json!(node.project_id);
    LogRow {
        kind,
        id: Uuid::new_v4(),
        organisation_id: Some(node.organisation_id),
        project_id: Some(node.project_id),
        owner: node.id.uuid(),
        at,
        dedup_key,
        body,
    }
}

/// A project of the item's own must be the node's: nobody writes into another one's figures.
pub(super) fn check_project(item: &mut Item, node: &KnownNode) {
    let project = item.uuid("project_id");
    let same = project.is_none_or(|project| project == node.project_id.uuid());
    item.that("project_id", same, "does not exist");
}

fn rollup(node: &KnownNode, fields: Map<String, Value>) -> Result<LogRow> {
    let mut item = Item::new(fields);
    item.demand("service_id");
    item.demand("period_start");
    check_project(&mut item, node);
    let service_id = item.uuid("service_id");
    let period_start = item.time("period_start");
    let period_seconds = item.count("period_seconds").unwrap_or(60);
    item.that("period_seconds", period_seconds > 0, "must be greater than 0");
    let mut body = json!({
        "service_id": service_id, "period_start": period_start, "period_seconds": period_seconds,
    });
    for name in [
        "request_count",
        "error_count",
        "bandwidth_in_bytes",
        "bandwidth_out_bytes",
        "status_2xx",
        "status_3xx",
        "status_4xx",
        "status_5xx",
    ] {
        body[name] = item.count(name).unwrap_or(0).into();
    }
    for name in ["latency_p50_ms", "latency_p95_ms", "latency_p99_ms"] {
        body[name] = item.count(name).into();
    }
    for name in ["top_paths", "top_consumers", "latency_histogram"] {
        body[name] = item.object(name).into();
    }
    item.finish()?;
    let service_id = service_id.unwrap_or_default();
    let at = period_start.unwrap_or_default();
    let dedup_key = format!("{service_id}/{}", at.timestamp_micros());
    Ok(log_row(node, LogKind::Metric, at, Some(dedup_key), body))
}

fn request(node: &KnownNode, fields: Map<String, Value>) -> Result<LogRow> {
    let digest = digest(&fields)?;
    let mut item = Item::new(fields);
    item.demand("service_id");
    item.demand("timestamp");
    check_project(&mut item, node);
    let timestamp = item.time("timestamp");
    let body = json!({
        "service_id": item.uuid("service_id"), "timestamp": timestamp,
        "method": item.text("method", 64), "path": item.text("path", MAX_TEXT),
        "status": item.count("status"), "latency_ms": item.count("latency_ms"),
        "client_ip": item.text("client_ip", 255), "user_agent": item.text("user_agent", MAX_TEXT),
        "request_size": item.count("request_size"), "response_size": item.count("response_size"),
    });
    item.finish()?;
    let at = timestamp.unwrap_or_default();
    Ok(log_row(node, LogKind::RequestLog, at, Some(digest), body))
}

/// Identifies an item by everything it says: the same request at the same microsecond is the same
/// item, sent again.
pub(super) fn digest(fields: &Map<String, Value>) -> Result<String> {
    Ok(Sha256Digest::of(&serde_json::to_vec(fields)?).to_string())
}
