//! What decides when a rollout starts, and where it may go.

use super::Engine;
use crate::approval::needed;
use crate::guard::{Judgement, Situation, frozen, judge};
use crate::plan::Target;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{
    Bundle, BundlePromotion, Environment, FreezeOverride, FreezeWindow, Node, Project, Rollout, Waiting,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{EnvironmentId, NodeId, TemplateId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Error, RecordKind, Result, Scope, Stored, Timestamp};

/// What decides when a rollout starts, and where it may go. By default: at once, everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The environment it is for; only that environment's nodes are its targets.
    pub environment_id: Option<EnvironmentId>,
    /// It does not start before this instant, which is in the future.
    pub scheduled_at: Option<Timestamp>,
    /// Starts it in spite of freeze windows. The caller has checked that an admin says so.
    pub override_freeze: Option<FreezeOverride>,
    /// Why it goes straight back to a bundle that was recently healthy; see [`Engine::revert`].
    pub revert: Option<String>,
    /// The template that its settings came from.
    pub template_id: Option<TemplateId>,
    /// The person who asks for it, who cannot approve it.
    pub requested_by: Option<Actor>,
    /// Whether it waits for open rollouts on the same nodes to end, instead of being refused.
    pub queue: bool,
}

impl Terms {
    pub(super) fn apply(&self, rollout: &mut Rollout) {
        rollout.environment_id = self.environment_id;
        rollout.scheduled_at = self.scheduled_at;
        rollout.freeze_override.clone_from(&self.override_freeze);
        rollout.revert.clone_from(&self.revert);
        rollout.template_id = self.template_id;
        rollout.requested_by = self.requested_by;
        rollout.queued = self.queue;
    }
}

/// What the guard depends on besides the rollout.
#[derive(Debug)]
pub(super) struct Rules {
    project: Project,
    environments: Vec<Environment>,
    closed: Vec<Environment>,
    author: Option<Actor>,
    freezes: Vec<FreezeWindow>,
}

impl Rules {
    pub(super) fn judge(&self, rollout: &Rollout, now: Timestamp) -> Judgement {
        let situation = Situation {
            rollout,
            project: &self.project.settings,
            environments: &self.environments,
            closed: &self.closed,
            author: self.author,
            freezes: &self.freezes,
        };
        judge(&situation, now)
    }

    /// Why nodes of these environments get nothing without a rollout.
    pub(super) fn refuses_assignments(
        &self,
        environments: &BTreeSet<EnvironmentId>,
        now: Timestamp,
    ) -> Option<&'static str> {
        if !self.closed.is_empty() {
            Some("not_promoted")
        } else if needed(&self.project.settings, &self.environments) > 0 {
            Some("approval_required")
        } else {
            frozen(&self.freezes, environments, now).map(|_| "frozen")
        }
    }

    /// Who made the bundle.
    pub(super) fn author(&self) -> Option<Actor> {
        self.author
    }
}

/// The report of a pending rollout.
pub(super) fn waiting(rollout: &Rollout, judgement: &Judgement) -> Waiting {
    let summary = match (judgement.may_start(), rollout.starts_by_itself) {
        (true, true) => "Starts shortly.".to_owned(),
        (true, false) => "Waiting to be started.".to_owned(),
        (false, _) => judgement.summary(),
    };
    Waiting { summary, until: judgement.ask_again_at(), ..Waiting::default() }
}

/// A report that says no more than this.
pub(super) fn waits(summary: String) -> Waiting {
    Waiting { summary, ..Waiting::default() }
}

/// The environments that a rollout touches: the one it names, or those of its nodes.
pub(super) fn touched<'a>(
    named: Option<EnvironmentId>,
    targets: impl IntoIterator<Item = &'a NodeId>,
    nodes: &BTreeMap<NodeId, Stored<Node>>,
) -> BTreeSet<EnvironmentId> {
    match named {
        Some(environment) => BTreeSet::from([environment]),
        None => targets.into_iter().filter_map(|id| nodes.get(id)?.environment_id).collect(),
    }
}

/// The nodes of a plan.
pub(super) fn targets_of(targets: &[Target]) -> impl Iterator<Item = &NodeId> {
    targets.iter().map(|target| &target.node_id)
}

impl Engine {
    /// Reads the rules for a rollout of `bundle` that touches these environments. `released` is one that the
    /// bundle is being released to in the same unit of work.
    pub(super) async fn rules(
        &self,
        bundle: &Bundle,
        touched: &BTreeSet<EnvironmentId>,
        released: Option<EnvironmentId>,
    ) -> Result<Rules> {
        let scope = bundle.scope();
        let project = self.store.fetch::<Project>(&scope, bundle.project_id).await?.value;
        let freezes =
            self.store.list_all::<FreezeWindow>(&scope, Query::all(RecordKind::FreezeWindow)).await?;
        let freezes = freezes.into_iter().map(|window| window.value).collect();
        let mut rules =
            Rules { project, environments: Vec::new(), closed: Vec::new(), author: bundle.author, freezes };
        if touched.is_empty() {
            return Ok(rules);
        }
        let all = self.environments(&scope).await?;
        let promotions = Query::all(RecordKind::BundlePromotion).owned_by(bundle.id);
        let promotions = self.store.list_all::<BundlePromotion>(&scope, promotions).await?;
        let mut open: BTreeSet<EnvironmentId> =
            promotions.into_iter().map(|promotion| promotion.value.environment_id).collect();
        open.extend(released);
        let first = all.first().map(|first| first.ordinal);
        let touches = |environment: &&Environment| touched.contains(&environment.id);
        rules.environments = all.iter().filter(touches).cloned().collect();
        rules.closed = rules
            .environments
            .iter()
            .filter(|environment| Some(environment.ordinal) != first && !open.contains(&environment.id))
            .cloned()
            .collect();
        Ok(rules)
    }

    /// The environments of a project in the order of promotion.
    pub(super) async fn environments(&self, scope: &Scope) -> Result<Vec<Environment>> {
        let all = self.store.list_all::<Environment>(scope, Query::all(RecordKind::Environment)).await?;
        let mut all: Vec<Environment> = all.into_iter().map(|environment| environment.value).collect();
        all.sort_by(|a, b| a.place().cmp(&b.place()));
        Ok(all)
    }

    /// The checks of a new rollout's terms that need the store or the clock.
    pub(super) async fn check_terms(&self, scope: &Scope, new: &super::NewRollout) -> Result<()> {
        let mut checks = Checks::new();
        let (terms, now) = (&new.terms, self.clock.now());
        checks.that("scheduled_at", terms.scheduled_at.is_none_or(|at| at > now), "must be in the future");
        let scheduled = terms.scheduled_at.is_some();
        checks.that("queue", new.auto_start || !terms.queue, "cannot be set without auto_start");
        checks.that("queue", !(new.supersede && terms.queue), "cannot be combined with supersede");
        checks.that("auto_start", new.auto_start || !scheduled, "must be true with scheduled_at");
        checks.absorb(self.check_endpoints(scope, &new.spec.custom_health_checks).await)?;
        if let Some(id) = terms.environment_id {
            let environment = self.store.find::<Environment>(scope, id).await?;
            checks.that("environment_id", environment.is_some(), "does not exist");
            if let Some(environment) = environment {
                let allowed = environment.settings.auto_rollback_enabled || !new.spec.auto_rollback;
                checks.that("auto_rollback", allowed, format!("is not allowed in {}", environment.name));
            }
        }
        checks.finish()
    }

    /// The environments that a stored rollout touches.
    pub(super) async fn touched_by(&self, rollout: &Stored<Rollout>) -> Result<BTreeSet<EnvironmentId>> {
        if rollout.environment_id.is_some() {
            return Ok(touched(rollout.environment_id, [], &BTreeMap::new()));
        }
        let state = self.load(rollout.clone()).await?.state;
        let nodes = self.nodes(&rollout.scope(), state.nodes().keys()).await?;
        Ok(touched(None, state.nodes().keys(), &nodes))
    }

    /// The rules for a stored rollout.
    pub(super) async fn rules_of(&self, rollout: &Stored<Rollout>) -> Result<Rules> {
        let bundle = self.store.fetch::<Bundle>(&rollout.scope(), rollout.bundle_id).await?;
        self.rules(&bundle, &self.touched_by(rollout).await?, None).await
    }
}

/// The first obstacle that a new rollout is refused for, instead of waiting for its end.
pub(super) fn refused_at_creation(judgement: &Judgement, patient: bool) -> Option<Error> {
    use crate::guard::Obstacle;
    let later = judgement.obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::Schedule { .. }));
    let refused = judgement.obstacles.iter().find(|obstacle| match obstacle {
        Obstacle::NotPromoted { .. } => true,
        Obstacle::Freeze { .. } => !later && !patient,
        Obstacle::Rejected { .. } | Obstacle::Approval { .. } | Obstacle::Schedule { .. } => false,
    });
    refused.map(|obstacle| obstacle.refusal(&judgement.approval))
}
