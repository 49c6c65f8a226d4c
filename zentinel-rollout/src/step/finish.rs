//! How steps and rollouts end: completion, failure, cancellation and rollback.

use super::census::{note, note_late_activation};
use super::{NO_TARGET_NODES, error};
use crate::decision::{Effect, Restore, Rollback, Unrestorable, UnrestorableReason};
use crate::gate::{Gates, Sample};
use crate::observation::Observation;
use crate::plan::derived_rollback_id;
use crate::transition::{Draft, MOVED_ON, NODE_DELETED, OUTCOME, ROLLED_BACK, ROLLED_BACK_AT, is_out};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use zentinel_core::entity::{
    AggregateGates, HealthGates, NodeProgress, RolloutError, RolloutNode, RolloutSpec, RolloutState,
    StepState, TargetSelector, Waiting,
};
use zentinel_core::id::NodeId;
use zentinel_core::{Percent, Timestamp};

/// Why a step and its rollout fail.
pub(super) struct Failure {
    /// The step.
    pub(super) place: usize,
    /// For the step.
    pub(super) step_error: RolloutError,
    /// For the rollout.
    pub(super) error: RolloutError,
    /// Roll back whatever `auto_rollback` says.
    pub(super) rolls_back: bool,
}

/// Completes a step. Nodes that were not verified are left behind: lagging where they may still come, given up
/// where they failed.
pub(super) fn complete_step(draft: &mut Draft, place: usize, verified: impl Fn(NodeId) -> bool) {
    let (mut done, mut given_up) = (Vec::new(), Vec::new());
    for at in 0..draft.step(place).node_ids.len() {
        let id = draft.step(place).node_ids[at];
        let Some(progress) = draft.node(id).map(|node| node.state) else {
            continue;
        };
        match progress {
            NodeProgress::Activating if verified(id) => {
                draft.move_node(id, NodeProgress::Active, None);
                done.push(id);
            }
            NodeProgress::Pending
            | NodeProgress::Staging
            | NodeProgress::Staged
            | NodeProgress::Activating => {
                if progress != NodeProgress::Activating {
                    draft.move_node(id, NodeProgress::Pending, None);
                }
                draft.edit_node(id, |node| node.lagging = true);
            }
            NodeProgress::Failed if exists(draft, id) => given_up.push(id),
            NodeProgress::Failed | NodeProgress::Active => {}
        }
    }
    draft.move_step(place, StepState::Completed, None);
    draft.effect(Effect::Expect { nodes: done });
    if draft.rollout().rollback_of.is_none() {
        draft.effect(Effect::Unstage { nodes: given_up });
    }
}

fn exists(draft: &Draft, id: NodeId) -> bool {
    draft.node(id).is_some_and(|node| !is_out(node))
}

/// Completes a rollout without open steps.
pub(super) fn complete(draft: &mut Draft) {
    let reached = |node: &RolloutNode| !is_out(node);
    if !draft.state().nodes().values().any(reached) {
        let gone = error(NO_TARGET_NODES, "Every target node was deleted or cordoned.", json!({}));
        end(draft, RolloutState::Failed, Some(gone), NODE_DELETED);
        return;
    }
    draft.move_rollout(RolloutState::Completed, None);
    let lagging = draft.state().stragglers().len();
    let summary = match lagging {
        0 => "Every step is done.".to_owned(),
        lagging => {
            format!("Every step is done; {lagging} nodes are lagging and converge when they come back.")
        }
    };
    draft.report(Waiting { summary, ..Waiting::default() });
    release(draft);
}

/// Fails the step and the rollout, and rolls back where that is wanted.
pub(super) fn fail(draft: &mut Draft, observation: &Observation, failure: Failure) {
    let reason = failure.error.reason.clone();
    draft.move_step(failure.place, StepState::Failed, Some(failure.step_error));
    let rolls_back = failure.rolls_back || draft.rollout().spec.auto_rollback;
    let rolls_back = rolls_back && draft.rollout().rollback_of.is_none();
    let rollback = if rolls_back { plan_rollback(draft, observation, &reason) } else { None };
    let mut error = failure.error;
    if rolls_back {
        note_in(&mut error, rollback.as_ref());
    }
    let summary = format!("Failed: {}", error.message);
    end(draft, RolloutState::Failed, Some(error), &reason);
    draft.report(Waiting { summary, ..Waiting::default() });
    if let Some(rollback) = rollback {
        roll_back(draft, rollback);
    }
}

/// Ends a rollout on an operator's word.
pub(crate) fn cancel(draft: &mut Draft, observation: &Observation) {
    note_told(draft, observation);
    end(draft, RolloutState::Cancelled, None, "cancelled");
    draft.report(Waiting { summary: "Cancelled by an operator.".to_owned(), ..Waiting::default() });
}

/// Ends a rollout, if it is still open, and gives every touched node back what it ran before.
pub(crate) fn roll_back_by_operator(draft: &mut Draft, observation: &Observation, now: Timestamp) {
    note_told(draft, observation);
    let rollback = plan_rollback(draft, observation, "operator");
    let message = "Rolled back by an operator.";
    let mut outcome = match &draft.rollout().error {
        Some(error) if !draft.rollout().state.is_open() => error.clone(),
        _ => error("rolled_back", message, json!({})),
    };
    let at = now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    outcome.details.insert(ROLLED_BACK_AT.to_owned(), at.into());
    note_in(&mut outcome, rollback.as_ref());
    if draft.rollout().state.is_open() {
        end(draft, RolloutState::Cancelled, Some(outcome), "rolled_back");
    } else {
        // It has ended. Nodes that have not activated the bundle, or run something else by now, must not get it (again).
        let moved_on = moved_on(draft, observation);
        let mut withdrawn = withdraw(draft, "rolled_back");
        for &id in &moved_on {
            draft.give_up_node(id, MOVED_ON);
        }
        withdrawn.extend(moved_on);
        withdrawn.sort_unstable();
        withdrawn.dedup();
        draft.effect(Effect::Unstage { nodes: withdrawn });
        draft.edit_rollout(|rollout| rollout.error = Some(outcome));
        draft.find_stragglers();
    }
    draft.report(Waiting { summary: message.to_owned(), ..Waiting::default() });
    if let Some(rollback) = rollback {
        roll_back(draft, rollback);
    }
}

/// The nodes that had activated the bundle and say that they run something else.
fn moved_on(draft: &Draft, observation: &Observation) -> Vec<NodeId> {
    let elsewhere = |node: &&RolloutNode| {
        let facts = observation.nodes.get(&node.node_id);
        node.activated_at.is_some() && facts.is_some_and(|facts| facts.exists && !facts.runs(node.bundle_id))
    };
    let nodes = draft.state().nodes().values().filter(elsewhere);
    nodes.map(|node| node.node_id).collect()
}

/// Withdraws the bundle from nodes of the active step that have not activated it; a resume tells them again.
pub(crate) fn withdraw_unactivated(draft: &mut Draft, observation: &Observation) {
    note_told(draft, observation);
    let Some(place) = draft.state().active() else {
        return;
    };
    let mut nodes = Vec::new();
    for at in 0..draft.step(place).node_ids.len() {
        let id = draft.step(place).node_ids[at];
        let told = draft
            .node(id)
            .is_some_and(|node| matches!(node.state, NodeProgress::Staging | NodeProgress::Staged));
        if told {
            draft.move_node(id, NodeProgress::Pending, None);
            nodes.push(id);
        }
    }
    draft.effect(Effect::Unstage { nodes });
}

/// Completes the step that a strategy holds, on an operator's word.
pub(crate) fn advance_held(draft: &mut Draft, observation: &Observation) {
    let Some(place) = draft.state().active() else {
        return;
    };
    let (bundle_id, now) = (draft.rollout().bundle_id, draft.now());
    // The rollout's gates are not asked here: a node that does not say that it is well is left to be looked at later.
    let heartbeat = Gates::of(&HealthGates::heartbeat());
    let well = |node_id: NodeId| {
        let facts = observation.nodes.get(&node_id);
        facts.is_some_and(|facts| heartbeat.judge(&Sample { node_id, bundle_id, facts, now }).is_none())
    };
    complete_step(draft, place, well);
}

/// Takes note of nodes that have activated the bundle by now, so that none is forgotten.
fn note_told(draft: &mut Draft, observation: &Observation) {
    if !draft.rollout().state.is_open() {
        return;
    }
    let now = draft.now();
    let batch: BTreeSet<NodeId> = match draft.state().active() {
        Some(place) => draft.step(place).node_ids.iter().copied().collect(),
        None => BTreeSet::new(),
    };
    let told = |node: &&RolloutNode| node.staged_at.is_some() && node.state != NodeProgress::Active;
    let told: Vec<(NodeId, NodeProgress)> =
        draft.state().nodes().values().filter(told).map(|node| (node.node_id, node.state)).collect();
    for (id, progress) in told {
        let facts = observation.nodes.get(&id);
        if progress != NodeProgress::Failed || batch.contains(&id) {
            note(draft, observation, (id, facts), now, &mut Vec::new());
        } else if let Some(facts) = facts {
            note_late_activation(draft, id, facts, now);
        }
    }
}

/// Ends a rollout: no node is told anything more, and none is claimed.
fn end(draft: &mut Draft, to: RolloutState, error: Option<RolloutError>, reason: &str) {
    let message = "The rollout ended before this step did.";
    while let Some(place) = draft.state().active().or_else(|| draft.state().upcoming()) {
        let ended = super::error("cancelled", message, json!({}));
        draft.move_step(place, StepState::Failed, Some(ended));
    }
    // A rollback that fails keeps telling its nodes: what they would stay on is worse. An operator may cancel it.
    let withdrawn = if draft.rollout().rollback_of.is_some() && to == RolloutState::Failed {
        leave_lagging(draft);
        Vec::new()
    } else {
        withdraw(draft, reason)
    };
    draft.move_rollout(to, error);
    draft.effect(Effect::Unstage { nodes: withdrawn });
    release(draft);
    draft.find_stragglers();
}

/// Nodes that were told and are not done converge later.
fn leave_lagging(draft: &mut Draft) {
    let moving = |node: &&RolloutNode| {
        matches!(node.state, NodeProgress::Staging | NodeProgress::Staged | NodeProgress::Activating)
    };
    let moving: Vec<(NodeId, NodeProgress)> =
        draft.state().nodes().values().filter(moving).map(|node| (node.node_id, node.state)).collect();
    for (id, progress) in moving {
        if progress != NodeProgress::Activating {
            draft.move_node(id, NodeProgress::Pending, None);
        }
        draft.edit_node(id, |node| node.lagging = true);
    }
}

/// Gives up every node that was told and is not done; returns those that must not go on.
fn withdraw(draft: &mut Draft, reason: &str) -> Vec<NodeId> {
    let told: Vec<(NodeId, NodeProgress)> = draft
        .state()
        .nodes()
        .values()
        .filter(|node| node.staged_at.is_some() && node.error.as_deref() != Some(NODE_DELETED))
        .map(|node| (node.node_id, node.state))
        .collect();
    let mut withdrawn = Vec::new();
    for (id, progress) in told {
        match progress {
            NodeProgress::Active => continue,
            NodeProgress::Activating => {}
            NodeProgress::Pending | NodeProgress::Staging | NodeProgress::Staged | NodeProgress::Failed => {
                withdrawn.push(id);
            }
        }
        draft.move_node(id, NodeProgress::Failed, Some(reason));
        draft.caught_up(id);
    }
    withdrawn
}

fn release(draft: &mut Draft) {
    let nodes = draft.state().nodes().keys().copied().collect();
    draft.effect(Effect::Release { nodes });
}

/// The nodes that run the bundle because of this rollout, and what they get back. `None` when no
/// node was touched, or when this rollout has been or may not be rolled back.
fn plan_rollback(draft: &Draft, observation: &Observation, reason: &str) -> Option<Rollback> {
    let rollout = draft.rollout();
    if rollout.rollback_of.is_some() || rollout.rolled_back_by.is_some() {
        return None;
    }
    let ended = !rollout.state.is_open();
    let (mut nodes, mut unrestorable) = (Vec::new(), Vec::new());
    for node in draft.state().nodes().values() {
        let facts = observation.nodes.get(&node.node_id);
        let gone = node.error.as_deref() == Some(NODE_DELETED) || facts.is_some_and(|facts| !facts.exists);
        let unchanged = node.activated_at.is_none() || node.previous_bundle_id == Some(node.bundle_id);
        // After the end something else may have given the node another bundle.
        let moved_on = ended && facts.is_some_and(|facts| !facts.runs(node.bundle_id));
        if gone || unchanged || moved_on {
            continue;
        }
        let node_id = node.node_id;
        match node.previous_bundle_id {
            Some(bundle_id) if observation.deployable.contains(&bundle_id) => {
                nodes.push(Restore { node_id, bundle_id });
            }
            previous => unrestorable.push(Unrestorable {
                node_id,
                reason: match previous {
                    None => UnrestorableReason::NoPreviousBundle,
                    Some(_) => UnrestorableReason::PreviousBundleRevoked,
                },
            }),
        }
    }
    if nodes.is_empty() && unrestorable.is_empty() {
        return None;
    }
    let spec = RolloutSpec {
        target_selector: TargetSelector::NodeIds {
            node_ids: nodes.iter().map(|restore| restore.node_id).collect(),
        },
        strategy: "all_at_once".to_owned(),
        strategy_config: Value::Null,
        batch_size: 1,
        batch_percentage: None,
        max_unavailable: 0,
        auto_rollback: false,
        // A rollback is judged by the nodes alone: the figures of the fleet are what it is there to mend.
        aggregate_gates: AggregateGates::default(),
        custom_health_checks: BTreeSet::new(),
        // One node that fails must not keep the others on the bad bundle.
        rollback_threshold: Percent::ALL,
        ..rollout.spec.clone()
    };
    Some(Rollback {
        rollout_id: derived_rollback_id(rollout.id),
        nodes,
        unrestorable,
        reason: reason.to_owned(),
        spec,
    })
}

/// The outcome also makes the rollout watch for nodes that activate the bundle after all.
fn note_in(error: &mut RolloutError, rollback: Option<&Rollback>) {
    let unrestorable: Vec<Value> = rollback
        .iter()
        .flat_map(|rollback| &rollback.unrestorable)
        .map(|node| json!({ "node_id": node.node_id, "reason": node.reason.as_str() }))
        .collect();
    let restored = rollback.map_or(0, |rollback| rollback.nodes.len());
    error.details.insert(OUTCOME.to_owned(), ROLLED_BACK.into());
    error.details.insert("restored".to_owned(), restored.into());
    if !unrestorable.is_empty() {
        error.details.insert("unrestorable".to_owned(), unrestorable.into());
    }
}

fn roll_back(draft: &mut Draft, rollback: Rollback) {
    for restore in &rollback.nodes {
        draft.move_node(restore.node_id, NodeProgress::Failed, Some("rolled_back"));
    }
    if !rollback.nodes.is_empty() {
        draft.edit_rollout(|rollout| rollout.rolled_back_by = Some(rollback.rollout_id));
        draft.find_stragglers();
        if draft.rollout().state == RolloutState::Completed {
            draft.give_traffic_back();
        }
    }
    draft.effect(Effect::RollBack(Box::new(rollback)));
}
