//! One arrangement, one call, the exact effects.

mod ending;
mod holding;
mod pacing;
mod pausing;
mod properties;
mod taken_back;

use super::*;
use crate::fixture::{NEW, OLD, World, bundle, node};
use crate::{Command, Restore, UnrestorableReason};
use zentinel_core::Percent;
use zentinel_core::entity::{HealthGates, RolloutSpec};

fn spec() -> RolloutSpec {
    RolloutSpec { batch_size: 2, ..RolloutSpec::default() }
}

fn nodes(numbers: &[u128]) -> Vec<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

fn stage(numbers: &[u128]) -> Effect {
    Effect::Stage { nodes: nodes(numbers) }
}

fn expect(numbers: &[u128]) -> Effect {
    Effect::Expect { nodes: nodes(numbers) }
}

fn unstage(numbers: &[u128]) -> Effect {
    Effect::Unstage { nodes: nodes(numbers) }
}

fn release(numbers: &[u128]) -> Effect {
    Effect::Release { nodes: nodes(numbers) }
}

fn state_of(world: &World) -> RolloutState {
    world.state.rollout().state
}

fn reason_of(world: &World) -> &str {
    &world.state.rollout().error.as_ref().unwrap().reason
}

#[test]
fn a_start_claims_every_node_and_the_first_tick_comes_in_a_second() {
    let mut world = World::new(3, spec());
    let decision = world.command(Command::Start).unwrap();
    assert_eq!(decision.effects, [Effect::Claim { nodes: nodes(&[1, 2, 3]) }]);
    assert_eq!(decision.events.iter().map(|event| event.kind).collect::<Vec<_>>(), ["rollout.started"]);
    assert_eq!(decision.events[0].payload["old_state"], "pending");
    assert_eq!(decision.next_wake, Some(world.now + TimeDelta::seconds(1)));
}

#[test]
fn the_first_tick_tells_the_first_batch() {
    let mut world = World::new(3, spec());
    world.command(Command::Start).unwrap();
    world.pass(1);
    let decision = world.tick();
    assert_eq!(decision.effects, [stage(&[1, 2])]);
    assert_eq!(decision.changed_steps.iter().copied().collect::<Vec<_>>(), [0]);
    assert_eq!(decision.changed_nodes.iter().copied().collect::<Vec<_>>(), nodes(&[1, 2]));
    assert_eq!(decision.next_wake, Some(world.now + TICK_INTERVAL));
    assert_eq!(decision.report().nodes.len(), 2);
}

#[test]
fn a_step_waits_for_all_its_nodes_then_for_its_gates_then_the_next_one_starts() {
    let mut world = World::running(3, spec());
    world.activate(1, NEW);
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.steps()[0].state, StepState::Running);
    world.activate(2, NEW);
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.steps()[0].state, StepState::Verifying);
    assert_eq!(world.state.rollout().waiting.nodes[0].reason, "gate_unknown");
    world.settle();
    assert_eq!(world.tick().effects, [expect(&[1, 2]), stage(&[3])]);
    world.activate(3, NEW);
    world.settle();
    let decision = world.tick();
    assert_eq!(decision.effects, [expect(&[3]), release(&[1, 2, 3])]);
    assert_eq!(decision.events[0].kind, "rollout.completed");
    assert_eq!((decision.next_wake, state_of(&world)), (None, RolloutState::Completed));
}

#[test]
fn an_early_wake_up_does_not_postpone_the_due_tick() {
    let mut world = World::running(2, spec());
    let due = world.state.rollout().next_tick_at;
    world.pass(2);
    let decision = world.tick();
    assert_eq!(decision.next_wake, due);
    assert!(decision.is_idle());
}

#[test]
fn nodes_are_noted_as_staged_and_activating() {
    let mut world = World::running(2, spec());
    world.facts(1).staged_bundle_id = Some(bundle(NEW));
    world.activate(2, NEW);
    world.tick();
    let part = |number| &world.state.nodes()[&node(number)];
    assert_eq!(part(1).state, NodeProgress::Staged);
    assert_eq!(part(2).state, NodeProgress::Activating);
    assert_eq!(part(2).activated_at, Some(world.now));
}

#[test]
fn a_node_that_falls_back_is_waited_for_again() {
    let mut world = World::running(2, spec());
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    world.activate(1, OLD);
    world.settle();
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.nodes()[&node(1)].state, NodeProgress::Staging);
    assert_eq!(world.state.steps()[0].state, StepState::Verifying);
}

#[test]
fn nothing_is_decided_about_nodes_that_were_not_looked_at() {
    let mut world = World::running(2, spec());
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.observation.nodes.remove(&node(2));
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.steps()[0].state, StepState::Running);
}

#[test]
fn deleted_nodes_leave_the_denominator() {
    let mut world = World::running(3, spec());
    world.activate(1, NEW);
    *world.facts(2) = crate::NodeFacts::deleted();
    world.tick();
    world.settle();
    assert_eq!(world.tick().effects, [expect(&[1]), stage(&[3])]);
    assert_eq!(world.state.steps()[0].state, StepState::Completed);
    assert_eq!(world.state.nodes()[&node(2)].error.as_deref(), Some(crate::transition::NODE_DELETED));
}

#[test]
fn a_rollout_whose_nodes_were_all_deleted_fails() {
    let mut world = World::running(2, spec());
    *world.facts(1) = crate::NodeFacts::deleted();
    *world.facts(2) = crate::NodeFacts::deleted();
    assert_eq!(world.tick().effects, [release(&[1, 2])]);
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Failed, NO_TARGET_NODES));
}

#[test]
fn the_failed_share_fails_the_step_at_once() {
    let mut world = World::running(3, spec());
    world.activate(1, NEW);
    world.rejects(2);
    let decision = world.tick();
    assert_eq!(decision.effects, [unstage(&[2]), release(&[1, 2, 3])]);
    assert_eq!(reason_of(&world), FAILURE_THRESHOLD_EXCEEDED);
    assert_eq!(world.state.steps()[0].state, StepState::Failed);
    assert_eq!(world.state.steps()[1].error.as_ref().unwrap().reason, "cancelled");
}

#[test]
fn fewer_failures_than_the_threshold_wait_for_the_deadline() {
    let spec = RolloutSpec { rollback_threshold: Percent::new(51).unwrap(), ..spec() };
    let mut world = World::running(2, spec);
    world.activate(1, NEW);
    world.rejects(2);
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.rollout().waiting.nodes[0].reason, "rejected");
    world.pass(600);
    assert_eq!(state_of(&world), RolloutState::Running);
    world.pass(1);
    assert_eq!(world.tick().effects, [unstage(&[2]), release(&[1, 2])]);
    assert_eq!(reason_of(&world), STEP_DEADLINE_EXCEEDED);
}

#[test]
fn an_error_from_before_the_node_was_told_does_not_count() {
    let mut world = World::new(2, spec());
    world.rejects(1);
    world.command(Command::Start).unwrap();
    world.pass(1);
    world.tick();
    assert!(world.tick().effects.is_empty());
    assert_eq!(world.state.nodes()[&node(1)].state, NodeProgress::Staging);
}

#[test]
fn an_error_counts_for_the_statement_that_it_names() {
    let mut world = World::running(2, spec());
    let rollout = world.state.rollout().id;
    let fails = |world: &mut World, told, sequence| {
        world.rejects(1);
        let facts = world.facts(1);
        facts.told = told;
        facts.bundle_error.as_mut().unwrap().sequence = Some(sequence);
        world.tick();
        world.state.nodes()[&node(1)].state
    };
    world.pass(1);
    // Heard of only now, but about an earlier statement about the same bundle, or told by somebody else.
    assert_eq!(fails(&mut world, Some((rollout, 8)), 7), NodeProgress::Staging);
    assert_eq!(fails(&mut world, None, 8), NodeProgress::Staging);
    let other = zentinel_core::id::RolloutId::random();
    assert_eq!(fails(&mut world, Some((other, 8)), 8), NodeProgress::Staging);
    assert_eq!(fails(&mut world, Some((rollout, 8)), 8), NodeProgress::Failed);
}

#[test]
fn the_deadline_is_strict_and_names_the_offline_nodes() {
    let mut world = World::running(2, spec());
    world.activate(1, NEW);
    world.goes_offline(2);
    world.pass(600);
    assert_eq!(world.tick().effects, []);
    world.pass(1);
    world.tick();
    let error = world.state.rollout().error.clone().unwrap();
    assert_eq!(error.reason, STEP_DEADLINE_EXCEEDED);
    assert_eq!(error.details["elapsed_seconds"], 601);
    assert_eq!(error.details["offline_nodes"], serde_json::json!(["edge-2"]));
    assert!(error.message.contains("edge-2"), "{}", error.message);
    assert_eq!(world.state.steps()[0].error.as_ref().unwrap().reason, "deadline_exceeded");
}

#[test]
fn all_at_once_tells_every_node() {
    let spec = RolloutSpec { strategy: "all_at_once".to_owned(), ..RolloutSpec::default() };
    let mut world = World::new(4, spec);
    world.command(Command::Start).unwrap();
    assert_eq!(world.tick().effects, [stage(&[1, 2, 3, 4])]);
}

#[test]
fn a_gate_that_fails_names_the_node_and_the_value() {
    let spec = RolloutSpec {
        health_gates: HealthGates { max_error_rate: Some(5.0), ..HealthGates::default() },
        ..spec()
    };
    let mut world = World::running(2, spec);
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.settle();
    world.facts(1).health.error_rate = Some(1.0);
    world.tick();
    assert_eq!(world.state.rollout().waiting.nodes[0].reason, "gate_unknown");
    world.facts(2).health.error_rate = Some(7.5);
    world.tick();
    let waiting = &world.state.rollout().waiting.nodes[0];
    assert_eq!((waiting.node_id, waiting.value, waiting.limit), (node(2), Some(7.5), Some(5.0)));
    assert_eq!(world.state.steps()[0].failing_since, Some(world.now));
    world.pass(700);
    world.tick();
    let gates = &world.state.steps()[0].error.as_ref().unwrap().details["gates"];
    assert_eq!(gates[0]["gate"], "max_error_rate");
    assert_eq!(gates[0]["value"], 7.5);
}

#[test]
fn the_previous_bundle_is_what_the_node_runs_when_it_is_told() {
    let mut world = World::new(1, spec());
    let third = bundle(0xC);
    world.facts(1).active_bundle_id = Some(third);
    world.command(Command::Start).unwrap();
    let decision = world.tick();
    assert_eq!(decision.state.nodes()[&node(1)].previous_bundle_id, Some(third));
    assert!(decision.state.bundles().contains(&third));
}
