//! Releasing bundles to environments: by people, and by rules.

use super::Engine;
use super::create::Follows;
use super::terms::Terms;
use crate::observation::NodeFacts;
use crate::promotion::{Case, Readiness, healthy, is_source, latest, stretch};
use serde_json::json;
use std::collections::BTreeMap;
use zentinel_core::entity::{
    AuditEntry, Bundle, BundlePromotion, Environment, Event, Node, PromotionAttempt, PromotionRule, Rollout,
    RolloutSpec,
};
use zentinel_core::id::{BundleId, EnvironmentId, NodeId, PromotionId, RolloutId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, Kind, RecordKind, Result, Scope, Stored};

/// What a rule comes to at one look.
enum Look {
    /// Nothing to do now.
    Nothing,
    /// The healthy stretch began or ended.
    Stretch(Box<PromotionRule>),
    /// The rollout in the target environment is due.
    Due(Box<Rollout>),
    /// It will never be, for this rollout.
    Never(RolloutId, String),
}

impl Engine {
    /// Releases a bundle to an environment, or to the one after the last it was released to.
    ///
    /// Where rules lead into the environment, one of them must let the bundle through; otherwise it must have
    /// been released to the environment before.
    ///
    /// # Errors
    /// `NotFound` for the bundle; `Invalid` for the environment; `Conflict`: `bundle already promoted to this
    /// environment`, `not_promoted_to_current_environment`, `no_next_environment`,
    /// `promotion_conditions_not_met`, or when the bundle is not compiled.
    pub async fn promote(
        &self,
        scope: &Scope,
        who: (Actor, Actor),
        bundle: BundleId,
        environment: Option<EnvironmentId>,
    ) -> Result<BundlePromotion> {
        let mut retry = self.retry();
        loop {
            let outcome = self.try_promote(scope, who, bundle, environment).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return outcome;
            }
        }
    }

    async fn try_promote(
        &self,
        scope: &Scope,
        (actor, person): (Actor, Actor),
        bundle: BundleId,
        environment: Option<EnvironmentId>,
    ) -> Result<BundlePromotion> {
        let bundle = self.store.fetch::<Bundle>(scope, bundle).await?;
        let scope = bundle.scope();
        if !bundle.status.is_deployable() {
            return Err(Error::conflict("Bundle must be compiled before promotion")
                .with_details(json!({"status": bundle.status})));
        }
        let all = self.environments(&scope).await?;
        let released = self.released(&bundle).await?;
        let target = match environment {
            Some(id) => all.iter().find(|one| one.id == id).ok_or_else(unknown_environment)?,
            None => next(&all, &released)?,
        };
        if released.contains_key(&target.id) {
            return Err(Error::conflict("bundle already promoted to this environment"));
        }
        let source = self.let_through(&bundle, &all, &released, target).await?;
        let promotion = self.promotion(&bundle, target.id, person, source);
        let changes = self.releasing(actor, &bundle, target, &promotion)?.check(&bundle);
        match self.commit(changes).await {
            Err(error) if error.kind() == Kind::Invalid => {
                Err(Error::conflict("bundle already promoted to this environment"))
            }
            outcome => outcome.map(|()| promotion),
        }
    }

    /// Demands that a bundle may go on to an environment; returns the rollout that it has behind it.
    async fn let_through(
        &self,
        bundle: &Stored<Bundle>,
        all: &[Environment],
        released: &BTreeMap<EnvironmentId, BundlePromotion>,
        target: &Environment,
    ) -> Result<Option<RolloutId>> {
        let rules = Query::all(RecordKind::PromotionRule);
        let rules = self.store.list_all::<PromotionRule>(&bundle.scope(), rules).await?;
        let into: Vec<_> =
            rules.iter().filter(|rule| rule.enabled && rule.target_environment_id == target.id).collect();
        let mut reasons = Vec::new();
        for rule in &into {
            match self.condition_of(rule, bundle).await? {
                Ok(source) => return Ok(Some(source)),
                Err(reason) => reasons.push(reason),
            }
        }
        if !into.is_empty() {
            return Err(Error::conflict("promotion_conditions_not_met")
                .with_details(json!({"reasons": reasons}))
                .with_hint("the promotion rules into this environment say what is missing, see `reasons`"));
        }
        let before = all.iter().filter(|one| one.ordinal < target.ordinal).map(|one| one.ordinal).max();
        let first = all.first().map(|first| first.ordinal);
        let open = before.is_none_or(|before| {
            let mut there = all.iter().filter(|one| one.ordinal == before);
            Some(before) == first || there.any(|one| released.contains_key(&one.id))
        });
        if open {
            return Ok(None);
        }
        let missing = all.iter().filter(|one| Some(one.ordinal) == before).map(|one| one.name.as_str());
        Err(Error::conflict("not_promoted_to_current_environment")
            .with_hint(format!("promote it to {} first", missing.collect::<Vec<_>>().join(" or "))))
    }

    /// Whether a rule lets a bundle through, by the last rollout of it that completed in the source.
    async fn condition_of(
        &self,
        rule: &Stored<PromotionRule>,
        bundle: &Stored<Bundle>,
    ) -> Result<Result<RolloutId, String>> {
        let scope = bundle.scope();
        let rollouts = self.completed_in(&scope, rule.source_environment_id).await?;
        let of_bundle =
            rollouts.iter().filter(|rollout| rollout.bundle_id == bundle.id && is_source(rollout));
        let Some(source) = of_bundle.max_by_key(|rollout| rollout.completed_at) else {
            return Ok(Err("No rollout of the bundle completed in the source environment.".to_owned()));
        };
        let nodes = self.nodes_in(&scope, rule.source_environment_id).await?;
        let case = Case { rule, source, bundle, nodes: &nodes, now: self.clock.now() };
        Ok(match case.conditions() {
            Readiness::Ready => Ok(source.id),
            Readiness::NotYet(reason) | Readiness::Never(reason) => Err(reason),
        })
    }

    /// Follows every automatic rule: creates the rollout in the target environment where one is due, once for
    /// each completed rollout in the source. One rule that fails does not keep the others from being followed.
    /// Returns how many were created.
    ///
    /// # Errors
    /// Those of the store when the list can't be read.
    pub async fn promote_due(&self) -> Result<usize> {
        let rules = Query::all(RecordKind::PromotionRule);
        let mut rules = self.store.list_all::<PromotionRule>(&Scope::Instance, rules).await?;
        rules.retain(|rule| {
            rule.enabled && (rule.auto_promote || rule.conditions.min_healthy_minutes.is_some())
        });
        let mut created = 0;
        for rule in rules {
            match self.follow(rule.id).await {
                Ok(rollout) => created += usize::from(rollout.is_some()),
                Err(error) => tracing::warn!(rule = %rule.id, %error, "a promotion rule was not followed"),
            }
        }
        Ok(created)
    }

    async fn follow(&self, rule: zentinel_core::id::PromotionRuleId) -> Result<Option<Rollout>> {
        let mut retry = self.retry();
        let id = RolloutId::random();
        let created = loop {
            let Some(rule) = self.store.find::<PromotionRule>(&Scope::Instance, rule).await? else {
                return Ok(None);
            };
            if let Some(outcome) = retry.judge(self.try_follow(&rule, id).await).await {
                break outcome?;
            }
        };
        if let Some(rollout) = &created {
            // The job that was enqueued with it starts it should this fail.
            if let Err(error) = self.start_if_due(rollout.id).await {
                tracing::warn!(rollout = %rollout.id, %error, "a promoted rollout was not started at once");
            }
        }
        Ok(created)
    }

    async fn try_follow(&self, rule: &Stored<PromotionRule>, id: RolloutId) -> Result<Option<Rollout>> {
        let (source, failure) = match self.look_at(rule).await? {
            Look::Nothing => return Ok(None),
            Look::Stretch(changed) => {
                self.commit(Changes::new().update(rule, &changed)?).await?;
                return Ok(None);
            }
            Look::Never(source, reason) => (source, reason),
            Look::Due(source) => match self.create_promoted(rule, &source, id).await {
                Ok(rollout) => return Ok(Some(rollout)),
                Err(error) if error.kind().is_transient() || error.kind() == Kind::Internal => {
                    return Err(error);
                }
                Err(error) => (source.id, error.message().to_owned()),
            },
        };
        // Tried again only when another rollout completes in the source environment.
        let (scope, now) = (rule.scope(), self.clock.now());
        let mut attempted = rule.value.clone();
        attempted.last_attempt = Some(PromotionAttempt {
            source_rollout_id: source,
            rollout_id: None,
            error: Some(failure.clone()),
            at: now,
        });
        let told = json!({
            "promotion_rule_id": rule.id,
            "source_rollout_id": source,
            "environment_id": rule.target_environment_id,
            "reason": failure,
        });
        let entry = AuditEntry::new(&scope, Actor::System, "promotion_rule.not_followed", rule.id, now);
        let changes = Changes::new()
            .update(rule, &attempted)?
            .audit(entry.with_metadata(told.clone()))
            .event(Event::new(&scope, "bundle.promotion_failed", told, now));
        self.commit(changes).await?;
        Ok(None)
    }

    async fn look_at(&self, rule: &Stored<PromotionRule>) -> Result<Look> {
        let (scope, now) = (rule.scope(), self.clock.now());
        let completed = self.completed_in(&scope, rule.source_environment_id).await?;
        let Some(source) = latest(completed.iter().map(|rollout| &rollout.value)) else {
            return Ok(Look::Nothing);
        };
        let done = rule.last_attempt.as_ref().is_some_and(|last| last.source_rollout_id == source.id);
        let Some(bundle) = self.store.find::<Bundle>(&scope, source.bundle_id).await? else {
            return Ok(Look::Nothing);
        };
        let nodes = self.nodes_in(&scope, rule.source_environment_id).await?;
        if rule.conditions.min_healthy_minutes.is_some() {
            let now_healthy = stretch(rule, source, healthy(&bundle, &nodes).is_ok(), now);
            if now_healthy != rule.healthy {
                return Ok(Look::Stretch(Box::new(PromotionRule {
                    healthy: now_healthy,
                    ..rule.value.clone()
                })));
            }
        }
        if done || !rule.auto_promote {
            return Ok(Look::Nothing);
        }
        let case = Case { rule, source, bundle: &bundle, nodes: &nodes, now };
        match case.readiness() {
            Readiness::NotYet(_) => return Ok(Look::Nothing),
            Readiness::Never(reason) => return Ok(Look::Never(source.id, reason)),
            Readiness::Ready => {}
        }
        let rollouts = self.store.list_all::<Rollout>(&scope, Query::all(RecordKind::Rollout)).await?;
        let there = rollouts.iter().any(|rollout| {
            rollout.bundle_id == bundle.id && rollout.environment_id == Some(rule.target_environment_id)
        });
        if there {
            let reason = "A rollout of the bundle to the target environment exists already.";
            return Ok(Look::Never(source.id, reason.to_owned()));
        }
        Ok(Look::Due(Box::new(source.clone())))
    }

    /// The rollout, the release that it needs and what the rule remembers, in one commit: of two replicas that
    /// follow the rule at the same time one wins.
    async fn create_promoted(
        &self,
        rule: &Stored<PromotionRule>,
        source: &Rollout,
        id: RolloutId,
    ) -> Result<Rollout> {
        let (scope, target) = (rule.scope(), rule.target_environment_id);
        let bundle = self.store.fetch::<Bundle>(&scope, source.bundle_id).await?;
        let environment = self.store.fetch::<Environment>(&scope, target).await?;
        let now = self.clock.now();
        let mut followed = rule.value.clone();
        followed.last_attempt = Some(PromotionAttempt {
            source_rollout_id: source.id,
            rollout_id: Some(id),
            error: None,
            at: now,
        });
        let mut changes = Changes::new().update(rule, &followed)?;
        if !self.released(&bundle).await?.contains_key(&target) {
            let mut promotion = self.promotion(&bundle, target, Actor::System, Some(source.id));
            promotion.rule_id = Some(rule.id);
            changes = changes.and(self.releasing(Actor::System, &bundle, &environment, &promotion)?);
        }
        let new = super::NewRollout {
            bundle_id: bundle.id,
            spec: RolloutSpec::default(),
            auto_start: true,
            supersede: false,
            terms: Terms { environment_id: Some(target), ..Terms::default() },
        };
        let follows = Follows { changes, promoted_from: Some(source.id), releases_to: Some(target) };
        self.try_create(&scope, Actor::System, id, &new, follows).await
    }

    fn promotion(
        &self,
        bundle: &Bundle,
        environment_id: EnvironmentId,
        promoted_by: Actor,
        source_rollout_id: Option<RolloutId>,
    ) -> BundlePromotion {
        BundlePromotion {
            id: PromotionId::random(),
            organisation_id: bundle.organisation_id,
            project_id: bundle.project_id,
            bundle_id: bundle.id,
            environment_id,
            promoted_by,
            rule_id: None,
            source_rollout_id,
            created_at: self.clock.now(),
        }
    }

    fn releasing(
        &self,
        actor: Actor,
        bundle: &Bundle,
        environment: &Environment,
        promotion: &BundlePromotion,
    ) -> Result<Changes> {
        let (scope, now) = (bundle.scope(), self.clock.now());
        let told = json!({
            "bundle_id": bundle.id,
            "version": bundle.version,
            "environment_id": environment.id,
            "environment": environment.slug,
            "promotion_rule_id": promotion.rule_id,
            "source_rollout_id": promotion.source_rollout_id,
        });
        let entry = AuditEntry::new(&scope, actor, "bundle.promoted", bundle.id, now);
        Ok(Changes::new().insert(promotion)?.audit(entry.with_metadata(told.clone())).event(Event::new(
            &scope,
            "bundle.promoted",
            told,
            now,
        )))
    }

    async fn released(&self, bundle: &Bundle) -> Result<BTreeMap<EnvironmentId, BundlePromotion>> {
        let query = Query::all(RecordKind::BundlePromotion).owned_by(bundle.id);
        let all = self.store.list_all::<BundlePromotion>(&bundle.scope(), query).await?;
        Ok(all.into_iter().map(|promotion| (promotion.environment_id, promotion.value)).collect())
    }

    /// The completed rollouts of an environment.
    async fn completed_in(&self, scope: &Scope, environment: EnvironmentId) -> Result<Vec<Stored<Rollout>>> {
        let query = Query::all(RecordKind::Rollout).in_states(&["completed"]);
        let mut all = self.store.list_all::<Rollout>(scope, query).await?;
        all.retain(|rollout| rollout.environment_id == Some(environment));
        Ok(all)
    }

    /// What is known of the approved nodes of an environment.
    async fn nodes_in(&self, scope: &Scope, environment: EnvironmentId) -> Result<Vec<NodeFacts>> {
        let mut nodes = self.store.list_all::<Node>(scope, Query::all(RecordKind::Node)).await?;
        nodes.retain(|node| node.approved && node.environment_id == Some(environment));
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        let reports = self.reports(scope, ids).await?;
        let facts = |node: &Stored<Node>| Some(NodeFacts::of(node, reports.get(&node.id)?));
        Ok(nodes.iter().filter_map(facts).collect())
    }
}

fn unknown_environment() -> Error {
    Error::invalid_field("environment_id", "does not exist")
}

/// The environment after the last that a bundle was released to; the second where it was to none, because the
/// first is open to every bundle.
fn next<'a>(
    all: &'a [Environment],
    released: &BTreeMap<EnvironmentId, BundlePromotion>,
) -> Result<&'a Environment> {
    let first = all.first().map(|first| first.ordinal);
    let reached = all.iter().filter(|one| released.contains_key(&one.id)).map(|one| one.ordinal).max();
    let reached = reached.max(first);
    let next = all.iter().find(|one| Some(one.ordinal) > reached);
    next.ok_or_else(|| Error::conflict("no_next_environment").with_hint("name one with `environment_id`"))
}
