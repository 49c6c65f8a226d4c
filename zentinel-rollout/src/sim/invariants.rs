//! What must hold after every decision, each promise a function with a name.

mod traffic;

pub(super) use traffic::strays as traffic_strays;

use super::fleet::{Fleet, NEW, SimNode, bundle};
use crate::decision::{Decision, Effect};
use crate::observation::{NodeFacts, Observation};
use crate::step::TICK_INTERVAL;
use crate::transition::{OUTCOME, ROLLED_BACK, State};
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::Timestamp;
use zentinel_core::entity::{NodeProgress, RolloutState, StepState, TrafficSplit};
use zentinel_core::id::{BundleId, NodeId, RolloutId};

/// By how much the clocks of two replicas may differ.
pub(super) const CLOCKS_APART: TimeDelta = TimeDelta::seconds(8);

/// A decision with what led to it.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The rollout's state before.
    pub before: RolloutState,
    /// How its traffic was split before.
    pub split_before: Option<TrafficSplit>,
    /// The decision.
    pub decision: &'a Decision,
    /// What it was based on.
    pub observation: &'a Observation,
    /// What each node said it ran when it was first told.
    pub ran_before: &'a BTreeMap<(RolloutId, NodeId), BundleId>,
    /// How many rollbacks were decided before.
    pub rollbacks: usize,
    /// When.
    pub now: Timestamp,
}

/// A promise: its name, and what breaks it.
pub type Invariant = (&'static str, fn(&Moment<'_>) -> Option<String>);

/// The promises about single decisions.
pub const INVARIANTS: [Invariant; 13] = [
    ("state_is_consistent", state_is_consistent),
    ("one_batch_in_flight", one_batch_in_flight),
    ("lagging_within_max_unavailable", lagging_within_max_unavailable),
    ("only_running_rollouts_tell_nodes", only_running_rollouts_tell_nodes),
    ("terminal_stays_terminal", terminal_stays_terminal),
    ("one_rollback_per_rollout", one_rollback_per_rollout),
    ("a_rollback_leads_where_the_node_was", a_rollback_leads_where_the_node_was),
    ("no_gate_opens_on_the_unknown", no_gate_opens_on_the_unknown),
    ("running_rollouts_are_looked_at_again", running_rollouts_are_looked_at_again),
    ("no_bundle_is_taken_back_unnoticed", no_bundle_is_taken_back_unnoticed),
    ("no_traffic_to_the_unproven", traffic::no_traffic_to_the_unproven),
    ("one_weight_at_a_time", traffic::one_weight_at_a_time),
    ("no_traffic_to_a_bad_bundle", traffic::no_traffic_to_a_bad_bundle),
];

fn state_is_consistent(moment: &Moment<'_>) -> Option<String> {
    crate::check(&moment.decision.state).first().map(ToString::to_string)
}

/// Told and not yet found healthy, lagging nodes apart: only nodes of the active step.
fn one_batch_in_flight(moment: &Moment<'_>) -> Option<String> {
    let state = &moment.decision.state;
    let batch: BTreeSet<NodeId> = state
        .active()
        .map(|place| state.steps()[place].node_ids.iter().copied().collect())
        .unwrap_or_default();
    let stray = state.nodes().values().find(|node| {
        let moving =
            matches!(node.state, NodeProgress::Staging | NodeProgress::Staged | NodeProgress::Activating);
        moving && !node.lagging && !batch.contains(&node.node_id)
    })?;
    Some(format!("{} is in flight outside the active step", stray.node_id))
}

fn lagging_within_max_unavailable(moment: &Moment<'_>) -> Option<String> {
    let state = &moment.decision.state;
    let ended = matches!(state.rollout().state, RolloutState::Failed | RolloutState::Cancelled);
    // Whoever advances a held step takes its nodes as they are.
    let by_hand = moment.before == RolloutState::Paused;
    if state.rollout().rollback_of.is_some() || ended || by_hand {
        return None;
    }
    let allowed = usize::try_from(state.rollout().spec.max_unavailable).unwrap_or(usize::MAX);
    for step in moment.decision.steps_to_update().filter(|step| step.state == StepState::Completed) {
        let left = |id: &&NodeId| {
            state.nodes().get(id).is_some_and(|node| {
                let deleted = crate::transition::is_out(node);
                node.state != NodeProgress::Active && !deleted
            })
        };
        let count = step.node_ids.iter().filter(left).count();
        if count > allowed {
            return Some(format!("step {} left {count} nodes behind, {allowed} may be", step.index));
        }
    }
    None
}

fn only_running_rollouts_tell_nodes(moment: &Moment<'_>) -> Option<String> {
    let tells = moment.decision.effects.iter().any(|effect| matches!(effect, Effect::Stage { .. }));
    (tells && moment.before != RolloutState::Running)
        .then(|| format!("nodes were told while the rollout was {}", moment.before.as_str()))
}

fn terminal_stays_terminal(moment: &Moment<'_>) -> Option<String> {
    let after = moment.decision.state.rollout().state;
    (!moment.before.is_open() && moment.before != after)
        .then(|| format!("{} became {}", moment.before.as_str(), after.as_str()))
}

fn one_rollback_per_rollout(moment: &Moment<'_>) -> Option<String> {
    let now = moment.decision.effects.iter().filter(|effect| matches!(effect, Effect::RollBack(_))).count();
    let of_rollback = now > 0 && moment.decision.state.rollout().rollback_of.is_some();
    (of_rollback || moment.rollbacks + now > 1).then(|| "rolled back again".to_owned())
}

fn a_rollback_leads_where_the_node_was(moment: &Moment<'_>) -> Option<String> {
    let rollout = moment.decision.state.rollout().id;
    let restores = moment.decision.effects.iter().flat_map(|effect| match effect {
        Effect::RollBack(rollback) => rollback.nodes.as_slice(),
        Effect::Restore { nodes } => nodes.as_slice(),
        Effect::Claim { .. }
        | Effect::Stage { .. }
        | Effect::Unstage { .. }
        | Effect::Expect { .. }
        | Effect::Release { .. }
        | Effect::Traffic { .. }
        | Effect::Shift { .. } => &[],
    });
    for restore in restores {
        let before = moment.ran_before.get(&(rollout, restore.node_id));
        if before != Some(&restore.bundle_id) {
            return Some(format!("{restore:?}, but the node ran {before:?}"));
        }
    }
    None
}

/// Whether the facts say that a node runs a bundle, and runs it well.
fn is_proven(facts: &NodeFacts, wanted: BundleId, now: Timestamp) -> bool {
    let fresh = facts.age(now).is_some_and(|age| age.num_seconds() <= 90);
    let after = facts.last_seen_at > facts.active_since && facts.active_since.is_some();
    let healthy = facts.health.is_healthy() && facts.healthy_streak >= 2;
    facts.runs(wanted) && facts.is_available() && fresh && after && healthy
}

fn no_gate_opens_on_the_unknown(moment: &Moment<'_>) -> Option<String> {
    let odd = moment.decision.nodes_to_update().find(|node| {
        let opened = node.state == NodeProgress::Active && node.verified_at == Some(moment.now);
        let facts = moment.observation.nodes.get(&node.node_id);
        opened && !facts.is_some_and(|facts| is_proven(facts, node.bundle_id, moment.now))
    })?;
    Some(format!("{} was found healthy without evidence", odd.node_id))
}

fn running_rollouts_are_looked_at_again(moment: &Moment<'_>) -> Option<String> {
    let running = moment.decision.state.rollout().state == RolloutState::Running;
    // Another replica may have said when, by its own clock.
    let soon = |wake: Timestamp| wake <= moment.now + TICK_INTERVAL + CLOCKS_APART;
    (running && !moment.decision.next_wake.is_some_and(soon))
        .then(|| format!("next look at {:?}", moment.decision.next_wake))
}

/// A rollout under way never counts a node as done that says that it took the bundle back.
fn no_bundle_is_taken_back_unnoticed(moment: &Moment<'_>) -> Option<String> {
    let state = &moment.decision.state;
    let watches = moment.before == RolloutState::Running && state.rollout().rollback_of.is_none();
    let mut taken_back = state.nodes().values().filter(|node| {
        let facts = moment.observation.nodes.get(&node.node_id);
        node.state == NodeProgress::Active && facts.is_some_and(|facts| facts.took_back(node).is_some())
    });
    taken_back.next().filter(|_| watches).map(|node| format!("{} took the bundle back", node.node_id))
}

/// The promises about the world after it has healed. Returns the broken one.
pub(super) fn at_the_end(fleet: &Fleet, rollouts: &[State]) -> Option<(&'static str, String)> {
    if let Some(open) = rollouts.iter().find(|state| state.rollout().state.is_open()) {
        let message = format!(
            "{} is {}: {}",
            open.rollout().id,
            open.rollout().state.as_str(),
            open.rollout().waiting.summary
        );
        return Some(("every_rollout_ends", message));
    }
    for node in fleet.nodes.iter().filter(|node| !node.deleted) {
        if node.claim.is_some() {
            return Some(("nobody_stays_claimed", node.id.to_string()));
        }
        if node.truth != node.original && !node.told.contains(&node.truth) {
            return Some(("nodes_run_only_what_they_were_told", node.id.to_string()));
        }
        if let Some(message) = wrong_bundle(node, rollouts).or_else(|| kept_bundle(fleet, node, rollouts)) {
            return Some(("ends_on_one_known_bundle", format!("{}: {message}", node.id)));
        }
    }
    None
}

/// After a rollback no node that is not part of it may go on running the bundle, however late it activated it.
fn kept_bundle(fleet: &Fleet, node: &SimNode, rollouts: &[State]) -> Option<String> {
    let first = rollouts.first()?;
    let outcome = first.rollout().error.as_ref()?.details.get(OUTCOME)?;
    let in_rollback = rollouts.get(1).is_some_and(|back| back.nodes().contains_key(&node.id));
    let restorable = fleet.observation.deployable.contains(&node.original);
    let kept = node.truth == bundle(NEW) && !node.lied && !in_rollback && restorable;
    (outcome == ROLLED_BACK && kept).then(|| "kept the bundle that was rolled back".to_owned())
}

/// What a node should run in the end, going by its part in the rollouts.
fn wrong_bundle(node: &SimNode, rollouts: &[State]) -> Option<String> {
    if node.lied {
        return None;
    }
    let first = rollouts.first()?;
    let part = first.nodes().get(&node.id)?;
    let back = rollouts.get(1).and_then(|state| state.nodes().get(&node.id));
    if let Some(back) = back {
        let restored = matches!(back.state, NodeProgress::Active);
        return (restored && node.truth != back.bundle_id)
            .then(|| format!("was restored to {} but runs {}", back.bundle_id, node.truth));
    }
    if part.state == NodeProgress::Active && node.truth != bundle(NEW) {
        return Some(format!("was found healthy on the new bundle but runs {}", node.truth));
    }
    let untouched = part.staged_at.is_none();
    (untouched && node.truth != node.original).then(|| "was never told but changed".to_owned())
}
