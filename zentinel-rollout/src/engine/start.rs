//! Starting rollouts that exist: by an operator, or by themselves when nothing is in the way any more.

use super::loaded::Loaded;
use super::terms::{Rules, targets_of, touched, waiting};
use super::work::Work;
use super::{Engine, start_job};
use crate::State;
use crate::command::{Command, apply};
use crate::guard::Judgement;
use crate::observation::Observation;
use crate::plan::{self, Plan};
use chrono::TimeDelta;
use serde_json::json;
use zentinel_core::entity::{ApprovalState, Event, FreezeOverride, Rollout, RolloutState};
use zentinel_core::id::RolloutId;
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Kind, RecordKind, Result, Scope, Stored, Timestamp};

/// A scheduled rollout that starts later than this after its time says so.
const MISSED: TimeDelta = TimeDelta::hours(1);

/// Who starts a rollout.
#[derive(Clone, Debug)]
enum Starter {
    /// An operator, now, whatever its schedule says.
    Operator(Actor, Option<FreezeOverride>),
    /// The control plane, when its time has come.
    Itself,
}

/// What became of it.
#[derive(Debug)]
enum Outcome {
    Started(Box<Loaded>),
    Waits,
}

impl Engine {
    /// Starts a pending rollout now, whatever its schedule says. `override_freeze` is an admin's decision to
    /// do so in spite of freeze windows.
    ///
    /// Its targets and steps are planned anew, over the nodes that there are now.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when its state, an approval that is missing, a freeze window, another rollout on
    /// the same nodes or the project's limit does not allow it; `Invalid` when no node is left.
    pub async fn start(
        &self,
        scope: &Scope,
        actor: Actor,
        id: RolloutId,
        override_freeze: Option<FreezeOverride>,
    ) -> Result<Rollout> {
        let starter = Starter::Operator(actor, override_freeze);
        let mut retry = self.retry();
        loop {
            let outcome = async {
                let rollout = self.store.fetch::<Rollout>(scope, id).await?;
                self.try_start(&rollout, &starter).await
            };
            match retry.judge(outcome.await).await {
                Some(Ok(Outcome::Started(loaded))) => {
                    let rollout = loaded.state.rollout().clone();
                    self.keep(*loaded);
                    return Ok(rollout);
                }
                // An operator is refused instead.
                Some(Ok(Outcome::Waits)) => return Ok(self.store.fetch::<Rollout>(scope, id).await?.value),
                Some(Err(error)) => return self.describe(scope, Err(error)).await,
                None => {}
            }
        }
    }

    /// Starts a rollout that starts by itself, if nothing is in the way; otherwise its report says what is.
    /// Returns whether it started. Safe to call at any time, any number of times, by any number of engines.
    ///
    /// # Errors
    /// Those of the store while it is away; nothing is lost, the next call decides again.
    pub async fn start_if_due(&self, id: RolloutId) -> Result<bool> {
        let mut retry = self.retry();
        loop {
            let Some(rollout) = self.store.find::<Rollout>(&Scope::Instance, id).await? else {
                return Ok(false);
            };
            if rollout.state != RolloutState::Pending || !rollout.starts_by_itself {
                return Ok(false);
            }
            let outcome = self.try_start(&rollout, &Starter::Itself).await;
            match retry.judge(outcome).await {
                Some(Ok(Outcome::Started(loaded))) => {
                    self.keep(*loaded);
                    return Ok(true);
                }
                Some(Ok(Outcome::Waits)) => return Ok(false),
                Some(Err(error)) if error.kind().is_transient() || error.kind() == Kind::Internal => {
                    return Err(error);
                }
                Some(Err(error)) => {
                    self.note_failure(&rollout, error.message()).await?;
                    return Ok(false);
                }
                None => {}
            }
        }
    }

    /// Looks at every rollout that waits for its start; one that fails does not keep the others from
    /// starting. Returns how many started.
    ///
    /// # Errors
    /// Those of the store when the list can't be read.
    pub async fn start_due(&self) -> Result<usize> {
        let pending = Query::all(RecordKind::Rollout).in_states(&[RolloutState::Pending.as_str()]);
        let mut pending = self.store.list_all::<Rollout>(&Scope::Instance, pending).await?;
        let now = self.clock.now();
        pending.retain(|rollout| rollout.starts_by_itself && rollout.scheduled_at.is_none_or(|at| at <= now));
        pending.sort_by_key(|rollout| (rollout.scheduled_at.unwrap_or(rollout.created_at), rollout.id));
        let mut started = 0;
        for rollout in pending {
            match self.start_if_due(rollout.id).await {
                Ok(begun) => started += usize::from(begun),
                Err(error) => tracing::warn!(rollout = %rollout.id, %error, "a due rollout was not started"),
            }
        }
        Ok(started)
    }

    async fn try_start(&self, read: &Stored<Rollout>, starter: &Starter) -> Result<Outcome> {
        let now = self.clock.now();
        let scope = read.scope();
        let old = self.load(read.clone()).await?;
        Command::Start.check(&old.state, now)?;
        let bundle = self.deployable(&scope, read.bundle_id).await?;
        let mut rollout = read.value.clone();
        if let Starter::Operator(_, Some(decision)) = starter {
            rollout.freeze_override = Some(decision.clone());
        }
        let (plan, candidates) = self.plan_again(&bundle, &rollout).await?;
        let touched = touched(rollout.environment_id, targets_of(&plan.targets), &candidates.nodes);
        let rules = self.rules(&bundle, &touched, None).await?;
        let judgement = judge_for(starter, &rules, &rollout, now);
        if !judgement.may_start() {
            let error = judgement.obstacles.first().map(|first| first.refusal(&judgement.approval));
            self.keep_waiting(read, &rules, now).await?;
            return match (starter, error) {
                (Starter::Operator(..), Some(error)) => Err(error),
                _ => Ok(Outcome::Waits),
            };
        }
        rollout.approval = judgement.approval;
        let state = planned_anew(rollout, plan, now);
        let actor = match starter {
            Starter::Operator(actor, _) => *actor,
            Starter::Itself => Actor::System,
        };
        let mut work = Work::new(self, scope);
        work.take_nodes(candidates.nodes);
        if matches!(starter, Starter::Itself)
            && read.queued
            && let Some(before) = self.queue_before(&work, &state, &bundle, now).await?
        {
            self.keep_queued(read, before, now).await?;
            return Ok(Outcome::Waits);
        }
        let supersede = state.rollout().supersedes;
        let ended = self.make_room(&mut work, actor, &state, supersede).await?;
        self.require_capacity(&bundle, &ended).await?;
        let decision = apply(Command::Start, state, &Observation::new([bundle.id]), now)?;
        let Loaded { state: before, mut revisions, .. } = old;
        work.restate(&mut revisions, &before, &decision.state)?;
        work.carry_out(&decision.state, &decision.effects).await?;
        work.publish(&decision.state, &decision.events);
        work.tick_at(&decision.state, decision.next_wake);
        work.give_out(bundle);
        tell(&mut work, starter, actor, &decision.state, now);
        self.commit(work.finish()?).await?;
        Ok(Outcome::Started(Box::new(Loaded { state: decision.state, revisions, seen: None })))
    }

    /// Writes down what a pending rollout waits for, where that is news, and when to ask again.
    pub(super) async fn keep_waiting(
        &self,
        read: &Stored<Rollout>,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<()> {
        let mut rollout = read.value.clone();
        let judgement = rules.judge(&rollout, now);
        rollout.approval = judgement.approval.clone();
        rollout.waiting = waiting(&rollout, &judgement);
        let mut changes = Changes::new();
        if rollout != read.value {
            rollout.updated_at = now;
            changes = changes.update(read, &rollout)?;
            let newly = read.approval.state != ApprovalState::PendingApproval;
            if newly && rollout.approval.state == ApprovalState::PendingApproval {
                changes = changes.event(asks_for_approval(&rollout, now));
            }
        }
        if let Some(at) = judgement.ask_again_at().filter(|_| rollout.starts_by_itself) {
            changes = changes.job(start_job(rollout.id, at));
        }
        if changes.is_empty() { Ok(()) } else { self.commit(changes).await }
    }

    /// A start that was refused is tried again by the next sweep.
    async fn note_failure(&self, read: &Stored<Rollout>, message: &str) -> Result<()> {
        let mut rollout = read.value.clone();
        rollout.waiting = zentinel_core::entity::Waiting {
            summary: format!("Cannot start yet: {message}. It is tried again every 30 seconds."),
            ..zentinel_core::entity::Waiting::default()
        };
        if rollout == read.value {
            return Ok(());
        }
        tracing::info!(rollout = %rollout.id, message, "a due rollout cannot start yet");
        rollout.updated_at = self.clock.now();
        match self.commit(Changes::new().update(read, &rollout)?).await {
            // Whoever changed it meanwhile knows better.
            Err(error) if error.kind() == Kind::Stale => Ok(()),
            outcome => outcome,
        }
    }
}

/// An operator's start does not wait for the schedule.
fn judge_for(starter: &Starter, rules: &Rules, rollout: &Rollout, now: Timestamp) -> Judgement {
    match starter {
        Starter::Itself => rules.judge(rollout, now),
        Starter::Operator(..) => rules.judge(&Rollout { scheduled_at: None, ..rollout.clone() }, now),
    }
}

/// The rollout over a new plan.
fn planned_anew(mut rollout: Rollout, plan: Plan, now: Timestamp) -> State {
    let new = plan::NewRollout {
        id: rollout.id,
        organisation_id: rollout.organisation_id,
        project_id: rollout.project_id,
        bundle_id: rollout.bundle_id,
        spec: rollout.spec.clone(),
        created_by: rollout.created_by,
    };
    let (fresh, steps, nodes) = new.build(plan, now).into_parts();
    rollout.excluded = fresh.excluded;
    State::new(rollout, steps, nodes.into_values())
}

/// The audit entries and events of a start.
fn tell(work: &mut Work<'_>, starter: &Starter, actor: Actor, state: &State, now: Timestamp) {
    let rollout = state.rollout();
    let mut metadata = json!({"nodes": state.nodes().len()});
    if let Some(at) = rollout.scheduled_at {
        metadata["scheduled_at"] = json!(at);
    }
    work.audit(state, actor, "rollout.started", metadata);
    match starter {
        Starter::Operator(_, Some(decision)) => {
            let metadata = json!({"reason": decision.reason});
            work.audit(state, actor, "rollout.freeze_overridden", metadata);
        }
        Starter::Operator(_, None) => {}
        Starter::Itself => {
            if let Some(at) = rollout.scheduled_at.filter(|at| now - *at > MISSED) {
                let payload = json!({
                    "rollout_id": rollout.id,
                    "bundle_id": rollout.bundle_id,
                    "scheduled_at": at,
                    "started_at": now,
                    "late_seconds": (now - at).num_seconds(),
                });
                work.event("rollout.schedule_missed", payload);
            }
        }
    }
}

/// Says that a rollout waits for approvals.
pub(super) fn asks_for_approval(rollout: &Rollout, now: Timestamp) -> Event {
    let payload = json!({
        "rollout_id": rollout.id,
        "bundle_id": rollout.bundle_id,
        "strategy": rollout.spec.strategy,
        "environment_id": rollout.environment_id,
        "approvals": {"count": rollout.approval.given.len(), "needed": rollout.approval.needed},
    });
    Event::new(&rollout.scope(), "rollout.pending_approval", payload, now)
}
