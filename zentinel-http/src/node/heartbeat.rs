//! Heartbeats.

use super::auth::{Caller, gone};
use super::batch::{object, object_holds_nul};
use super::wire::{HeartbeatAck, HeartbeatRequest};
use crate::error::ApiResult;
use crate::extract::{ClientIp, Field};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use zentinel_core::Result;
use zentinel_core::entity::{BundleError, Health, Heartbeat, Traffic, TrafficCounts};
use zentinel_core::error::Checks;
use zentinel_core::id::BundleId;

/// Largest heartbeat in bytes: each node's last one is kept in memory.
const MAX_BYTES: usize = 256 * 1024;
/// Most characters of a short text.
const MAX_TEXT: usize = 255;
/// Most characters of a failure's message.
const MAX_MESSAGE: usize = 8_192;
/// Most capabilities.
const MAX_CAPABILITIES: usize = 64;

/// A heartbeat as it arrives.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Incoming {
    health: Field<Map<String, Value>>,
    metrics: Field<Map<String, Value>>,
    active_bundle_id: Field<BundleId>,
    staged_bundle_id: Field<BundleId>,
    version: Field<String>,
    ip: Field<String>,
    hostname: Field<String>,
    metadata: Field<Map<String, Value>>,
    capabilities: Field<BTreeSet<String>>,
    bundle_error: Field<BundleError>,
}

/// Report that the node lives
///
/// Absent fields leave what is known unchanged. Measurements that are no number, not finite or
/// negative are unknown. A heartbeat that changes something is durable when it is answered.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/heartbeat", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)), request_body = HeartbeatRequest,
    responses((status = 200, body = HeartbeatAck), ChangeRefusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn heartbeat(
    State(api): State<Api>,
    caller: Caller,
    client: ClientIp,
    body: Body,
) -> ApiResult<Json<HeartbeatAck>> {
    let (incoming, check_nul) = object::<Incoming>(body, MAX_BYTES).await?;
    let mut beat = incoming.check(check_nul)?;
    if beat.ip.is_none() {
        beat.ip = client.0.map(|address| address.to_string());
    }
    let node_id = caller.node.id;
    let taken_in = api.fleet.heartbeat(node_id, beat).await;
    let last_seen_at = taken_in.map_err(|error| api.unstored(gone(error)))?;
    let traffic = caller.node.traffic;
    Ok(Json(HeartbeatAck {
        status: "ok".to_owned(),
        node_id,
        last_seen_at,
        slot: traffic.map(|traffic| traffic.slot),
        traffic_weight: traffic.map(|traffic| traffic.weight),
    }))
}

impl Incoming {
    /// Names every wrong field at once.
    fn check(self, check_nul: bool) -> Result<Heartbeat> {
        let mut checks = Checks::new();
        let raw_health = map("health", self.health, check_nul, &mut checks).unwrap_or_default();
        let mut raw_metrics = map("metrics", self.metrics, check_nul, &mut checks).unwrap_or_default();
        let traffic = raw_metrics.remove("traffic").and_then(traffic);
        let capabilities = self.capabilities.optional("capabilities", &mut checks);
        let fits = |text: &String| text.chars().count() <= MAX_TEXT && !text.contains('\0');
        checks.that(
            "capabilities",
            capabilities.as_ref().is_none_or(|all| all.len() <= MAX_CAPABILITIES && all.iter().all(fits)),
            format!("should be at most {MAX_CAPABILITIES} entries of at most {MAX_TEXT} character(s)"),
        );
        let bundle_error = self.bundle_error.optional("bundle_error", &mut checks);
        if let Some(error) = &bundle_error {
            length("bundle_error", &error.reason, MAX_TEXT, &mut checks);
            length("bundle_error", &error.message, MAX_MESSAGE, &mut checks);
        }
        let beat = Heartbeat {
            health: Health { traffic, ..measure(&raw_health, &raw_metrics) },
            active_bundle_id: self.active_bundle_id.optional("active_bundle_id", &mut checks),
            staged_bundle_id: self.staged_bundle_id.optional("staged_bundle_id", &mut checks),
            version: text("version", self.version, &mut checks),
            ip: text("ip", self.ip, &mut checks),
            hostname: text("hostname", self.hostname, &mut checks),
            metadata: map("metadata", self.metadata, check_nul, &mut checks),
            raw_health,
            raw_metrics,
            bundle_error,
            capabilities,
        };
        checks.finish()?;
        Ok(beat)
    }
}

fn map(
    name: &str,
    field: Field<Map<String, Value>>,
    check_nul: bool,
    checks: &mut Checks,
) -> Option<Map<String, Value>> {
    let object = field.optional(name, checks)?;
    checks.that(name, !check_nul || !object_holds_nul(&object), "is invalid");
    Some(object)
}

fn text(name: &str, field: Field<String>, checks: &mut Checks) -> Option<String> {
    let text = field.optional(name, checks)?;
    length(name, &text, MAX_TEXT, checks);
    Some(text)
}

fn length(name: &str, text: &str, most: usize, checks: &mut Checks) {
    let fits = text.len() <= most || text.chars().count() <= most;
    checks.that(name, fits, format!("should be at most {most} character(s)"));
    checks.that(name, !text.contains('\0'), "is invalid");
}

/// What the gates read. Processor and memory use may also be given under `health`.
fn measure(health: &Map<String, Value>, metrics: &Map<String, Value>) -> Health {
    let of = |object: &Map<String, Value>, name: &str| {
        object.get(name).and_then(Value::as_f64).filter(|value| value.is_finite() && *value >= 0.0)
    };
    let either = |name: &str| of(metrics, name).or_else(|| of(health, name));
    Health {
        status: health.get("status").and_then(Value::as_str).map(str::to_owned),
        error_rate: of(metrics, "error_rate"),
        latency_p99_ms: of(metrics, "latency_p99_ms"),
        cpu_percent: either("cpu_percent"),
        memory_percent: either("memory_percent"),
        traffic: None,
    }
}

/// Counts that contradict themselves are as good as none.
fn traffic(value: Value) -> Option<Box<Traffic>> {
    let traffic: Traffic = serde_json::from_value(value).ok()?;
    let sound = |counts: &TrafficCounts| counts.errors <= counts.requests;
    let fits =
        sound(&traffic.total) && sound(&traffic.recent) && traffic.total.since(&traffic.recent).is_some();
    fits.then(|| Box::new(traffic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Heartbeat> {
        let incoming: Incoming = serde_json::from_value(value).unwrap();
        incoming.check(true)
    }

    #[test]
    fn reads_the_contracts_example() {
        let bundle = BundleId::random();
        let beat = read(json!({
            "version": "26.2.0", "hostname": "edge-1", "ip": "10.0.1.5",
            "health": {"status": "healthy", "uptime_s": 86_400},
            "metrics": {"error_rate": 0.4, "latency_p99_ms": 83, "cpu_percent": 31.5, "memory_percent": 48.0,
                "circuit_breakers": [{"upstream_group_id": "x", "state": "open"}]},
            "active_bundle_id": bundle, "staged_bundle_id": null, "metadata": {},
        }))
        .unwrap();
        assert!(beat.health.is_healthy());
        assert_eq!(beat.health.latency_p99_ms, Some(83.0));
        assert_eq!(beat.active_bundle_id, Some(bundle));
        assert_eq!(beat.raw_metrics["circuit_breakers"][0]["state"], "open");
        assert_eq!(beat.metadata, Some(Map::new()));
    }

    #[test]
    fn what_is_absent_stays_absent() {
        assert_eq!(read(json!({})).unwrap(), Heartbeat::default());
        let nulls = json!({"health": null, "metrics": null, "version": null, "metadata": null});
        assert_eq!(read(nulls).unwrap(), Heartbeat::default());
    }

    #[test]
    fn only_numbers_are_measurements() {
        let beat = read(json!({
            "health": {"status": 7, "cpu_percent": 12.0, "memory_percent": 5},
            "metrics": {"error_rate": "0", "latency_p99_ms": -1, "cpu_percent": null, "memory_percent": true},
        }))
        .unwrap();
        let expected = Health { cpu_percent: Some(12.0), memory_percent: Some(5.0), ..Health::default() };
        assert_eq!(beat.health, expected);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let error = read(json!({
            "health": [], "metrics": 1, "active_bundle_id": "x", "staged_bundle_id": 5, "version": {},
            "ip": 1, "hostname": "\u{0}", "metadata": "m", "capabilities": [1], "bundle_error": {"reason": "x"},
        }))
        .unwrap_err();
        let fields: Vec<_> = error.fields().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            [
                "active_bundle_id",
                "bundle_error",
                "capabilities",
                "health",
                "hostname",
                "ip",
                "metadata",
                "metrics",
                "staged_bundle_id",
                "version",
            ]
        );
        assert!(read(json!({"metrics": {"a": ["\u{0}"]}})).is_err());
        assert!(read(json!({"version": "x".repeat(256)})).is_err());
    }

    proptest! {
        #[test]
        fn measurements_are_never_negative(cpu in any::<f64>(), rate in any::<i64>()) {
            let beat = read(json!({"metrics": {"cpu_percent": cpu, "error_rate": rate}})).unwrap();
            prop_assert!(beat.health.cpu_percent.is_none_or(|cpu| cpu >= 0.0 && cpu.is_finite()));
            prop_assert_eq!(beat.health.error_rate.is_some(), rate >= 0);
        }
    }
}
