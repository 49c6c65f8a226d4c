//! Agreeing to rollouts, refusing them, and on which terms they are created.

use super::sentence;
use crate::ctl::screen::{clean, instant, table};
use crate::ctl::session::Session;
use crate::ctl::{environment, find, template};
use chrono::{DateTime, TimeDelta};
use serde_json::json;
use zentinel_core::{Result, Timestamp};
use zentinel_http::client::{NewRollout, RolloutView};

/// When a rollout may start, and where it may go.
#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Terms {
    /// Start at this instant (2026-12-24T18:00:00Z) or after this time (30m, 2h, 1d).
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "no_start")]
    at: Option<Moment>,
    /// Only nodes of this environment; the bundle must be promoted to it.
    #[arg(long, value_name = "SLUG")]
    environment: Option<String>,
    /// Take what is left out from this template; `none` for the server's defaults.
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Start in spite of freeze windows, for this reason; takes an admin's key.
    #[arg(long, value_name = "REASON")]
    override_freeze: Option<String>,
}

/// An instant, or a time from now.
#[derive(Clone, Copy, Debug)]
enum Moment {
    At(Timestamp),
    In(TimeDelta),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Moment::At(at.to_utc()));
    }
    let wrong = "expected an instant such as 2026-12-24T18:00:00Z, or a time such as 30m, 2h, 1d";
    crate::ctl::token::period(text).map(Moment::In).map_err(|_| wrong.to_owned())
}

impl Terms {
    /// Adds the terms to a rollout to create.
    ///
    /// # Errors
    /// `NotFound` for an environment or a template.
    pub(super) async fn add(self, session: &Session, rollout: &mut NewRollout) -> Result<()> {
        rollout.scheduled_at = self.at.map(|at| match at {
            Moment::At(at) => at,
            Moment::In(time) => session.now() + time,
        });
        if let Some(text) = &self.environment {
            rollout.environment_id = Some(environment::named(session, text).await?.id);
        }
        rollout.template_id = match self.template.as_deref() {
            None => None,
            Some("none") => Some(None),
            Some(text) => Some(Some(template::named(session, text).await?.id)),
        };
        rollout.override_freeze = self.override_freeze.is_some().then_some(true);
        rollout.override_reason = self.override_freeze;
        Ok(())
    }
}

/// `zentinelctl rollout approve`.
///
/// # Errors
/// Those of the calls.
pub(super) async fn approve(session: &Session, text: &str, comment: Option<&str>) -> Result<()> {
    let id = find::rollout(session, text).await?.id;
    let rollout = session.client.approve_rollout(&session.project, id, comment).await?;
    session.screen.answer(&rollout, || agreed(&rollout))
}

/// `zentinelctl rollout reject`.
///
/// # Errors
/// Those of the calls.
pub(super) async fn reject(session: &Session, text: &str, comment: &str) -> Result<()> {
    let id = find::rollout(session, text).await?.id;
    let rollout = session.client.reject_rollout(&session.project, id, comment).await?;
    session.screen.answer(&rollout, || agreed(&rollout))
}

/// `zentinelctl rollout approvals`.
///
/// # Errors
/// Those of the calls.
pub(super) async fn list(session: &Session, text: &str) -> Result<()> {
    let rollout = find::rollout(session, text).await?;
    let approvals = session.client.approvals(&session.project, rollout.id).await?.items;
    let answer = json!({
        "approvals": approvals, "approval_state": rollout.approval_state, "needed": rollout.approvals.needed,
    });
    session.screen.answer(&answer, || {
        let rows: Vec<_> = approvals
            .iter()
            .map(|one| {
                let by = one.by_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
                let comment = clean(one.comment.as_deref().unwrap_or_default());
                vec![format!("{} {by}", one.by_type), instant(one.inserted_at), comment]
            })
            .collect();
        let mut lines = vec![agreed(&rollout)];
        lines.extend(table(&["BY", "AT", "COMMENT"], &rows));
        lines.join("\n")
    })
}

/// How many agreed, of how many.
pub(super) fn figures(rollout: &RolloutView) -> String {
    let figures = rollout.approvals;
    let state = rollout.approval_state.replace('_', " ");
    format!("{} ({} of {})", clean(&state), figures.count, figures.needed)
}

fn agreed(rollout: &RolloutView) -> String {
    let summary = &rollout.waiting.summary;
    let waits = if summary.is_empty() { String::new() } else { format!(". {}", clean(summary)) };
    format!("{}, {}{waits}", sentence(rollout), figures(rollout))
}
