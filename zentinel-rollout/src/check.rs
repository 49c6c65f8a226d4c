//! Invariants of a [`State`], each with a name. They hold after every decision; tests and the
//! simulation run them after each one, and an operator's tool may run them on stored data.

use crate::strategy::PlannedStep;
use crate::traffic;
use crate::transition::State;
use std::collections::BTreeSet;
use std::fmt;
use zentinel_core::entity::{NodeProgress, RolloutState, RolloutStep, Slot, StepState};
use zentinel_core::id::NodeId;

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The invariant's name.
    pub rule: &'static str,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

type Rule = (&'static str, fn(&State) -> Option<String>);

/// Every invariant.
const RULES: [Rule; 9] = [
    ("steps_partition_the_nodes", steps_partition_the_nodes),
    ("steps_are_numbered", steps_are_numbered),
    ("one_active_step", one_active_step),
    ("steps_go_in_order", steps_go_in_order),
    ("ended_rollout_has_no_open_step", ended_rollout_has_no_open_step),
    ("only_begun_steps_tell_nodes", only_begun_steps_tell_nodes),
    ("touched_nodes_were_told", touched_nodes_were_told),
    ("times_fit_the_state", times_fit_the_state),
    ("a_slot_changes_without_traffic", a_slot_changes_without_traffic),
];

/// Every violated invariant; empty when all is well.
#[must_use]
pub fn check(state: &State) -> Vec<Finding> {
    let finding = |(rule, of): &Rule| of(state).map(|message| Finding { rule, message });
    RULES.iter().filter_map(finding).collect()
}

fn steps_partition_the_nodes(state: &State) -> Option<String> {
    let steps: Vec<PlannedStep> =
        state.steps().iter().map(|step| PlannedStep::deploy(step.node_ids.clone())).collect();
    // A node whose record went with the node itself stays in its step.
    let named: BTreeSet<NodeId> = steps.iter().flat_map(|step| step.nodes.iter().copied()).collect();
    if let Some(stray) = state.nodes().keys().find(|id| !named.contains(id)) {
        return Some(format!("{stray} is in no step"));
    }
    crate::plan::fault_of_steps(&steps, &BTreeSet::new(), &named).map(str::to_owned)
}

fn steps_are_numbered(state: &State) -> Option<String> {
    let wrong = (0_u32..).zip(state.steps()).find(|(index, step)| step.index != *index)?;
    Some(format!("step {} has index {}", wrong.0, wrong.1.index))
}

fn one_active_step(state: &State) -> Option<String> {
    let active = state.steps().iter().filter(|step| step.state.is_active()).count();
    (active > 1).then(|| format!("{active} steps are active"))
}

fn steps_go_in_order(state: &State) -> Option<String> {
    let rank = |step: StepState| match step {
        StepState::Completed => 0,
        StepState::Running | StepState::Verifying | StepState::Validating | StepState::Failed => 1,
        StepState::Pending => 2,
    };
    let wrong = state.steps().windows(2).find(|pair| rank(pair[0].state) > rank(pair[1].state))?;
    Some(format!("step {} is ahead of step {}", wrong[1].index, wrong[0].index))
}

fn ended_rollout_has_no_open_step(state: &State) -> Option<String> {
    if state.rollout().state.is_open() {
        return None;
    }
    let ended = |at| matches!(at, StepState::Completed | StepState::Failed);
    let open = state.steps().iter().find(|step| !ended(step.state))?;
    Some(format!("step {} is {}", open.index, open.state.as_str()))
}

fn only_begun_steps_tell_nodes(state: &State) -> Option<String> {
    let begun: BTreeSet<NodeId> = state
        .steps()
        .iter()
        .filter(|step| step.started_at.is_some())
        .flat_map(|step| step.node_ids.iter().copied())
        .collect();
    let early =
        state.nodes().values().find(|node| node.staged_at.is_some() && !begun.contains(&node.node_id))?;
    Some(format!("{} was told before its step began", early.node_id))
}

fn touched_nodes_were_told(state: &State) -> Option<String> {
    let odd = state.nodes().values().find(|node| {
        let touched = node.activated_at.is_some();
        let wrong = match node.state {
            NodeProgress::Active => !touched || node.verified_at.is_none() || node.lagging,
            NodeProgress::Activating => !touched,
            NodeProgress::Failed => node.lagging || node.error.is_none(),
            NodeProgress::Pending | NodeProgress::Staging | NodeProgress::Staged => false,
        };
        wrong || (touched && node.staged_at.is_none())
    })?;
    Some(format!("{} is {} without what leads there", odd.node_id, odd.state.as_str()))
}

fn times_fit_the_state(state: &State) -> Option<String> {
    let rollout = state.rollout();
    let checks = [
        (rollout.state.is_open() == rollout.completed_at.is_none(), "completed_at"),
        ((rollout.state == RolloutState::Paused) == rollout.paused_at.is_some(), "paused_at"),
        (rollout.state != RolloutState::Running || rollout.started_at.is_some(), "started_at"),
        (rollout.rolled_back_by.is_none() || !rollout.state.is_open(), "rolled_back_by"),
        (rollout.state != RolloutState::Running || rollout.next_tick_at.is_some(), "next_tick_at"),
    ];
    let (_, field) = checks.into_iter().find(|(fits, _)| !fits)?;
    Some(format!("{field} does not fit {}", rollout.state.as_str()))
}

fn a_slot_changes_without_traffic(state: &State) -> Option<String> {
    let steps = state.steps();
    if !traffic::is_catching_up(steps) {
        return None;
    }
    let whole = |step: &&RolloutStep| {
        let green = traffic::slot_of(step) == Some(Slot::Green) && step.traffic_weight == Some(100);
        green && step.state == StepState::Completed
    };
    let moved = steps.iter().find(whole).is_some();
    (!moved).then(|| "the blue slot is changed before the green one has all traffic".to_owned())
}
