use super::*;
use crate::command::Command;
use crate::decision::Decision;
use crate::fixture::{NEW, World};
use std::collections::BTreeMap as Map;
use std::sync::Arc;
use zentinel_core::entity::{LATENCY_BUCKETS, RolloutState, TrafficCounts};

fn complaints(config: Value) -> Map<String, Vec<String>> {
    let spec =
        RolloutSpec { strategy: "canary".to_owned(), strategy_config: config, ..RolloutSpec::default() };
    let mut checks = Checks::new();
    Canary.check(&spec, &mut checks);
    checks.finish().map_or_else(|error| error.fields().clone(), |()| Map::new())
}

fn sizes(config: Value, nodes: usize) -> Vec<usize> {
    let spec = RolloutSpec { strategy_config: config, ..RolloutSpec::default() };
    let targets: Vec<NodeId> = (0..nodes).map(|_| NodeId::random()).collect();
    let steps = Canary.plan(&spec, &targets).unwrap();
    assert_eq!(steps.iter().flat_map(|step| step.nodes.clone()).collect::<Vec<_>>(), targets);
    steps.iter().map(|step| step.nodes.len()).collect()
}

#[test]
fn shares_are_cumulative_and_never_empty() {
    assert_eq!(sizes(Value::Null, 100), [5, 20, 25, 50]);
    assert_eq!(sizes(Value::Null, 10), [1, 2, 2, 5]);
    assert_eq!(sizes(Value::Null, 3), [1, 1, 1]);
    assert_eq!(sizes(Value::Null, 1), [1]);
    assert_eq!(sizes(Value::Null, 0), Vec::<usize>::new());
    assert_eq!(sizes(json!({"steps": [1, 2, 100]}), 10), [1, 9]);
}

#[test]
fn settings_have_defaults_and_limits() {
    assert_eq!(complaints(Value::Null), Map::new());
    let good = json!({"steps": [10, 100], "confidence_level": 0.99, "analysis_window_minutes": 1,
        "on_insufficient_data": "fail", "minimum_effect": 1.1});
    assert_eq!(complaints(good.clone()), Map::new());
    let spec = RolloutSpec { strategy_config: good, ..RolloutSpec::default() };
    let config = CanaryConfig::of(&spec);
    assert_eq!((config.trial.window_seconds, config.trial.deadline_seconds), (60, 180));
    assert!(config.fails_when_inconclusive && (config.trial.alpha - 0.01).abs() < 1e-9);
    for bad in [
        json!([]),
        json!({"step": [5, 100]}),
        json!({"steps": []}),
        json!({"steps": [5, 50]}),
        json!({"steps": [50, 5, 100]}),
        json!({"steps": [5, 5, 100]}),
        json!({"steps": [0, 100]}),
        json!({"steps": ["5", 100]}),
        json!({"confidence_level": 1}),
        json!({"error_rate_threshold": -1}),
        json!({"analysis_window_minutes": "5"}),
        json!({"on_insufficient_data": "promote"}),
    ] {
        assert!(complaints(bad.clone()).contains_key("canary_analysis_config"), "{bad}");
    }
}

#[test]
fn the_arms_of_each_step_are_its_nodes_and_those_that_come_later() {
    let id =
        |number: u128| -> NodeId { zentinel_core::id::TypedId::from_uuid(uuid::Uuid::from_u128(number)) };
    let template = World::new(1, RolloutSpec::default()).state.steps()[0].clone();
    let step = |index: u32, nodes: std::ops::Range<u128>| RolloutStep {
        index,
        node_ids: nodes.map(id).collect(),
        ..template.clone()
    };
    let steps = [step(0, 0..1), step(1, 1..3), step(2, 3..8)];
    let arms: Vec<(NodeId, bool)> = sample(&steps, 1).collect();
    assert_eq!(arms.iter().filter(|(_, canary)| *canary).count(), 2);
    assert_eq!(
        arms.iter().filter(|(_, canary)| !canary).map(|(id, _)| *id).collect::<Vec<_>>(),
        (3..8).map(id).collect::<Vec<_>>()
    );
    assert_eq!(sample(&steps, 2).filter(|(_, canary)| !canary).count(), 0);
    assert_eq!(sample(&steps, 9).count(), 0);
}

/// A fleet that serves, and a canary rollout over it.
struct Fleet {
    world: World,
    /// Failed requests of a thousand on nodes with the new bundle.
    errors: u64,
}

const NODES: u128 = 100;

impl Fleet {
    fn new(errors: u64, reports: bool) -> Self {
        let config = json!({"steps": [20, 100], "analysis_window_minutes": 2});
        let spec =
            RolloutSpec { strategy: "canary".to_owned(), strategy_config: config, ..RolloutSpec::default() };
        let world = World::with_strategy(NODES, spec, Arc::new(Canary));
        let mut fleet = Self { world, errors };
        for number in (1..=NODES).filter(|_| reports) {
            fleet.world.facts(number).health.traffic = Some(Box::default());
        }
        fleet.world.command(Command::Start).unwrap();
        fleet.pass(10);
        fleet
    }

    /// Nodes serve, do what they are told, and report; then the rollout is looked at.
    fn pass(&mut self, seconds: i64) -> Decision {
        self.world.pass(seconds);
        for number in 1..=NODES {
            let facts = self.world.facts(number);
            let errors = if facts.runs(crate::fixture::bundle(NEW)) { self.errors } else { 10 };
            if let Some(traffic) = &mut facts.health.traffic {
                let mut latency = [0; LATENCY_BUCKETS];
                (latency[2], latency[6]) = (970, 30);
                traffic.total.add(&TrafficCounts { requests: 1_000, errors, latency });
                traffic.recent = traffic.total;
            }
            facts.healthy_streak += 1;
        }
        let decision = self.world.tick();
        let told: Vec<NodeId> = decision
            .state
            .nodes()
            .values()
            .filter(|node| node.staged_at.is_some())
            .map(|node| node.node_id)
            .collect();
        for number in (1..=NODES).filter(|number| told.contains(&crate::fixture::node(*number))) {
            if !self.world.facts(number).runs(crate::fixture::bundle(NEW)) {
                self.world.activate(number, NEW);
            }
        }
        decision
    }

    /// Until the rollout stands still or has ended; everything that was found on the way.
    fn run(&mut self) -> Vec<Value> {
        let mut findings = Vec::new();
        for _ in 0..200 {
            findings.extend(self.pass(5).findings);
            if self.world.state.rollout().state != RolloutState::Running {
                return findings;
            }
        }
        panic!("still running: {:#?}", self.world.state.rollout());
    }
}

#[test]
fn a_healthy_canary_goes_all_the_way() {
    let mut fleet = Fleet::new(10, true);
    let findings = fleet.run();
    assert_eq!(fleet.world.state.rollout().state, RolloutState::Completed);
    let of_step = |step: u64| findings.iter().rfind(|finding| finding["step_index"] == step).unwrap();
    assert_eq!((&of_step(0)["decision"], &of_step(1)["decision"]), (&json!("promote"), &json!("promote")));
    assert_eq!(of_step(0)["canary"]["nodes"], 20);
    assert_eq!(of_step(0)["baseline"]["nodes"], 80);
}

#[test]
fn a_canary_that_fails_more_is_rolled_back_with_its_own_nodes_alone() {
    let mut fleet = Fleet::new(30, true);
    let findings = fleet.run();
    let rollout = fleet.world.state.rollout();
    assert_eq!(rollout.state, RolloutState::Failed);
    assert_eq!(rollout.error.as_ref().unwrap().reason, crate::step::STRATEGY_ROLLBACK);
    assert_eq!(fleet.world.rollback().state.nodes().len(), 20);
    let last = findings.last().unwrap();
    assert_eq!(last["decision"], "rollback");
    assert!(last["findings"][0]["evidence"].as_f64() >= last["findings"][0]["needed"].as_f64(), "{last}");
}

#[test]
fn nodes_that_say_nothing_of_their_traffic_pause_it() {
    let mut fleet = Fleet::new(10, false);
    let findings = fleet.run();
    let rollout = fleet.world.state.rollout();
    assert_eq!(rollout.state, RolloutState::Paused);
    assert!(rollout.error.as_ref().unwrap().message.contains("No canary reports what it serves"));
    assert_eq!(findings.last().unwrap()["decision"], "inconclusive");
    assert_eq!(fleet.world.state.steps()[0].state, StepState::Validating);
    // A person may let it pass; a plain resume begins anew, with the nodes that report by then.
    let held = fleet.world.clone();
    fleet.world.command(Command::Advance).unwrap();
    assert_eq!(fleet.world.state.steps()[0].state, StepState::Completed);
    fleet.world = held;
    fleet.world.command(Command::Resume).unwrap();
    fleet.run();
    assert_eq!(fleet.world.state.rollout().state, RolloutState::Paused);
    for number in 1..=NODES {
        fleet.world.facts(number).health.traffic = Some(Box::default());
    }
    fleet.world.command(Command::Resume).unwrap();
    fleet.run();
    assert_eq!(fleet.world.state.rollout().state, RolloutState::Completed);
}

#[test]
fn ticks_between_looks_remember_nothing_new() {
    let mut fleet = Fleet::new(10, true);
    let mut changes = 0;
    for _ in 0..12 {
        changes += u32::from(fleet.pass(1).memory_changed);
    }
    assert!((1..=4).contains(&changes), "{changes}");
}
