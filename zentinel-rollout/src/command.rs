//! What an operator may do with a rollout. Every command is legal or refused with a reason, in every state.

use crate::decision::{Decision, Effect};
use crate::observation::Observation;
use crate::plan::no_targets;
use crate::step::{self, FIRST_TICK};
use crate::traffic;
use crate::transition::{Draft, State};
use chrono::TimeDelta;
use zentinel_core::entity::{RolloutState, StepState, Waiting};
use zentinel_core::{Error, Result, Timestamp};

/// How long after its end a rollout can still be rolled back.
pub const ROLLBACK_WINDOW: TimeDelta = TimeDelta::hours(24);

/// The refusal of commands that are about slots.
pub const NOT_BLUE_GREEN: &str = "Not a blue-green rollout";

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Start a pending rollout.
    Start,
    /// Hold a running one: no new step starts, nodes that were told may finish.
    Pause,
    /// As [`Command::Pause`], and withdraw the bundle from nodes that have not activated it.
    Hold,
    /// Go on with a held one.
    Resume,
    /// Complete the step that the strategy holds, and go on.
    Advance,
    /// Blue-green: take the traffic of the step that is under way back at once, and hold. A resume gives the slot its
    /// weight again, once its gates pass.
    SwapSlot,
    /// End it; nodes that have not activated the bundle are no longer told to.
    Cancel,
    /// End it and give every touched node back what it ran before.
    Rollback,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Pause,
        Self::Hold,
        Self::Resume,
        Self::Advance,
        Self::SwapSlot,
        Self::Cancel,
        Self::Rollback,
    ];

    /// What to do instead of a command that is refused.
    fn hint(self, state: &State) -> Option<&'static str> {
        let paused = state.rollout().state == RolloutState::Paused;
        match self {
            Self::Advance if paused && traffic::awaits_shift(state.rollout()) => {
                Some("the load balancer has not acknowledged the last weight yet")
            }
            Self::Advance if paused => Some("resume it: the gates of the active step have not passed yet"),
            Self::SwapSlot if traffic::is_catching_up(state.steps()) => {
                Some("nodes of the blue slot are being brought the bundle; roll back instead")
            }
            Self::SwapSlot if traffic::is_blue_green(state.steps()) && state.rollout().state.is_open() => {
                Some("there is no traffic to take back; it must be running, on two slots")
            }
            _ => None,
        }
    }

    /// Whether it may be carried out now.
    ///
    /// # Errors
    /// [`Kind::Conflict`](zentinel_core::Kind::Conflict) with the text of the wire contract otherwise.
    pub fn check(self, state: &State, now: Timestamp) -> Result<()> {
        use RolloutState::{Cancelled, Completed, Failed, Paused, Pending, Running};
        let at = state.rollout().state;
        let held = state.active().is_some_and(|place| state.steps()[place].state == StepState::Validating);
        let (allowed, refusal) = match self {
            Self::Start => (at == Pending, "Rollout cannot be started in current state"),
            Self::Pause | Self::Hold => (at == Running, "Rollout cannot be paused in current state"),
            Self::Resume => (at == Paused, "Rollout cannot be resumed in current state"),
            Self::Advance => (
                at == Paused && held && !traffic::awaits_shift(state.rollout()),
                "Rollout must be paused to advance traffic",
            ),
            Self::SwapSlot if !traffic::is_blue_green(state.steps()) => (false, NOT_BLUE_GREEN),
            Self::SwapSlot => {
                let open = matches!(at, Running | Paused);
                let both = traffic::has_two_slots(state.steps());
                // A slot that is being changed gets no traffic: from here on only a rollback leads back.
                let intact = !traffic::is_catching_up(state.steps());
                (open && both && intact, "Rollout cannot swap slot in current state")
            }
            Self::Cancel => (at.is_open(), "Rollout cannot be cancelled in current state"),
            Self::Rollback => {
                let recent = |end: Timestamp| now - end <= ROLLBACK_WINDOW;
                let in_time = state.rollout().completed_at.is_some_and(recent);
                let right = match at {
                    Running | Paused => true,
                    Completed | Failed => in_time && state.rollout().rolled_back_by.is_none(),
                    Pending | Cancelled => false,
                };
                let first = state.rollout().rollback_of.is_none();
                (right && first, "Rollout cannot be rolled back in current state")
            }
        };
        if allowed {
            return Ok(());
        }
        let refusal = Error::conflict(refusal);
        Err(match self.hint(state) {
            Some(hint) => refusal.with_hint(hint),
            None => refusal,
        })
    }
}

/// Carries out a command. A command that is refused changes nothing.
///
/// `observation` covers [`State::concerned`]; nodes that it does not cover count as they were last known.
///
/// # Errors
/// As [`Command::check`]; [`Kind::Invalid`](zentinel_core::Kind::Invalid) for starting a rollout without nodes.
pub fn apply(command: Command, state: State, observation: &Observation, now: Timestamp) -> Result<Decision> {
    command.check(&state, now)?;
    if command == Command::Start && state.nodes().is_empty() {
        return Err(no_targets());
    }
    let mut draft = Draft::new(state, now);
    match command {
        Command::Start => start(&mut draft, now),
        Command::Pause => pause(&mut draft),
        Command::Hold => {
            pause(&mut draft);
            step::withdraw_unactivated(&mut draft, observation);
        }
        Command::Resume => resume(&mut draft, now),
        Command::Advance => {
            resume(&mut draft, now);
            step::advance_held(&mut draft, observation);
        }
        Command::SwapSlot => swap(&mut draft),
        Command::Cancel => step::cancel(&mut draft, observation),
        Command::Rollback => step::roll_back_by_operator(&mut draft, observation, now),
    }
    if !draft.rollout().state.is_open() {
        step::rearm_ended(&mut draft, now);
    }
    Ok(draft.finish())
}

fn start(draft: &mut Draft, now: Timestamp) {
    draft.move_rollout(RolloutState::Running, None);
    let nodes = draft.state().nodes().keys().copied().collect();
    draft.effect(Effect::Claim { nodes });
    draft.report(Waiting { summary: "The first step starts.".to_owned(), ..Waiting::default() });
    draft.wake_at(Some(now + FIRST_TICK));
}

fn pause(draft: &mut Draft) {
    draft.move_rollout(RolloutState::Paused, None);
    draft.report(Waiting { summary: "Paused by an operator.".to_owned(), ..Waiting::default() });
    draft.wake_at(None);
}

fn swap(draft: &mut Draft) {
    draft.edit_traffic(|traffic| {
        traffic.swapped = !traffic.swapped;
        traffic.withheld = true;
    });
    let active = draft.state().active();
    if let Some(place) = active.filter(|place| draft.step(*place).state == StepState::Validating) {
        draft.move_step(place, StepState::Verifying, None);
    }
    if draft.rollout().state == RolloutState::Running {
        draft.move_rollout(RolloutState::Paused, None);
    }
    draft.settle_traffic();
    let summary = "The slots were swapped by an operator; the blue slot has all traffic. A resume gives the green slot \
                   its weight again, once its gates pass.";
    draft.report(Waiting { summary: summary.to_owned(), ..Waiting::default() });
    draft.wake_at(None);
}

/// Takes note of the load balancer's acknowledgement of a split; `None` when it is not waited for any more.
#[must_use]
pub fn acknowledge(state: State, number: u32, now: Timestamp) -> Option<Decision> {
    let shift = traffic::shift(state.rollout())?;
    if shift.number != number || shift.acknowledged_at.is_some() {
        return None;
    }
    let mut draft = Draft::new(state, now);
    draft.acknowledge_shift();
    if draft.rollout().state == RolloutState::Running {
        draft.wake_at(Some(now));
    }
    Some(draft.finish())
}

/// Takes note of why a split was not acknowledged; `None` when it is not waited for any more, or nothing is new.
#[must_use]
pub fn shift_failed(state: State, number: u32, error: &str, now: Timestamp) -> Option<Decision> {
    let shift = traffic::shift(state.rollout())?;
    let known = shift.error.as_deref() == Some(error);
    if shift.number != number || shift.acknowledged_at.is_some() || known {
        return None;
    }
    let mut draft = Draft::new(state, now);
    draft.edit_traffic(|traffic| {
        if let Some(shift) = &mut traffic.shift {
            shift.error = Some(error.to_owned());
        }
    });
    Some(draft.finish())
}

/// Grace after a pause for too many unavailable nodes, in due ticks.
const GRACE_TICKS: u32 = 2;

fn resume(draft: &mut Draft, now: Timestamp) {
    let paused_ms = draft.rollout().paused_at.map_or(0, |since| (now - since).num_milliseconds());
    let unavailable = draft
        .rollout()
        .error
        .as_ref()
        .filter(|error| error.reason == step::MAX_UNAVAILABLE_EXCEEDED)
        .and_then(|error| error.details.get("unavailable")?.as_u64());
    draft.move_rollout(RolloutState::Running, None);
    draft.edit_rollout(|rollout| {
        let count = unavailable.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        rollout.unavailable_grace = count.map(|count| (count, GRACE_TICKS));
    });
    if let Some(place) = draft.state().active() {
        draft.edit_step(place, |step| {
            step.failing_since = None;
            if step.state == StepState::Validating {
                // A plain resume starts the validation anew.
                step.entered_at = Some(now);
                step.paused_ms = 0;
            } else {
                step.paused_ms = step.paused_ms.saturating_add(u64::try_from(paused_ms).unwrap_or(0));
            }
        });
    }
    draft.report(Waiting { summary: "Resumed.".to_owned(), ..Waiting::default() });
    draft.wake_at(Some(now + FIRST_TICK));
}
