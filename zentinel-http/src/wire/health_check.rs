//! Health check endpoints.

use super::Time;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{HealthCheck, ProbeResult};
use zentinel_core::id::TypedId;

/// What stands for the value of a header.
pub(crate) const REDACTED: &str = "[redacted]";

/// An endpoint that rollouts may ask.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthCheckBody {
    id: Uuid,
    project_id: Uuid,
    #[schema(example = "checkout works")]
    name: String,
    url: String,
    /// `GET`, `POST` or `HEAD`.
    #[schema(example = "GET")]
    method: &'static str,
    timeout_ms: u32,
    expected_status: u16,
    expected_body_contains: Option<String>,
    /// Every value is `[redacted]`.
    headers: BTreeMap<String, &'static str>,
    enabled: bool,
    /// Whether each node is asked: the URL has placeholders.
    per_node: bool,
    inserted_at: Time,
    updated_at: Time,
}

impl From<&HealthCheck> for HealthCheckBody {
    fn from(check: &HealthCheck) -> Self {
        Self {
            id: check.id.uuid(),
            project_id: check.project_id.uuid(),
            name: check.name.clone(),
            url: check.url.clone(),
            method: check.method.as_str(),
            timeout_ms: check.timeout_ms,
            expected_status: check.expected_status,
            expected_body_contains: check.expected_body_contains.clone(),
            headers: check.headers.0.keys().map(|name| (name.clone(), REDACTED)).collect(),
            enabled: check.enabled,
            per_node: check.is_per_node(),
            inserted_at: Time(check.created_at),
            updated_at: Time(check.updated_at),
        }
    }
}

/// One endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthCheckOne {
    pub(crate) health_check: HealthCheckBody,
}

/// A page of endpoints.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthCheckList {
    pub(crate) health_checks: Vec<HealthCheckBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// What an endpoint was found to be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TestedBody {
    /// `pass` or `fail`.
    #[schema(example = "fail")]
    result: &'static str,
    /// Why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "status 503 instead of 200")]
    reason: Option<String>,
    /// The status that it answered with.
    status: Option<u16>,
    elapsed_ms: i64,
}

impl From<&ProbeResult> for TestedBody {
    fn from(result: &ProbeResult) -> Self {
        Self {
            result: if result.passed() { "pass" } else { "fail" },
            reason: result.failure.clone(),
            status: result.status,
            elapsed_ms: (result.answered_at - result.asked_at).num_milliseconds().max(0),
        }
    }
}
