//! Nodes that were done and took the bundle back later: they count as failed after all.

use super::census::Census;
use super::{BUNDLE_TAKEN_BACK, FAILURE_THRESHOLD_EXCEEDED, Tick, error, finish, report};
use crate::transition::{Draft, is_out};
use finish::Failure;
use serde_json::json;
use std::collections::BTreeSet;
use zentinel_core::entity::{NodeProgress, RolloutState, StepState, Waiting};
use zentinel_core::id::NodeId;

/// A completed step, as it stands now. Deleted nodes are left out.
struct Standing {
    place: usize,
    total: usize,
    failed: Vec<NodeId>,
    /// Those that do not run the bundle, for whatever reason.
    missing: usize,
}

impl Tick<'_> {
    /// Notes nodes of completed steps that report that they took the bundle back. A step that would
    /// have failed with them fails the rollout; where more nodes are missing than may be, the rollout
    /// pauses. Answers whether it goes on.
    ///
    /// The observation covers such a node when something about it changed; see
    /// [`State::done_of`](crate::State::done_of).
    pub(super) fn look_at_done(&self, draft: &mut Draft) -> bool {
        let taken_back = self.take_note_of_done(draft);
        if taken_back.is_empty() {
            return true;
        }
        let threshold = usize::from(draft.rollout().spec.rollback_threshold.get());
        let allowed = usize::try_from(draft.rollout().spec.max_unavailable).unwrap_or(usize::MAX);
        let standings: Vec<Standing> = completed_with(draft, &taken_back);
        let failing = standings.iter().find(|step| step.failed.len() * 100 >= threshold * step.total);
        if let Some(step) = failing {
            return !self.fail_after_all(draft, step);
        }
        match standings.iter().find(|step| step.missing > allowed) {
            Some(step) if draft.rollout().state == RolloutState::Running => {
                pause_for(draft, step);
                false
            }
            _ => true,
        }
    }

    fn take_note_of_done(&self, draft: &mut Draft) -> BTreeSet<NodeId> {
        if draft.rollout().rollback_of.is_some() {
            return BTreeSet::new();
        }
        let told = self.observation.nodes.iter().filter_map(|(id, facts)| {
            let node = draft.node(*id).filter(|node| node.state == NodeProgress::Active)?;
            let error = facts.took_back(node)?;
            Some((*id, format!("took the bundle back: {}: {}", error.reason, error.message)))
        });
        let told: Vec<(NodeId, String)> = told.collect();
        for (id, text) in &told {
            draft.move_node(*id, NodeProgress::Failed, Some(text));
        }
        told.into_iter().map(|(id, _)| id).collect()
    }

    /// Fails the rollout for a step that is completed. Answers whether it could.
    fn fail_after_all(&self, draft: &mut Draft, step: &Standing) -> bool {
        let Some(place) = draft.state().active().or_else(|| draft.state().upcoming()) else {
            return false;
        };
        if draft.state().active().is_some() {
            // Nodes that activated in this very instant must not be forgotten by the rollback.
            let _census = Census::take(draft, self.observation, place, self.now);
        }
        let mut details = figures(draft, step);
        details["rollback_threshold"] = json!(draft.rollout().spec.rollback_threshold);
        let fault = error(FAILURE_THRESHOLD_EXCEEDED, message(draft, step), details);
        finish::fail(
            draft,
            self.observation,
            Failure { place, step_error: fault.clone(), error: fault, rolls_back: false },
        );
        true
    }
}

fn pause_for(draft: &mut Draft, step: &Standing) {
    let mut details = figures(draft, step);
    details["max_unavailable"] = json!(draft.rollout().spec.max_unavailable);
    let error = error(BUNDLE_TAKEN_BACK, message(draft, step), details);
    let summary = format!("Paused: {}", error.message);
    draft.move_rollout(RolloutState::Paused, Some(error));
    draft.report(Waiting { summary, ..Waiting::default() });
}

fn message(draft: &Draft, step: &Standing) -> String {
    let (failed, index) = (step.failed.len(), draft.step(step.place).index);
    format!(
        "{failed} of {} nodes of step {index}, which was done, do not run the bundle any more.",
        step.total
    )
}

fn figures(draft: &Draft, step: &Standing) -> serde_json::Value {
    json!({
        "step_index": draft.step(step.place).index,
        "failed": step.failed.len(),
        "total": step.total,
        "nodes": report::failures(draft, &step.failed),
    })
}

/// The completed steps that one of these nodes belongs to.
fn completed_with(draft: &Draft, nodes: &BTreeSet<NodeId>) -> Vec<Standing> {
    let steps = draft.state().steps().iter().enumerate();
    let steps = steps.filter(|(_, step)| {
        step.state == StepState::Completed && step.node_ids.iter().any(|id| nodes.contains(id))
    });
    let standing = |(place, step): (usize, &zentinel_core::entity::RolloutStep)| {
        let parts = step.node_ids.iter().filter_map(|id| draft.node(*id));
        let there = parts.filter(|node| !is_out(node));
        let mut standing = Standing { place, total: 0, failed: Vec::new(), missing: 0 };
        for node in there {
            standing.total += 1;
            standing.missing += usize::from(node.state != NodeProgress::Active);
            if node.state == NodeProgress::Failed {
                standing.failed.push(node.node_id);
            }
        }
        standing
    };
    steps.map(standing).collect()
}
