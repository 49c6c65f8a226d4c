//! Rollouts.

use super::Time;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{
    NodeProgress, Rollout, RolloutError, RolloutNode, RolloutStep, Slot, StepState, TrafficSplit,
};
use zentinel_core::id::TypedId;
use zentinel_rollout::engine::{Preview, RolloutDetail};
use zentinel_rollout::strategy::BlueGreenConfig;
use zentinel_rollout::traffic;

/// One delivery of a bundle to a set of nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutBody {
    id: Uuid,
    project_id: Uuid,
    bundle_id: Uuid,
    #[schema(value_type = Object, example = json!({"type": "labels", "labels": {"region": "eu"}}))]
    target_selector: Value,
    #[schema(example = "rolling")]
    strategy: String,
    batch_size: u32,
    batch_percentage: Option<u8>,
    max_unavailable: u32,
    progress_deadline_seconds: u32,
    #[schema(value_type = Object, example = json!({"heartbeat_healthy": true}))]
    health_gates: Value,
    /// What must hold over all nodes taken together.
    #[schema(value_type = Object, example = json!({"max_error_rate": 1.0}))]
    aggregate_gates: Value,
    /// The health checks that must pass.
    custom_health_checks: Vec<Uuid>,
    auto_rollback: bool,
    rollback_threshold: u8,
    batch_doubling: bool,
    max_batch_size: Option<u32>,
    nodes_per_minute: Option<u32>,
    safe_mode: bool,
    /// Why it goes straight back to a bundle that was recently healthy, if it does.
    revert_reason: Option<String>,
    /// `pending`, `running`, `paused`, `completed`, `cancelled` or `failed`.
    #[schema(example = "running")]
    state: &'static str,
    /// Blue-green: `blue` until the green slot has all the traffic. A swap turns it round.
    deployment_slot: Option<&'static str>,
    /// Blue-green: the weights `{green, blue}` that are in force.
    #[schema(value_type = Option<Object>, example = json!({"green": 10, "blue": 90}))]
    traffic: Option<TrafficSplit>,
    /// Blue-green: the last split that the load balancer was asked for:
    /// `{number, split, requested_at, acknowledged_at, error}`.
    traffic_shift: Option<Value>,
    blue_green_config: Option<Value>,
    /// Blue-green: how long each weight is held at least.
    validation_period_seconds: Option<u32>,
    canary_analysis_config: Option<Value>,
    /// `canary`: how many of its steps are done. Only when a single rollout is shown.
    canary_step_index: Option<usize>,
    /// `canary`: `{analyses: […]}`, the last 200 with their evidence, oldest first. Only when a single rollout is shown.
    canary_analysis_results: Option<Value>,
    /// Blue-green: how many weights are done.
    traffic_step_index: u32,
    environment_id: Option<Uuid>,
    scheduled_at: Option<Time>,
    /// Whether it starts by itself, as soon as it may.
    auto_start: bool,
    /// Whether it waits for rollouts on the same nodes to end; `waiting` says for which.
    queued: bool,
    /// `not_required`, `pending_approval`, `approved` or `rejected`.
    #[schema(example = "not_required")]
    approval_state: &'static str,
    approvals: ApprovalsBody,
    rejection_comment: Option<String>,
    /// Why freeze windows do not hold it up, where an admin said so.
    freeze_override_reason: Option<String>,
    /// The template that its settings came from.
    template_id: Option<Uuid>,
    /// The completed rollout in another environment that a promotion rule followed up.
    promoted_from: Option<Uuid>,
    started_at: Option<Time>,
    completed_at: Option<Time>,
    paused_at: Option<Time>,
    /// `{reason, message, …}`.
    error: Option<Value>,
    /// What it waits for, until when, and which nodes are in the way.
    waiting: Value,
    /// Nodes that the selector names but that are left out: `{node_id, reason}`.
    excluded: Value,
    /// The rollout that this one undoes.
    rollback_of: Option<Uuid>,
    /// The rollout that undoes this one.
    rolled_back_by: Option<Uuid>,
    next_tick_at: Option<Time>,
    created_by_type: &'static str,
    created_by_id: Option<String>,
    inserted_at: Time,
    updated_at: Time,
}

/// How many people agreed, of how many.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalsBody {
    count: usize,
    needed: u32,
}

fn error_value(error: Option<&RolloutError>) -> Option<Value> {
    error.and_then(|error| serde_json::to_value(error).ok())
}

impl From<&Rollout> for RolloutBody {
    fn from(rollout: &Rollout) -> Self {
        let spec = &rollout.spec;
        let blue_green = (spec.strategy == "blue_green").then(|| BlueGreenConfig::of(spec));
        let config = |strategy: &str| {
            (spec.strategy == strategy && !spec.strategy_config.is_null())
                .then(|| spec.strategy_config.clone())
        };
        Self {
            id: rollout.id.uuid(),
            project_id: rollout.project_id.uuid(),
            bundle_id: rollout.bundle_id.uuid(),
            target_selector: json!(spec.target_selector),
            strategy: spec.strategy.clone(),
            batch_size: spec.batch_size,
            batch_percentage: spec.batch_percentage.map(|percent| percent.get()),
            max_unavailable: spec.max_unavailable,
            progress_deadline_seconds: spec.progress_deadline_seconds,
            health_gates: json!(spec.health_gates),
            aggregate_gates: json!(spec.aggregate_gates),
            custom_health_checks: spec.custom_health_checks.iter().map(|id| id.uuid()).collect(),
            auto_rollback: spec.auto_rollback,
            rollback_threshold: spec.rollback_threshold.get(),
            batch_doubling: spec.batch_doubling,
            max_batch_size: spec.max_batch_size,
            nodes_per_minute: spec.nodes_per_minute,
            safe_mode: spec.safe_mode,
            revert_reason: rollout.revert.clone(),
            state: rollout.state.as_str(),
            deployment_slot: None,
            traffic: None,
            traffic_shift: traffic::shift(rollout).map(|shift| {
                json!({
                    "number": shift.number,
                    "split": shift.split,
                    "requested_at": Time(shift.requested_at),
                    "acknowledged_at": shift.acknowledged_at.map(Time),
                    "error": shift.error,
                })
            }),
            blue_green_config: blue_green.as_ref().map(|config| json!(config)),
            validation_period_seconds: blue_green.map(|config| config.validation_period_seconds),
            canary_analysis_config: config("canary"),
            canary_step_index: None,
            canary_analysis_results: None,
            traffic_step_index: 0,
            environment_id: rollout.environment_id.map(TypedId::uuid),
            scheduled_at: rollout.scheduled_at.map(Time),
            auto_start: rollout.starts_by_itself,
            queued: rollout.queued,
            approval_state: rollout.approval.state.as_str(),
            approvals: ApprovalsBody { count: rollout.approval.given.len(), needed: rollout.approval.needed },
            rejection_comment: rollout.approval.rejection.as_ref().and_then(|said| said.comment.clone()),
            freeze_override_reason: rollout.freeze_override.as_ref().map(|said| said.reason.clone()),
            template_id: rollout.template_id.map(TypedId::uuid),
            promoted_from: rollout.promoted_from.map(TypedId::uuid),
            started_at: rollout.started_at.map(Time),
            completed_at: rollout.completed_at.map(Time),
            paused_at: rollout.paused_at.map(Time),
            error: error_value(rollout.error.as_ref()),
            waiting: waiting(rollout),
            excluded: json!(rollout.excluded),
            rollback_of: rollout.rollback_of.map(TypedId::uuid),
            rolled_back_by: rollout.rolled_back_by.map(TypedId::uuid),
            next_tick_at: rollout.next_tick_at.map(Time),
            created_by_type: rollout.created_by.kind(),
            created_by_id: rollout.created_by.id(),
            inserted_at: Time(rollout.created_at),
            updated_at: Time(rollout.updated_at),
        }
    }
}

impl RolloutBody {
    /// With what follows from its steps.
    pub(crate) fn with_steps(rollout: &Rollout, steps: &[RolloutStep]) -> Self {
        Self {
            deployment_slot: traffic::deployment_slot(rollout, steps).map(Slot::as_str),
            traffic: traffic::split(rollout, steps),
            traffic_step_index: traffic::traffic_steps_done(steps),
            ..Self::from(rollout)
        }
    }
}

fn waiting(rollout: &Rollout) -> Value {
    let waiting = &rollout.waiting;
    json!({
        "summary": waiting.summary,
        "nodes": waiting.nodes,
        "more": waiting.more,
        "until": waiting.until.map(Time),
    })
}

/// One batch of a rollout.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepBody {
    id: Uuid,
    step_index: u32,
    node_ids: Vec<Uuid>,
    /// `pending`, `running`, `verifying`, `validating`, `completed` or `failed`.
    #[schema(example = "verifying")]
    state: &'static str,
    deployment_slot: Option<String>,
    /// Blue-green: the weight of the slot; 0 where a swap, a failure or a rollback put it out of force.
    traffic_weight: Option<u8>,
    /// Blue-green: when the load balancer acknowledged the weight.
    shifted_at: Option<Time>,
    started_at: Option<Time>,
    completed_at: Option<Time>,
    error: Option<Value>,
}

impl StepBody {
    fn new(rollout: &Rollout, step: &RolloutStep) -> Self {
        Self {
            id: step.id.uuid(),
            step_index: step.index,
            node_ids: step.node_ids.iter().map(|id| id.uuid()).collect(),
            state: step.state.as_str(),
            deployment_slot: step.deployment_slot.clone(),
            traffic_weight: traffic::shown_weight(rollout, step),
            shifted_at: step.shifted_at.map(Time),
            started_at: step.started_at.map(Time),
            completed_at: step.completed_at.map(Time),
            error: error_value(step.error.as_ref()),
        }
    }
}

/// How far the nodes are.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Progress {
    total: usize,
    pending: usize,
    active: usize,
    failed: usize,
    /// Those of the active ones that say now that they took the bundle back since.
    taken_back: usize,
}

impl Progress {
    fn of(nodes: &[RolloutNode], taken_back: usize) -> Self {
        let count = |state| nodes.iter().filter(|node| node.state == state).count();
        let (active, failed) = (count(NodeProgress::Active), count(NodeProgress::Failed));
        Self { total: nodes.len(), pending: nodes.len() - active - failed, active, failed, taken_back }
    }
}

/// One node's part in a rollout.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeStatusBody {
    node_id: Uuid,
    bundle_id: Uuid,
    previous_bundle_id: Option<Uuid>,
    /// `pending`, `staging`, `staged`, `activating`, `active` or `failed`.
    #[schema(example = "active")]
    state: &'static str,
    staged_at: Option<Time>,
    activated_at: Option<Time>,
    verified_at: Option<Time>,
    /// Its step was done without it, within `max_unavailable`.
    lagging: bool,
    error: Option<String>,
    /// Why it took the bundle back after it was found healthy with it.
    taken_back: Option<String>,
    last_report_at: Option<Time>,
}

impl From<&RolloutNode> for NodeStatusBody {
    fn from(node: &RolloutNode) -> Self {
        Self {
            node_id: node.node_id.uuid(),
            bundle_id: node.bundle_id.uuid(),
            previous_bundle_id: node.previous_bundle_id.map(TypedId::uuid),
            state: node.state.as_str(),
            staged_at: node.staged_at.map(Time),
            activated_at: node.activated_at.map(Time),
            verified_at: node.verified_at.map(Time),
            lagging: node.lagging,
            error: node.error.clone(),
            taken_back: None,
            last_report_at: node.last_report_at.map(Time),
        }
    }
}

/// A rollout with its steps and nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutDetailBody {
    rollout: RolloutBody,
    /// By index.
    steps: Vec<StepBody>,
    progress: Progress,
    node_statuses: Vec<NodeStatusBody>,
}

impl RolloutDetailBody {
    /// With what the canary analysis found, oldest first.
    pub(crate) fn analysed(mut self, analyses: &[Value]) -> Self {
        self.rollout.canary_analysis_results = Some(json!({ "analyses": analyses }));
        self
    }

    /// `taken_back` says why a node that was done does not run the bundle any more, if so.
    pub(crate) fn new(detail: &RolloutDetail, taken_back: impl Fn(&RolloutNode) -> Option<String>) -> Self {
        let status = |node: &RolloutNode| NodeStatusBody {
            taken_back: taken_back(node).filter(|_| node.state == NodeProgress::Active),
            ..NodeStatusBody::from(node)
        };
        let node_statuses: Vec<NodeStatusBody> = detail.nodes.iter().map(status).collect();
        let taken_back = node_statuses.iter().filter(|status| status.taken_back.is_some()).count();
        let mut rollout = RolloutBody::with_steps(&detail.rollout, &detail.steps);
        if detail.rollout.spec.strategy == "canary" {
            let done = detail.steps.iter().filter(|step| step.state == StepState::Completed);
            rollout.canary_step_index = Some(done.count());
        }
        Self {
            rollout,
            steps: detail.steps.iter().map(|step| StepBody::new(&detail.rollout, step)).collect(),
            progress: Progress::of(&detail.nodes, taken_back),
            node_statuses,
        }
    }
}

/// A page of rollouts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutList {
    pub(crate) rollouts: Vec<RolloutBody>,
    /// How many match in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// A step of a plan.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlannedStep {
    step_index: usize,
    node_ids: Vec<Uuid>,
}

/// What a rollout would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewBody {
    steps: Vec<PlannedStep>,
    /// Nodes that the selector names but that would be left out: `{node_id, reason}`.
    excluded: Value,
    total: usize,
    /// What it would wait for before it starts, in sentences.
    waits: Vec<String>,
}

/// A preview.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewOne {
    preview: PreviewBody,
}

impl From<&Preview> for PreviewOne {
    fn from(preview: &Preview) -> Self {
        let steps = preview.steps.iter().enumerate().map(|(step_index, nodes)| PlannedStep {
            step_index,
            node_ids: nodes.iter().map(|id| id.uuid()).collect(),
        });
        Self {
            preview: PreviewBody {
                steps: steps.collect(),
                excluded: json!(preview.excluded),
                total: preview.steps.iter().map(Vec::len).sum(),
                waits: preview.waits.clone(),
            },
        }
    }
}
