//! Nodes of completed steps that take the bundle back.

use super::*;

/// Six nodes in steps of two or three; the first step is done.
fn first_step_done(batch_size: u32, max_unavailable: u32) -> World {
    let spec = RolloutSpec {
        batch_size,
        max_unavailable,
        auto_rollback: true,
        rollback_threshold: Percent::new(50).unwrap(),
        ..RolloutSpec::default()
    };
    let mut world = World::running(6, spec);
    for number in 1..=u128::from(batch_size) {
        world.activate(number, NEW);
    }
    world.settle();
    world.tick();
    assert_eq!(world.state.steps()[0].state, StepState::Completed);
    world
}

fn takes_back(world: &mut World, number: u128) {
    world.pass(5);
    world.activate(number, OLD);
    world.rejects(number);
}

#[test]
fn a_done_step_that_fails_after_all_rolls_the_rollout_back() {
    let mut world = first_step_done(2, 0);
    takes_back(&mut world, 1);
    let decision = world.tick();
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Failed, FAILURE_THRESHOLD_EXCEEDED));
    let details = &world.state.rollout().error.as_ref().unwrap().details;
    assert_eq!(
        (&details["step_index"], &details["failed"], &details["total"]),
        (&json!(0), &json!(1), &json!(2))
    );
    let restored = decision.effects.iter().find_map(|effect| match effect {
        Effect::RollBack(rollback) => {
            Some(rollback.nodes.iter().map(|node| node.node_id).collect::<Vec<_>>())
        }
        _ => None,
    });
    assert_eq!(restored, Some(nodes(&[1, 2])), "the one that still runs it, too");
}

#[test]
fn fewer_than_the_threshold_but_more_than_may_be_missing_pause_the_rollout_once() {
    let mut world = first_step_done(3, 0);
    takes_back(&mut world, 2);
    world.tick();
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Paused, BUNDLE_TAKEN_BACK));
    let part = &world.state.nodes()[&node(2)];
    assert_eq!(part.state, NodeProgress::Failed);
    assert_eq!(part.error.as_deref(), Some("took the bundle back: invalid_config: no"));
    world.command(Command::Resume).unwrap();
    world.pass(5);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Running, "an operator has seen it");
    // A second one makes it two of three, whatever the operator said of the first.
    takes_back(&mut world, 3);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Failed);
}

#[test]
fn as_many_as_may_be_missing_are_counted_and_the_rollout_goes_on() {
    let mut world = first_step_done(3, 1);
    takes_back(&mut world, 1);
    assert_eq!(world.tick().effects, []);
    assert_eq!(state_of(&world), RolloutState::Running);
    assert_eq!(world.state.nodes()[&node(1)].state, NodeProgress::Failed);
}

#[test]
fn a_held_rollout_is_rolled_back_too() {
    let mut world = first_step_done(2, 0);
    world.command(Command::Pause).unwrap();
    takes_back(&mut world, 1);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Failed);
}

#[test]
fn a_complaint_about_another_bundle_is_none() {
    let mut world = first_step_done(2, 0);
    world.activate(1, OLD);
    world.tick();
    world.rejects(2);
    world.facts(2).bundle_error.as_mut().unwrap().bundle_id = bundle(OLD);
    world.activate(2, 0xC);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Running);
    assert_eq!(world.state.nodes()[&node(1)].state, NodeProgress::Active);
}
