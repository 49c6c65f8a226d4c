//! Who gets how much traffic in a blue-green rollout. Nothing of it is stored beside the steps, except what an
//! operator's swap and the load balancer's acknowledgements add ([`RolloutTraffic`](zentinel_core::entity::RolloutTraffic)).
//!
//! * The green slot has the weight of its last step that is in force. A step that brings the bundle is in force when
//!   it begins (its weight is 0), a traffic step once its gates have passed: when it is `validating`.
//! * The blue slot has the rest, and nothing more while it catches up. When it has, both have 100: the whole
//!   fleet runs the bundle, and serves.
//! * A rollout that fails or is cancelled gives everything back to the blue slot, unless that has begun to catch up:
//!   then its nodes are no longer known to be what they were, and the green slot keeps the traffic.
//! * A completed rollout that is undone takes nothing from anybody: every node serves while it returns to what it ran before.
//! * A node of the green slot that has not been found healthy with the bundle gets nothing, whatever its slot gets.
//! * With one node there is nothing to split: it has 100 all the time.

use crate::transition::State;
use std::collections::BTreeMap;
use zentinel_core::entity::{
    NodeProgress, NodeTraffic, Rollout, RolloutNode, RolloutSpec, RolloutState, RolloutStep, ShiftRequest,
    Slot, StepState, TrafficSplit,
};
use zentinel_core::id::NodeId;

/// The slot that a step is about.
pub(crate) fn slot_of(step: &RolloutStep) -> Option<Slot> {
    step.deployment_slot.as_deref()?.parse().ok()
}

/// Whether a rollout has slots at all.
#[must_use]
pub fn is_blue_green(steps: &[RolloutStep]) -> bool {
    steps.iter().any(|step| slot_of(step).is_some())
}

/// Whether there is a second slot to give the traffic back to.
pub(crate) fn has_two_slots(steps: &[RolloutStep]) -> bool {
    steps.iter().any(|step| slot_of(step) == Some(Slot::Blue))
}

/// Whether a step is about the slot that the traffic shifts to.
pub(crate) fn is_new_slot(steps: &[RolloutStep], place: usize) -> bool {
    has_two_slots(steps) && steps.get(place).and_then(slot_of) == Some(Slot::Green)
}

/// Whether the old slot has begun to catch up.
#[must_use]
pub fn is_catching_up(steps: &[RolloutStep]) -> bool {
    steps.iter().any(|step| slot_of(step) == Some(Slot::Blue) && step.started_at.is_some())
}

/// Whether a step names nodes of an earlier one. The first and the last step bring the bundle.
fn is_traffic_step(step: &RolloutStep) -> bool {
    slot_of(step) == Some(Slot::Green) && step.index > 0
}

/// How the traffic is split; `None` before the first step begins, and in rollouts without slots.
#[must_use]
pub fn split(rollout: &Rollout, steps: &[RolloutStep]) -> Option<TrafficSplit> {
    let mut slots = steps.iter().filter(|step| slot_of(step).is_some());
    slots.next()?.started_at?;
    if !has_two_slots(steps) {
        return Some(TrafficSplit { green: 100, blue: 0 });
    }
    let catching_up = is_catching_up(steps);
    if matches!(rollout.state, RolloutState::Failed | RolloutState::Cancelled) {
        let green = if catching_up { 100 } else { 0 };
        return Some(TrafficSplit { green, blue: 100 - green });
    }
    if rollout.traffic.as_ref().is_some_and(|traffic| traffic.withheld) {
        return Some(TrafficSplit { green: 0, blue: 100 });
    }
    let in_force = |step: &&RolloutStep| match is_traffic_step(step) {
        true => matches!(step.state, StepState::Validating | StepState::Completed),
        false => step.started_at.is_some(),
    };
    let green = steps.iter().filter(|step| slot_of(step) == Some(Slot::Green)).rfind(in_force);
    let green = green.and_then(|step| step.traffic_weight).unwrap_or(0).min(100);
    let caught_up =
        |step: &RolloutStep| slot_of(step) != Some(Slot::Blue) || step.state == StepState::Completed;
    let blue = if steps.iter().all(caught_up) { 100 } else { 100 - green };
    Some(TrafficSplit { green, blue })
}

/// The slot that the rollout calls its own: blue until the green one has everything. A swap turns it round.
#[must_use]
pub fn deployment_slot(rollout: &Rollout, steps: &[RolloutStep]) -> Option<Slot> {
    if !is_blue_green(steps) {
        return None;
    }
    let whole = |step: &RolloutStep| {
        let green = slot_of(step) == Some(Slot::Green) && step.traffic_weight == Some(100);
        green && step.state == StepState::Completed
    };
    let slot = if steps.iter().any(whole) { Slot::Green } else { Slot::Blue };
    let swapped = rollout.traffic.as_ref().is_some_and(|traffic| traffic.swapped);
    Some(if swapped { slot.other() } else { slot })
}

/// How many traffic steps are done.
#[must_use]
pub fn traffic_steps_done(steps: &[RolloutStep]) -> u32 {
    let done = steps.iter().filter(|step| is_traffic_step(step) && step.state == StepState::Completed);
    u32::try_from(done.count()).unwrap_or(u32::MAX)
}

/// The weight of a step as it is shown: 0 for what a swap or the rollout's end has put out of force.
#[must_use]
pub fn shown_weight(rollout: &Rollout, step: &RolloutStep) -> Option<u8> {
    let weight = step.traffic_weight?;
    let withheld = rollout.traffic.as_ref().is_some_and(|traffic| traffic.withheld);
    let dropped = match step.state {
        StepState::Running | StepState::Verifying | StepState::Validating => withheld,
        StepState::Failed => true,
        StepState::Pending | StepState::Completed => false,
    };
    Some(if dropped { 0 } else { weight })
}

/// The slot and weight of one node, given the split.
fn weight_of(
    rollout: &Rollout,
    two_slots: bool,
    split: TrafficSplit,
    slot: Slot,
    node: &RolloutNode,
) -> NodeTraffic {
    let both_serve = split.green == 100 && split.blue == 100;
    // A completed rollout that is undone gives every node back what it ran before: there is nothing to prove.
    let undone = rollout.state == RolloutState::Completed && rollout.rolled_back_by.is_some();
    let must_be_proven = two_slots && !undone && (slot == Slot::Green || both_serve);
    // What has ended no longer follows its nodes, and the rollback has given up its own.
    let proven = match rollout.state {
        RolloutState::Failed | RolloutState::Cancelled => node.verified_at.is_some(),
        _ => node.state == NodeProgress::Active,
    };
    let weight = if must_be_proven && !proven { 0 } else { split.weight(slot) };
    NodeTraffic { slot, weight }
}

/// The slot and weight of every node; empty in rollouts without slots and before the first step.
#[must_use]
pub fn weights(state: &State) -> BTreeMap<NodeId, NodeTraffic> {
    weights_where(state, |_| true)
}

pub(crate) fn weights_where(state: &State, wanted: impl Fn(NodeId) -> bool) -> BTreeMap<NodeId, NodeTraffic> {
    let (rollout, steps) = (state.rollout(), state.steps());
    let mut weights = BTreeMap::new();
    let Some(split) = split(rollout, steps) else {
        return weights;
    };
    let two_slots = has_two_slots(steps);
    for step in steps.iter().filter(|step| !is_traffic_step(step)) {
        let Some(slot) = slot_of(step) else { continue };
        for id in step.node_ids.iter().filter(|id| wanted(**id)) {
            if let Some(node) = state.nodes().get(id) {
                weights.insert(*id, weight_of(rollout, two_slots, split, slot, node));
            }
        }
    }
    weights
}

/// Whether an external load balancer must acknowledge each split before the rollout goes on.
#[must_use]
pub fn wants_shifts(spec: &RolloutSpec) -> bool {
    spec.strategy_config.get("shift_traffic").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// The split that the load balancer was asked for last.
#[must_use]
pub fn shift(rollout: &Rollout) -> Option<&ShiftRequest> {
    rollout.traffic.as_ref()?.shift.as_ref()
}

/// Whether the load balancer has yet to acknowledge a split.
#[must_use]
pub fn awaits_shift(rollout: &Rollout) -> bool {
    shift(rollout).is_some_and(|shift| shift.acknowledged_at.is_none())
}
