//! What people say about rollouts.

use super::start::asks_for_approval;
use super::terms::waiting;
use super::{Engine, start_job};
use crate::approval::Hearing;
use serde_json::json;
use zentinel_core::entity::{ApprovalState, AuditEntry, Event, Membership, Role, Rollout, User};
use zentinel_core::id::RolloutId;
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope};

/// What somebody says.
#[derive(Clone, Debug)]
enum Word {
    Yes(Option<String>),
    No(String),
}

impl Engine {
    /// Somebody agrees to a rollout. With the last approval a rollout that was asked to start does so, as
    /// soon as schedule and freeze windows let it.
    ///
    /// `person` is who speaks (see [`Rollout::requested_by`]), `actor` the credential used.
    ///
    /// # Errors
    /// `NotFound`; `Conflict`: `invalid_state`, `self_approval`, `already_approved`; `Forbidden`:
    /// `not_authorized` for a person who is not an operator of the organisation.
    pub async fn approve(
        &self,
        scope: &Scope,
        actor: Actor,
        person: Actor,
        id: RolloutId,
        comment: Option<String>,
    ) -> Result<Rollout> {
        let rollout = self.hear(scope, (actor, person), id, Word::Yes(comment)).await?;
        if rollout.approval.state != ApprovalState::Approved || !rollout.starts_by_itself {
            return Ok(rollout);
        }
        // The job that was enqueued with the approval starts it should this fail.
        if let Err(error) = self.start_if_due(id).await {
            tracing::warn!(rollout = %id, %error, "an approved rollout was not started at once");
        }
        Ok(self.store.fetch::<Rollout>(scope, id).await?.value)
    }

    /// Somebody refuses a rollout, for good: it can only be cancelled then.
    ///
    /// # Errors
    /// As [`Engine::approve`]; `Invalid`: `comment_required`.
    pub async fn reject(
        &self,
        scope: &Scope,
        actor: Actor,
        person: Actor,
        id: RolloutId,
        comment: String,
    ) -> Result<Rollout> {
        self.hear(scope, (actor, person), id, Word::No(comment)).await
    }

    async fn hear(&self, scope: &Scope, who: (Actor, Actor), id: RolloutId, word: Word) -> Result<Rollout> {
        let mut retry = self.retry();
        loop {
            if let Some(outcome) = retry.judge(self.try_hear(scope, who, id, &word).await).await {
                return outcome;
            }
        }
    }

    /// Reads, counts and writes under the rollout's revision: of two people who speak at the same time one
    /// is heard after the other.
    async fn try_hear(
        &self,
        scope: &Scope,
        (actor, person): (Actor, Actor),
        id: RolloutId,
        word: &Word,
    ) -> Result<Rollout> {
        let read = self.store.fetch::<Rollout>(scope, id).await?;
        let email = self.standing(&read, person).await?;
        let (rules, now) = (self.rules_of(&read).await?, self.clock.now());
        let mut rollout = read.value.clone();
        rollout.approval = rules.judge(&rollout, now).approval;
        let asked = read.approval.state != ApprovalState::PendingApproval
            && rollout.approval.state == ApprovalState::PendingApproval;
        let question = asked.then(|| asks_for_approval(&rollout, now));
        let hearing = Hearing { rollout: &rollout, author: rules.author(), by: person, now };
        let approval = match word {
            Word::Yes(comment) => hearing.approve(comment.clone())?,
            Word::No(comment) => hearing.reject(comment)?,
        };
        rollout.approval = approval;
        let judgement = rules.judge(&rollout, now);
        rollout.waiting = waiting(&rollout, &judgement);
        rollout.updated_at = now;
        let mut changes = Changes::new().update(&read, &rollout)?;
        let (action, told) = told(&rollout, person, email, word);
        let scope = rollout.scope();
        changes = changes
            .audit(AuditEntry::new(&scope, actor, action, id, now).with_metadata(told.clone()))
            .event(Event::new(&scope, action, told, now));
        changes.events.extend(question);
        if rollout.starts_by_itself {
            let at = if judgement.may_start() { Some(now) } else { judgement.ask_again_at() };
            changes.jobs.extend(at.map(|at| start_job(id, at)));
        }
        self.commit(changes).await?;
        Ok(rollout)
    }

    /// Demands that the person may speak; returns the address of a user. A key that belongs to nobody may by
    /// the scope that it holds.
    async fn standing(&self, rollout: &Rollout, person: Actor) -> Result<Option<String>> {
        let Actor::User(user) = person else {
            return Ok(None);
        };
        let role = self.role_of(rollout.organisation_id, user).await?;
        if role < Some(Role::Operator) {
            return Err(Error::forbidden("not_authorized")
                .with_hint("approving takes the role operator in the organisation"));
        }
        Ok(self.store.find::<User>(&Scope::Instance, user).await?.map(|user| user.value.email))
    }

    /// A person's role in an organisation.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn role_of(
        &self,
        organisation: zentinel_core::id::OrganisationId,
        user: zentinel_core::id::UserId,
    ) -> Result<Option<Role>> {
        let query = Query::all(RecordKind::Membership).owned_by(organisation).named(user.to_string());
        let scope = Scope::Organisation(organisation);
        let found = self.store.list::<Membership>(&scope, query).await?;
        Ok(found.items.first().map(|membership| membership.role))
    }
}

/// What log and outbox say of it.
fn told(
    rollout: &Rollout,
    person: Actor,
    email: Option<String>,
    word: &Word,
) -> (&'static str, serde_json::Value) {
    let approval = &rollout.approval;
    match word {
        Word::Yes(comment) => (
            "rollout.approved",
            json!({
                "rollout_id": rollout.id,
                "approver_type": person.kind(),
                "approver_id": person.id(),
                "approver_email": email,
                "comment": comment,
                "approval_state": approval.state.as_str(),
                "approvals": {"count": approval.given.len(), "needed": approval.needed},
            }),
        ),
        Word::No(comment) => (
            "rollout.rejected",
            json!({
                "rollout_id": rollout.id,
                "rejected_by_type": person.kind(),
                "rejected_by_id": person.id(),
                "rejected_by_email": email,
                "comment": comment.trim(),
            }),
        ),
    }
}
