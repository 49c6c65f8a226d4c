//! Decisions in plain sentences: one entry of the rollout's log each, and the same words in events and
//! in the audit log.

use super::{Decision, Effect};
use crate::transition::State;
use serde_json::{Map, Value, json};
use zentinel_core::entity::{Rollout, RolloutState, StepState};

/// One decision, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Stable word: `state`, `step`, `rollback`, `restore` or whatever a strategy calls its findings (`analysis`).
    pub kind: String,
    /// One plain sentence.
    pub summary: String,
    /// The figures.
    pub details: Map<String, Value>,
}

impl LogEntry {
    fn new(kind: &str, summary: String, details: Value) -> Self {
        let details = match details {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        Self { kind: kind.to_owned(), summary, details }
    }

    /// What a strategy noted.
    fn found(finding: &Value) -> Self {
        let mut details = finding.as_object().cloned().unwrap_or_default();
        let mut text = |key: &str| match details.remove(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let kind = text("kind").unwrap_or_else(|| "finding".to_owned());
        let summary = text("summary").unwrap_or_default();
        Self { kind, summary, details }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({"kind": self.kind, "summary": self.summary, "details": self.details})
    }
}

impl Decision {
    /// What was found and decided, in order.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        let rollout = self.state.rollout();
        let mut entries: Vec<LogEntry> = self.findings.iter().map(LogEntry::found).collect();
        for (place, to) in &self.step_transitions {
            entries.extend(step_entry(&self.state, *place, *to));
        }
        for event in &self.events {
            let summary = event.payload.get("summary").and_then(Value::as_str).unwrap_or(event.kind);
            let mut details = json!({"event": event.kind, "state": rollout.state.as_str()});
            if let Some(error) = &rollout.error {
                details["reason"] = json!(error.reason);
            }
            entries.push(LogEntry::new("state", summary.to_owned(), details));
        }
        for effect in &self.effects {
            match effect {
                Effect::RollBack(rollback) => {
                    let (nodes, lost) = (rollback.nodes.len(), rollback.unrestorable.len());
                    let mut text = format!("{} back what they ran before", get(nodes));
                    if lost > 0 {
                        text.push_str(&format!("; {lost} have nothing to go back to"));
                    }
                    let details = json!({
                        "rolled_back_by": rollback.rollout_id, "reason": rollback.reason,
                        "nodes": nodes, "unrestorable": lost,
                    });
                    entries.push(LogEntry::new("rollback", format!("{text}."), details));
                }
                Effect::Restore { nodes } => {
                    let text = format!(
                        "{} back what they ran before: they activated the bundle after it was withdrawn.",
                        get(nodes.len())
                    );
                    entries.push(LogEntry::new("restore", text, json!({"nodes": nodes.len()})));
                }
                _ => {}
            }
        }
        entries
    }
}

fn get(nodes: usize) -> String {
    if nodes == 1 { "1 node gets".to_owned() } else { format!("{nodes} nodes get") }
}

/// A step that began, was done or failed.
fn step_entry(state: &State, place: usize, to: StepState) -> Option<LogEntry> {
    let step = state.steps().get(place)?;
    let (number, of, nodes) = (step.index + 1, state.steps().len(), step.node_ids.len());
    let nodes_word = if nodes == 1 { "node" } else { "nodes" };
    let summary = match to {
        StepState::Running => match (&step.deployment_slot, step.traffic_weight) {
            (Some(slot), Some(weight)) => {
                format!(
                    "Step {number} of {of} begins: slot {slot}, {weight} % of the traffic, {nodes} {nodes_word}."
                )
            }
            _ => format!("Step {number} of {of} begins with {nodes} {nodes_word}."),
        },
        StepState::Completed => format!("Step {number} of {of} is done."),
        StepState::Failed => match &step.error {
            Some(error) => format!("Step {number} of {of} failed: {}", error.message),
            None => format!("Step {number} of {of} failed."),
        },
        StepState::Pending | StepState::Verifying | StepState::Validating => return None,
    };
    let details = json!({"step_index": step.index, "state": to.as_str(), "nodes": nodes});
    Some(LogEntry::new("step", summary, details))
}

/// A transition of the rollout in a sentence.
pub(super) fn transition(rollout: &Rollout, from: RolloutState) -> String {
    let because = rollout.error.as_ref().map(|error| error.message.as_str());
    match (from, rollout.state, because) {
        (RolloutState::Paused, RolloutState::Running, _) => "The rollout goes on.".to_owned(),
        (_, RolloutState::Running, _) => "The rollout started.".to_owned(),
        (_, RolloutState::Paused, Some(why)) => format!("The rollout is paused: {why}"),
        (_, RolloutState::Paused, None) => "The rollout was paused by an operator.".to_owned(),
        (_, RolloutState::Completed, _) => "The rollout is completed.".to_owned(),
        (_, RolloutState::Cancelled, Some(why)) => format!("The rollout was ended: {why}"),
        (_, RolloutState::Cancelled, None) => "The rollout was cancelled.".to_owned(),
        (_, RolloutState::Failed, Some(why)) => format!("The rollout failed: {why}"),
        (_, RolloutState::Failed, None) => "The rollout failed.".to_owned(),
        (_, RolloutState::Pending, _) => "The rollout waits to be started.".to_owned(),
    }
}
