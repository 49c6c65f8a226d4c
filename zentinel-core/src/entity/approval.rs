//! Who must agree to a rollout, and who did.

use crate::scope::Actor;
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};

/// Whether a rollout may start, as far as people have a say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has to agree.
    #[default]
    NotRequired,
    /// Somebody has to agree and not enough people have.
    PendingApproval,
    /// Enough people agreed, or an automatic rollback needs nobody.
    Approved,
    /// Somebody refused; the rollout can only be cancelled.
    Rejected,
}

impl ApprovalState {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRequired => "not_required",
            Self::PendingApproval => "pending_approval",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// What one person said about a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The person; an API key that belongs to nobody speaks for itself.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub comment: Option<String>,
}

/// The approvals of a rollout. They are part of its record, so that two people who approve at the same
/// instant are both counted, once each. What is approved cannot change: bundle, targets and strategy of a
/// rollout are fixed at its creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Where it stands.
    pub state: ApprovalState,
    /// How many must agree.
    pub needed: u32,
    /// Who agreed, in order; at most once each.
    pub given: Vec<Verdict>,
    /// Who refused.
    pub rejection: Option<Verdict>,
    /// Why nobody is asked although settings demand it, for example `auto_rollback`.
    pub exempt: Option<String>,
}

/// An admin's decision that a rollout starts in spite of freeze windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeOverride {
    /// Who decided.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}
