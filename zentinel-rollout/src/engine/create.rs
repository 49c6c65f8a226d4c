//! Creating rollouts, and saying beforehand what they would do.

use super::queue::next_look;
use super::start::asks_for_approval;
use super::terms::{refused_at_creation, targets_of, touched, waiting};
use super::work::{Work, overlap};
use super::{Engine, NewRollout, Preview, start_job};
use crate::State;
use crate::command::{Command, apply};
use crate::guard::{Judgement, Obstacle};
use crate::observation::Observation;
use crate::plan::{self, Candidate, Plan, PlanRequest, edited};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{
    ApprovalState, Bundle, Node, NodeGroup, NodeReport, Project, Rollout, RolloutSpec, TargetSelector,
};
use zentinel_core::id::{BundleId, EnvironmentId, NodeId, RolloutId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope, Stored, Timestamp};

/// The nodes that a selector may mean, with what they say they run.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) nodes: BTreeMap<NodeId, Stored<Node>>,
    reports: BTreeMap<NodeId, NodeReport>,
    groups: Vec<NodeGroup>,
}

/// What is committed with a rollout that follows upon something else.
#[derive(Debug, Default)]
pub(super) struct Follows {
    /// What else is committed.
    pub(super) changes: Changes,
    /// The completed rollout that a promotion rule follows up.
    pub(super) promoted_from: Option<RolloutId>,
    /// The environment that the bundle is released to by that. Such a rollout never starts in the same unit of
    /// work: what is in its way then makes it wait.
    pub(super) releases_to: Option<EnvironmentId>,
}

/// The pending rollout.
fn draft(
    id: RolloutId,
    actor: Actor,
    bundle: &Bundle,
    new: &NewRollout,
    plan: Plan,
    now: Timestamp,
) -> State {
    let state = plan::NewRollout {
        id,
        organisation_id: bundle.organisation_id,
        project_id: bundle.project_id,
        bundle_id: bundle.id,
        spec: new.spec.clone(),
        created_by: actor,
    }
    .build(plan, now);
    edited(state, |rollout| {
        new.terms.apply(rollout);
        rollout.starts_by_itself = new.auto_start;
        rollout.supersedes = new.supersede;
    })
}

fn require(any: bool) -> Result<()> {
    if any { Ok(()) } else { Err(plan::no_targets()) }
}

fn require_nodes(state: &State) -> Result<()> {
    require(!state.nodes().is_empty())
}

/// What is told and done about a rollout that waits.
fn announced(state: &State, judgement: &Judgement, now: Timestamp) -> Changes {
    let rollout = state.rollout();
    let mut changes = Changes::new();
    if rollout.approval.state == ApprovalState::PendingApproval {
        changes = changes.event(asks_for_approval(rollout, now));
    }
    if rollout.starts_by_itself {
        let at = if judgement.may_start() { Some(now) } else { judgement.ask_again_at() };
        changes.jobs.extend(at.map(|at| start_job(rollout.id, at)));
    }
    changes
}

fn audit(work: &mut Work<'_>, actor: Actor, state: &State, started: bool) {
    let rollout = state.rollout();
    let metadata = json!({
        "bundle_id": rollout.bundle_id,
        "strategy": rollout.spec.strategy,
        "nodes": state.nodes().len(),
        "started": started,
        "environment_id": rollout.environment_id,
        "scheduled_at": rollout.scheduled_at,
        "template_id": rollout.template_id,
        "promoted_from": rollout.promoted_from,
        "approval_state": rollout.approval.state.as_str(),
    });
    work.audit(state, actor, "rollout.created", metadata);
    if let Some(reason) = &rollout.revert {
        work.audit(
            state,
            actor,
            "rollout.reverted",
            json!({"reason": reason, "bundle_id": rollout.bundle_id}),
        );
    }
    if let Some(decision) = &rollout.freeze_override {
        work.audit(state, actor, "rollout.freeze_overridden", json!({"reason": decision.reason}));
    }
}

impl Engine {
    /// Creates a rollout, and starts it if asked to: at once, or later where approvals, its schedule or a freeze
    /// window make it wait.
    ///
    /// # Errors
    /// `NotFound` for the bundle; `Conflict` when it is not compiled or not released to the environment, when a
    /// freeze window holds, when an open rollout is in the way (its id is in the details), or when the project
    /// has as many open rollouts as it may; `Invalid` for the specification or when it names no node to start
    /// with.
    pub async fn create(&self, scope: &Scope, actor: Actor, new: NewRollout) -> Result<Rollout> {
        let id = RolloutId::random();
        let mut retry = self.retry();
        loop {
            let outcome = self.try_create(scope, actor, id, &new, Follows::default()).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return self.describe(scope, outcome).await;
            }
        }
    }

    /// What a rollout would do if it were created now. Changes nothing.
    ///
    /// # Errors
    /// As [`Engine::create`], except those about other rollouts.
    pub async fn preview(&self, scope: &Scope, new: &NewRollout) -> Result<Preview> {
        let bundle = self.deployable(scope, new.bundle_id).await?;
        let scope = bundle.scope();
        self.check_terms(&scope, new).await?;
        let (plan, candidates) = self.plan(&bundle, new).await?;
        let touched = touched(new.terms.environment_id, targets_of(&plan.targets), &candidates.nodes);
        let rules = self.rules(&bundle, &touched, None).await?;
        let steps = plan.steps.iter().map(|step| step.nodes.clone()).collect();
        let excluded = plan.excluded.clone();
        let now = self.clock.now();
        let rollout = draft(RolloutId::random(), Actor::System, &bundle, new, plan, now).into_parts().0;
        let waits = rules.judge(&rollout, now).obstacles.iter().map(Obstacle::sentence).collect();
        Ok(Preview { steps, excluded, waits })
    }

    pub(super) async fn try_create(
        &self,
        scope: &Scope,
        actor: Actor,
        id: RolloutId,
        new: &NewRollout,
        follows: Follows,
    ) -> Result<Rollout> {
        let bundle = self.deployable(scope, new.bundle_id).await?;
        let scope = bundle.scope();
        self.check_terms(&scope, new).await?;
        let (plan, candidates) = self.plan(&bundle, new).await?;
        let now = self.clock.now();
        let touched = touched(new.terms.environment_id, targets_of(&plan.targets), &candidates.nodes);
        let rules = self.rules(&bundle, &touched, follows.releases_to).await?;
        let patient = follows.releases_to.is_some();
        let mut state = draft(id, actor, &bundle, new, plan, now);
        let judgement = rules.judge(state.rollout(), now);
        if let Some(refusal) = refused_at_creation(&judgement, patient) {
            return Err(refusal);
        }
        if new.auto_start {
            require_nodes(&state)?;
        }
        let starts = new.auto_start && judgement.may_start() && !patient;
        state = edited(state, |rollout| {
            rollout.promoted_from = follows.promoted_from;
            rollout.waiting = waiting(rollout, &judgement);
            rollout.approval = judgement.approval.clone();
        });
        let mut work = Work::new(self, scope);
        work.take_nodes(candidates.nodes);
        let before = match starts && new.terms.queue {
            true => self.queue_before(&work, &state, &bundle, now).await?,
            false => None,
        };
        let starts = starts && before.is_none();
        if let Some(before) = before {
            work.add(Changes::new().job(next_look(id, now)));
            state = edited(state, |rollout| rollout.waiting = before);
        } else if starts {
            let ended = self.make_room(&mut work, actor, &state, new.supersede).await?;
            self.require_capacity(&bundle, &ended).await?;
            let decision = apply(Command::Start, state, &Observation::new([bundle.id]), now)?;
            work.carry_out(&decision.state, &decision.effects).await?;
            work.publish(&decision.state, &decision.events);
            work.log(&decision);
            work.tick_at(&decision.state, decision.next_wake);
            state = decision.state;
        } else {
            work.add(announced(&state, &judgement, now));
        }
        work.give_out(bundle);
        work.insert(&state)?;
        audit(&mut work, actor, &state, starts);
        work.add(follows.changes);
        self.commit(work.finish()?).await?;
        Ok(state.into_parts().0)
    }

    /// The bundle, if nodes may be given it.
    pub(super) async fn deployable(&self, scope: &Scope, id: BundleId) -> Result<Stored<Bundle>> {
        let bundle = self.store.fetch::<Bundle>(scope, id).await?;
        if bundle.status.is_deployable() {
            return Ok(bundle);
        }
        Err(Error::conflict("Bundle must be compiled before rollout")
            .with_details(json!({"bundle_id": id, "status": bundle.status})))
    }

    async fn plan(&self, bundle: &Bundle, new: &NewRollout) -> Result<(Plan, Candidates)> {
        plan::check_spec(&new.spec, &self.strategies)?;
        self.check_shifts(&new.spec)?;
        let candidates = self.candidates(&bundle.scope(), &new.spec.target_selector).await?;
        self.plan_over(candidates, bundle, &new.spec, new.terms.environment_id)
    }

    /// Plans a stored rollout over the nodes that there are now. Nodes and groups that it names and that are
    /// gone since are left out.
    pub(super) async fn plan_again(&self, bundle: &Bundle, rollout: &Rollout) -> Result<(Plan, Candidates)> {
        let mut spec = rollout.spec.clone();
        let candidates = self.candidates(&rollout.scope(), &spec.target_selector).await?;
        match &mut spec.target_selector {
            TargetSelector::All | TargetSelector::Labels { .. } | TargetSelector::Selector { .. } => {}
            TargetSelector::NodeIds { node_ids } => {
                node_ids.retain(|id| candidates.nodes.contains_key(id));
                require(!node_ids.is_empty())?;
            }
            TargetSelector::Groups { group_ids } => {
                group_ids.retain(|id| candidates.groups.iter().any(|group| group.id == *id));
                require(!group_ids.is_empty())?;
            }
        }
        self.plan_over(candidates, bundle, &spec, rollout.environment_id)
    }

    fn plan_over(
        &self,
        candidates: Candidates,
        bundle: &Bundle,
        spec: &RolloutSpec,
        environment_id: Option<EnvironmentId>,
    ) -> Result<(Plan, Candidates)> {
        let request = PlanRequest {
            bundle_id: bundle.id,
            bundle_version: &bundle.version,
            spec,
            groups: &candidates.groups,
            environment_id,
        };
        let facts: Vec<Candidate<'_>> = candidates
            .nodes
            .values()
            .map(|node| Candidate {
                node,
                active_bundle_id: candidates.reports.get(&node.id).and_then(|report| report.active_bundle_id),
                proxy_version: candidates.reports.get(&node.id).and_then(|report| report.version.as_deref()),
            })
            .collect();
        let plan = plan::plan(&request, &facts, &self.strategies)?;
        Ok((plan, candidates))
    }

    /// Reads what the selector may mean: single nodes where it names them, otherwise the project.
    async fn candidates(&self, scope: &Scope, selector: &TargetSelector) -> Result<Candidates> {
        let mut candidates = Candidates::default();
        let named: Option<BTreeSet<NodeId>> = match selector {
            TargetSelector::All | TargetSelector::Labels { .. } | TargetSelector::Selector { .. } => None,
            TargetSelector::NodeIds { node_ids } => Some(node_ids.clone()),
            TargetSelector::Groups { group_ids } => {
                let query = Query::all(RecordKind::NodeGroup).with_ids(group_ids.iter().copied());
                let groups = self.store.list_all::<NodeGroup>(scope, query).await?;
                candidates.groups = groups.into_iter().map(|group| group.value).collect();
                // Who has certain labels is known once all are read.
                let named = candidates.groups.iter().all(|group| group.selector.is_none());
                named.then(|| {
                    candidates.groups.iter().flat_map(|group| group.node_ids.iter().copied()).collect()
                })
            }
        };
        match named {
            Some(ids) => {
                candidates.nodes = self.nodes(scope, &ids).await?;
                candidates.reports = self.reports(scope, ids).await?;
            }
            None => {
                let nodes = self.store.list_all::<Node>(scope, Query::all(RecordKind::Node)).await?;
                candidates.nodes = nodes.into_iter().map(|node| (node.id, node)).collect();
                let reports = Query::all(RecordKind::NodeReport);
                let reports = self.store.list_all::<NodeReport>(scope, reports).await?;
                candidates.reports =
                    reports.into_iter().map(|report| (report.value.node_id, report.value)).collect();
            }
        }
        Ok(candidates)
    }

    /// Open rollouts on the same nodes are in the way, or are cancelled in the same unit of work.
    /// Returns those that are cancelled.
    pub(super) async fn make_room(
        &self,
        work: &mut Work<'_>,
        actor: Actor,
        state: &State,
        supersede: bool,
    ) -> Result<BTreeSet<RolloutId>> {
        let mut in_the_way: BTreeMap<RolloutId, u64> = BTreeMap::new();
        for rollout in state.nodes().keys().filter_map(|id| work.claim_of(*id)) {
            *in_the_way.entry(rollout).or_default() += 1;
        }
        if !in_the_way.is_empty() && !supersede {
            return Err(overlap(&in_the_way));
        }
        for id in in_the_way.keys() {
            let rollout = self.store.fetch::<Rollout>(&state.rollout().scope(), *id).await?;
            let reason = json!({"superseded_by": state.rollout().id});
            self.carry_out_command(work, actor, rollout, Command::Cancel, reason).await?;
        }
        Ok(in_the_way.into_keys().collect())
    }

    /// Demands that the project may have one more open rollout once `ended` are gone.
    pub(super) async fn require_capacity(&self, bundle: &Bundle, ended: &BTreeSet<RolloutId>) -> Result<()> {
        let scope = bundle.scope();
        let limit = self.store.fetch::<Project>(&scope, bundle.project_id).await?;
        let limit = limit.settings.max_concurrent_rollouts;
        let open = Query::all(RecordKind::Rollout).in_states(&["running", "paused"]);
        let open = self.store.list_all::<Rollout>(&scope, open).await?;
        let open = open.iter().filter(|rollout| !ended.contains(&rollout.id));
        let ids: Vec<RolloutId> = open.map(|rollout| rollout.id).collect();
        if ids.len() < usize::try_from(limit.max(1)).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let details: Value = json!({"rollout_ids": ids, "max_concurrent_rollouts": limit});
        Err(Error::conflict(format!("The project already has {} rollouts under way", ids.len()))
            .with_details(details)
            .with_hint("wait for one of them, or raise max_concurrent_rollouts"))
    }
}
