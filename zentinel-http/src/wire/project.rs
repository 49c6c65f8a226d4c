//! Projects.

use super::Time;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{Project, ProjectSettings};
use zentinel_core::id::TypedId;

/// What an operator may set for a project.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SettingsBody {
    /// Nodes may register without a token; they get nothing until approved.
    open_registration: bool,
    /// Most rollouts that may be open at once.
    max_concurrent_rollouts: u32,
    /// Whether people must agree before a rollout starts.
    approval_required: bool,
    /// How many.
    approvals_needed: u32,
    /// Whether a drifted node is brought back by a rollout of its own.
    drift_auto_remediation: bool,
    /// How often nodes are looked at for drift, in seconds.
    drift_check_interval: u32,
    /// The percentage of drifted nodes from which `drift.threshold_exceeded` is told.
    drift_alert_threshold: Option<u8>,
    /// The number of drifted nodes from which it is.
    drift_alert_node_count: Option<u32>,
}

impl From<&ProjectSettings> for SettingsBody {
    fn from(settings: &ProjectSettings) -> Self {
        Self {
            open_registration: settings.open_registration,
            max_concurrent_rollouts: settings.max_concurrent_rollouts,
            approval_required: settings.approval_required,
            approvals_needed: settings.approvals_needed,
            drift_auto_remediation: settings.drift_auto_remediation,
            drift_check_interval: settings.drift_check_interval,
            drift_alert_threshold: settings.drift_alert_threshold.map(zentinel_core::Percent::get),
            drift_alert_node_count: settings.drift_alert_node_count,
        }
    }
}

/// A fleet with its configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectBody {
    id: Uuid,
    #[schema(example = "Edge EU")]
    name: String,
    #[schema(example = "edge-eu")]
    slug: String,
    description: Option<String>,
    settings: SettingsBody,
    inserted_at: Time,
}

impl From<&Project> for ProjectBody {
    fn from(project: &Project) -> Self {
        Self {
            id: project.id.uuid(),
            name: project.name.clone(),
            slug: project.slug.to_string(),
            description: project.description.clone(),
            settings: SettingsBody::from(&project.settings),
            inserted_at: Time(project.created_at),
        }
    }
}

/// One project.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectOne {
    pub(crate) project: ProjectBody,
}

/// A page of projects, by slug.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectList {
    pub(crate) projects: Vec<ProjectBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}
