use super::*;
use crate::fixture::{World, at, bundle as bundle_id};
use zentinel_core::entity::{
    Activation, BundleOrigin, BundleStatus, NodeStatus, PromotionConditions, RiskLevel, RolloutSpec,
};
use zentinel_core::id::{EnvironmentId, OrganisationId, ProjectId, PromotionRuleId, RolloutId};

fn bundle(risk: RiskLevel) -> Bundle {
    Bundle {
        id: bundle_id(1),
        organisation_id: OrganisationId::random(),
        project_id: ProjectId::random(),
        version: "1".to_owned(),
        status: BundleStatus::Compiled,
        generated: false,
        origin: BundleOrigin::default(),
        declared_risk: risk,
        risk_level: risk,
        risk_findings: Vec::new(),
        parent_bundle_id: None,
        activation: Activation::Reload,
        checksum: None,
        size_bytes: None,
        storage_key: None,
        config_hash: None,
        manifest: None,
        diagnostics: Vec::new(),
        signature: None,
        signing_key_id: None,
        created_at: at(0),
        updated_at: at(0),
        author: None,
    }
}

fn rule(conditions: PromotionConditions) -> PromotionRule {
    PromotionRule {
        id: PromotionRuleId::random(),
        organisation_id: OrganisationId::random(),
        project_id: ProjectId::random(),
        source_environment_id: EnvironmentId::random(),
        target_environment_id: EnvironmentId::random(),
        auto_promote: true,
        delay_minutes: 0,
        conditions,
        enabled: true,
        last_attempt: None,
        healthy: None,
        created_at: at(0),
        updated_at: at(0),
    }
}

/// A rollout that completed at second 0.
fn completed() -> Rollout {
    let mut rollout = World::new(1, RolloutSpec::default()).state.rollout().clone();
    rollout.state = RolloutState::Completed;
    rollout.completed_at = Some(at(0));
    rollout
}

fn node(name: &str, healthy: bool, error_rate: Option<f64>) -> NodeFacts {
    let mut facts = NodeFacts {
        exists: true,
        name: name.to_owned(),
        status: NodeStatus::Online,
        active_bundle_id: Some(bundle_id(1)),
        ..NodeFacts::default()
    };
    facts.health.status = healthy.then(|| "healthy".to_owned());
    facts.health.error_rate = error_rate;
    facts
}

fn ask(rule: &PromotionRule, nodes: &[NodeFacts], seconds: i64) -> Readiness {
    let (source, bundle) = (completed(), bundle(RiskLevel::Medium));
    Case { rule, source: &source, bundle: &bundle, nodes, now: at(seconds) }.readiness()
}

fn not_yet(readiness: &Readiness, words: &str) -> bool {
    matches!(readiness, Readiness::NotYet(reason) if reason.contains(words))
}

#[test]
fn without_conditions_only_the_delay_counts() {
    let mut rule = rule(PromotionConditions::default());
    assert_eq!(ask(&rule, &[], 0), Readiness::Ready);
    rule.delay_minutes = 10;
    assert!(not_yet(&ask(&rule, &[], 599), "10 minutes after the completion"));
    assert_eq!(ask(&rule, &[], 600), Readiness::Ready);
}

#[test]
fn a_risk_that_is_too_high_never_passes() {
    let most =
        |max_risk_level| rule(PromotionConditions { max_risk_level, ..PromotionConditions::default() });
    assert_eq!(ask(&most(Some(RiskLevel::Medium)), &[], 0), Readiness::Ready);
    let refused = ask(&most(Some(RiskLevel::Low)), &[], 0);
    assert!(matches!(&refused, Readiness::Never(reason) if reason.contains("is medium")), "{refused:?}");
}

#[test]
fn healthy_minutes_count_from_the_last_break() {
    let conditions = PromotionConditions { min_healthy_minutes: Some(5), ..PromotionConditions::default() };
    let mut rule = rule(conditions);
    let (source, good, bad) = (completed(), [node("a", true, None)], [node("a", false, None)]);
    rule.healthy = stretch(&rule, &source, true, at(60));
    assert_eq!(stretch(&rule, &source, true, at(120)), rule.healthy, "it goes on");
    assert!(not_yet(&ask(&rule, &good, 359), "healthy for 4 of 5 minutes"));
    assert_eq!(ask(&rule, &good, 360), Readiness::Ready);
    assert!(not_yet(&ask(&rule, &bad, 360), "1 of 1 nodes of the source environment are not healthy"));
    assert_eq!(stretch(&rule, &source, false, at(360)), None);
    rule.healthy = None;
    rule.healthy = stretch(&rule, &source, true, at(420));
    assert!(not_yet(&ask(&rule, &good, 600), "healthy for 3 of 5 minutes"));
    // What was found of an earlier rollout says nothing of this one.
    rule.healthy.as_mut().unwrap().source_rollout_id = RolloutId::random();
    assert_eq!(stretch(&rule, &source, true, at(900)).unwrap().since, at(900));
}

#[test]
fn error_rates_are_those_of_the_worst_node_and_silence_is_not_good() {
    let rule = rule(PromotionConditions { max_error_rate: Some(1.0), ..PromotionConditions::default() });
    assert_eq!(ask(&rule, &[node("a", true, Some(0.5)), node("b", true, Some(1.0))], 0), Readiness::Ready);
    assert!(not_yet(&ask(&rule, &[node("a", true, Some(0.5)), node("b", true, Some(1.1))], 0), "1.1 %"));
    assert!(not_yet(
        &ask(&rule, &[node("a", true, Some(0.5)), node("b", true, None)], 0),
        "node b reports no"
    ));
    assert!(not_yet(&ask(&rule, &[], 0), "No node"));
    let mut other = node("b", true, Some(0.0));
    other.active_bundle_id = None;
    assert!(not_yet(&ask(&rule, &[node("a", true, Some(0.0)), other], 0), "run something else"));
    let mut away = node("b", false, None);
    away.status = NodeStatus::Offline;
    assert_eq!(ask(&rule, &[node("a", true, Some(0.0)), away], 0), Readiness::Ready);
}

#[test]
fn the_last_completion_counts_unless_it_undid_or_was_undone() {
    let (first, mut second) = (completed(), completed());
    second.id = RolloutId::random();
    second.completed_at = Some(at(10));
    assert_eq!(latest([&first, &second]).map(|rollout| rollout.id), Some(second.id));
    let undone = Rollout { rolled_back_by: Some(RolloutId::random()), ..second.clone() };
    assert_eq!(latest([&first, &undone]), None, "what was there before is no news");
    let undoes = Rollout { rollback_of: Some(first.id), ..second.clone() };
    assert_eq!(latest([&first, &undoes]), None);
    let failed = Rollout { state: RolloutState::Failed, ..second };
    assert_eq!(latest([&first, &failed]).map(|rollout| rollout.id), Some(first.id));
}
