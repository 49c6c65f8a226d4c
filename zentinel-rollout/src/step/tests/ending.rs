//! Failure, cancellation, rollback, and what comes after.

use super::*;
use zentinel_core::id::BundleId;

fn auto() -> RolloutSpec {
    RolloutSpec { auto_rollback: true, ..spec() }
}

/// Five nodes in batches of two; the first batch is done, the second is told.
fn half_way(spec: RolloutSpec) -> World {
    let mut world = World::running(5, spec);
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    world.settle();
    assert_eq!(world.tick().effects, [expect(&[1, 2]), stage(&[3, 4])]);
    world
}

fn rollback_in(decision: &crate::Decision) -> Option<&crate::Rollback> {
    decision.effects.iter().find_map(|effect| match effect {
        Effect::RollBack(rollback) => Some(&**rollback),
        _ => None,
    })
}

fn restore(number: u128, of: u128) -> Restore {
    Restore { node_id: node(number), bundle_id: bundle(of) }
}

#[test]
fn a_cancel_withdraws_what_is_not_active_and_releases_all() {
    let mut world = half_way(spec());
    world.activate(3, NEW);
    let decision = world.command(Command::Cancel).unwrap();
    assert_eq!(decision.effects, [unstage(&[4]), release(&[1, 2, 3, 4, 5])]);
    assert_eq!(decision.events[0].kind, "rollout.cancelled");
    assert_eq!(state_of(&world), RolloutState::Cancelled);
    assert_eq!(world.state.nodes()[&node(5)].state, NodeProgress::Pending);
    assert_eq!(world.tick().effects, []);
}

#[test]
fn a_rollback_gives_each_touched_node_its_own_bundle_and_leaves_the_others_alone() {
    let mut world = World::new(5, spec());
    world.facts(2).active_bundle_id = Some(bundle(0xC));
    world.observation.deployable.insert(bundle(0xC));
    world.command(Command::Start).unwrap();
    world.tick();
    for number in [1, 2] {
        world.activate(number, NEW);
    }
    world.tick();
    world.settle();
    world.tick();
    world.activate(3, NEW);
    let decision = world.command(Command::Rollback).unwrap();
    assert_eq!(decision.effects[..2], [unstage(&[4]), release(&[1, 2, 3, 4, 5])]);
    let rollback = rollback_in(&decision).unwrap();
    assert_eq!(rollback.nodes, [restore(1, OLD), restore(2, 0xC), restore(3, OLD)]);
    assert_eq!(rollback.unrestorable, []);
    assert_eq!(rollback.reason, "operator");
    let rollout = decision.state.rollout();
    assert_eq!(rollout.state, RolloutState::Cancelled);
    assert_eq!(rollout.rolled_back_by, Some(rollback.rollout_id));
    assert_eq!(rollout.error.as_ref().unwrap().details["outcome"], "rolled_back");
}

#[test]
fn nodes_without_a_usable_previous_bundle_are_reported() {
    let mut world = World::new(2, spec());
    world.command(Command::Start).unwrap();
    world.tick();
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    world.observation.deployable.remove(&bundle(OLD));
    let decision = world.command(Command::Rollback).unwrap();
    assert!(rollback_in(&decision).is_none());
    assert_eq!(decision.state.rollout().rolled_back_by, None);
    let error = decision.state.rollout().error.clone().unwrap();
    assert_eq!(error.details["unrestorable"].as_array().unwrap().len(), 2);
    assert_eq!(
        error.details["unrestorable"][0]["reason"],
        UnrestorableReason::PreviousBundleRevoked.as_str()
    );
}

#[test]
fn a_deadline_with_auto_rollback_fails_first_and_rolls_back_every_step() {
    let mut world = half_way(auto());
    world.activate(3, NEW);
    world.pass(601);
    let decision = world.tick();
    assert_eq!(decision.events.iter().map(|event| event.kind).collect::<Vec<_>>(), ["rollout.failed"]);
    assert_eq!(decision.effects[..2], [unstage(&[4]), release(&[1, 2, 3, 4, 5])]);
    let rollback = rollback_in(&decision).unwrap();
    assert_eq!(rollback.nodes, [restore(1, OLD), restore(2, OLD), restore(3, OLD)]);
    assert_eq!(rollback.reason, STEP_DEADLINE_EXCEEDED);
    assert_eq!(rollback.spec.strategy, "all_at_once");
    assert!(!rollback.spec.auto_rollback);
}

#[test]
fn sustained_gate_failure_rolls_back_after_fifty_seconds_not_before() {
    let mut world = half_way(auto());
    world.activate(3, NEW);
    world.activate(4, NEW);
    world.tick();
    world.settle();
    world.facts(3).health.status = Some("degraded".to_owned());
    world.tick();
    world.pass(50);
    assert_eq!(world.tick().effects, []);
    world.pass(1);
    let decision = world.tick();
    assert_eq!(reason_of(&world), SUSTAINED_GATE_FAILURE);
    assert_eq!(rollback_in(&decision).unwrap().nodes.len(), 4);
}

#[test]
fn a_passing_evaluation_clears_the_failure_time() {
    let mut world = World::running(2, auto());
    world.facts(1).health.status = Some("degraded".to_owned());
    world.activate(2, NEW);
    world.activate(1, NEW);
    world.settle();
    world.facts(1).health.status = Some("degraded".to_owned());
    world.tick();
    assert!(world.state.steps()[0].failing_since.is_some());
    world.facts(1).health.status = Some("healthy".to_owned());
    world.pass(60);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Completed);
    assert_eq!(world.state.steps()[0].failing_since, None);
}

#[test]
fn unknown_gates_wait_for_the_deadline_and_do_not_arm_the_rollback() {
    let mut world = World::running(2, auto());
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    world.goes_offline(1);
    world.goes_offline(2);
    world.pass(500);
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.rollout().waiting.nodes[0].reason, "offline");
    assert_eq!(world.state.steps()[0].failing_since, None);
}

#[test]
fn a_revoked_bundle_fails_the_rollout_at_any_tick_and_while_paused() {
    for paused in [false, true] {
        let mut world = half_way(spec());
        if paused {
            world.command(Command::Pause).unwrap();
        }
        world.observation.deployable.remove(&bundle(NEW));
        let decision = world.tick();
        assert_eq!(decision.effects, [unstage(&[3, 4]), release(&[1, 2, 3, 4, 5])]);
        assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Failed, BUNDLE_REVOKED));
    }
}

#[test]
fn a_rollback_happens_once() {
    let mut world = half_way(auto());
    world.rejects(3);
    let first = world.tick();
    assert!(rollback_in(&first).is_some());
    for _ in 0..3 {
        world.pass(60);
        assert!(rollback_in(&world.tick()).is_none());
    }
    assert!(world.command(Command::Rollback).is_err());
    assert_eq!(
        crate::plan::derived_rollback_id(world.state.rollout().id),
        world.state.rollout().rolled_back_by.unwrap()
    );
}

#[test]
fn a_rollback_rollout_restores_and_never_rolls_back_again() {
    let mut world = half_way(auto());
    world.rejects(3);
    world.tick();
    let mut back = world.rollback();
    assert_eq!(back.tick().effects, [stage(&[1, 2])]);
    assert_eq!(back.state.nodes()[&node(1)].bundle_id, bundle(OLD));
    back.activate(1, OLD);
    assert!(back.command(Command::Rollback).is_err());
    back.pass(601);
    let decision = back.tick();
    // The slow node keeps its target; the other one has not sent a second healthy heartbeat yet.
    assert_eq!(decision.effects, [release(&[1, 2])]);
    assert_eq!(state_of(&back), RolloutState::Completed);
    back.settle();
    assert_eq!(back.tick().effects, [expect(&[1])]);
    back.activate(2, OLD);
    back.settle();
    assert_eq!(back.tick().effects, [expect(&[2])]);
    assert_eq!(back.tick().next_wake, None);
}

/// A rollback of two nodes under way.
fn rolling_back() -> World {
    let mut world = half_way(auto());
    world.rejects(3);
    world.tick();
    let mut back = world.rollback();
    assert_eq!(back.tick().effects, [stage(&[1, 2])]);
    back
}

#[test]
fn a_rollback_of_nodes_that_are_all_away_completes_and_waits_for_them() {
    let mut back = rolling_back();
    back.goes_offline(1);
    back.goes_offline(2);
    back.pass(601);
    assert_eq!(back.tick().effects, [release(&[1, 2])]);
    assert_eq!(state_of(&back), RolloutState::Completed);
    assert!(back.state.nodes().values().all(|node| node.lagging));
}

#[test]
fn a_gate_that_fails_withdraws_nothing_in_a_rollback() {
    let mut back = rolling_back();
    for number in [1, 2] {
        back.activate(number, OLD);
        back.facts(number).health.status = Some("degraded".to_owned());
    }
    back.tick();
    for _ in 0..12 {
        back.pass(60);
        assert!(back.tick().effects.iter().all(|effect| !matches!(effect, Effect::Unstage { .. })));
    }
    assert_eq!(state_of(&back), RolloutState::Completed);
    assert!(back.state.nodes().values().all(|node| node.lagging));
}

#[test]
fn a_node_that_rejects_the_rollback_does_not_take_it_from_the_others() {
    let mut back = rolling_back();
    let now = back.now;
    let rejects = |back: &mut World, number| {
        back.rejects(number);
        back.facts(number).bundle_error_at = Some(now);
        back.facts(number).bundle_error.as_mut().unwrap().bundle_id = bundle(OLD);
    };
    rejects(&mut back, 1);
    back.pass(601);
    assert_eq!(back.tick().effects, [release(&[1, 2])]);
    let nodes = back.state.nodes();
    assert_eq!((nodes[&node(1)].state, nodes[&node(2)].lagging), (NodeProgress::Failed, true));
    assert_eq!(state_of(&back), RolloutState::Completed);
    // The other one rejects it later: nothing is withdrawn either.
    rejects(&mut back, 2);
    assert_eq!(back.tick().effects, []);

    // When every node rejects it, it has failed, and still withdraws nothing.
    let mut back = rolling_back();
    rejects(&mut back, 1);
    rejects(&mut back, 2);
    assert_eq!(back.tick().effects, [release(&[1, 2])]);
    assert_eq!(state_of(&back), RolloutState::Failed);
}

#[test]
fn a_rollback_leaves_nodes_that_are_away_lagging_at_its_deadline() {
    let mut world = half_way(auto());
    world.rejects(3);
    world.tick();
    let mut back = world.rollback();
    back.goes_offline(2);
    back.tick();
    back.activate(1, OLD);
    back.settle();
    assert_eq!(back.tick().effects, []);
    back.pass(700);
    let decision = back.tick();
    assert_eq!(decision.effects, [expect(&[1]), release(&[1, 2])]);
    assert_eq!(state_of(&back), RolloutState::Completed);
    assert!(back.state.nodes()[&node(2)].lagging);
}

#[test]
fn a_node_that_activates_after_the_rollback_is_restored_too() {
    let mut world = half_way(auto());
    world.rejects(3);
    let decision = world.tick();
    assert!(decision.next_wake.unwrap() <= world.now + STRAGGLER_INTERVAL);
    world.pass(60);
    world.activate(4, NEW);
    let decision = world.tick();
    assert_eq!(decision.effects, [Effect::Restore { nodes: vec![restore(4, OLD)] }]);
    world.pass(86_400);
    assert_eq!(world.tick().next_wake, None);
}

#[test]
fn a_completed_rollout_can_be_rolled_back_for_a_day() {
    let mut world = World::running(2, spec());
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    world.settle();
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Completed);
    world.activate(2, 0xC); // somebody gave it another bundle since
    world.pass(86_000);
    let mut late = world.clone();
    late.pass(1_000);
    assert!(late.command(Command::Rollback).is_err());
    let decision = world.command(Command::Rollback).unwrap();
    assert_eq!(decision.effects[0], unstage(&[2]));
    assert_eq!(rollback_in(&decision).unwrap().nodes, [restore(1, OLD)]);
    assert_eq!(state_of(&world), RolloutState::Completed);
    world.activate(2, NEW); // it had crashed, and comes back with the bundle
    assert_eq!(world.tick().effects, [Effect::Restore { nodes: vec![restore(2, OLD)] }]);
}

#[test]
fn a_rollback_leads_to_the_last_bundle_that_a_node_was_brought_to() {
    let mut world = World::new(2, spec());
    world.observation.deployable.insert(bundle(0xC));
    world.facts(1).expected_bundle_id = Some(bundle(0xC)); // it fell back to the old one
    world.facts(2).expected_bundle_id = Some(bundle(NEW)); // and this one from the new one
    world.command(Command::Start).unwrap();
    world.tick();
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    let decision = world.command(Command::Rollback).unwrap();
    assert_eq!(rollback_in(&decision).unwrap().nodes, [restore(1, 0xC), restore(2, OLD)]);
}

#[test]
fn a_node_that_ran_the_bundle_before_is_left_alone() {
    let mut world = World::new(2, spec());
    world.activate(1, NEW);
    world.facts(1).expected_bundle_id = Some(bundle(OLD));
    world.command(Command::Start).unwrap();
    world.tick();
    world.activate(2, NEW);
    world.tick();
    let decision = world.command(Command::Rollback).unwrap();
    let bundles: Vec<(NodeId, BundleId)> =
        rollback_in(&decision).unwrap().nodes.iter().map(|node| (node.node_id, node.bundle_id)).collect();
    assert_eq!(bundles, [(node(2), bundle(OLD))]);
}

#[test]
fn a_node_that_takes_the_bundle_back_while_gates_are_awaited_fails() {
    let mut world = World::running(2, spec());
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.tick();
    assert_eq!(world.state.steps()[0].state, StepState::Verifying);
    // Its proxy kept crashing: it went back to what it ran before, and says why.
    world.pass(5);
    world.activate(1, OLD);
    world.rejects(1);
    world.tick();
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Failed, FAILURE_THRESHOLD_EXCEEDED));
    assert_eq!(world.state.nodes()[&node(1)].state, NodeProgress::Failed);
}
