use crate::fixture::{World, node};
use crate::gate::{Gates, Verdict};
use crate::observation::CheckFacts;
use crate::step::step;
use chrono::TimeDelta;
use zentinel_core::entity::{
    AggregateGates, HealthGates, ProbeResult, RolloutSpec, RolloutState, StepState, Traffic, TrafficCounts,
};
use zentinel_core::id::HealthCheckId;

fn spec(aggregate_gates: AggregateGates) -> RolloutSpec {
    RolloutSpec { batch_size: 2, aggregate_gates, auto_rollback: true, ..RolloutSpec::default() }
}

fn counted(epoch: u64, requests: u64, errors: u64, slow: u64) -> Box<Traffic> {
    let mut total = TrafficCounts { requests, errors, ..TrafficCounts::default() };
    (total.latency[0], total.latency[8]) = (requests - slow, slow);
    Box::new(Traffic { epoch, total, recent: TrafficCounts::default() })
}

fn traffic(requests: u64, errors: u64, slow: u64) -> Box<Traffic> {
    counted(1, requests, errors, slow)
}

/// Ticks with all gates of the specification.
fn tick(world: &mut World) {
    let gates = Gates::of_spec(&world.state.rollout().spec);
    let decision = step(world.state.clone(), &*world.strategy, &gates, &world.observation, world.now);
    assert_eq!(crate::check(&decision.state), []);
    world.state = decision.state;
}

/// Every node of the first step runs the bundle and calls itself healthy; each has served so much before.
fn verifying(spec: RolloutSpec, before: Option<Box<Traffic>>) -> World {
    let mut world = World::running(4, spec);
    for number in [1, 2] {
        world.activate(number, crate::fixture::NEW);
        world.facts(number).health.traffic.clone_from(&before);
    }
    tick(&mut world);
    world.pass(10);
    for number in [1, 2] {
        world.facts(number).healthy_streak = 2;
    }
    world
}

fn first_step(world: &World) -> StepState {
    world.state.steps()[0].state
}

#[test]
fn requests_are_counted_together_and_only_since_the_activation() {
    let gates = AggregateGates { max_error_rate: Some(2.0), ..AggregateGates::default() };
    // Terrible before the change.
    let mut world = verifying(spec(gates), Some(traffic(1_000, 900, 0)));
    // The mean of both percentages is 25; over all requests it is 0.5.
    world.facts(1).health.traffic = Some(traffic(1_010, 905, 0));
    world.facts(2).health.traffic = Some(traffic(2_000, 900, 0));
    tick(&mut world);
    assert_eq!(first_step(&world), StepState::Completed);
}

#[test]
fn a_fleet_that_fails_too_many_requests_is_rolled_back_although_every_node_is_healthy() {
    let gates = AggregateGates { max_error_rate: Some(2.0), ..AggregateGates::default() };
    let mut world = verifying(spec(gates), Some(traffic(0, 0, 0)));
    for number in [1, 2] {
        world.facts(number).health.traffic = Some(traffic(100, 3, 0));
    }
    tick(&mut world);
    let summary = &world.state.rollout().waiting.summary;
    assert_eq!(summary, "6 of 200 requests failed, 3.00 %; at most 2 % may.");
    world.pass(51);
    tick(&mut world);
    let rollout = world.state.rollout();
    let error = rollout.error.as_ref().unwrap();
    assert_eq!((rollout.state, error.reason.as_str()), (RolloutState::Failed, "sustained_gate_failure"));
    assert_eq!(error.details["gates"][0]["gate"], "aggregate_max_error_rate");
    assert!(rollout.rolled_back_by.is_some());
}

#[test]
fn what_is_not_reported_or_too_little_never_passes() {
    let gates =
        AggregateGates { max_error_rate: Some(2.0), min_requests: Some(50), ..AggregateGates::default() };
    for (second, why) in [
        (None, "1 node has not reported what they served with the bundle: edge-2."),
        (Some(traffic(10, 0, 0)), "30 requests since the activation, 50 are needed to judge."),
    ] {
        let mut world = verifying(spec(gates.clone()), Some(traffic(0, 0, 0)));
        world.facts(1).health.traffic = Some(traffic(20, 0, 0));
        world.facts(2).health.traffic = second;
        tick(&mut world);
        assert_eq!(world.state.rollout().waiting.summary, why);
        assert_eq!(first_step(&world), StepState::Verifying);
        world.pass(601);
        tick(&mut world);
        assert_eq!(world.state.rollout().state, RolloutState::Failed);
    }
}

#[test]
fn counts_that_began_anew_are_all_from_after_the_activation() {
    let gates = AggregateGates { max_error_rate: Some(2.0), ..AggregateGates::default() };
    let mut world = verifying(spec(gates), Some(traffic(1_000, 0, 0)));
    for number in [1, 2] {
        world.facts(number).health.traffic = Some(counted(2, 2_000, 100, 0));
    }
    tick(&mut world);
    assert_eq!(
        world.state.rollout().waiting.summary,
        "200 of 4000 requests failed, 5.00 %; at most 2 % may."
    );
}

#[test]
fn the_tail_of_all_requests_is_judged_not_the_mean_of_tails() {
    let gates = AggregateGates { max_latency_ms: Some(100.0), ..AggregateGates::default() };
    let mut world = verifying(spec(gates), Some(traffic(0, 0, 0)));
    // One node with few requests is slow: a mean of both p99 would fail.
    world.facts(1).health.traffic = Some(traffic(10, 0, 5));
    world.facts(2).health.traffic = Some(traffic(10_000, 0, 0));
    tick(&mut world);
    assert_eq!(first_step(&world), StepState::Completed);
    let mut world = verifying(world.state.rollout().spec.clone(), Some(traffic(0, 0, 0)));
    for number in [1, 2] {
        world.facts(number).health.traffic = Some(traffic(100, 0, 5));
    }
    tick(&mut world);
    assert!(world.state.steps()[0].failing_since.is_some());
}

#[test]
fn the_healthy_share_looks_back_at_steps_that_are_done() {
    let gates = AggregateGates { min_healthy_percent: Some(75.0), ..AggregateGates::default() };
    let spec = RolloutSpec { health_gates: HealthGates::default(), ..spec(gates) };
    let mut world = verifying(spec, None);
    tick(&mut world);
    assert_eq!(first_step(&world), StepState::Completed);
    for number in [3, 4] {
        world.activate(number, crate::fixture::NEW);
    }
    world.pass(10);
    for number in [1, 3] {
        world.facts(number).health.status = Some("degraded".to_owned());
    }
    tick(&mut world);
    let summary = &world.state.rollout().waiting.summary;
    assert_eq!(summary, "2 of 4 nodes are healthy, 50.0 %; at least 75 % must be.");
    world.facts(1).health.status = Some("healthy".to_owned());
    tick(&mut world);
    assert_eq!(world.state.rollout().state, RolloutState::Completed);
    // Every look is at the nodes of the step that is done.
    assert!(Gates::of_spec(&world.state.rollout().spec).look_back());
}

fn checked(id: HealthCheckId) -> RolloutSpec {
    RolloutSpec { custom_health_checks: [id].into(), ..spec(AggregateGates::default()) }
}

fn facts(per_node: bool) -> CheckFacts {
    CheckFacts {
        name: "ready".to_owned(),
        enabled: true,
        per_node,
        believed_for: TimeDelta::seconds(30),
        of_all: None,
        of_nodes: [].into(),
    }
}

fn answer(world: &World, ago: i64, failure: Option<&str>) -> ProbeResult {
    let at = world.now - TimeDelta::seconds(ago);
    ProbeResult { asked_at: at, answered_at: at, failure: failure.map(str::to_owned), status: Some(200) }
}

fn ruling(world: &World) -> (Verdict, String) {
    let gates = Gates::of_spec(&world.state.rollout().spec);
    let mut rulings = gates.rule(&world.state, &world.observation, 0, world.now);
    assert_eq!(rulings.len(), 1);
    let (_, ruling) = rulings.remove(0);
    (ruling.verdict, ruling.sentence)
}

#[test]
fn an_endpoint_passes_only_with_a_fresh_answer_from_the_steps_own_time() {
    let id = HealthCheckId::random();
    let mut world = verifying(checked(id), None);
    let missing = ruling(&world);
    assert!(matches!(missing.0, Verdict::Fail { .. }) && missing.1.contains("does not exist any more"));
    world.observation.checks.insert(id, CheckFacts { enabled: false, ..facts(false) });
    assert_eq!(ruling(&world).1, "The health check ready is disabled.");
    assert!(matches!(ruling(&world).0, Verdict::Fail { .. }));
    world.pass(60);
    for (ago, failure, passes) in [
        (0, None, true),
        (30, None, true),
        (31, None, false),
        (100, None, false),
        (1, Some("status 500"), false),
    ] {
        let of_all = Some(answer(&world, ago, failure));
        world.observation.checks.insert(id, CheckFacts { of_all, ..facts(false) });
        assert_eq!(ruling(&world).0 == Verdict::Pass, passes, "{ago} {failure:?}");
    }
    world.observation.checks.insert(id, facts(false));
    assert_eq!(ruling(&world).1, "The health check ready was not asked yet.");
    tick(&mut world);
    assert_eq!(first_step(&world), StepState::Verifying);
    let of_all = Some(answer(&world, 0, None));
    world.observation.checks.insert(id, CheckFacts { of_all, ..facts(false) });
    tick(&mut world);
    assert_eq!(first_step(&world), StepState::Completed);
}

#[test]
fn an_endpoint_of_each_node_must_pass_on_each() {
    let id = HealthCheckId::random();
    let mut world = verifying(checked(id), None);
    let (good, bad) = (answer(&world, 0, None), answer(&world, 0, Some("status 503 instead of 200")));
    for (first, second, expected) in [
        (Some(&good), None, "1 nodes pass, 0 fail, 1 unknown; edge-2 was not asked yet."),
        (None, Some(&bad), "0 nodes pass, 1 fail, 1 unknown; edge-2: status 503 instead of 200."),
        (Some(&good), Some(&good), "2 nodes pass, 0 fail, 0 unknown."),
    ] {
        let mut facts = facts(true);
        facts.of_nodes.extend(first.map(|result| (node(1), result.clone())));
        facts.of_nodes.extend(second.map(|result| (node(2), result.clone())));
        world.observation.checks.insert(id, facts);
        let (verdict, sentence) = ruling(&world);
        assert_eq!(sentence, format!("The health check ready: {expected}"));
        assert_eq!(verdict == Verdict::Pass, first.is_some() && second == Some(&good));
    }
    tick(&mut world);
    assert_eq!(first_step(&world), StepState::Completed);
}
