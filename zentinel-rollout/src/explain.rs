//! Why a rollout stands where it does, in plain sentences with the figures. Pure: the same facts give the same words,
//! whoever asks.

mod step;

use crate::gate::Gates;
use crate::observation::Observation;
use crate::transition::State;
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::{NodeProgress, RolloutState};
use zentinel_core::id::NodeId;

/// Most nodes that are explained one by one.
pub const MAX_NODES: usize = 100;

/// Why one node is in the way.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeExplanation {
    /// The node.
    pub node_id: NodeId,
    /// Its name; empty when it is not known.
    pub name: String,
    /// How far it is.
    pub state: NodeProgress,
    /// The gate in the way, where one is.
    pub gate: Option<String>,
    /// What the gate measured.
    pub value: Option<f64>,
    /// The gate's limit.
    pub limit: Option<f64>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// One gate over the nodes of the active step; one over all nodes passes, fails or is unknown once.
#[derive(Clone, Debug, PartialEq)]
pub struct GateExplanation {
    /// The gate.
    pub gate: String,
    /// Nodes that pass.
    pub passing: usize,
    /// Nodes that fail.
    pub failing: usize,
    /// Nodes of which nothing is known.
    pub unknown: usize,
    /// All of it in a sentence, with the worst node.
    pub sentence: String,
}

/// Why a rollout stands where it does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// Where it stands, what it waits for, until when, what comes next: read in order.
    pub sentences: Vec<String>,
    /// The gates of the active step.
    pub gates: Vec<GateExplanation>,
    /// The nodes in the way; at most [`MAX_NODES`].
    pub nodes: Vec<NodeExplanation>,
    /// How many further nodes are in the way.
    pub more: usize,
}

/// Explains a rollout. `observation` covers [`State::watched`].
#[must_use]
pub fn explain(state: &State, gates: &Gates, observation: &Observation, now: Timestamp) -> Explanation {
    let mut explanation = Explanation { sentences: vec![standing(state, now)], ..Explanation::default() };
    let rollout = state.rollout();
    if let Some(place) = state.active().filter(|_| rollout.state.is_open()) {
        step::Look { state, gates, observation, now, step: &state.steps()[place] }.explain(&mut explanation);
    } else if rollout.state.is_open() && !rollout.waiting.summary.is_empty() {
        explanation.sentences.push(rollout.waiting.summary.clone());
    }
    explanation.sentences.extend(aftermath(state));
    if let Some(next) = next(state) {
        explanation.sentences.push(next);
    }
    explanation
}

/// A span in words, rounded down.
fn span(length: TimeDelta) -> String {
    let seconds = length.num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

fn standing(state: &State, now: Timestamp) -> String {
    let rollout = state.rollout();
    let all = count(state.nodes().len());
    let since = |at: Option<Timestamp>| at.map_or_else(String::new, |at| format!(" {} ago", span(now - at)));
    match (rollout.state, &rollout.error) {
        (RolloutState::Pending, _) => format!("The rollout to {all} has not started."),
        (RolloutState::Running, _) => {
            format!("The rollout to {all} is running; it started{}.", since(rollout.started_at))
        }
        (RolloutState::Paused, Some(error)) => {
            format!("The rollout to {all} was paused{}: {}", since(rollout.paused_at), error.message)
        }
        (RolloutState::Paused, None) => {
            format!("The rollout to {all} was paused by an operator{}.", since(rollout.paused_at))
        }
        (RolloutState::Completed, _) => {
            format!("The rollout to {all} was completed{}.", since(rollout.completed_at))
        }
        (ended, error) => {
            let word = if ended == RolloutState::Failed { "failed" } else { "was cancelled" };
            let why = error.as_ref().map_or_else(|| ".".to_owned(), |error| format!(": {}", error.message));
            format!("The rollout to {all} {word}{}{why}", since(rollout.completed_at))
        }
    }
}

/// What follows an end.
fn aftermath(state: &State) -> Vec<String> {
    let rollout = state.rollout();
    let mut sentences = Vec::new();
    if let Some(by) = rollout.rolled_back_by {
        sentences.push(format!("The nodes that had activated the bundle are brought back by rollout {by}."));
    }
    let lagging = state.nodes().values().filter(|node| node.lagging).count();
    if lagging > 0 {
        let tolerated = "was left behind within max_unavailable or the patience of a rollback";
        sentences.push(format!("{} {tolerated}; it converges when it comes back.", count(lagging)));
    }
    if !rollout.excluded.is_empty() {
        let left_out = count(rollout.excluded.len());
        sentences.push(format!("{left_out} that the selector names were left out, see `excluded`."));
    }
    sentences
}

/// What comes after the active step.
fn next(state: &State) -> Option<String> {
    let rollout = state.rollout();
    if !rollout.state.is_open() {
        return None;
    }
    let Some(place) = state.upcoming() else {
        return state.active().is_some().then(|| "This is the last step.".to_owned());
    };
    let step = &state.steps()[place];
    let nodes = count(step.node_ids.len());
    Some(format!("Next: step {} of {}, {nodes}.", step.index + 1, state.steps().len()))
}

#[cfg(test)]
mod tests;
