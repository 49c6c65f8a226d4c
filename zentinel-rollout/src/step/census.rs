//! Where the nodes of one step stand, and taking note of it.

use crate::decision::Effect;
use crate::observation::{NodeFacts, Observation};
use crate::step::BUNDLE_REVOKED;
use crate::transition::{Draft, MOVED_ON, ROLLED_BACK, is_out};
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::{NodeProgress, RolloutNode, Traffic, TrafficCounts};
use zentinel_core::id::NodeId;

/// Most names that an error lists.
const MAX_NAMES: usize = 100;

/// Where one node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody looked.
    Unobserved,
    /// It is gone.
    Deleted,
    /// It could not activate the bundle.
    Failed,
    /// It runs the bundle.
    Activated,
    /// It was told, and does not yet.
    Waiting,
    /// It has not been told.
    Untold,
}

/// Where the nodes of a step stand. Deleted nodes are in none of the lists.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// How many nodes there are.
    pub(super) total: usize,
    /// How many were not looked at.
    pub(super) unobserved: usize,
    /// Whether some have not been told.
    pub(super) untold: bool,
    /// Those that run the bundle.
    pub(super) activated: Vec<NodeId>,
    /// Those that do not yet.
    pub(super) waiting: Vec<NodeId>,
    /// Those that could not.
    pub(super) failed: Vec<NodeId>,
    /// Those that are not known to be online, whatever else they are.
    pub(super) unavailable: Vec<NodeId>,
    /// How many of the nodes may be missing.
    pub(super) tolerated: usize,
    /// How long the step may take.
    pub(super) deadline: TimeDelta,
}

impl Census {
    /// Looks at every node of a step and notes how far it is.
    pub(super) fn take(draft: &mut Draft, observation: &Observation, place: usize, now: Timestamp) -> Self {
        let mut census = Self::default();
        let mut revoked = Vec::new();
        for at in 0..draft.step(place).node_ids.len() {
            let id = draft.step(place).node_ids[at];
            let facts = observation.nodes.get(&id);
            let standing = note(draft, observation, (id, facts), now, &mut revoked);
            if standing == Standing::Deleted {
                continue;
            }
            census.total += 1;
            match standing {
                Standing::Unobserved => census.unobserved += 1,
                Standing::Failed => census.failed.push(id),
                Standing::Activated => census.activated.push(id),
                Standing::Untold => {
                    census.untold = true;
                    census.waiting.push(id);
                }
                Standing::Waiting | Standing::Deleted => census.waiting.push(id),
            }
            if facts.is_some_and(|facts| !facts.is_available()) {
                census.unavailable.push(id);
            }
        }
        draft.effect(Effect::Unstage { nodes: revoked });
        census.set_limits(draft);
        census
    }

    fn set_limits(&mut self, draft: &Draft) {
        let rollout = draft.rollout();
        self.deadline = TimeDelta::seconds(i64::from(rollout.spec.progress_deadline_seconds));
        self.tolerated = usize::try_from(rollout.spec.max_unavailable).unwrap_or(usize::MAX);
    }

    /// How many nodes must run the bundle.
    pub(super) fn required(&self) -> usize {
        self.total.saturating_sub(self.tolerated)
    }

    /// Names for a message.
    pub(super) fn names(&self, nodes: &[NodeId], observation: &Observation) -> Vec<String> {
        let name = |id: &NodeId| match observation.nodes.get(id) {
            Some(facts) if !facts.name.is_empty() => facts.name.clone(),
            _ => id.to_string(),
        };
        nodes.iter().take(MAX_NAMES).map(name).collect()
    }
}

/// Takes note of what one node reports.
pub(super) fn note(
    draft: &mut Draft,
    observation: &Observation,
    (id, facts): (NodeId, Option<&NodeFacts>),
    now: Timestamp,
    revoked: &mut Vec<NodeId>,
) -> Standing {
    let Some(node) = draft.node(id) else {
        return Standing::Deleted;
    };
    let (progress, bundle) = (node.state, node.bundle_id);
    let untold = progress == NodeProgress::Pending && !node.lagging;
    if progress == NodeProgress::Failed && is_out(node) {
        return Standing::Deleted;
    }
    let Some(facts) = facts else {
        return Standing::Unobserved;
    };
    if !facts.exists {
        draft.node_is_gone(id);
        return Standing::Deleted;
    }
    if facts.runs(bundle) {
        note_activation(draft, id, facts, now);
        return Standing::Activated;
    }
    if let Some(error) = facts.error_for(node) {
        let text = format!("{}: {}", error.reason, error.message);
        draft.move_node(id, NodeProgress::Failed, Some(&text));
        return Standing::Failed;
    }
    if progress == NodeProgress::Failed {
        return Standing::Failed;
    }
    if draft.rollout().rollback_of.is_some() && !observation.deployable.contains(&bundle) {
        draft.move_node(id, NodeProgress::Failed, Some(BUNDLE_REVOKED));
        revoked.push(id);
        return Standing::Failed;
    }
    let staged = facts.staged_bundle_id == Some(bundle);
    note_waiting(draft, id, progress, staged);
    if untold { Standing::Untold } else { Standing::Waiting }
}

/// Notes that a node runs its bundle.
pub(super) fn note_activation(draft: &mut Draft, id: NodeId, facts: &NodeFacts, now: Timestamp) {
    note_served(draft, id, facts);
    let Some(node) = draft.node(id) else {
        return;
    };
    if matches!(node.state, NodeProgress::Activating | NodeProgress::Active) {
        return;
    }
    let since = facts.active_since.unwrap_or(now);
    draft.move_node(id, NodeProgress::Activating, None);
    draft.edit_node(id, |node| {
        node.activated_at.get_or_insert(since);
    });
}

/// Notes what a node had served when it was first seen with the bundle, where gates need to know.
fn note_served(draft: &mut Draft, id: NodeId, facts: &NodeFacts) {
    if !draft.rollout().spec.aggregate_gates.judges_traffic() {
        return;
    }
    let (Some(node), Some(traffic)) = (draft.node(id), &facts.health.traffic) else { return };
    if node.served_before.is_none() {
        let before = Traffic { recent: TrafficCounts::default(), ..**traffic };
        draft.edit_node(id, |node| node.served_before = Some(Box::new(before)));
    }
}

/// Notes that a node that was given up runs its bundle after all: a rollback must not forget it.
pub(super) fn note_late_activation(draft: &mut Draft, id: NodeId, facts: &NodeFacts, now: Timestamp) -> bool {
    let moved_on = |node: &RolloutNode| node.error.as_deref() == Some(MOVED_ON);
    let late = draft
        .node(id)
        .is_some_and(|node| facts.runs(node.bundle_id) && (node.activated_at.is_none() || moved_on(node)));
    if late {
        let since = facts.active_since.unwrap_or(now);
        draft.edit_node(id, |node| {
            node.activated_at.get_or_insert(since);
            if moved_on(node) {
                node.error = Some(ROLLED_BACK.to_owned());
            }
        });
    }
    late
}

fn note_waiting(draft: &mut Draft, id: NodeId, progress: NodeProgress, staged: bool) {
    let to = if staged { NodeProgress::Staged } else { NodeProgress::Staging };
    match progress {
        // An active node fell back to what it ran before.
        NodeProgress::Staging | NodeProgress::Staged | NodeProgress::Activating | NodeProgress::Active
            if progress != to =>
        {
            draft.move_node(id, to, None);
        }
        _ => {}
    }
}
