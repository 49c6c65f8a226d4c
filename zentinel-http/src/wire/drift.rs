//! Drift events.

use super::Time;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{DiffStats, DriftEvent};
use zentinel_core::id::TypedId;

/// Lines between the expected and the actual configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiffStatsBody {
    additions: u64,
    deletions: u64,
    unchanged: u64,
}

impl From<DiffStats> for DiffStatsBody {
    fn from(stats: DiffStats) -> Self {
        let DiffStats { additions, deletions, unchanged } = stats;
        Self { additions, deletions, unchanged }
    }
}

/// A rollout that was to bring the node back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RemediationBody {
    rollout_id: Uuid,
    at: Time,
}

/// A node that runs, or ran, something else than it should.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DriftBody {
    id: Uuid,
    node_id: Uuid,
    #[schema(example = "edge-1")]
    node_name: String,
    node_hostname: Option<String>,
    project_id: Uuid,
    /// `no_bundle`, `other_bundle`, `unknown_bundle` or `content`.
    #[schema(example = "other_bundle")]
    kind: &'static str,
    expected_bundle_id: Uuid,
    actual_bundle_id: Option<Uuid>,
    /// `low`, `medium`, `high` or `critical`.
    #[schema(example = "medium")]
    severity: &'static str,
    diff_stats: Option<DiffStatsBody>,
    detected_at: Time,
    resolved_at: Option<Time>,
    /// `auto_corrected`, `manual`, `rollout_started` or `rollout_completed`.
    resolution: Option<&'static str>,
    duration_seconds: Option<i64>,
    /// Rollouts that the control plane started to bring the node back.
    remediations: Vec<RemediationBody>,
    /// Why the node is not being brought back, where the project wants that.
    remediation_error: Option<String>,
    inserted_at: Time,
    updated_at: Time,
}

impl From<&DriftEvent> for DriftBody {
    fn from(event: &DriftEvent) -> Self {
        let remediations = event.remediations.iter().map(|remediation| RemediationBody {
            rollout_id: remediation.rollout_id.uuid(),
            at: Time(remediation.at),
        });
        Self {
            id: event.id.uuid(),
            node_id: event.node_id.uuid(),
            node_name: event.node_name.clone(),
            node_hostname: event.node_hostname.clone(),
            project_id: event.project_id.uuid(),
            kind: event.kind.as_str(),
            expected_bundle_id: event.expected_bundle_id.uuid(),
            actual_bundle_id: event.actual_bundle_id.map(TypedId::uuid),
            severity: event.severity.as_str(),
            diff_stats: event.diff_stats.map(DiffStatsBody::from),
            detected_at: Time(event.detected_at),
            resolved_at: event.resolved_at.map(Time),
            resolution: event.resolution.map(zentinel_core::entity::DriftResolution::as_str),
            duration_seconds: event.duration_seconds(),
            remediations: remediations.collect(),
            remediation_error: event.remediation_error.clone(),
            inserted_at: Time(event.detected_at),
            updated_at: Time(event.updated_at),
        }
    }
}

/// One drift event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DriftOne {
    pub(crate) drift_event: DriftBody,
}

/// A page of drift events, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DriftList {
    pub(crate) drift_events: Vec<DriftBody>,
    /// How many match in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// How many nodes drifted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DriftStats {
    /// Nodes of which something is expected.
    pub(crate) total_managed: u64,
    /// Online ones that run something else.
    pub(crate) drifted: u64,
    /// Online ones that do not.
    pub(crate) in_sync: u64,
    /// Those that are silent: nobody knows what they run.
    pub(crate) unknown: u64,
    /// Open events.
    pub(crate) active_events: u64,
    /// Events that ended since midnight UTC.
    pub(crate) resolved_today: u64,
}

/// How many events were closed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkResolved {
    pub(crate) resolved_count: u64,
}
