//! The gates of a step, and what the strategy makes of their passing.

use super::census::Census;
use super::{
    MAX_HOLD, Progress, STRATEGY_FAULT, STRATEGY_ROLLBACK, SUSTAINED_FAILURE, SUSTAINED_GATE_FAILURE, Tick,
    VALIDATION_HOLD, elapsed, error, finish, report,
};
use crate::gate::{Objection, Ruling, Sample, Verdict};
use crate::plan::fault_of_steps;
use crate::strategy::{PlannedStep, Proposal, View};
use crate::traffic;
use crate::transition::Draft;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use zentinel_core::Timestamp;
use zentinel_core::entity::{StepState, Waiting};
use zentinel_core::id::NodeId;

/// What the gates say of a step.
pub(super) struct Evaluation {
    /// The nodes that were asked about and passed.
    pub(super) passed: BTreeSet<NodeId>,
    /// The others, with the gate in the way.
    objections: Vec<(NodeId, Objection)>,
    /// How many of those fail, as opposed to unknown.
    failing: usize,
    /// The gates over all nodes that are in the way.
    fleet: Vec<(String, Ruling)>,
}

impl Evaluation {
    /// Whether a gate over all nodes fails, as opposed to unknown.
    fn fleet_fails(&self) -> bool {
        self.fleet.iter().any(|(_, ruling)| matches!(ruling.verdict, Verdict::Fail { .. }))
    }

    /// What the gates over all nodes say, those that fail first.
    fn sentences(&self) -> String {
        let fails = |ruling: &Ruling| matches!(ruling.verdict, Verdict::Fail { .. });
        let (failing, unknown): (Vec<_>, Vec<_>) = self.fleet.iter().partition(|(_, ruling)| fails(ruling));
        let all = failing.into_iter().chain(unknown).take(MAX_SENTENCES);
        all.map(|(_, ruling)| ruling.sentence.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Every gate in the way, for the error of a step.
    fn details(&self) -> Vec<Value> {
        let mut details = report::gate_details(&self.objections);
        details.extend(self.fleet.iter().map(|(gate, ruling)| report::ruling_detail(gate, ruling)));
        details
    }
}

/// Most gates over all nodes that a report quotes.
const MAX_SENTENCES: usize = 3;

impl Tick<'_> {
    pub(super) fn verifying(&self, draft: &mut Draft, place: usize, census: &Census) -> Progress {
        let mut evaluation = self.evaluate(draft, census);
        evaluation.fleet = self.rule(draft, place);
        if evaluation.failing > 0 || evaluation.fleet_fails() {
            return self.failing(draft, place, census, &evaluation);
        }
        let enough = census.required().max(1);
        if !evaluation.objections.is_empty() || evaluation.passed.len() < enough {
            let passed = evaluation.passed.len();
            let summary = format!("{passed} of {} nodes have passed every gate.", census.total);
            let until = report::deadline_of(draft, place, census, self.now);
            let waiting = match evaluation.objections.as_slice() {
                [] => report::of_nodes(summary, census, until),
                objections => report::gates(summary, objections, until),
            };
            draft.report(waiting);
            self.rest_until_gates_pass(draft, place, census, None);
            return self.wait(draft, place, census, &evaluation.details());
        }
        if !evaluation.fleet.is_empty() {
            let until = report::deadline_of(draft, place, census, self.now);
            draft.report(Waiting { summary: evaluation.sentences(), until, ..Waiting::default() });
            return self.wait(draft, place, census, &evaluation.details());
        }
        if draft.step(place).failing_since.is_some() {
            draft.edit_step(place, |step| step.failing_since = None);
        }
        if traffic::awaits_shift(draft.rollout()) {
            return self.wait_for_shift(draft, place, census);
        }
        let proposal = draft.consult(|draft, memory| {
            let view = View::new(draft.state(), self.observation, draft.step(place), self.now);
            self.strategy.after_gates(&view, memory)
        });
        self.follow(draft, place, census, &evaluation, proposal)
    }

    /// The gates over all nodes that don't pass.
    fn rule(&self, draft: &Draft, place: usize) -> Vec<(String, Ruling)> {
        let rulings = self.gates.rule(draft.state(), self.observation, place, self.now).into_iter();
        let in_the_way = rulings.filter(|(_, ruling)| ruling.verdict != Verdict::Pass);
        in_the_way.map(|(gate, ruling)| (gate.to_owned(), ruling)).collect()
    }

    /// Judges the nodes that run the bundle. Where nodes may be missing, those that are away are left out.
    pub(super) fn evaluate(&self, draft: &Draft, census: &Census) -> Evaluation {
        let mut evaluation =
            Evaluation { passed: BTreeSet::new(), objections: Vec::new(), failing: 0, fleet: Vec::new() };
        for &id in &census.activated {
            let (Some(node), Some(facts)) = (draft.node(id), self.observation.nodes.get(&id)) else {
                continue;
            };
            if census.tolerated > 0 && !facts.is_available() {
                continue;
            }
            let sample = Sample { node_id: id, bundle_id: node.bundle_id, facts, now: self.now };
            match self.gates.judge(&sample) {
                None => {
                    evaluation.passed.insert(id);
                }
                Some(objection) => {
                    evaluation.failing += usize::from(matches!(objection.verdict, Verdict::Fail { .. }));
                    evaluation.objections.push((id, objection));
                }
            }
        }
        evaluation
    }

    fn failing(&self, draft: &mut Draft, place: usize, census: &Census, evaluation: &Evaluation) -> Progress {
        let now = self.now;
        let since = draft.step(place).failing_since.unwrap_or(now);
        if draft.step(place).failing_since.is_none() {
            draft.edit_step(place, |step| step.failing_since = Some(now));
        }
        let bad = evaluation.failing + census.failed.len();
        let threshold = usize::from(draft.rollout().spec.rollback_threshold.get());
        let together = evaluation.fleet_fails();
        let enough = together || bad * 100 >= threshold * census.total;
        let armed = draft.rollout().spec.auto_rollback && enough;
        let details = evaluation.details();
        let patience = armed.then(|| since + SUSTAINED_FAILURE);
        let seconds = (now - since).num_seconds();
        if armed && now - since > SUSTAINED_FAILURE {
            let message = if together {
                format!("The fleet has failed its gates for {seconds} s. {}", evaluation.sentences())
            } else {
                format!("{bad} of {} nodes have failed their gates for {seconds} s.", census.total)
            };
            let figures = json!({
                "step_index": draft.step(place).index,
                "failing": bad,
                "total": census.total,
                "failing_seconds": seconds,
                "gates": details,
            });
            return self.fail(draft, place, error(SUSTAINED_GATE_FAILURE, message, figures), false);
        }
        let mut summary = format!("{bad} of {} nodes fail their gates.", census.total);
        if together {
            summary = evaluation.sentences();
        }
        let until = report::deadline_of(draft, place, census, now);
        draft.report(report::gates(summary, &evaluation.objections, until));
        self.rest_until_gates_pass(draft, place, census, patience);
        self.wait(draft, place, census, &details)
    }

    fn follow(
        &self,
        draft: &mut Draft,
        place: usize,
        census: &Census,
        evaluation: &Evaluation,
        proposal: Proposal,
    ) -> Progress {
        match proposal {
            Proposal::Complete => {
                finish::complete_step(draft, place, |id| evaluation.passed.contains(&id));
                Progress::Moved
            }
            Proposal::Recut { steps } => self.recut(draft, place, census, evaluation, steps),
            Proposal::Hold { until, why } => self.hold(draft, place, census, until, why),
            Proposal::Extend { why } => {
                draft.report(Waiting {
                    summary: why,
                    until: report::deadline_of(draft, place, census, self.now),
                    ..Waiting::default()
                });
                self.wait(draft, place, census, &[])
            }
            Proposal::Pause { why } => {
                if draft.step(place).state == StepState::Verifying {
                    draft.move_step(place, StepState::Validating, None);
                }
                self.pause(draft, error(VALIDATION_HOLD, why, json!({})), census);
                Progress::Waits
            }
            Proposal::RollBack { why } => {
                let figures = json!({ "step_index": draft.step(place).index });
                self.fail(draft, place, error(STRATEGY_ROLLBACK, why, figures), true)
            }
        }
    }

    fn hold(
        &self,
        draft: &mut Draft,
        place: usize,
        census: &Census,
        until: Timestamp,
        why: String,
    ) -> Progress {
        if draft.step(place).state == StepState::Verifying {
            // The strategy is asked again: what it says may depend on when the hold began.
            draft.move_step(place, StepState::Validating, None);
            return Progress::Moved;
        }
        if elapsed(draft.step(place), self.now) > MAX_HOLD {
            let message = format!("The strategy has held the step for too long: {why}");
            self.pause(draft, error(VALIDATION_HOLD, message, json!({})), census);
            return Progress::Waits;
        }
        draft.report(Waiting { summary: why, until: Some(until), ..Waiting::default() });
        Progress::Waits
    }

    /// Completes the step and replaces what has not begun. Steps that do not fit stop the rollout.
    fn recut(
        &self,
        draft: &mut Draft,
        place: usize,
        census: &Census,
        evaluation: &Evaluation,
        steps: Vec<PlannedStep>,
    ) -> Progress {
        let (begun, pending) = draft.state().steps().split_at(place + 1);
        let nodes = |steps: &[zentinel_core::entity::RolloutStep]| -> BTreeSet<NodeId> {
            steps.iter().flat_map(|step| step.node_ids.iter().copied()).collect()
        };
        let fault = match pending {
            [] if steps.is_empty() => None,
            [] => Some("there is nothing left to cut"),
            pending => fault_of_steps(&steps, &nodes(begun), &nodes(pending)),
        };
        if let Some(fault) = fault {
            let message = format!("The strategy {} cut the rest wrongly: {fault}.", self.strategy.name());
            self.pause(draft, error(STRATEGY_FAULT, message, json!({})), census);
            return Progress::Waits;
        }
        draft.recut(steps);
        finish::complete_step(draft, place, |id| evaluation.passed.contains(&id));
        Progress::Moved
    }
}
