//! Following a rollout to its end.

use super::{counts, sentence, weights};
use crate::backoff::Backoff;
use crate::ctl::screen::{clean, instant, state};
use crate::ctl::session::Session;
use std::time::Duration;
use zentinel_core::entity::RolloutState;
use zentinel_core::id::RolloutId;
use zentinel_core::{Error, Result};
use zentinel_http::client::{RolloutDetailView, retry_after};

/// First and longest pause while the control plane is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Shows every change; one line each, or the rollout as JSON.
///
/// # Errors
/// `Conflict` when the rollout ends otherwise than completed; those of the calls.
pub(super) async fn run(session: &Session, id: RolloutId, interval: Duration) -> Result<()> {
    let (mut last, mut backoff) = (String::new(), Backoff::new(AWAY.0, AWAY.1));
    let (mut known, mut away) = (false, false);
    while !session.screen.is_gone() {
        let pause = match session.client.rollout(&session.project, id).await {
            Ok(detail) => {
                (known, away) = (true, false);
                backoff.reset();
                show(session, &detail, &mut last)?;
                if !detail.rollout.state.is_open() {
                    return ended(&detail);
                }
                interval
            }
            Err(error) if known && error.kind().is_transient() => {
                if !std::mem::replace(&mut away, true) {
                    session.screen.note(&format!("{}; trying again", clean(&error.to_string())));
                }
                retry_after(&error).unwrap_or_default().max(backoff.pause())
            }
            Err(error) => return Err(error),
        };
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

fn show(session: &Session, detail: &RolloutDetailView, last: &mut String) -> Result<()> {
    let (rollout, progress) = (&detail.rollout, detail.progress);
    let under_way = detail.steps.iter().find(|step| step.state.is_active());
    let step = under_way.map_or_else(String::new, |step| {
        format!(", step {} of {} {}", step.step_index + 1, detail.steps.len(), state(step.state.as_str()))
    });
    let waiting = if rollout.state.is_open() { clean(&rollout.waiting.summary) } else { String::new() };
    let text = format!(
        "{}{step}{}: {}{}{waiting}",
        state(rollout.state.as_str()),
        match weights(rollout) {
            none if none.is_empty() => none,
            weights => format!(", {weights}"),
        },
        counts(&progress),
        if waiting.is_empty() { "" } else { "; " },
    );
    if *last == text {
        return Ok(());
    }
    session.screen.answer(detail, || format!("{}  {text}", instant(session.now())))?;
    *last = text;
    Ok(())
}

fn ended(detail: &RolloutDetailView) -> Result<()> {
    let rollout = &detail.rollout;
    if rollout.state == RolloutState::Completed {
        return Ok(());
    }
    let why = rollout.error.as_ref().map_or_else(String::new, |error| format!(": {}", clean(&error.message)));
    let hint = format!("see which nodes with `zentinelctl rollout show {}`", rollout.id);
    Err(Error::conflict(format!("{}{why}", console::strip_ansi_codes(&sentence(rollout)))).with_hint(hint))
}
