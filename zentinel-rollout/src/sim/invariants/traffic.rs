//! What must hold of the traffic in rollouts with slots.

use super::{Moment, is_proven};
use crate::decision::{Decision, Effect};
use crate::sim::fleet::Fleet;
use crate::strategy::BlueGreenConfig;
use crate::traffic;
use crate::transition::State;
use zentinel_core::entity::{NodeProgress, RolloutState, Slot, StepState, TrafficSplit};

fn ended_badly(state: &State) -> bool {
    matches!(state.rollout().state, RolloutState::Failed | RolloutState::Cancelled)
}

fn split_after(moment: &Moment<'_>) -> Option<TrafficSplit> {
    traffic::split(moment.decision.state.rollout(), moment.decision.state.steps())
}

/// No node of the new slot has a weight that was not found healthy with the bundle; when the slot is given more, every
/// one that is not away is healthy at that very moment.
pub(super) fn no_traffic_to_the_unproven(moment: &Moment<'_>) -> Option<String> {
    let state = &moment.decision.state;
    let split = split_after(moment)?;
    // What is undone after its end gives every node back what it ran before.
    if ended_badly(state)
        || state.rollout().rolled_back_by.is_some()
        || !traffic::has_two_slots(state.steps())
    {
        return None;
    }
    let rises = moment.split_before.is_some_and(|before| before.green < split.green);
    for (id, weight) in traffic::weights(state) {
        let Some(node) = state.nodes().get(&id).filter(|_| weight.weight > 0) else { continue };
        let new_bundle = weight.slot == Slot::Green || split.blue == 100 && split.green == 100;
        if new_bundle && node.state != NodeProgress::Active {
            return Some(format!("{id} has weight {} and is {}", weight.weight, node.state.as_str()));
        }
        let facts = moment.observation.nodes.get(&id).filter(|facts| facts.is_available());
        // An operator's word may complete a step; it does not raise a weight.
        let proven = |facts| is_proven(facts, node.bundle_id, moment.now);
        if rises && weight.slot == Slot::Green && !facts.is_none_or(proven) {
            return Some(format!("{id} is given weight {} without evidence", weight.weight));
        }
    }
    None
}

/// A decision raises the weight by one step of the ramp at most, and the bundle reaches the old slot only when
/// it has nothing to serve.
pub(super) fn one_weight_at_a_time(moment: &Moment<'_>) -> Option<String> {
    let state = &moment.decision.state;
    let (before, after) = (moment.split_before?, split_after(moment)?);
    let told = moment.decision.effects.iter().any(|effect| matches!(effect, Effect::Stage { .. }));
    if told && traffic::is_catching_up(state.steps()) && before.blue != 0 {
        return Some("the old slot was told while it served".to_owned());
    }
    let ramp = BlueGreenConfig::of(&state.rollout().spec).traffic_steps;
    let done = usize::try_from(traffic::traffic_steps_done(state.steps())).unwrap_or(usize::MAX);
    let validating = state.active().is_some_and(|place| state.steps()[place].state == StepState::Validating);
    let allowed =
        ramp.get(..(done + usize::from(validating)).min(ramp.len()))?.last().map_or(0, |last| last.get());
    let rising = after.green > before.green && traffic::has_two_slots(state.steps());
    let skips = rising && ramp.iter().any(|step| before.green < step.get() && step.get() < after.green) && {
        // After a swap the weight comes back at once to where the ramp is.
        before.green != 0
    };
    (skips || (rising && after.green > allowed && !ended_badly(state)))
        .then(|| format!("from {} to {}, allowed {allowed}", before.green, after.green))
}

/// Once a rollout has failed or was cancelled before the old slot was touched, the new slot has nothing left, and says
/// so before anything else.
pub(super) fn no_traffic_to_a_bad_bundle(moment: &Moment<'_>) -> Option<String> {
    let state = &moment.decision.state;
    let begun = traffic::has_two_slots(state.steps()).then(|| split_after(moment))??;
    if !ended_badly(state) || traffic::is_catching_up(state.steps()) {
        return None;
    }
    if begun != (TrafficSplit { green: 0, blue: 100 }) {
        return Some(format!("{begun:?} after the end"));
    }
    let moves = moment.before.is_open() && moment.split_before.is_some_and(|before| before.green > 0);
    (moves && !drained_first(moment.decision)).then(|| "something else came first".to_owned())
}

fn drained_first(decision: &Decision) -> bool {
    let drained = |effect: &Effect| matches!(effect, Effect::Traffic { slot: Slot::Green, weight: 0, .. });
    let other = |effect: &Effect| !matches!(effect, Effect::Traffic { .. } | Effect::Shift { .. });
    let first = decision.effects.iter().position(other).unwrap_or(usize::MAX);
    decision.effects.iter().position(drained).is_some_and(|drained| drained < first)
}

/// The first node whose weight in the world is not what the rollout's records say.
pub(in crate::sim) fn strays(fleet: &Fleet, state: &State) -> Option<String> {
    traffic::weights(state).into_iter().find_map(|(id, weight)| {
        let node = &fleet.nodes[Fleet::place(id)];
        let ours = node.claim.is_none_or(|claim| claim == state.rollout().id);
        // Of a node that seemed to run something else nothing can be promised.
        (ours && !node.deleted && !node.lied && node.traffic != Some(weight))
            .then(|| format!("{id} has {:?} instead of {weight:?}", node.traffic))
    })
}
