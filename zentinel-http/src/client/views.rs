//! What the operator API takes and answers, as far as tools act on it.
//!
//! Unknown fields of an answer are ignored, so that a newer server does not break an older tool.

use super::governance::ApprovalsView;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use zentinel_core::entity::{
    Activation, AggregateGates, BundleError, BundleStatus, DiffStats, DriftKind, DriftResolution,
    DriftSeverity, Excluded, HealthGates, NodeProgress, NodeStatus, Remediation, RiskLevel, RolloutError,
    RolloutState, Slot, StepState, TargetSelector, TrafficSplit, Waiting,
};
use zentinel_core::id::{
    BundleId, EnvironmentId, GroupId, HealthCheckId, NodeId, ProjectId, RegistrationTokenId, RolloutId,
    StepId, TemplateId,
};
use zentinel_core::port::Diagnostic;
use zentinel_core::{Sha256Digest, Timestamp};

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// How many match in all.
    pub total: u64,
    /// Where the next page begins; `None` at the end.
    pub next_cursor: Option<String>,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectView {
    /// Its id.
    pub id: ProjectId,
    /// What people call it.
    pub name: String,
    /// Its name in URLs.
    pub slug: String,
    /// What it is for.
    pub description: Option<String>,
    /// When it was created.
    pub inserted_at: Timestamp,
}

/// A file beside the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleFile {
    /// Relative path with `/`.
    pub path: String,
    /// Standard base64 of the content.
    pub content: String,
}

/// A bundle to compile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewBundle {
    /// Unique in the project, 1 to 100 characters.
    pub version: String,
    /// KDL text.
    pub config_source: String,
    /// Files beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<BundleFile>,
    /// The author's own judgement; the compiler only raises it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk_level: Option<RiskLevel>,
}

/// The answer to a new bundle: it is compiled in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedBundle {
    /// Its id.
    pub id: BundleId,
    /// What people call it.
    pub version: String,
    /// `pending`.
    pub status: BundleStatus,
    /// Its project.
    pub project_id: ProjectId,
}

/// A bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleView {
    /// Its id.
    pub id: BundleId,
    /// What people call it.
    pub version: String,
    /// Where it is in its life.
    pub status: BundleStatus,
    /// SHA-256 of the archive.
    pub checksum: Option<Sha256Digest>,
    /// Length of the archive in bytes.
    pub size_bytes: Option<u64>,
    /// How dangerous it looks.
    pub risk_level: RiskLevel,
    /// Codes of the findings behind that.
    #[serde(default)]
    pub risk_reasons: Vec<String>,
    /// What the compiler said, as text.
    pub compiler_output: Option<String>,
    /// What the compiler said.
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
    /// What activating it takes.
    #[serde(default)]
    pub activation: Activation,
    /// Whether a signature exists.
    pub signed: bool,
    /// The key that made it.
    pub signing_key_id: Option<String>,
    /// When it was created.
    pub inserted_at: Timestamp,
}

/// A rollout to create. What is absent is the server's default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NewRollout {
    /// The bundle.
    pub bundle_id: BundleId,
    /// Which nodes; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_selector: Option<TargetSelector>,
    /// `rolling` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Nodes per step; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Instead of `batch_size`: percentage of the targets per step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_percentage: Option<u8>,
    /// What the strategy `canary` needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_analysis_config: Option<Value>,
    /// What the strategy `blue_green` needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blue_green_config: Option<Value>,
    /// How many nodes of a step may be offline; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// How long a step may take in seconds; 600 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<u32>,
    /// What must hold before a step is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_gates: Option<HealthGates>,
    /// What must hold over all nodes that were reached, taken together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate_gates: Option<AggregateGates>,
    /// Health checks that must all pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_health_checks: Option<BTreeSet<HealthCheckId>>,
    /// Whether failure rolls back by itself; not by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
    /// Percentage of a step's nodes that must fail before the step does; 50 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_threshold: Option<u8>,
    /// Whether each batch is twice as large as the one before; not by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_doubling: Option<bool>,
    /// Most nodes per step, where batches grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<u32>,
    /// Most nodes that may be told per minute, on average over the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_per_minute: Option<u32>,
    /// Whether the first failure of a fresh rollout stops it; not by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_mode: Option<bool>,
    /// Whether it starts at once; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_start: Option<bool>,
    /// Whether open rollouts on the same nodes are cancelled; not by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersede: Option<bool>,
    /// Whether it waits for open rollouts on the same nodes; not by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<bool>,
    /// When it starts; at once by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// The environment it is for; all nodes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<EnvironmentId>,
    /// Where absent fields come from: the project's default template, this one, or none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<Option<TemplateId>>,
    /// Whether freeze windows are passed over; takes an admin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<bool>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_reason: Option<String>,
}

impl NewRollout {
    /// A rollout of a bundle with the server's defaults.
    #[must_use]
    pub fn of(bundle_id: BundleId) -> Self {
        Self {
            bundle_id,
            target_selector: None,
            strategy: None,
            batch_size: None,
            batch_percentage: None,
            canary_analysis_config: None,
            blue_green_config: None,
            max_unavailable: None,
            progress_deadline_seconds: None,
            health_gates: None,
            aggregate_gates: None,
            custom_health_checks: None,
            auto_rollback: None,
            rollback_threshold: None,
            batch_doubling: None,
            max_batch_size: None,
            nodes_per_minute: None,
            safe_mode: None,
            auto_start: None,
            supersede: None,
            queue: None,
            scheduled_at: None,
            environment_id: None,
            template_id: None,
            override_freeze: None,
            override_reason: None,
        }
    }
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Its id.
    pub id: RolloutId,
    /// Its project.
    pub project_id: ProjectId,
    /// The bundle.
    pub bundle_id: BundleId,
    /// Name of the strategy.
    pub strategy: String,
    /// Where it is in its life.
    pub state: RolloutState,
    /// Why it ended or stands still.
    pub error: Option<RolloutError>,
    /// What it waits for.
    #[serde(default)]
    pub waiting: Waiting,
    /// Nodes that the selector names but that are left out.
    #[serde(default)]
    pub excluded: Vec<Excluded>,
    /// Blue-green: `blue` until the green slot has all the traffic.
    #[serde(default)]
    pub deployment_slot: Option<Slot>,
    /// Blue-green: the weights that are in force.
    #[serde(default)]
    pub traffic: Option<TrafficSplit>,
    /// Blue-green: how many weights are done.
    #[serde(default)]
    pub traffic_step_index: u32,
    /// The environment it is for.
    #[serde(default)]
    pub environment_id: Option<EnvironmentId>,
    /// When it starts, if not at once.
    #[serde(default)]
    pub scheduled_at: Option<Timestamp>,
    /// `not_required`, `pending_approval`, `approved` or `rejected`.
    #[serde(default)]
    pub approval_state: String,
    /// How many people agreed, of how many.
    #[serde(default)]
    pub approvals: ApprovalsView,
    /// Why somebody refused.
    #[serde(default)]
    pub rejection_comment: Option<String>,
    /// The template that its settings came from.
    #[serde(default)]
    pub template_id: Option<TemplateId>,
    /// The rollout that this one undoes.
    #[serde(default)]
    pub rollback_of: Option<RolloutId>,
    /// The rollout that undoes this one.
    #[serde(default)]
    pub rolled_back_by: Option<RolloutId>,
    /// When it first ran.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When it was created.
    pub inserted_at: Timestamp,
}

/// One batch of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// Its id.
    pub id: StepId,
    /// Its place, from 0.
    pub step_index: u32,
    /// Its nodes.
    pub node_ids: Vec<NodeId>,
    /// Where it is in its life.
    pub state: StepState,
    /// Blue-green: the slot it is about.
    #[serde(default)]
    pub deployment_slot: Option<Slot>,
    /// Blue-green: the weight of that slot.
    #[serde(default)]
    pub traffic_weight: Option<u8>,
    /// Blue-green: when the load balancer acknowledged it.
    #[serde(default)]
    pub shifted_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<Value>,
}

/// How far the nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// All of them.
    pub total: u64,
    /// Neither active nor failed.
    pub pending: u64,
    /// Run the bundle and were found healthy.
    pub active: u64,
    /// Could not, or were given up.
    pub failed: u64,
    /// Those of the active ones that took the bundle back since.
    #[serde(default)]
    pub taken_back: u64,
}

/// One node's part in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatusView {
    /// The node.
    pub node_id: NodeId,
    /// What it shall run.
    pub bundle_id: BundleId,
    /// What it ran before.
    pub previous_bundle_id: Option<BundleId>,
    /// How far it is.
    pub state: NodeProgress,
    /// Why it failed.
    pub error: Option<String>,
    /// Why it took the bundle back after it was found healthy with it.
    #[serde(default)]
    pub taken_back: Option<String>,
}

/// A rollout with its steps and nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutDetailView {
    /// The rollout.
    pub rollout: RolloutView,
    /// Its steps, by index.
    pub steps: Vec<StepView>,
    /// How far the nodes are.
    pub progress: Progress,
    /// Each node.
    #[serde(default)]
    pub node_statuses: Vec<NodeStatusView>,
}

/// A node, as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Unique in the project.
    pub name: String,
    /// Liveness.
    pub status: NodeStatus,
    /// For selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Version of the proxy.
    pub version: Option<String>,
    /// Its address.
    #[serde(default)]
    pub ip: Option<String>,
    /// Its host name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Anything else that it said of itself.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// When it was last heard from.
    pub last_seen_at: Option<Timestamp>,
    /// When it registered.
    #[serde(default)]
    pub registered_at: Option<Timestamp>,
    /// The bundle that serves traffic.
    #[serde(default)]
    pub active_bundle_id: Option<BundleId>,
    /// The bundle that it has or is told to fetch, but that does not serve yet.
    #[serde(default)]
    pub staged_bundle_id: Option<BundleId>,
    /// What it should run.
    #[serde(default)]
    pub expected_bundle_id: Option<BundleId>,
    /// What it ran before the current rollout.
    #[serde(default)]
    pub previous_bundle_id: Option<BundleId>,
    /// Rollouts of other bundles leave it out.
    #[serde(default)]
    pub pinned_bundle_id: Option<BundleId>,
    /// Whether it is given no new bundle.
    #[serde(default)]
    pub cordoned: bool,
    /// The lowest version of bundles that it may be given.
    #[serde(default)]
    pub min_bundle_version: Option<String>,
    /// The highest.
    #[serde(default)]
    pub max_bundle_version: Option<String>,
    /// A bundle that it says it runs and that the project does not have.
    #[serde(default)]
    pub reported_unknown_bundle: Option<Uuid>,
    /// The groups it belongs to.
    #[serde(default)]
    pub group_ids: Vec<GroupId>,
    /// The open rollout that it takes part in.
    #[serde(default)]
    pub rollout_id: Option<RolloutId>,
    /// `static_key` or `jwt`.
    #[serde(default)]
    pub auth_method: String,
    /// Whether an operator let it in.
    #[serde(default)]
    pub approved: bool,
    /// Whether it runs something else than it should.
    #[serde(default)]
    pub drifted: bool,
    /// The last activation that failed.
    #[serde(default)]
    pub bundle_error: Option<BundleError>,
    /// `health` of its last heartbeat.
    #[serde(default)]
    pub health: Map<String, Value>,
    /// `metrics` of its last heartbeat.
    #[serde(default)]
    pub metrics: Map<String, Value>,
}

/// A named set of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its id.
    pub id: GroupId,
    /// Unique in the project.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// `#rrggbb`.
    pub color: String,
    /// Its members, where they are named one by one.
    #[serde(default)]
    pub node_ids: Vec<NodeId>,
    /// Its members, where they are those with certain labels.
    #[serde(default)]
    pub selector: Option<String>,
    /// When it was created.
    pub inserted_at: Timestamp,
}

/// A node that runs, or ran, something else than it should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftView {
    /// Its id.
    pub id: zentinel_core::id::DriftEventId,
    /// The node.
    pub node_id: NodeId,
    /// What the node was called.
    pub node_name: String,
    /// In what way it differs.
    pub kind: DriftKind,
    /// What it should run.
    pub expected_bundle_id: BundleId,
    /// What it says it runs.
    pub actual_bundle_id: Option<BundleId>,
    /// How much differs.
    pub severity: DriftSeverity,
    /// The lines that differ.
    pub diff_stats: Option<DiffStats>,
    /// When it was found.
    pub detected_at: Timestamp,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// How it ended.
    pub resolution: Option<DriftResolution>,
    /// How long it lasted.
    pub duration_seconds: Option<i64>,
    /// What was tried to bring the node back.
    #[serde(default)]
    pub remediations: Vec<Remediation>,
    /// Why it is not being brought back.
    #[serde(default)]
    pub remediation_error: Option<String>,
}

/// How many nodes drifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftStatsView {
    /// Nodes of which something is expected.
    pub total_managed: u64,
    /// Online ones that run something else.
    pub drifted: u64,
    /// Online ones that do not.
    pub in_sync: u64,
    /// Silent ones.
    #[serde(default)]
    pub unknown: u64,
    /// Open events.
    pub active_events: u64,
    /// Events that ended since midnight UTC.
    pub resolved_today: u64,
}

/// A heartbeat or an event of a node, with the fields of its report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedView {
    /// Its id.
    pub id: Uuid,
    /// When the control plane took it down.
    pub inserted_at: Timestamp,
    /// What the node said.
    #[serde(flatten)]
    pub reported: Map<String, Value>,
}

/// A registration token to issue.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NewRegistrationToken {
    /// What people call it.
    pub name: String,
    /// Labels that every node registered with it gets.
    pub labels: BTreeMap<String, String>,
    /// How often it may be used; `None` for any number of times.
    pub max_uses: Option<u32>,
    /// When it ends; the server's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A new registration token. Its raw value is shown this once.
#[derive(Clone, Debug, Deserialize)]
pub struct CreatedRegistrationToken {
    /// Its id.
    pub id: RegistrationTokenId,
    /// What people call it.
    pub name: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The token itself.
    #[serde(deserialize_with = "super::operator::secret")]
    pub token: zentinel_core::Secret,
}

/// A registration token, without its raw value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistrationTokenView {
    /// Its id.
    pub id: RegistrationTokenId,
    /// What people call it.
    pub name: String,
    /// Labels that every node registered with it gets.
    pub labels: BTreeMap<String, String>,
    /// How often it was used.
    pub uses: u32,
    /// How often it may be used; `None` for any number of times.
    pub max_uses: Option<u32>,
    /// Whether it can register one more node.
    pub usable: bool,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}
