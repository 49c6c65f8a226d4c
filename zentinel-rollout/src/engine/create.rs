//! Creating rollouts, and saying beforehand what they would do.

use super::work::{Work, overlap};
use super::{Engine, NewRollout, Preview};
use crate::command::{Command, apply};
use crate::observation::Observation;
use crate::plan::{self, Candidate, Plan, PlanRequest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{Bundle, Node, NodeGroup, NodeReport, Project, Rollout, TargetSelector};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Error, RecordKind, Result, Scope, Stored};

/// The nodes that a selector may mean, with what they say they run.
#[derive(Debug, Default)]
struct Candidates {
    nodes: BTreeMap<NodeId, Stored<Node>>,
    reports: BTreeMap<NodeId, NodeReport>,
    groups: Vec<NodeGroup>,
}

impl Engine {
    /// Creates a rollout, and starts it if asked to.
    ///
    /// # Errors
    /// `NotFound` for the bundle; `Conflict` when it is not compiled, when an open rollout is in the
    /// way (it is in the details), or when the project has as many open rollouts as it may;
    /// `Invalid` for the specification or when it names no node to start with.
    pub async fn create(&self, scope: &Scope, actor: Actor, new: NewRollout) -> Result<Rollout> {
        let id = RolloutId::random();
        let mut retry = self.retry();
        loop {
            let outcome = self.try_create(scope, actor, id, &new).await;
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
        let (plan, _) = self.plan(&bundle.scope(), new).await?;
        Ok(Preview {
            steps: plan.steps.into_iter().map(|step| step.nodes).collect(),
            excluded: plan.excluded,
        })
    }

    async fn try_create(
        &self,
        scope: &Scope,
        actor: Actor,
        id: RolloutId,
        new: &NewRollout,
    ) -> Result<Rollout> {
        let bundle = self.deployable(scope, new.bundle_id).await?;
        let scope = bundle.scope();
        let (plan, candidates) = self.plan(&scope, new).await?;
        let now = self.clock.now();
        let mut state = plan::NewRollout {
            id,
            organisation_id: bundle.organisation_id,
            project_id: bundle.project_id,
            bundle_id: bundle.id,
            spec: new.spec.clone(),
            created_by: actor,
        }
        .build(plan, now);
        let mut work = Work::new(self, scope);
        work.take_nodes(candidates.nodes);
        if new.auto_start {
            let ended = self.make_room(&mut work, actor, &state, new.supersede).await?;
            self.require_capacity(&bundle, &ended).await?;
            let decision = apply(Command::Start, state, &Observation::new([bundle.id]), now)?;
            work.carry_out(&decision.state, &decision.effects).await?;
            work.publish(&decision.state, &decision.events);
            work.tick_at(&decision.state, decision.next_wake);
            state = decision.state;
        }
        work.give_out(bundle);
        work.insert(&state)?;
        let metadata = json!({
            "bundle_id": new.bundle_id,
            "strategy": new.spec.strategy,
            "nodes": state.nodes().len(),
            "started": new.auto_start,
        });
        work.audit(&state, actor, "rollout.created", metadata);
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

    async fn plan(&self, scope: &Scope, new: &NewRollout) -> Result<(Plan, Candidates)> {
        plan::check_spec(&new.spec, &self.strategies)?;
        let candidates = self.candidates(scope, &new.spec.target_selector).await?;
        let request = PlanRequest { bundle_id: new.bundle_id, spec: &new.spec, groups: &candidates.groups };
        let facts: Vec<Candidate<'_>> = candidates
            .nodes
            .values()
            .map(|node| Candidate {
                node,
                active_bundle_id: candidates.reports.get(&node.id).and_then(|report| report.active_bundle_id),
            })
            .collect();
        let plan = plan::plan(&request, &facts, &self.strategies)?;
        Ok((plan, candidates))
    }

    /// Reads what the selector may mean: single nodes where it names them, otherwise the project.
    async fn candidates(&self, scope: &Scope, selector: &TargetSelector) -> Result<Candidates> {
        let mut candidates = Candidates::default();
        let named: Option<BTreeSet<NodeId>> = match selector {
            TargetSelector::All | TargetSelector::Labels { .. } => None,
            TargetSelector::NodeIds { node_ids } => Some(node_ids.clone()),
            TargetSelector::Groups { group_ids } => {
                let query = Query::all(RecordKind::NodeGroup).with_ids(group_ids.iter().copied());
                let groups = self.store.list_all::<NodeGroup>(scope, query).await?;
                candidates.groups = groups.into_iter().map(|group| group.value).collect();
                Some(candidates.groups.iter().flat_map(|group| group.node_ids.iter().copied()).collect())
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
    async fn make_room(
        &self,
        work: &mut Work<'_>,
        actor: Actor,
        state: &crate::State,
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
