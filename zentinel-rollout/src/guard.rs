//! Whether a rollout may start: approvals, schedule, freeze windows, promotion.
//!
//! One pure function, [`judge`], asked wherever a rollout could start: at its creation, when an operator
//! starts it, and when the control plane does. So every entry obeys the same rules.
//!
//! The environments that count are the one that the rollout names, or else those of its target nodes: leaving
//! the name out gets nobody around an environment's rules. A rollout that undoes another one is exempt from
//! all of it; one that goes straight back to a recently healthy bundle from all but promotion.

use crate::approval;
use chrono::TimeDelta;
use std::collections::BTreeSet;
use zentinel_core::entity::{Approval, ApprovalState, Environment, FreezeWindow, ProjectSettings, Rollout};
use zentinel_core::id::{EnvironmentId, FreezeWindowId, TypedId as _};
use zentinel_core::{Actor, Error, Timestamp};

/// Everything that the judgement depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The rollout.
    pub rollout: &'a Rollout,
    /// What is set for its project.
    pub project: &'a ProjectSettings,
    /// The environments that count.
    pub environments: &'a [Environment],
    /// Those of them that the bundle was not released to.
    pub closed: &'a [Environment],
    /// Who made the bundle.
    pub author: Option<Actor>,
    /// The freeze windows of the project.
    pub freezes: &'a [FreezeWindow],
}

/// What keeps a rollout from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The bundle was not released to an environment.
    NotPromoted {
        /// The environment.
        environment: EnvironmentId,
        /// What people call it.
        name: String,
    },
    /// Somebody refused.
    Rejected {
        /// Why.
        comment: String,
    },
    /// Not enough people agreed.
    Approval {
        /// How many did.
        given: usize,
        /// How many must.
        needed: u32,
        /// Enough did, but nobody except the author of the bundle.
        only_author: bool,
    },
    /// Its time has not come.
    Schedule {
        /// When it comes.
        at: Timestamp,
    },
    /// A freeze window holds, now or when its time comes.
    Freeze {
        /// The window that ends last.
        window: FreezeWindowId,
        /// What people call it.
        name: String,
        /// When it ends.
        until: Timestamp,
    },
}

impl Obstacle {
    /// When it goes away without anybody's doing.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Schedule { at } => Some(*at),
            Self::Freeze { until, .. } => Some(*until),
            Self::NotPromoted { .. } | Self::Rejected { .. } | Self::Approval { .. } => None,
        }
    }

    /// For a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        let time = |at: &Timestamp| at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
        match self {
            Self::NotPromoted { name, .. } => format!("The bundle is not promoted to {name}."),
            Self::Rejected { comment } => format!("Rejected: {comment}"),
            Self::Approval { only_author: true, .. } => {
                "Waits for an approval by somebody other than the author of the bundle.".to_owned()
            }
            Self::Approval { given: 0, needed: 1, .. } => "Waits for approval.".to_owned(),
            Self::Approval { given: 0, needed, .. } => format!("Waits for {needed} approvals."),
            Self::Approval { given, needed, .. } => {
                let missing = usize::try_from(*needed).unwrap_or(usize::MAX).saturating_sub(*given);
                format!("Waits for {missing} of {needed} approvals.")
            }
            Self::Schedule { at } => format!("Starts at {}.", time(at)),
            Self::Freeze { name, until, .. } => {
                format!("Waits until the freeze window {name} ends at {}.", time(until))
            }
        }
    }

    /// The refusal of a caller who wants it to start now.
    #[must_use]
    pub fn refusal(&self, approval: &Approval) -> Error {
        match self {
            Self::NotPromoted { environment, name } => {
                Error::conflict("Bundle is not promoted to this environment")
                    .with_details(serde_json::json!({"environment_id": environment, "environment": name}))
                    .with_hint("promote the bundle to the environment first")
            }
            Self::Rejected { .. } | Self::Approval { .. } => {
                let hint = if matches!(self, Self::Rejected { .. }) {
                    "it was rejected: cancel it and create another one"
                } else {
                    "somebody other than its creator has to approve it"
                };
                let figures = serde_json::json!({"count": approval.given.len(), "needed": approval.needed});
                let details =
                    serde_json::json!({"approval_state": approval.state.as_str(), "approvals": figures});
                Error::conflict("Approval required").with_details(details).with_hint(hint)
            }
            Self::Schedule { .. } => Error::conflict("Rollout is scheduled for later"),
            Self::Freeze { window, name, until } => {
                let ends_at = until.format("%Y-%m-%dT%H:%M:%SZ").to_string();
                let window =
                    serde_json::json!({"id": window.uuid().to_string(), "name": name, "ends_at": ends_at});
                Error::conflict("Freeze window active")
                    .with_details(serde_json::json!({"freeze_window": window}))
                    .with_hint("schedule it for later, or let an admin override the freeze with a reason")
            }
        }
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The approvals as they stand under the settings of now.
    pub approval: Approval,
    /// What keeps it from starting, the hardest first; nothing when it may start.
    pub obstacles: Vec<Obstacle>,
}

impl Judgement {
    /// Whether nothing is in the way.
    #[must_use]
    pub fn may_start(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// When to ask again, where time alone may help.
    #[must_use]
    pub fn ask_again_at(&self) -> Option<Timestamp> {
        let frozen = matches!(self.obstacles.last(), Some(Obstacle::Freeze { .. }));
        let until = self.obstacles.iter().filter_map(Obstacle::until).max()?;
        Some(if frozen { until + AFTER } else { until })
    }

    /// Every obstacle, in sentences.
    #[must_use]
    pub fn summary(&self) -> String {
        let sentences: Vec<String> = self.obstacles.iter().map(Obstacle::sentence).collect();
        sentences.join(" ")
    }
}

/// Judges whether a rollout may start. A rollout whose time has not come is asked about at that time.
#[must_use]
pub fn judge(situation: &Situation<'_>, now: Timestamp) -> Judgement {
    let rollout = situation.rollout;
    if rollout.rollback_of.is_some() {
        return Judgement { approval: rollout.approval.clone(), obstacles: Vec::new() };
    }
    let closed = situation.closed.iter().map(|environment| Obstacle::NotPromoted {
        environment: environment.id,
        name: environment.name.clone(),
    });
    let mut obstacles: Vec<Obstacle> = closed.collect();
    if rollout.revert.is_some() {
        // Back in a hurry, but only to where the bundle was released.
        return Judgement { approval: rollout.approval.clone(), obstacles };
    }
    let needed = approval::needed(situation.project, situation.environments);
    let approval = approval::settle(&rollout.approval, needed, situation.author);
    match approval.state {
        ApprovalState::NotRequired | ApprovalState::Approved => {}
        ApprovalState::Rejected => {
            let comment = approval.rejection.as_ref().and_then(|verdict| verdict.comment.clone());
            obstacles.push(Obstacle::Rejected { comment: comment.unwrap_or_default() });
        }
        ApprovalState::PendingApproval => obstacles.push(Obstacle::Approval {
            given: approval.given.len(),
            needed: approval.needed,
            only_author: approval.given.len() >= usize::try_from(approval.needed).unwrap_or(usize::MAX),
        }),
    }
    let later = rollout.scheduled_at.filter(|at| *at > now);
    obstacles.extend(later.map(|at| Obstacle::Schedule { at }));
    if rollout.freeze_override.is_none() {
        let concerned = situation.environments.iter().map(|environment| environment.id).collect();
        obstacles.extend(frozen(situation.freezes, &concerned, later.unwrap_or(now)));
    }
    Judgement { approval, obstacles }
}

/// How long after a window a rollout starts: its last instant still belongs to it.
const AFTER: TimeDelta = TimeDelta::seconds(1);

/// Most windows that follow upon one another; beyond them the end is not looked for.
const MAX_CHAIN: usize = 100;

/// The freeze that holds at an instant for any of these environments. Windows that overlap or follow upon one
/// another are one freeze, which ends with the last of them.
#[must_use]
pub fn frozen(
    windows: &[FreezeWindow],
    environments: &BTreeSet<EnvironmentId>,
    at: Timestamp,
) -> Option<Obstacle> {
    let concerned: Vec<&FreezeWindow> = windows
        .iter()
        .filter(|window| window.environment_id.is_none_or(|id| environments.contains(&id)))
        .collect();
    let mut found: Option<(&FreezeWindow, Timestamp)> = None;
    let mut instant = at;
    for _ in 0..MAX_CHAIN {
        let ends = concerned.iter().filter_map(|window| Some((*window, window.until(instant)?)));
        match ends.max_by_key(|(window, until)| (*until, window.id)) {
            Some((window, until)) if found.is_none_or(|(_, last)| until > last) => {
                found = Some((window, until));
                instant = until + AFTER;
            }
            _ => break,
        }
    }
    found.map(|(window, until)| Obstacle::Freeze { window: window.id, name: window.name.clone(), until })
}

#[cfg(test)]
mod tests;
