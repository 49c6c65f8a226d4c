//! How fast a rollout goes, and what stops a fresh one.

use super::*;

#[test]
fn so_many_nodes_per_minute_and_no_more() {
    let spec = RolloutSpec { batch_size: 2, nodes_per_minute: Some(2), ..RolloutSpec::default() };
    let mut world = World::running(4, spec);
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.settle();
    let waits = world.tick();
    assert_eq!(waits.state.steps()[0].state, StepState::Completed);
    assert_eq!(waits.state.active(), None);
    assert_eq!(waits.report().summary, "Step 2 of 2 waits: at most 2 nodes per minute are told.");
    world.pass(48);
    assert_eq!(world.tick().state.active(), None);
    world.pass(2);
    assert_eq!(world.tick().state.active(), Some(1));
}

#[test]
fn in_safe_mode_the_first_failure_of_a_fresh_rollout_stops_it() {
    for (safe, expected) in [(true, RolloutState::Failed), (false, RolloutState::Running)] {
        let spec = RolloutSpec { batch_size: 4, safe_mode: safe, ..RolloutSpec::default() };
        let mut world = World::running(8, spec);
        world.rejects(1);
        assert_eq!(world.tick().state.rollout().state, expected);
    }
    // Once a step is done, the threshold counts.
    let spec = RolloutSpec { batch_size: 4, safe_mode: true, ..RolloutSpec::default() };
    let mut world = World::running(8, spec);
    for number in 1..=4 {
        world.activate(number, NEW);
    }
    world.settle();
    world.tick();
    world.rejects(5);
    assert_eq!(world.tick().state.rollout().state, RolloutState::Running);
}
