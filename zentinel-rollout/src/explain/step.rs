//! Why the active step is not done yet: each gate, each node.

use super::{Explanation, GateExplanation, MAX_NODES, NodeExplanation, count, span};
use crate::gate::{Gates, Objection, Ruling, Sample, Verdict};
use crate::observation::{NodeFacts, Observation};
use crate::step::elapsed;
use crate::transition::State;
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::{NodeProgress, NodeStatus, RolloutNode, RolloutState, RolloutStep, StepState};

/// The active step of a rollout under way.
pub(super) struct Look<'a> {
    pub(super) state: &'a State,
    pub(super) gates: &'a Gates,
    pub(super) observation: &'a Observation,
    pub(super) now: Timestamp,
    pub(super) step: &'a RolloutStep,
}

/// A node of the step with what is known of it.
struct Seen<'a> {
    part: &'a RolloutNode,
    facts: Option<&'a NodeFacts>,
    /// What the gates say against it; `None` while it does not run the bundle.
    objections: Option<Vec<Objection>>,
}

impl<'a> Look<'a> {
    pub(super) fn explain(&self, explanation: &mut Explanation) {
        let parts = self.step.node_ids.iter().filter_map(|id| self.state.nodes().get(id));
        let seen: Vec<Seen<'_>> = parts.map(|part| self.see(part)).collect();
        explanation.sentences.push(self.progress(&seen));
        let summary = &self.state.rollout().waiting.summary;
        if !summary.is_empty() && self.state.rollout().state == RolloutState::Running {
            explanation.sentences.push(summary.clone());
        }
        explanation.sentences.extend(self.patience());
        explanation.gates = self.gates.names().map(|name| gate(name, &seen)).collect();
        explanation.gates.extend(self.rulings());
        let mut in_the_way =
            seen.iter().filter(|seen| seen.objections.as_ref().is_none_or(|against| !against.is_empty()));
        explanation.nodes = in_the_way.by_ref().take(MAX_NODES).map(|seen| self.node(seen)).collect();
        explanation.more = in_the_way.count();
    }

    fn see(&self, part: &'a RolloutNode) -> Seen<'a> {
        let facts = self.observation.nodes.get(&part.node_id);
        let objections = facts.filter(|facts| facts.runs(part.bundle_id)).map(|facts| {
            let sample = Sample { node_id: part.node_id, bundle_id: part.bundle_id, facts, now: self.now };
            self.gates.judge_all(&sample)
        });
        Seen { part, facts, objections }
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

    fn progress(&self, seen: &[Seen<'_>]) -> String {
        let (number, of) = (self.step.index + 1, self.state.steps().len());
        let running = seen.iter().filter(|seen| seen.objections.is_some()).count();
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
            count(seen.len())
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

    /// Why this node is in the way.
    fn node(&self, seen: &Seen<'_>) -> NodeExplanation {
        let part = seen.part;
        let name = seen.facts.map_or_else(String::new, |facts| facts.name.clone());
        let shown = if name.is_empty() { part.node_id.to_string() } else { name.clone() };
        let objection = seen.objections.as_ref().and_then(|against| against.first());
        let (what, value, limit) = match objection {
            Some(objection) => against(objection),
            None => (self.missing(part, seen.facts), None, None),
        };
        NodeExplanation {
            node_id: part.node_id,
            name,
            state: part.state,
            gate: objection.map(|objection| objection.gate.clone()),
            value,
            limit,
            sentence: format!("{shown} {what}."),
        }
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

/// What a gate says against a node that runs the bundle, with what it measured and its limit.
fn against(Objection { gate, verdict }: &Objection) -> (String, Option<f64>, Option<f64>) {
    match verdict {
        Verdict::Fail { value: Some(value), limit: Some(limit) } => {
            (format!("runs the bundle, but {gate} is {value} (at most {limit})"), Some(*value), Some(*limit))
        }
        Verdict::Fail { value, limit } => (format!("runs the bundle, but fails {gate}"), *value, *limit),
        Verdict::Unknown { why } => {
            (format!("runs the bundle, but nothing is known for {gate}: {why}"), None, None)
        }
        Verdict::Pass => (format!("runs the bundle and passes {gate}"), None, None),
    }
}

/// One gate over the nodes that run the bundle.
fn gate(name: &str, seen: &[Seen<'_>]) -> GateExplanation {
    let (mut passing, mut failing, mut unknown) = (0, 0, 0);
    let mut worst: Option<(f64, f64, &str)> = None;
    for (seen, objections) in seen.iter().filter_map(|seen| Some((seen, seen.objections.as_ref()?))) {
        let objection = objections.iter().find(|objection| objection.gate == name);
        match objection.map(|objection| &objection.verdict) {
            None | Some(Verdict::Pass) => passing += 1,
            Some(Verdict::Unknown { .. }) => unknown += 1,
            Some(Verdict::Fail { value, limit }) => {
                failing += 1;
                if let (Some(value), Some(limit)) = (*value, *limit)
                    && worst.is_none_or(|(most, ..)| value > most)
                {
                    worst = Some((value, limit, seen.facts.map_or("", |facts| facts.name.as_str())));
                }
            }
        }
    }
    let mut sentence = format!("{name}: {} pass, {failing} fail, {unknown} unknown", count(passing));
    if let Some((value, limit, node)) = worst {
        sentence.push_str(&format!("; the worst is {node} with {value}, at most {limit} passes"));
    }
    sentence.push('.');
    GateExplanation { gate: name.to_owned(), passing, failing, unknown, sentence }
}
