//! One node's part in a rollout.

use crate::entity::traffic::Traffic;
use crate::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId, RolloutNodeId, TypedId};
use crate::record::{Keys, Record, RecordKind};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};

/// How far one node of a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeProgress {
    /// Its step has not begun, or it is lagging.
    Pending,
    /// It was told to fetch the bundle.
    Staging,
    /// It has the bundle.
    Staged,
    /// It runs the bundle; the gates are being watched.
    Activating,
    /// It runs the bundle and was found healthy.
    Active,
    /// It could not, or was given up.
    Failed,
}

impl NodeProgress {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Staging => "staging",
            Self::Staged => "staged",
            Self::Activating => "activating",
            Self::Active => "active",
            Self::Failed => "failed",
        }
    }
}

/// One node's part in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutNode {
    /// Its id.
    pub id: RolloutNodeId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its rollout.
    pub rollout_id: RolloutId,
    /// The node.
    pub node_id: NodeId,
    /// What it shall run; the rollout's bundle except in a rollback.
    pub bundle_id: BundleId,
    /// What it was last brought to before, or else what it ran; where a rollback leads.
    pub previous_bundle_id: Option<BundleId>,
    /// How far it is.
    pub state: NodeProgress,
    /// When it was told.
    pub staged_at: Option<Timestamp>,
    /// When the control plane first heard that the bundle is active.
    pub activated_at: Option<Timestamp>,
    /// When its step was done.
    pub verified_at: Option<Timestamp>,
    /// Its step was done without it, within `max_unavailable`; it converges later.
    pub lagging: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// What it had served when it activated the bundle, where that is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_before: Option<Box<Traffic>>,
    /// When any of this last changed.
    pub last_report_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Record for RolloutNode {
    const KIND: RecordKind = RecordKind::RolloutNode;
    type Id = RolloutNodeId;
    fn id(&self) -> RolloutNodeId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            owner: self.rollout_id.uuid(),
            natural_key: Some(self.node_id.to_string()),
            state: Some(self.state.as_str().to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}
