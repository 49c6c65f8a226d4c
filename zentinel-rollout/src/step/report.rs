//! The explanation of a decision: what the rollout waits for, in words and figures.

use super::census::Census;
use super::elapsed;
use crate::gate::{NOT_ONLINE, Objection, Ruling, Verdict};
use crate::transition::Draft;
use serde_json::{Value, json};
use zentinel_core::Timestamp;
use zentinel_core::entity::{Waiting, WaitingNode};
use zentinel_core::id::NodeId;

/// Most nodes that a report or an error lists.
const MAX_NODES: usize = 100;

fn waiting_node(node_id: NodeId, reason: &str) -> WaitingNode {
    WaitingNode { node_id, reason: reason.to_owned(), gate: None, value: None, limit: None }
}

fn limited(summary: String, mut nodes: Vec<WaitingNode>, until: Option<Timestamp>) -> Waiting {
    let more = nodes.len().saturating_sub(MAX_NODES);
    nodes.truncate(MAX_NODES);
    Waiting { summary, nodes, more: u64::try_from(more).unwrap_or(u64::MAX), until }
}

/// When the patience with a step ends.
pub(super) fn deadline_of(draft: &Draft, place: usize, census: &Census, now: Timestamp) -> Option<Timestamp> {
    now.checked_add_signed(census.deadline - elapsed(draft.step(place), now))
}

/// A report about the nodes that do not run the bundle.
pub(super) fn of_nodes(summary: String, census: &Census, until: Option<Timestamp>) -> Waiting {
    let away: std::collections::BTreeSet<_> = census.unavailable.iter().collect();
    let waiting = census.waiting.iter().map(|id| {
        let reason = if away.contains(id) { "offline" } else { "not_activated" };
        waiting_node(*id, reason)
    });
    let failed = census.failed.iter().map(|id| waiting_node(*id, "rejected"));
    // One more than is shown of each is enough to know that there are more.
    let total = census.waiting.len() + census.failed.len();
    let nodes: Vec<_> = failed.chain(waiting).take(MAX_NODES).collect();
    let more = total - nodes.len();
    Waiting { more: u64::try_from(more).unwrap_or(u64::MAX), ..limited(summary, nodes, until) }
}

/// Waiting for nodes to activate the bundle.
pub(super) fn activating(draft: &Draft, place: usize, census: &Census, now: Timestamp) -> Waiting {
    let step = draft.step(place).index + 1;
    let of = draft.state().steps().len();
    let mut summary =
        format!("Step {step} of {of}: {} of {} nodes run the bundle", census.activated.len(), census.total);
    for (count, what) in [(census.unavailable.len(), "offline"), (census.failed.len(), "failed")] {
        if count > 0 {
            summary.push_str(&format!(", {count} {what}"));
        }
    }
    summary.push('.');
    of_nodes(summary, census, deadline_of(draft, place, census, now))
}

/// Waiting for gates.
pub(super) fn gates(
    summary: String,
    objections: &[(NodeId, Objection)],
    until: Option<Timestamp>,
) -> Waiting {
    let nodes = objections.iter().map(|(id, objection)| {
        let (reason, value, limit) = match &objection.verdict {
            Verdict::Fail { value, limit } => ("gate_failing", *value, *limit),
            Verdict::Unknown { why } if why == NOT_ONLINE => ("offline", None, None),
            Verdict::Unknown { .. } | Verdict::Pass => ("gate_unknown", None, None),
        };
        WaitingNode { gate: Some(objection.gate.clone()), value, limit, ..waiting_node(*id, reason) }
    });
    limited(summary, nodes.collect(), until)
}

/// The gates in the way, for the error of a step.
pub(super) fn gate_details(objections: &[(NodeId, Objection)]) -> Vec<Value> {
    let detail = |(id, objection): &(NodeId, Objection)| match &objection.verdict {
        Verdict::Fail { value, limit } => {
            json!({ "gate": objection.gate, "node_id": id, "verdict": "fail", "value": value, "limit": limit })
        }
        Verdict::Unknown { why } => {
            json!({ "gate": objection.gate, "node_id": id, "verdict": "unknown", "why": why })
        }
        Verdict::Pass => json!({ "gate": objection.gate, "node_id": id, "verdict": "pass" }),
    };
    objections.iter().take(MAX_NODES).map(detail).collect()
}

/// A gate over all nodes that is in the way, for the error of a step.
pub(super) fn ruling_detail(gate: &str, ruling: &Ruling) -> Value {
    let (verdict, value, limit) = match &ruling.verdict {
        Verdict::Fail { value, limit } => ("fail", *value, *limit),
        Verdict::Unknown { .. } => ("unknown", None, None),
        Verdict::Pass => ("pass", None, None),
    };
    json!({ "gate": gate, "verdict": verdict, "value": value, "limit": limit, "why": ruling.sentence })
}

/// The nodes that failed, with what each said.
pub(super) fn failures(draft: &Draft, failed: &[NodeId]) -> Vec<Value> {
    let detail = |id: &NodeId| json!({ "node_id": id, "error": draft.node(*id).and_then(|node| node.error.as_deref()) });
    failed.iter().take(MAX_NODES).map(detail).collect()
}
