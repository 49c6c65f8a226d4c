//! Who must agree to a rollout, and what follows from who did. Pure, like everything of the core.

use zentinel_core::entity::{Approval, ApprovalState, Environment, ProjectSettings, Rollout, Verdict};
use zentinel_core::{Actor, Error, Result, Timestamp};

/// How many people must agree: the strictest of the project and the environments; none where nobody asks.
#[must_use]
pub fn needed(project: &ProjectSettings, environments: &[Environment]) -> u32 {
    let project = project.approval_required.then_some(project.approvals_needed);
    let environments = environments.iter().map(|environment| &environment.settings);
    let environments =
        environments.filter(|settings| settings.approval_required).map(|settings| settings.approvals_needed);
    project.into_iter().chain(environments).map(|needed| needed.max(1)).max().unwrap_or(0)
}

/// The approvals as they stand when `needed` people must agree. Settings may have changed since the last
/// look: becoming stricter asks for more, also of a rollout that was approved but has not started.
#[must_use]
pub fn settle(approval: &Approval, needed: u32, author: Option<Actor>) -> Approval {
    let mut approval = approval.clone();
    if approval.exempt.is_some() || approval.state == ApprovalState::Rejected {
        return approval;
    }
    approval.needed = needed;
    approval.state = if needed == 0 && approval.given.is_empty() {
        ApprovalState::NotRequired
    } else if suffices(&approval.given, needed, author) {
        ApprovalState::Approved
    } else {
        ApprovalState::PendingApproval
    };
    approval
}

/// Enough people agreed, and not only the author of the bundle.
fn suffices(given: &[Verdict], needed: u32, author: Option<Actor>) -> bool {
    let enough = u64::try_from(given.len()).unwrap_or(u64::MAX) >= u64::from(needed);
    enough && (needed == 0 || given.iter().any(|verdict| Some(verdict.by) != author))
}

/// Who speaks, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Hearing<'a> {
    /// The rollout, with its approvals settled.
    pub rollout: &'a Rollout,
    /// Who made its bundle.
    pub author: Option<Actor>,
    /// The person who speaks; an API key that belongs to nobody speaks for itself.
    pub by: Actor,
    /// When.
    pub now: Timestamp,
}

impl Hearing<'_> {
    /// The person agrees.
    ///
    /// # Errors
    /// `Conflict`: `invalid_state` unless the rollout waits for approvals, `self_approval` for whoever asked
    /// for it, `already_approved` the second time.
    pub fn approve(&self, comment: Option<String>) -> Result<Approval> {
        let approval = self.open()?;
        if self.by == self.rollout.requested_by.unwrap_or(self.rollout.created_by) {
            return Err(Error::conflict("self_approval")
                .with_hint("a rollout is approved by somebody other than its creator"));
        }
        if approval.given.iter().any(|verdict| verdict.by == self.by) {
            return Err(Error::conflict("already_approved").with_hint("one approval per person counts"));
        }
        let mut approval = approval.clone();
        approval.given.push(Verdict { by: self.by, at: self.now, comment });
        Ok(settle(&approval, approval.needed, self.author))
    }

    /// The person refuses; that is final.
    ///
    /// # Errors
    /// `Conflict`: `invalid_state` unless the rollout waits for approvals; `Invalid`: `comment_required`.
    pub fn reject(&self, comment: &str) -> Result<Approval> {
        let approval = self.open()?;
        if comment.trim().is_empty() {
            return Err(Error::invalid("comment_required").with_hint("say why in `comment`"));
        }
        let comment = Some(comment.trim().to_owned());
        Ok(Approval {
            state: ApprovalState::Rejected,
            rejection: Some(Verdict { by: self.by, at: self.now, comment }),
            ..approval.clone()
        })
    }

    fn open(&self) -> Result<&Approval> {
        let approval = &self.rollout.approval;
        let waits = self.rollout.state == zentinel_core::entity::RolloutState::Pending
            && approval.state == ApprovalState::PendingApproval;
        if waits {
            return Ok(approval);
        }
        let details = serde_json::json!({
            "state": self.rollout.state.as_str(), "approval_state": approval.state.as_str(),
        });
        Err(Error::conflict("invalid_state")
            .with_details(details)
            .with_hint("only a rollout with approval_state pending_approval can be approved or rejected"))
    }
}
