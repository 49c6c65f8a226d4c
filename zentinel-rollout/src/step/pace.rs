//! How fast nodes may be told: so many per minute, on average over the steps.

use crate::transition::Draft;
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::Waiting;

/// Before this instant the step at `place` must not begin, if there is a limit: the nodes of the step before count.
pub(super) fn earliest(draft: &Draft, place: usize) -> Option<Timestamp> {
    let per_minute = i64::from(draft.rollout().spec.nodes_per_minute?).max(1);
    let before = &draft.state().steps()[place.checked_sub(1)?];
    let nodes = i64::try_from(before.node_ids.len()).unwrap_or(i64::MAX);
    let millis = nodes.saturating_mul(60_000) / per_minute;
    before.started_at?.checked_add_signed(TimeDelta::try_milliseconds(millis)?)
}

/// What the rollout waits for until then.
pub(super) fn waiting(draft: &Draft, place: usize, at: Timestamp) -> Waiting {
    let per_minute = draft.rollout().spec.nodes_per_minute.unwrap_or_default();
    let (number, of) = (place + 1, draft.state().steps().len());
    Waiting {
        summary: format!("Step {number} of {of} waits: at most {per_minute} nodes per minute are told."),
        until: Some(at),
        ..Waiting::default()
    }
}
