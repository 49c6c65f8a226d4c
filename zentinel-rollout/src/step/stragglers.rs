//! Nodes that are not in the active step but may still move: lagging ones, and those that
//! activate a bundle after it was withdrawn and rolled back.

use super::census::{note_activation, note_late_activation};
use super::{STRAGGLER_INTERVAL, STRAGGLER_WATCH};
use crate::decision::{Effect, Restore};
use crate::gate::{Gates, Sample};
use crate::observation::{NodeFacts, Observation};
use crate::transition::{Draft, ROLLED_BACK_AT};
use zentinel_core::Timestamp;
use zentinel_core::entity::NodeProgress;
use zentinel_core::id::NodeId;

/// What became of the stragglers.
#[derive(Default)]
struct Outcome {
    converged: Vec<NodeId>,
    rejected: Vec<NodeId>,
    restore: Vec<Restore>,
}

/// Looks at every straggler that was observed.
pub(super) fn look(draft: &mut Draft, gates: &Gates, observation: &Observation, now: Timestamp) {
    let stragglers: Vec<NodeId> = draft.state().stragglers().iter().copied().collect();
    let mut outcome = Outcome::default();
    for id in stragglers {
        let Some(facts) = observation.nodes.get(&id) else {
            continue;
        };
        if !facts.exists {
            draft.node_is_gone(id);
            draft.caught_up(id);
        } else if draft.node(id).is_some_and(|node| node.lagging) {
            lagging(draft, gates, id, facts, now, &mut outcome);
        } else {
            late(draft, observation, id, facts, now, &mut outcome);
        }
    }
    draft.effect(Effect::Expect { nodes: outcome.converged });
    if draft.rollout().rollback_of.is_none() {
        draft.effect(Effect::Unstage { nodes: outcome.rejected });
    }
    draft.effect(Effect::Restore { nodes: outcome.restore });
}

/// A node whose step was done without it.
fn lagging(
    draft: &mut Draft,
    gates: &Gates,
    id: NodeId,
    facts: &NodeFacts,
    now: Timestamp,
    outcome: &mut Outcome,
) {
    let Some(node) = draft.node(id) else {
        return;
    };
    if facts.runs(node.bundle_id) {
        let sample = Sample { node_id: id, bundle_id: node.bundle_id, facts, now };
        let passes = gates.judge(&sample).is_none();
        note_activation(draft, id, facts, now);
        if passes {
            draft.move_node(id, NodeProgress::Active, None);
            draft.caught_up(id);
            outcome.converged.push(id);
        }
    } else if let Some(error) = facts.error_for(node) {
        let text = format!("{}: {}", error.reason, error.message);
        draft.move_node(id, NodeProgress::Failed, Some(&text));
        draft.caught_up(id);
        outcome.rejected.push(id);
    }
}

/// A node that was told, then no longer, and had not activated the bundle as far as was known.
fn late(
    draft: &mut Draft,
    observation: &Observation,
    id: NodeId,
    facts: &NodeFacts,
    now: Timestamp,
    outcome: &mut Outcome,
) {
    let Some(node) = draft.node(id) else {
        return;
    };
    let previous = node.previous_bundle_id.filter(|previous| *previous != node.bundle_id);
    if !note_late_activation(draft, id, facts, now) {
        return;
    }
    draft.caught_up(id);
    if let Some(bundle_id) = previous.filter(|previous| observation.deployable.contains(previous)) {
        outcome.restore.push(Restore { node_id: id, bundle_id });
    }
}

/// When an operator rolled a rollout back; that may be long after its end.
fn rolled_back_at(draft: &Draft) -> Option<Timestamp> {
    let error = draft.rollout().error.as_ref()?;
    serde_json::from_value(error.details.get(ROLLED_BACK_AT)?.clone()).ok()
}

/// A rollout that has ended is looked at again only while there are stragglers, and not for ever.
pub(crate) fn rearm_ended(draft: &mut Draft, now: Timestamp) {
    let since = rolled_back_at(draft).max(draft.rollout().completed_at);
    let recent = since.is_some_and(|since| now - since < STRAGGLER_WATCH);
    if recent && !draft.state().stragglers().is_empty() {
        draft.wake_in(STRAGGLER_INTERVAL);
    } else {
        draft.wake_at(None);
    }
}
