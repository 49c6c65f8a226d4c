//! The persisted values of a rollout. Their transitions live in `zentinel-rollout`, nowhere else.

mod node;
mod spec;
mod step;

pub use node::{NodeProgress, RolloutNode};
pub use spec::{AggregateGates, HealthGates, RolloutSpec, TargetSelector};
pub use step::{RolloutStep, StepState};

use super::approval::{Approval, FreezeOverride};
use super::blue_green::RolloutTraffic;
use crate::id::{BundleId, EnvironmentId, NodeId, OrganisationId, ProjectId, RolloutId, TemplateId, TypedId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::{Actor, Scope};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The life of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Created, not started.
    Pending,
    /// Under way.
    Running,
    /// Held; no new step starts.
    Paused,
    /// Every step is done.
    Completed,
    /// Ended by an operator or by a rollback.
    Cancelled,
    /// Ended because it could not go on.
    Failed,
}

impl RolloutState {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether it can still touch nodes.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Paused)
    }
}

/// Why a rollout or a step ended or stands still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutError {
    /// Stable word, for example `step_deadline_exceeded`, `bundle_revoked`, `max_unavailable_exceeded`.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// The figures, for example `{"unavailable": 3, "max_unavailable": 1}`.
    #[serde(flatten)]
    pub details: serde_json::Map<String, Value>,
}

/// Why a node that the selector names is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExclusionReason {
    /// Pinned to another bundle.
    Pinned,
    /// Outside the node's version bounds.
    VersionBounds,
    /// In another environment.
    WrongEnvironment,
    /// Registered openly and not approved yet.
    PendingApproval,
    /// It is given no new bundle for now.
    Cordoned,
    /// It lacks a capability that the rollout needs.
    MissingCapability,
    /// Its proxy is older than the rollout needs.
    ProxyVersion,
}

/// A node that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// The node.
    pub node_id: NodeId,
    /// Why.
    pub reason: ExclusionReason,
}

/// One node that a rollout waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingNode {
    /// The node.
    pub node_id: NodeId,
    /// Stable word: `not_activated`, `gate_failing`, `gate_unknown`, `offline`, `rejected`.
    pub reason: String,
    /// The gate, where one is in the way.
    pub gate: Option<String>,
    /// The measured value, where there is one.
    pub value: Option<f64>,
    /// The limit, where there is one.
    pub limit: Option<f64>,
}

/// What a rollout does next and what it waits for: the stored explanation of the last decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// One plain sentence.
    pub summary: String,
    /// The nodes in the way; at most 100, see `more`.
    pub nodes: Vec<WaitingNode>,
    /// How many further nodes are in the way.
    pub more: u64,
    /// When patience ends.
    pub until: Option<Timestamp>,
}

/// One delivery of a bundle to a set of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The bundle. In a rollback with several, the most frequent one; see its nodes.
    pub bundle_id: BundleId,
    /// What was asked for.
    pub spec: RolloutSpec,
    /// Where it is in its life.
    pub state: RolloutState,
    /// The rollout that this one undoes.
    pub rollback_of: Option<RolloutId>,
    /// The rollout that undoes this one. Set at most once.
    pub rolled_back_by: Option<RolloutId>,
    /// Nodes that the selector names but that are left out.
    pub excluded: Vec<Excluded>,
    /// When it first ran.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Since when it is held.
    pub paused_at: Option<Timestamp>,
    /// After a resume from too many unavailable nodes: how many are tolerated for how many ticks.
    pub unavailable_grace: Option<(u32, u32)>,
    /// Why it ended or stands still.
    pub error: Option<RolloutError>,
    /// What it waits for.
    pub waiting: Waiting,
    /// When it is looked at next, at the latest.
    pub next_tick_at: Option<Timestamp>,
    /// Who created it.
    pub created_by: Actor,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The environment it is for; only that environment's nodes are its targets.
    #[serde(default)]
    pub environment_id: Option<EnvironmentId>,
    /// It does not start before this instant.
    #[serde(default)]
    pub scheduled_at: Option<Timestamp>,
    /// Whether it is to start by itself, as soon as it may.
    #[serde(default)]
    pub starts_by_itself: bool,
    /// Whether it waits for rollouts on the same nodes to end.
    #[serde(default)]
    pub queued: bool,
    /// Whether its start ends open rollouts on the same nodes.
    #[serde(default)]
    pub supersedes: bool,
    /// Who must agree before it starts, and who did.
    #[serde(default)]
    pub approval: Approval,
    /// The decision that it starts in spite of freeze windows.
    #[serde(default)]
    pub freeze_override: Option<FreezeOverride>,
    /// Why it goes straight back to a bundle that was recently healthy, if it does; approvals and freeze windows do not
    /// hold that up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<String>,
    /// The template it was created from.
    #[serde(default)]
    pub template_id: Option<TemplateId>,
    /// The completed rollout in another environment that a promotion rule followed up with this one.
    #[serde(default)]
    pub promoted_from: Option<RolloutId>,
    /// The person who asked for it, who cannot approve it; the API key where it belongs to nobody.
    #[serde(default)]
    pub requested_by: Option<Actor>,
    /// Blue-green: what its steps do not say about its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Box<RolloutTraffic>>,
}

impl Rollout {
    /// The scope that shows this rollout's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for Rollout {
    const KIND: RecordKind = RecordKind::Rollout;
    type Id = RolloutId;
    fn id(&self) -> RolloutId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            state: Some(self.state.as_str().to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// What a strategy remembers of a rollout between ticks. Shares the rollout's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutMemory {
    /// The rollout.
    pub rollout_id: RolloutId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Known to the strategy alone.
    pub value: Value,
    /// When the strategy first remembered something.
    pub created_at: Timestamp,
}

impl Record for RolloutMemory {
    const KIND: RecordKind = RecordKind::RolloutMemory;
    type Id = RolloutId;
    fn id(&self) -> RolloutId {
        self.rollout_id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys { owner: self.rollout_id.uuid(), ..Keys::in_project(self.organisation_id, self.project_id) }
    }
}
