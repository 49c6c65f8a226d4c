//! Why a rollout stands where it does, and its log.

use super::Time;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::Rollout;
use zentinel_core::id::TypedId;
use zentinel_core::log::LogEntry;
use zentinel_rollout::explain::{Explanation, GateExplanation, NodeExplanation};

/// One gate over the nodes of the active step.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GateExplanationBody {
    #[schema(example = "max_error_rate")]
    gate: String,
    passing: usize,
    failing: usize,
    unknown: usize,
    sentence: String,
}

impl From<&GateExplanation> for GateExplanationBody {
    fn from(gate: &GateExplanation) -> Self {
        let GateExplanation { gate, passing, failing, unknown, sentence } = gate.clone();
        Self { gate, passing, failing, unknown, sentence }
    }
}

/// Why one node is in the way.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeExplanationBody {
    node_id: Uuid,
    name: String,
    /// `pending`, `staging`, `staged`, `activating`, `active` or `failed`.
    #[schema(example = "staging")]
    state: &'static str,
    gate: Option<String>,
    value: Option<f64>,
    limit: Option<f64>,
    #[schema(example = "edge-2 runs the bundle, but max_error_rate is 7.25 (at most 5).")]
    sentence: String,
}

impl From<&NodeExplanation> for NodeExplanationBody {
    fn from(node: &NodeExplanation) -> Self {
        Self {
            node_id: node.node_id.uuid(),
            name: node.name.clone(),
            state: node.state.as_str(),
            gate: node.gate.clone(),
            value: node.value,
            limit: node.limit,
            sentence: node.sentence.clone(),
        }
    }
}

/// Why a rollout stands where it does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExplanationBody {
    rollout_id: Uuid,
    #[schema(example = "running")]
    state: &'static str,
    /// Where it stands, what it waits for, until when, what comes next; read in order.
    sentences: Vec<String>,
    /// The gates of the active step.
    gates: Vec<GateExplanationBody>,
    /// The nodes in the way; at most 100.
    nodes: Vec<NodeExplanationBody>,
    /// How many further nodes are in the way.
    more: usize,
    next_tick_at: Option<Time>,
}

impl ExplanationBody {
    pub(crate) fn new(rollout: &Rollout, explanation: &Explanation) -> Self {
        Self {
            rollout_id: rollout.id.uuid(),
            state: rollout.state.as_str(),
            sentences: explanation.sentences.clone(),
            gates: explanation.gates.iter().map(GateExplanationBody::from).collect(),
            nodes: explanation.nodes.iter().map(NodeExplanationBody::from).collect(),
            more: explanation.more,
            next_tick_at: rollout.next_tick_at.map(Time),
        }
    }
}

/// One decision or finding.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutLogBody {
    /// Its place in the log.
    sequence: u64,
    at: Time,
    /// `state`, `step`, `analysis`, `rollback` or `restore`.
    #[schema(example = "step")]
    kind: Value,
    #[schema(value_type = String, example = "Step 1 of 4 begins with 2 nodes.")]
    summary: Value,
    /// The figures; of an analysis its evidence.
    details: Value,
}

impl From<LogEntry> for RolloutLogBody {
    fn from(mut entry: LogEntry) -> Self {
        let mut take = |key: &str| entry.row.body.get_mut(key).map(Value::take).unwrap_or_default();
        let (kind, summary, details) = (take("kind"), take("summary"), take("details"));
        Self { sequence: entry.seq, at: Time(entry.row.at), kind, summary, details }
    }
}

/// A page of a rollout's log, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RolloutLogList {
    pub(crate) log: Vec<RolloutLogBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}
