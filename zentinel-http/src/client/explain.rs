//! Why a rollout stands where it does, as the operator API says it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zentinel_core::Timestamp;
use zentinel_core::entity::{NodeProgress, RolloutState};
use zentinel_core::id::{NodeId, RolloutId};

/// One gate over the nodes of the active step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateExplanationView {
    /// The gate.
    pub gate: String,
    /// Nodes that pass.
    pub passing: u64,
    /// Nodes that fail.
    pub failing: u64,
    /// Nodes of which nothing is known.
    pub unknown: u64,
    /// All of it in a sentence.
    pub sentence: String,
}

/// Why one node is in the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeExplanationView {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: NodeProgress,
    /// The gate in the way, where one is.
    pub gate: Option<String>,
    /// What it measured.
    pub value: Option<f64>,
    /// Its limit.
    pub limit: Option<f64>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// Why a rollout stands where it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplanationView {
    /// The rollout.
    pub rollout_id: RolloutId,
    /// Where it is in its life.
    pub state: RolloutState,
    /// Where it stands, what it waits for, until when, what comes next.
    pub sentences: Vec<String>,
    /// The gates of the active step.
    pub gates: Vec<GateExplanationView>,
    /// The nodes in the way; at most 100.
    pub nodes: Vec<NodeExplanationView>,
    /// How many further nodes are in the way.
    pub more: u64,
}

/// One decision or finding of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutLogView {
    /// Its place in the log.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// `state`, `step`, `analysis`, `rollback` or `restore`.
    pub kind: String,
    /// In a sentence.
    pub summary: String,
    /// The figures.
    pub details: Value,
}
