//! One batch of a rollout.

use super::RolloutError;
use crate::id::{NodeId, OrganisationId, ProjectId, RolloutId, StepId, TypedId};
use crate::record::{Keys, Record, RecordKind};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};

/// The life of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Its nodes are told to activate.
    Running,
    /// They did; the gates are being watched.
    Verifying,
    /// The gates passed; the strategy holds the step for a while.
    Validating,
    /// Done.
    Completed,
    /// Given up.
    Failed,
}

impl StepState {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::Validating => "validating",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether it is under way.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Verifying | Self::Validating)
    }
}

/// One batch of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutStep {
    /// Its id.
    pub id: StepId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its rollout.
    pub rollout_id: RolloutId,
    /// Its place, from 0.
    pub index: u32,
    /// Its nodes, in the order of the plan.
    pub node_ids: Vec<NodeId>,
    /// Where it is in its life.
    pub state: StepState,
    /// Blue-green: the slot it is about.
    pub deployment_slot: Option<String>,
    /// Blue-green: the weight of that slot, 0 to 100.
    pub traffic_weight: Option<u8>,
    /// Blue-green: when an external load balancer acknowledged that weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shifted_at: Option<Timestamp>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When the current state began; the deadline counts from here.
    pub entered_at: Option<Timestamp>,
    /// How much of that time the rollout was paused, in milliseconds.
    pub paused_ms: u64,
    /// Since when a gate fails without a break.
    pub failing_since: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<RolloutError>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Record for RolloutStep {
    const KIND: RecordKind = RecordKind::RolloutStep;
    type Id = StepId;
    fn id(&self) -> StepId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            owner: self.rollout_id.uuid(),
            natural_key: Some(format!("{:08}", self.index)),
            state: Some(self.state.as_str().to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}
