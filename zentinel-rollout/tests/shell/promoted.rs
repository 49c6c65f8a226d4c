//! Promotion from environment to environment over a real store.

use crate::world::{World, new_engine, spec};
use chrono::TimeDelta;
use std::time::Duration;
use zentinel_core::entity::{
    ApprovalState, Environment, Node, PromotionConditions, PromotionRule, RiskLevel, Rollout, RolloutState,
};
use zentinel_core::id::{BundleId, EnvironmentId, NodeId, PromotionRuleId, RolloutId};
use zentinel_core::port::{Clock, Query, Store as _, StoreExt as _};
use zentinel_core::{Actor, Changes, RecordKind, Scope};
use zentinel_rollout::engine::{NewRollout, Terms};

/// Development and staging with a node each, and a rule between them.
struct Stage {
    world: World,
    dev: EnvironmentId,
    staging: EnvironmentId,
    rule: PromotionRuleId,
}

impl Stage {
    async fn new(edit: impl FnOnce(&mut PromotionRule)) -> Self {
        let world = World::new(2).await;
        let ids = (world.project.organisation_id, world.project.id);
        let environments = Environment::defaults(ids, world.clock.now()).unwrap();
        let (dev, staging) = (environments[0].id, environments[1].id);
        let mut rule = PromotionRule {
            id: PromotionRuleId::random(),
            organisation_id: ids.0,
            project_id: ids.1,
            source_environment_id: dev,
            target_environment_id: staging,
            auto_promote: true,
            delay_minutes: 0,
            conditions: PromotionConditions::default(),
            enabled: true,
            last_attempt: None,
            healthy: None,
            created_at: world.clock.now(),
            updated_at: world.clock.now(),
        };
        edit(&mut rule);
        let mut changes = Changes::new().insert(&rule).unwrap();
        for environment in &environments {
            changes = changes.insert(environment).unwrap();
        }
        for (node, environment) in world.nodes.iter().zip([dev, staging]) {
            let read = world.memory.fetch::<Node>(&world.scope(), node.id).await.unwrap();
            let moved = Node { environment_id: Some(environment), ..read.value.clone() };
            changes = changes.update(&read, &moved).unwrap();
        }
        world.memory.commit(changes).await.unwrap();
        let nodes: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
        world.fleet.refresh(&nodes).await.unwrap();
        Self { world, dev, staging, rule: rule.id }
    }

    /// Brings a bundle to development.
    async fn develop(&mut self, bundle: BundleId) -> RolloutId {
        let terms = Terms { environment_id: Some(self.dev), ..Terms::default() };
        let new = NewRollout { bundle_id: bundle, spec: spec(), auto_start: true, supersede: false, terms };
        let rollout = self.world.engine.create(&self.world.scope(), Actor::System, new).await.unwrap();
        assert_eq!(self.world.finish(rollout.id).await.rollout.state, RolloutState::Completed);
        rollout.id
    }

    async fn in_staging(&self) -> Vec<Rollout> {
        let all = Query::all(RecordKind::Rollout);
        let all = self.world.memory.list_all::<Rollout>(&Scope::Instance, all).await.unwrap();
        all.into_iter()
            .map(|rollout| rollout.value)
            .filter(|rollout| rollout.environment_id == Some(self.staging))
            .collect()
    }

    async fn rule(&self) -> PromotionRule {
        self.world.memory.fetch::<PromotionRule>(&self.world.scope(), self.rule).await.unwrap().value
    }

    async fn follow(&self) -> usize {
        self.world.engine.promote_due().await.unwrap()
    }
}

#[tokio::test]
async fn a_completion_is_followed_exactly_once_by_two_engines() {
    let mut stage = Stage::new(|rule| rule.delay_minutes = 5).await;
    let bundle = stage.world.bundle("1").await;
    assert_eq!(stage.follow().await, 0, "nothing completed yet");
    let source = stage.develop(bundle).await;
    assert_eq!(stage.follow().await, 0, "its delay is not over");
    stage.world.clock.advance(Duration::from_secs(300));
    let world = &stage.world;
    let engines: Vec<_> = (0..4).map(|_| new_engine(&world.store, &world.signer, &world.clock)).collect();
    let created = futures_util::future::join_all(engines.iter().map(|engine| engine.promote_due())).await;
    assert_eq!(created.into_iter().map(Result::unwrap).sum::<usize>(), 1);
    let there = stage.in_staging().await;
    assert_eq!(there.len(), 1);
    assert_eq!((there[0].promoted_from, there[0].state), (Some(source), RolloutState::Running));
    assert_eq!(there[0].spec.strategy, "rolling");
    let done = stage.world.finish(there[0].id).await;
    assert_eq!(done.nodes.iter().map(|node| node.node_id).collect::<Vec<_>>(), [stage.world.nodes[1].id]);
    assert_eq!((stage.follow().await, stage.world.events("bundle.promoted").await), (0, 1));
    let attempt = stage.rule().await.last_attempt.unwrap();
    assert_eq!((attempt.source_rollout_id, attempt.rollout_id), (source, Some(there[0].id)));
    // The next completion is news again.
    let next = stage.world.bundle("2").await;
    stage.develop(next).await;
    stage.world.clock.advance(Duration::from_secs(300));
    assert_eq!(stage.follow().await, 1);
}

#[tokio::test]
async fn it_goes_through_approval_like_any_other() {
    let mut stage = Stage::new(|_| {}).await;
    let read = stage.world.memory.fetch::<Environment>(&stage.world.scope(), stage.staging).await.unwrap();
    let mut strict = read.value.clone();
    strict.settings.approval_required = true;
    stage.world.memory.commit(Changes::new().update(&read, &strict).unwrap()).await.unwrap();
    let bundle = stage.world.bundle("1").await;
    stage.develop(bundle).await;
    assert_eq!(stage.follow().await, 1);
    let waits = &stage.in_staging().await[0];
    assert_eq!((waits.state, waits.approval.state), (RolloutState::Pending, ApprovalState::PendingApproval));
    let key = Actor::ApiKey(zentinel_core::id::ApiKeyId::random());
    let scope = stage.world.scope();
    let started = stage.world.engine.approve(&scope, Actor::System, key, waits.id, None).await.unwrap();
    assert_eq!(started.state, RolloutState::Running);
}

#[tokio::test]
async fn a_refused_attempt_is_told_and_not_repeated() {
    let mut stage = Stage::new(|rule| rule.conditions.max_risk_level = Some(RiskLevel::Low)).await;
    let risky = stage.world.bundle("1").await;
    let read =
        stage.world.memory.fetch::<zentinel_core::entity::Bundle>(&Scope::Instance, risky).await.unwrap();
    let high = zentinel_core::entity::Bundle { risk_level: RiskLevel::High, ..read.value.clone() };
    stage.world.memory.commit(Changes::new().update(&read, &high).unwrap()).await.unwrap();
    stage.develop(risky).await;
    for _ in 0..3 {
        assert_eq!(stage.follow().await, 0);
    }
    let attempt = stage.rule().await.last_attempt.unwrap();
    assert_eq!(
        attempt.error.as_deref(),
        Some("The bundle's risk level is high; the rule allows low at most.")
    );
    assert_eq!(stage.world.events("bundle.promotion_failed").await, 1);

    // Nobody to roll out to: refused as well, until the next completion.
    let read = stage.world.memory.fetch::<Node>(&stage.world.scope(), stage.world.nodes[1].id).await.unwrap();
    let moved = Node { environment_id: None, ..read.value.clone() };
    stage.world.memory.commit(Changes::new().update(&read, &moved).unwrap()).await.unwrap();
    let harmless = stage.world.bundle("2").await;
    stage.develop(harmless).await;
    assert_eq!((stage.follow().await, stage.follow().await), (0, 0));
    let error = stage.rule().await.last_attempt.unwrap().error;
    assert_eq!(error.as_deref(), Some("No target nodes matched the selector"));
    assert_eq!(stage.in_staging().await.len(), 0, "nothing is half done");
    assert_eq!(stage.world.events("bundle.promoted").await, 0);
}

#[tokio::test]
async fn a_rollback_in_the_source_is_not_carried_on() {
    let mut stage = Stage::new(|rule| rule.delay_minutes = 1).await;
    let (good, bad) = (stage.world.bundle("1").await, stage.world.bundle("2").await);
    stage.develop(good).await;
    let source = stage.develop(bad).await;
    let scope = stage.world.scope();
    let command = zentinel_rollout::Command::Rollback;
    let undone = stage.world.engine.command(&scope, Actor::System, source, command).await.unwrap();
    stage.world.finish(undone.rolled_back_by.unwrap()).await;
    stage.world.clock.advance(Duration::from_secs(600));
    assert_eq!((stage.follow().await, stage.in_staging().await.len()), (0, 0));
}

#[tokio::test]
async fn healthy_minutes_start_anew_after_a_break() {
    let mut stage = Stage::new(|rule| rule.conditions.min_healthy_minutes = Some(10)).await;
    let bundle = stage.world.bundle("1").await;
    stage.develop(bundle).await;
    assert_eq!(stage.follow().await, 0);
    let since = stage.rule().await.healthy.unwrap().since;
    // The node falls silent in between and comes back.
    stage.world.nodes[0].silent = true;
    stage.world.clock.advance(Duration::from_secs(300));
    stage.world.nodes_act().await;
    stage.world.fleet.sweep().await.unwrap();
    stage.world.fleet.flush().await.unwrap();
    assert_eq!(stage.follow().await, 0);
    assert_eq!(stage.rule().await.healthy, None);
    stage.world.nodes[0].silent = false;
    stage.world.turn().await;
    assert_eq!(stage.follow().await, 0);
    assert!(stage.rule().await.healthy.unwrap().since > since);
    for minute in 1..=10 {
        stage.world.clock.advance(Duration::from_secs(55));
        stage.world.turn().await;
        assert_eq!(stage.follow().await, usize::from(minute == 10), "minute {minute}");
    }
    assert!(stage.world.clock.now() - since > TimeDelta::minutes(15));
    assert_eq!(stage.in_staging().await.len(), 1);
}
