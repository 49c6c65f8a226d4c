//! The persisted values of a rollout. Their transitions live in `zentinel-rollout`, nowhere else.

use super::approval::{Approval, FreezeOverride};
use super::blue_green::RolloutTraffic;
use super::selector::LabelSelector;
use super::traffic::Traffic;
use crate::id::{
    BundleId, EnvironmentId, GroupId, HealthCheckId, NodeId, OrganisationId, ProjectId, RolloutId,
    RolloutNodeId, StepId, TemplateId, TypedId,
};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::{Actor, Scope};
use crate::value::{Percent, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Which nodes a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TargetSelector {
    /// Every node of the project.
    All,
    /// Nodes that have all of these labels; at least one.
    Labels {
        /// The labels.
        labels: BTreeMap<String, String>,
    },
    /// These nodes; at least one.
    NodeIds {
        /// The nodes.
        node_ids: BTreeSet<NodeId>,
    },
    /// The members of these groups; at least one.
    Groups {
        /// The groups.
        group_ids: BTreeSet<GroupId>,
    },
    /// Nodes whose labels satisfy these requirements.
    Selector {
        /// The requirements.
        selector: LabelSelector,
    },
}

/// What must hold before a step is done. An absent gate is not checked; missing data fails one
/// that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthGates {
    /// The node calls itself healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_healthy: Option<bool>,
    /// Highest error rate in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// Highest 99th percentile of the latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// Highest processor use in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpu_percent: Option<f64>,
    /// Highest memory use in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_percent: Option<f64>,
}

impl HealthGates {
    /// The default: the heartbeat gate alone.
    #[must_use]
    pub fn heartbeat() -> Self {
        Self { heartbeat_healthy: Some(true), ..Self::default() }
    }
}

/// What must hold over all nodes that the rollout has reached, taken together. An absent gate is not
/// checked; missing data fails one that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AggregateGates {
    /// Highest share of failed requests in percent, over all requests since the nodes activated the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// Highest 99th percentile of the latency in milliseconds, over all those requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// Lowest share of nodes in percent that run the bundle and call themselves healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_healthy_percent: Option<f64>,
    /// How many requests there must be before the first two are judged; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u64>,
}

impl AggregateGates {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.judges_traffic() && self.min_healthy_percent.is_none()
    }

    /// Whether what the nodes served is judged.
    #[must_use]
    pub fn judges_traffic(&self) -> bool {
        self.max_error_rate.is_some() || self.max_latency_ms.is_some()
    }
}

/// What an operator asks for; fixed once the rollout exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// Which nodes.
    pub target_selector: TargetSelector,
    /// Name of the strategy, for example `rolling`.
    pub strategy: String,
    /// What the strategy needs beyond the common fields; null when nothing.
    pub strategy_config: Value,
    /// Nodes per step, at least 1.
    pub batch_size: u32,
    /// Instead of `batch_size`: share of the targets per step.
    pub batch_percentage: Option<Percent>,
    /// How many nodes of a step may be offline without stopping it.
    pub max_unavailable: u32,
    /// How long a step may take, in seconds, pauses not counted.
    pub progress_deadline_seconds: u32,
    /// What must hold before a step is done.
    pub health_gates: HealthGates,
    /// What must hold over all nodes that were reached so far.
    #[serde(default, skip_serializing_if = "AggregateGates::is_empty")]
    pub aggregate_gates: AggregateGates,
    /// Endpoints that must all pass.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub custom_health_checks: BTreeSet<HealthCheckId>,
    /// Whether failure rolls back by itself.
    pub auto_rollback: bool,
    /// Share of a step's nodes that must fail before the step does.
    pub rollback_threshold: Percent,
    /// Whether each batch is twice as large as the one before, up to `max_batch_size`: what went well carries further.
    #[serde(default)]
    pub batch_doubling: bool,
    /// Most nodes per step, where batches grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<u32>,
    /// Most nodes that may be told per minute, on average over the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes_per_minute: Option<u32>,
    /// Until a step is done, a single node that fails stops the rollout, whatever `rollback_threshold` says.
    #[serde(default)]
    pub safe_mode: bool,
    /// Nodes that lack one of these are left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub required_capabilities: BTreeSet<String>,
    /// Nodes whose proxy is older than this version are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_proxy_version: Option<String>,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            target_selector: TargetSelector::All,
            strategy: "rolling".to_owned(),
            strategy_config: Value::Null,
            batch_size: 1,
            batch_percentage: None,
            max_unavailable: 0,
            progress_deadline_seconds: 600,
            health_gates: HealthGates::heartbeat(),
            aggregate_gates: AggregateGates::default(),
            custom_health_checks: BTreeSet::new(),
            auto_rollback: false,
            rollback_threshold: Percent::HALF,
            batch_doubling: false,
            max_batch_size: None,
            nodes_per_minute: None,
            safe_mode: false,
            required_capabilities: BTreeSet::new(),
            min_proxy_version: None,
        }
    }
}

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
            organisation_id: Some(self.organisation_id),
            project_id: Some(self.project_id),
            owner: self.project_id.uuid(),
            state: Some(self.state.as_str().to_owned()),
            ..Keys::default()
        }
    }
}

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
            organisation_id: Some(self.organisation_id),
            project_id: Some(self.project_id),
            owner: self.rollout_id.uuid(),
            natural_key: Some(format!("{:08}", self.index)),
            state: Some(self.state.as_str().to_owned()),
            ..Keys::default()
        }
    }
}

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
            organisation_id: Some(self.organisation_id),
            project_id: Some(self.project_id),
            owner: self.rollout_id.uuid(),
            natural_key: Some(self.node_id.to_string()),
            state: Some(self.state.as_str().to_owned()),
            ..Keys::default()
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
        Keys {
            organisation_id: Some(self.organisation_id),
            project_id: Some(self.project_id),
            owner: self.rollout_id.uuid(),
            ..Keys::default()
        }
    }
}
