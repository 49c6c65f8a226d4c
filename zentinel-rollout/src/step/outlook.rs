//! How long a rollout rests: until when, and after how many reports, another look can decide
//! anything.

use super::{Tick, elapsed, rearm_ended};
use crate::decision::{Decision, Outlook};
use crate::step::census::Census;
use crate::transition::{Draft, State};
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::RolloutState;

/// What [`step`](super::step) decides for a rollout whose last decision had this outlook, while it
/// holds: at most when to look next. The facts are not looked at, so the cost does not depend on
/// the number of nodes.
///
/// Only for the state of that decision, the observation that it was made of, and an instant up to
/// the outlook's end.
#[must_use]
pub fn rest(state: State, outlook: Outlook, now: Timestamp) -> Decision {
    let mut draft = Draft::new(state, now);
    draft.rest(outlook);
    look_again(&mut draft, now);
    draft.finish()
}

/// Says when to look again.
pub(super) fn look_again(draft: &mut Draft, now: Timestamp) {
    match draft.rollout().state {
        RolloutState::Running => draft.wake_in(super::TICK_INTERVAL),
        RolloutState::Pending | RolloutState::Paused => draft.wake_at(None),
        RolloutState::Completed | RolloutState::Cancelled | RolloutState::Failed => {
            rearm_ended(draft, now);
        }
    }
}

impl Tick<'_> {
    /// Notes how long the decision stands. A running rollout has said so itself, if it waits for
    /// something; others wait for commands and reports only.
    pub(super) fn note_outlook(&self, draft: &mut Draft) {
        if draft.rollout().state != RolloutState::Running {
            draft.rest(Outlook::Rests { until: Timestamp::MAX_UTC, gates_after: usize::MAX });
        }
        // Every due tick uses up grace.
        if draft.rollout().unavailable_grace.is_some() {
            draft.rest(Outlook::Open);
        }
        if self.gates_judge_stragglers(draft) {
            let outlook = match draft.outlook() {
                Outlook::Rests { until, .. } if self.gates.are_timeless() => {
                    Outlook::Rests { until, gates_after: 0 }
                }
                Outlook::Rests { .. } | Outlook::Open => Outlook::Open,
            };
            draft.rest(outlook);
        }
    }

    /// Whether a straggler runs its bundle and has yet to pass.
    fn gates_judge_stragglers(&self, draft: &Draft) -> bool {
        draft.state().stragglers().iter().any(|id| {
            let facts = self.observation.nodes.get(id);
            let judged = |bundle| facts.is_some_and(|facts| facts.runs(bundle));
            draft.node(*id).is_some_and(|node| node.lagging && judged(node.bundle_id))
        })
    }

    /// The step waits for nodes to activate the bundle, until its deadline.
    pub(super) fn rest_until_activated(&self, draft: &mut Draft, place: usize, census: &Census) {
        let until = self.end_of(draft, place, census.deadline);
        let gates_after = census.required().max(1).saturating_sub(census.activated.len());
        draft.rest(Outlook::Rests { until, gates_after });
    }

    /// The step waits for its gates: until the deadline, until a report is too old to be
    /// believed, or until a failure has lasted too long.
    pub(super) fn rest_until_gates_pass(
        &self,
        draft: &mut Draft,
        place: usize,
        census: &Census,
        sustained: Option<Timestamp>,
    ) {
        if !self.gates.are_timeless() {
            return;
        }
        let seen = census.activated.iter().filter_map(|id| self.observation.nodes.get(id)?.last_seen_at);
        let stale = seen.map(|seen| self.gates.believed_until(seen)).filter(|until| *until >= self.now).min();
        let deadline = self.end_of(draft, place, census.deadline);
        let until = [stale, sustained].into_iter().flatten().fold(deadline, Timestamp::min);
        draft.rest(Outlook::Rests { until, gates_after: 0 });
    }

    /// The last instant at which a step has not taken longer than `limit`.
    fn end_of(&self, draft: &Draft, place: usize, limit: TimeDelta) -> Timestamp {
        let left = limit - elapsed(draft.step(place), self.now);
        self.now.checked_add_signed(left).unwrap_or(Timestamp::MAX_UTC)
    }
}
