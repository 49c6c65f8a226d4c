//! One look at a rollout: what is known goes in, what follows comes out.
//!
//! A tick runs to quiescence: calling [`step`] again with the same observation at the same instant decides nothing
//! more. It touches the nodes of the active step, the stragglers, and nodes of completed steps about which something
//! changed; never the rest of the fleet, unless the rollout ends. What it decides says for how long it stands ([`Outlook`]); until then, [`rest`] decides the same at a
//! cost that does not depend on the number of nodes (`cargo bench -p zentinel-rollout` prints the cost of both).

mod census;
mod finish;
mod outlook;
mod pace;
mod report;
mod stragglers;
mod taken_back;
mod verify;

pub(crate) use finish::{advance_held, cancel, roll_back_by_operator, withdraw_unactivated};
pub use outlook::rest;
pub(crate) use stragglers::rearm_ended;

use crate::decision::{Decision, Effect, Outlook};
use crate::gate::Gates;
use crate::observation::{NodeFacts, Observation};
use crate::plan::previous_bundle;
use crate::strategy::{Begin, Strategy, View};
use crate::traffic;
use crate::transition::{CORDONED, Draft, State};
use census::Census;
use chrono::TimeDelta;
use finish::Failure;
use serde_json::{Map, Value, json};
use zentinel_core::Timestamp;
use zentinel_core::entity::{
    NodeProgress, RolloutError, RolloutNode, RolloutState, RolloutStep, StepState, Waiting,
};
use zentinel_core::id::NodeId;

/// When a rollout is first looked at after it started or resumed.
pub const FIRST_TICK: TimeDelta = TimeDelta::seconds(1);
/// How often a running rollout is looked at while nothing is reported.
pub const TICK_INTERVAL: TimeDelta = TimeDelta::seconds(5);
/// How long a gate may fail without a break before a rollout with `auto_rollback` is rolled back.
pub const SUSTAINED_FAILURE: TimeDelta = TimeDelta::seconds(50);
/// How long a strategy may hold one step.
pub const MAX_HOLD: TimeDelta = TimeDelta::hours(24);
/// How long after the end of a rollout, or after its rollback, its stragglers are watched.
pub const STRAGGLER_WATCH: TimeDelta = TimeDelta::hours(24);
/// How often they are looked at while nothing is reported.
pub const STRAGGLER_INTERVAL: TimeDelta = TimeDelta::seconds(60);

/// Reason of a pause: more nodes of the step are offline than `max_unavailable` allows.
pub const MAX_UNAVAILABLE_EXCEEDED: &str = "max_unavailable_exceeded";
/// Reason of a pause: nodes of a completed step took the bundle back, and fewer run it than must.
pub const BUNDLE_TAKEN_BACK: &str = "bundle_taken_back";
/// Reason of a failure: the step took longer than `progress_deadline_seconds`.
pub const STEP_DEADLINE_EXCEEDED: &str = "step_deadline_exceeded";
/// Reason of a failure: the bundle may not be given to nodes any more.
pub const BUNDLE_REVOKED: &str = "bundle_revoked";
/// Reason of a failure: the failed share of a step reached `rollback_threshold`.
pub const FAILURE_THRESHOLD_EXCEEDED: &str = "failure_threshold_exceeded";
/// Reason of a failure: a gate failed for longer than [`SUSTAINED_FAILURE`].
pub const SUSTAINED_GATE_FAILURE: &str = "sustained_gate_failure";
/// Reason of a failure: the strategy asked for a rollback.
pub const STRATEGY_ROLLBACK: &str = "strategy_rollback";
/// Reason of a pause: the strategy wants an operator to look.
pub const VALIDATION_HOLD: &str = "validation_hold";
/// Reason of a pause: the strategy answered with steps that do not fit.
pub const STRATEGY_FAULT: &str = "strategy_fault";
/// Reason of a failure: every target was deleted.
pub const NO_TARGET_NODES: &str = "no_target_nodes";

/// Looks at a rollout.
///
/// Call it for every wake-up, whatever the state: a pending or paused rollout only takes note of what its nodes
/// report, one that has ended still looks after its stragglers. `observation` covers
/// [`State::watched`] and [`State::bundles`]; nothing is decided about a step some of whose nodes it does not cover.
#[must_use]
pub fn step(
    state: State,
    strategy: &dyn Strategy,
    gates: &Gates,
    observation: &Observation,
    now: Timestamp,
) -> Decision {
    let mut draft = Draft::new(state, now);
    let tick = Tick { strategy, gates, observation, now };
    let was_open = draft.rollout().state.is_open();
    match draft.rollout().state {
        RolloutState::Pending => draft.wake_at(None),
        RolloutState::Running => tick.run(&mut draft),
        RolloutState::Paused => tick.look_while_paused(&mut draft),
        RolloutState::Completed | RolloutState::Cancelled | RolloutState::Failed => {
            stragglers::look(&mut draft, gates, observation, now);
        }
    }
    if was_open && !draft.rollout().state.is_open() {
        // The end makes stragglers of nodes that nobody waited for before.
        stragglers::look(&mut draft, gates, observation, now);
    }
    tick.note_outlook(&mut draft);
    outlook::look_again(&mut draft, now);
    draft.finish()
}

/// How long a step has been in its phase, pauses not counted.
pub(crate) fn elapsed(step: &RolloutStep, now: Timestamp) -> TimeDelta {
    let paused = i64::try_from(step.paused_ms).unwrap_or(i64::MAX);
    let paused = TimeDelta::try_milliseconds(paused).unwrap_or(TimeDelta::MAX);
    step.entered_at.map_or(TimeDelta::zero(), |entered| {
        (now - entered).checked_sub(&paused).unwrap_or(TimeDelta::zero())
    })
}

/// An error with figures.
pub(crate) fn error(reason: &str, message: impl Into<String>, details: Value) -> RolloutError {
    RolloutError {
        reason: reason.to_owned(),
        message: message.into(),
        details: match details {
            Value::Object(details) => details,
            _ => Map::new(),
        },
    }
}

/// Whether the first failure stops the rollout: nothing has gone well yet that would speak for the bundle.
fn is_fresh_and_safe(draft: &Draft, place: usize) -> bool {
    draft.rollout().spec.safe_mode
        && draft.state().steps().iter().take(place).all(|step| step.state != StepState::Completed)
}

/// Whether anything else can be decided at this instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Something moved: look again.
    Moved,
    /// Nothing more until something changes.
    Waits,
}

/// What a tick was given.
struct Tick<'a> {
    strategy: &'a dyn Strategy,
    gates: &'a Gates,
    observation: &'a Observation,
    now: Timestamp,
}

impl Tick<'_> {
    fn run(&self, draft: &mut Draft) {
        let due = draft.rollout().next_tick_at.is_none_or(|due| self.now >= due);
        if due {
            Self::use_up_grace(draft);
        }
        stragglers::look(draft, self.gates, self.observation, self.now);
        if !self.look_at_done(draft) {
            return;
        }
        loop {
            draft.rest(Outlook::Open);
            if self.stop_if_revoked(draft) {
                break;
            }
            let progress = match draft.state().active() {
                Some(place) => self.advance(draft, place),
                None => self.start_next(draft),
            };
            if progress == Progress::Waits || draft.rollout().state != RolloutState::Running {
                break;
            }
        }
    }

    /// A due tick uses up grace; an early one, woken by a report, does not.
    fn use_up_grace(draft: &mut Draft) {
        if let Some((count, left)) = draft.rollout().unavailable_grace {
            let grace = left.checked_sub(1).map(|left| (count, left));
            draft.edit_rollout(|rollout| rollout.unavailable_grace = grace);
        }
    }

    fn look_while_paused(&self, draft: &mut Draft) {
        stragglers::look(draft, self.gates, self.observation, self.now);
        if let Some(place) = draft.state().active() {
            let _census = Census::take(draft, self.observation, place, self.now);
        }
        if self.look_at_done(draft) {
            self.stop_if_revoked(draft);
        }
    }

    /// A rollback names several bundles; there each node fails alone, see [`Census::take`].
    fn stop_if_revoked(&self, draft: &mut Draft) -> bool {
        let bundle = draft.rollout().bundle_id;
        if draft.rollout().rollback_of.is_some() || self.observation.deployable.contains(&bundle) {
            return false;
        }
        let Some(place) = draft.state().active().or_else(|| draft.state().upcoming()) else {
            return false;
        };
        if draft.state().active().is_some() {
            // Nodes that activated in this very instant must not be forgotten by the rollback.
            let _census = Census::take(draft, self.observation, place, self.now);
        }
        let message = "The bundle was withdrawn; it may not be given to nodes any more.";
        let details = json!({ "bundle_id": bundle });
        finish::fail(
            draft,
            self.observation,
            Failure {
                place,
                step_error: error(BUNDLE_REVOKED, message, details.clone()),
                error: error(BUNDLE_REVOKED, message, details),
                rolls_back: false,
            },
        );
        true
    }

    fn start_next(&self, draft: &mut Draft) -> Progress {
        let Some(place) = draft.state().upcoming() else {
            finish::complete(draft);
            return Progress::Moved;
        };
        if let Some(at) = pace::earliest(draft, place).filter(|at| self.now < *at) {
            draft.report(pace::waiting(draft, place, at));
            draft.rest(Outlook::Rests { until: at, gates_after: usize::MAX });
            return Progress::Waits;
        }
        let begin = draft.consult(|draft, memory| {
            let view = View::new(draft.state(), self.observation, draft.step(place), self.now);
            self.strategy.before_step(&view, memory)
        });
        if let Begin::Later { until, why } = begin {
            draft.report(Waiting { summary: why, until, ..Waiting::default() });
            return Progress::Waits;
        }
        draft.move_step(place, StepState::Running, None);
        if !traffic::awaits_shift(draft.rollout()) {
            self.tell(draft, place);
        }
        Progress::Moved
    }

    /// Tells those nodes of a step to run the bundle that have not been told, or from which it was withdrawn.
    fn tell(&self, draft: &mut Draft, place: usize) {
        let mut nodes = Vec::new();
        for at in 0..draft.step(place).node_ids.len() {
            let id = draft.step(place).node_ids[at];
            let waits = |node: &RolloutNode| node.state == NodeProgress::Pending && !node.lagging;
            if !draft.node(id).is_some_and(waits) {
                continue;
            }
            let facts = self.observation.nodes.get(&id);
            if facts.is_some_and(|facts| !facts.exists) {
                draft.node_is_gone(id);
                continue;
            }
            let untouched = |node: &RolloutNode| node.staged_at.is_none();
            let cordoned = facts.is_some_and(|facts| facts.cordoned) && draft.rollout().rollback_of.is_none();
            if cordoned && draft.node(id).is_some_and(untouched) {
                draft.give_up_node(id, CORDONED);
                continue;
            }
            self.remember_previous(draft, id, facts);
            draft.move_node(id, NodeProgress::Staging, None);
            nodes.push(id);
        }
        draft.effect(Effect::Stage { nodes });
    }

    /// What is known of a node now is newer than what was when the rollout was planned. In a rollback the
    /// previous bundle is the one that is undone.
    fn remember_previous(&self, draft: &mut Draft, id: NodeId, facts: Option<&NodeFacts>) {
        let previous = |node: &RolloutNode| {
            let facts = facts.filter(|_| node.staged_at.is_none())?;
            previous_bundle(node.bundle_id, facts.expected_bundle_id, facts.active_bundle_id)
                .filter(|previous| node.previous_bundle_id != Some(*previous))
        };
        if let Some(previous) = draft.node(id).and_then(previous) {
            draft.edit_node(id, |node| node.previous_bundle_id = Some(previous));
        }
    }

    fn advance(&self, draft: &mut Draft, place: usize) -> Progress {
        let mut census = Census::take(draft, self.observation, place, self.now);
        if draft.step(place).state == StepState::Running && traffic::awaits_shift(draft.rollout()) {
            // Nobody is told to change under traffic.
            return self.wait_for_shift(draft, place, &census);
        }
        if census.untold {
            // The bundle was withdrawn from them during a pause.
            self.tell(draft, place);
            census = Census::take(draft, self.observation, place, self.now);
        }
        if census.unobserved > 0 {
            draft.report(Waiting {
                summary: format!("{} nodes of the step were not looked at yet.", census.unobserved),
                ..Waiting::default()
            });
            return self.wait(draft, place, &census, &[]);
        }
        if census.total == 0 && traffic::is_new_slot(draft.state().steps(), place) {
            // Nobody is left to give the traffic to.
            let gone = error(NO_TARGET_NODES, "Every node of the green slot was deleted.", json!({}));
            return self.fail(draft, place, gone, true);
        }
        if census.total == 0 {
            // Every node was deleted: there is nothing left to wait for.
            finish::complete_step(draft, place, |_| false);
            return Progress::Moved;
        }
        let threshold = usize::from(draft.rollout().spec.rollback_threshold.get());
        let too_many = census.failed.len() * 100 >= threshold * census.total;
        if !census.failed.is_empty() && (too_many || is_fresh_and_safe(draft, place)) {
            return self.fail_share(draft, place, &census);
        }
        match draft.step(place).state {
            StepState::Running => self.running(draft, place, &census),
            StepState::Verifying | StepState::Validating => self.verifying(draft, place, &census),
            StepState::Pending | StepState::Completed | StepState::Failed => Progress::Waits,
        }
    }

    fn running(&self, draft: &mut Draft, place: usize, census: &Census) -> Progress {
        let allowed = draft.rollout().spec.max_unavailable;
        let unavailable = u32::try_from(census.unavailable.len()).unwrap_or(u32::MAX);
        let graced = draft.rollout().unavailable_grace.is_some_and(|(count, _)| unavailable <= count);
        if allowed > 0 && unavailable > allowed && !graced {
            let message = format!("{unavailable} nodes are offline, {allowed} may be.");
            let figures = json!({ "unavailable": unavailable, "max_unavailable": allowed });
            self.pause(draft, error(MAX_UNAVAILABLE_EXCEEDED, message, figures), census);
            return Progress::Waits;
        }
        if census.activated.len() >= census.required().max(1) {
            draft.move_step(place, StepState::Verifying, None);
            return Progress::Moved;
        }
        draft.report(report::activating(draft, place, census, self.now));
        self.rest_until_activated(draft, place, census);
        self.wait(draft, place, census, &[])
    }

    fn pause(&self, draft: &mut Draft, error: RolloutError, census: &Census) {
        let summary = format!("Paused: {}", error.message);
        draft.move_rollout(RolloutState::Paused, Some(error));
        draft.report(report::of_nodes(summary, census, None));
    }

    fn fail_share(&self, draft: &mut Draft, place: usize, census: &Census) -> Progress {
        let (failed, total) = (census.failed.len(), census.total);
        let threshold = draft.rollout().spec.rollback_threshold;
        let message = format!("{failed} of {total} nodes could not activate the bundle.");
        let details = json!({
            "step_index": draft.step(place).index,
            "failed": failed,
            "total": total,
            "rollback_threshold": threshold,
            "nodes": report::failures(draft, &census.failed),
        });
        let fault = error(FAILURE_THRESHOLD_EXCEEDED, message, details);
        self.fail(draft, place, fault, false)
    }

    fn fail(&self, draft: &mut Draft, place: usize, error: RolloutError, rolls_back: bool) -> Progress {
        let failure = Failure { place, step_error: error.clone(), error, rolls_back };
        finish::fail(draft, self.observation, failure);
        Progress::Moved
    }

    /// Waits until the load balancer has acknowledged the split.
    fn wait_for_shift(&self, draft: &mut Draft, place: usize, census: &Census) -> Progress {
        if let Some(shift) = traffic::shift(draft.rollout()) {
            let split = shift.split;
            let mut summary = format!(
                "Waiting for the load balancer to acknowledge green {} %, blue {} %.",
                split.green, split.blue
            );
            if let Some(error) = &shift.error {
                summary.push_str(&format!(" The last try failed: {error}"));
            }
            let until = report::deadline_of(draft, place, census, self.now);
            draft.report(Waiting { summary, until, ..Waiting::default() });
        }
        self.wait(draft, place, census, &[])
    }

    /// Waits on, unless patience has ended.
    fn wait(&self, draft: &mut Draft, place: usize, census: &Census, gates: &[Value]) -> Progress {
        let elapsed = elapsed(draft.step(place), self.now);
        if elapsed <= census.deadline {
            return Progress::Waits;
        }
        if draft.rollout().rollback_of.is_some() {
            return self.leave_behind(draft, place, census);
        }
        let index = draft.step(place).index;
        let offline = census.names(&census.unavailable, self.observation);
        let missing = census.waiting.len();
        let mut message = format!("Step {index} was not done within {} s.", census.deadline.num_seconds());
        if !offline.is_empty() {
            message.push_str(&format!(" Offline: {}.", offline.join(", ")));
        }
        let details = json!({
            "step_index": index,
            "elapsed_seconds": elapsed.num_seconds(),
            "not_activated": missing,
            "offline_nodes": offline,
            "gates": gates,
        });
        let failure = Failure {
            place,
            step_error: error("deadline_exceeded", message.clone(), details.clone()),
            error: error(STEP_DEADLINE_EXCEEDED, message, details),
            rolls_back: false,
        };
        finish::fail(draft, self.observation, failure);
        Progress::Moved
    }

    /// A rollback does not give up on nodes that are away, slow or unwell: they keep their target and converge later.
    /// Only nodes that nobody looked at hold it up, because they may not have been told yet.
    fn leave_behind(&self, draft: &mut Draft, place: usize, census: &Census) -> Progress {
        if census.unobserved > 0 {
            return Progress::Waits;
        }
        let passed = self.evaluate(draft, census).passed;
        finish::complete_step(draft, place, |id| passed.contains(&id));
        Progress::Moved
    }
}

#[cfg(test)]
mod tests;
