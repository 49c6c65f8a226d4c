//! Why a rollout stands where it does, in plain sentences with the figures. Pure: the same facts give the same words,
//! whoever asks.

use crate::gate::{Gates, Objection, Ruling, Sample, Verdict};
use crate::observation::{NodeFacts, Observation};
use crate::step::elapsed;
use crate::transition::State;
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::{NodeProgress, NodeStatus, RolloutNode, RolloutState, RolloutStep, StepState};
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
        let look = Look { state, gates, observation, now, step: &state.steps()[place] };
        look.explain(&mut explanation);
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

struct Look<'a> {
    state: &'a State,
    gates: &'a Gates,
    observation: &'a Observation,
    now: Timestamp,
    step: &'a RolloutStep,
}

impl Look<'_> {
    fn explain(&self, explanation: &mut Explanation) {
        let parts: Vec<&RolloutNode> =
            self.step.node_ids.iter().filter_map(|id| self.state.nodes().get(id)).collect();
        explanation.sentences.push(self.progress(&parts));
        let summary = &self.state.rollout().waiting.summary;
        if !summary.is_empty() && self.state.rollout().state == RolloutState::Running {
            explanation.sentences.push(summary.clone());
        }
        explanation.sentences.extend(self.patience());
        explanation.gates = self.gates.names().map(|gate| self.gate(gate, &parts)).collect();
        explanation.gates.extend(self.rulings());
        for part in parts {
            let Some(node) = self.node(part) else { continue };
            if explanation.nodes.len() < MAX_NODES {
                explanation.nodes.push(node);
            } else {
                explanation.more += 1;
            }
        }
    }

    /// The gates over all nodes.
    fn rulings(&self) -> Vec<GateExplanation> {
        let place = self.state.active().unwrap_or_default();
        let explained = |(gate, ruling): (&str, Ruling)| GateExplanation {
            gate: gate.to_owned(),
            passing: usize::from(ruling.verdict == Verdict::Pass),
            failing: usize::from(matches!(ruling.verdict, Verdict::Fail { .. })),
            unknown: usize::from(matches!(ruling.verdict, Verdict::Unknown { .. })),
            sentence: format!("{gate}: {}", ruling.sentence),
        };
        let rulings = self.gates.rule(self.state, self.observation, place, self.now);
        rulings.into_iter().map(explained).collect()
    }

    fn facts(&self, id: NodeId) -> Option<&NodeFacts> {
        self.observation.nodes.get(&id)
    }

    fn runs(&self, part: &RolloutNode) -> bool {
        self.facts(part.node_id).is_some_and(|facts| facts.runs(part.bundle_id))
    }

    fn progress(&self, parts: &[&RolloutNode]) -> String {
        let (number, of) = (self.step.index + 1, self.state.steps().len());
        let running = parts.iter().filter(|part| self.runs(part)).count();
        let phase = match self.step.state {
            StepState::Running => "waits for its nodes to activate the bundle",
            StepState::Verifying => "waits for its gates",
            StepState::Validating => "is being watched",
            StepState::Pending | StepState::Completed | StepState::Failed => "is not under way",
        };
        let for_ = span(elapsed(self.step, self.now));
        let slot = match (&self.step.deployment_slot, self.step.traffic_weight) {
            (Some(slot), Some(weight)) => format!(" (slot {slot}, {weight} % of the traffic)"),
            _ => String::new(),
        };
        format!(
            "Step {number} of {of}{slot} {phase}, for {for_}: {running} of {} run the bundle.",
            count(parts.len())
        )
    }

    /// When the step's time ends.
    fn patience(&self) -> Option<String> {
        let rollout = self.state.rollout();
        if rollout.state != RolloutState::Running || self.step.state == StepState::Validating {
            return None;
        }
        let limit = TimeDelta::seconds(i64::from(rollout.spec.progress_deadline_seconds));
        let left = limit - elapsed(self.step, self.now);
        let then = match (rollout.rollback_of.is_some(), rollout.spec.auto_rollback) {
            (true, _) => "the nodes that are missing are left behind",
            (false, true) => "the rollout fails and is rolled back",
            (false, false) => "the rollout fails",
        };
        Some(format!("If the step is not done in {}, {then}.", span(left)))
    }

    fn judge(&self, part: &RolloutNode) -> Vec<Objection> {
        let Some(facts) = self.facts(part.node_id).filter(|_| self.runs(part)) else {
            return Vec::new();
        };
        let sample = Sample { node_id: part.node_id, bundle_id: part.bundle_id, facts, now: self.now };
        self.gates.judge_all(&sample)
    }

    fn gate(&self, gate: &str, parts: &[&RolloutNode]) -> GateExplanation {
        let (mut passing, mut failing, mut unknown) = (0, 0, 0);
        let mut worst: Option<(f64, f64, &str)> = None;
        for part in parts.iter().filter(|part| self.runs(part)) {
            let verdict = self.judge(part).into_iter().find(|objection| objection.gate == gate);
            match verdict.map(|objection| objection.verdict) {
                None | Some(Verdict::Pass) => passing += 1,
                Some(Verdict::Unknown { .. }) => unknown += 1,
                Some(Verdict::Fail { value, limit }) => {
                    failing += 1;
                    let name = self.facts(part.node_id).map_or("", |facts| facts.name.as_str());
                    if let (Some(value), Some(limit)) = (value, limit)
                        && worst.is_none_or(|(most, ..)| value > most)
                    {
                        worst = Some((value, limit, name));
                    }
                }
            }
        }
        let mut sentence = format!("{gate}: {} pass, {failing} fail, {unknown} unknown", count(passing));
        if let Some((value, limit, name)) = worst {
            sentence.push_str(&format!("; the worst is {name} with {value}, at most {limit} passes"));
        }
        sentence.push('.');
        GateExplanation { gate: gate.to_owned(), passing, failing, unknown, sentence }
    }

    /// Why this node is in the way; `None` when it is not.
    fn node(&self, part: &RolloutNode) -> Option<NodeExplanation> {
        let facts = self.facts(part.node_id);
        let name = facts.map_or_else(String::new, |facts| facts.name.clone());
        let shown = if name.is_empty() { part.node_id.to_string() } else { name.clone() };
        let objection = self.judge(part).into_iter().next();
        let (what, gate, value, limit) = match (&objection, facts) {
            (Some(objection), _) => match &objection.verdict {
                Verdict::Fail { value: Some(value), limit: Some(limit) } => (
                    format!("runs the bundle, but {} is {value} (at most {limit})", objection.gate),
                    Some(objection.gate.clone()),
                    Some(*value),
                    Some(*limit),
                ),
                Verdict::Fail { value, limit } => (
                    format!("runs the bundle, but fails {}", objection.gate),
                    Some(objection.gate.clone()),
                    *value,
                    *limit,
                ),
                Verdict::Unknown { why } => (
                    format!("runs the bundle, but nothing is known for {}: {why}", objection.gate),
                    Some(objection.gate.clone()),
                    None,
                    None,
                ),
                Verdict::Pass => return None,
            },
            (None, _) if self.runs(part) => return None,
            (None, facts) => (self.missing(part, facts), None, None, None),
        };
        let sentence = format!("{shown} {what}.");
        Some(NodeExplanation { node_id: part.node_id, name, state: part.state, gate, value, limit, sentence })
    }

    /// Why a node does not run the bundle.
    fn missing(&self, part: &RolloutNode, facts: Option<&NodeFacts>) -> String {
        let Some(facts) = facts else { return "was not looked at yet".to_owned() };
        if !facts.exists {
            return "was deleted".to_owned();
        }
        let heard = match facts.age(self.now) {
            Some(age) => format!("last heard of {} ago", span(age)),
            None => "never heard of".to_owned(),
        };
        if let Some(error) = facts.error_for(part) {
            return format!("could not activate the bundle: {} ({})", error.message, error.reason);
        }
        if let (NodeProgress::Failed, Some(error)) = (part.state, &part.error) {
            return format!("was given up: {error}");
        }
        let told = match part.staged_at {
            Some(at) => format!("was told {} ago", span(self.now - at)),
            None => "was not told yet".to_owned(),
        };
        match facts.status {
            NodeStatus::Offline => format!("{told} and is offline, {heard}"),
            _ if part.state == NodeProgress::Staged => {
                format!("{told}, has downloaded the bundle and has not activated it, {heard}")
            }
            _ => format!("{told} and does not run the bundle, {heard}"),
        }
    }
}

#[cfg(test)]
mod tests;
