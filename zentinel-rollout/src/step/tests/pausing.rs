//! Pauses, `max_unavailable`, lagging nodes, and commands in every state.

use super::*;

fn tolerant() -> RolloutSpec {
    RolloutSpec { batch_size: 4, max_unavailable: 1, ..RolloutSpec::default() }
}

#[test]
fn a_pause_starts_no_step_and_its_time_does_not_count() {
    let mut world = World::running(4, spec());
    world.activate(1, NEW);
    world.pass(300);
    world.tick();
    let decision = world.command(Command::Pause).unwrap();
    assert_eq!((decision.effects.as_slice(), decision.next_wake), ([].as_slice(), None));
    world.activate(2, NEW);
    world.pass(3_600);
    world.settle();
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.state.steps()[0].state, StepState::Running);
    let decision = world.command(Command::Resume).unwrap();
    assert_eq!(decision.events[0].kind, "rollout.resumed");
    assert_eq!(decision.next_wake, Some(world.now + FIRST_TICK));
    world.pass(1);
    assert_eq!(world.tick().effects, [expect(&[1, 2]), stage(&[3, 4])]);
}

#[test]
fn a_hold_withdraws_and_a_resume_tells_again() {
    let mut world = World::running(4, spec());
    world.activate(1, NEW);
    assert_eq!(world.command(Command::Hold).unwrap().effects, [unstage(&[2])]);
    assert_eq!(world.tick().effects, []);
    assert_eq!(world.command(Command::Resume).unwrap().effects, []);
    assert_eq!(world.tick().effects, [stage(&[2])]);
}

#[test]
fn too_many_unavailable_nodes_pause_and_a_resume_gives_two_ticks_of_grace() {
    let mut world = World::running(4, tolerant());
    world.goes_offline(1);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Running);
    world.goes_offline(2);
    let decision = world.tick();
    assert_eq!(decision.events[0].kind, "rollout.paused");
    let error = world.state.rollout().error.clone().unwrap();
    assert_eq!(error.reason, MAX_UNAVAILABLE_EXCEEDED);
    assert_eq!((&error.details["unavailable"], &error.details["max_unavailable"]), (&2.into(), &1.into()));
    world.command(Command::Resume).unwrap();
    for _ in 0..2 {
        world.pass(5);
        world.tick();
        world.tick(); // an early wake-up uses up no grace
        assert_eq!(state_of(&world), RolloutState::Running);
    }
    world.pass(5);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Paused);
}

#[test]
fn grace_ends_when_the_count_grows() {
    let mut world = World::running(4, tolerant());
    world.goes_offline(1);
    world.goes_offline(2);
    world.tick();
    world.command(Command::Resume).unwrap();
    world.goes_offline(3);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Paused);
}

#[test]
fn a_tolerated_node_lags_keeps_its_target_and_converges_later() {
    let mut world = World::running(4, tolerant());
    world.goes_offline(4);
    for number in 1..=3 {
        world.activate(number, NEW);
    }
    world.tick();
    world.settle();
    let decision = world.tick();
    assert_eq!(decision.effects, [expect(&[1, 2, 3]), release(&[1, 2, 3, 4])]);
    let part = &decision.state.nodes()[&node(4)];
    assert_eq!((part.state, part.lagging), (NodeProgress::Pending, true));
    assert_eq!(decision.next_wake, Some(world.now + STRAGGLER_INTERVAL));
    world.facts(4).status = zentinel_core::entity::NodeStatus::Online;
    world.activate(4, NEW);
    assert_eq!(world.tick().effects, []);
    world.settle();
    let decision = world.tick();
    assert_eq!(decision.effects, [expect(&[4])]);
    assert_eq!(decision.next_wake, None);
    assert_eq!(decision.state.nodes()[&node(4)].state, NodeProgress::Active);
}

#[test]
fn a_lagging_node_that_rejects_is_given_up() {
    let mut world = World::running(4, tolerant());
    world.goes_offline(4);
    for number in 1..=3 {
        world.activate(number, NEW);
    }
    world.tick();
    world.settle();
    world.tick();
    world.rejects(4);
    assert_eq!(world.tick().effects, [unstage(&[4])]);
}

#[test]
fn an_empty_set_of_checked_nodes_never_passes() {
    let spec = RolloutSpec { batch_size: 2, max_unavailable: 2, ..RolloutSpec::default() };
    let mut world = World::running(2, spec);
    world.goes_offline(1);
    world.goes_offline(2);
    assert_eq!(world.tick().effects, []);
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.settle();
    world.tick();
    assert_eq!(world.state.steps()[0].state, StepState::Verifying);
    world.pass(700);
    world.tick();
    assert_eq!(reason_of(&world), STEP_DEADLINE_EXCEEDED);
}

#[test]
fn every_command_in_every_state_is_legal_or_refused_with_the_contract_text() {
    use RolloutState::{Cancelled, Completed, Failed, Paused, Pending, Running};
    let mut worlds = Vec::new();
    let pending = World::new(2, spec());
    let running = World::running(2, spec());
    let mut paused = running.clone();
    paused.command(Command::Pause).unwrap();
    let mut cancelled = running.clone();
    cancelled.command(Command::Cancel).unwrap();
    let mut failed = running.clone();
    failed.rejects(1);
    failed.tick();
    let mut completed = running.clone();
    completed.activate(1, NEW);
    completed.activate(2, NEW);
    completed.settle();
    completed.tick();
    worlds.extend([pending, running, paused, cancelled, failed, completed]);
    let legal = |command: Command| -> (&[RolloutState], &str) {
        match command {
            Command::Start => (&[Pending], "Rollout cannot be started in current state"),
            Command::Pause | Command::Hold => (&[Running], "Rollout cannot be paused in current state"),
            Command::Resume => (&[Paused], "Rollout cannot be resumed in current state"),
            Command::Advance => (&[], "Rollout must be paused to advance traffic"),
            Command::SwapSlot => (&[], "Not a blue-green rollout"),
            Command::Cancel => (&[Pending, Running, Paused], "Rollout cannot be cancelled in current state"),
            Command::Rollback => {
                (&[Running, Paused, Completed, Failed], "Rollout cannot be rolled back in current state")
            }
        }
    };
    let mut seen = std::collections::BTreeSet::new();
    for world in &worlds {
        seen.insert(state_of(world));
        for command in Command::ALL {
            let (states, text) = legal(command);
            match world.clone().command(command) {
                Ok(_) => assert!(states.contains(&state_of(world)), "{command:?} in {:?}", state_of(world)),
                Err(error) => {
                    assert!(!states.contains(&state_of(world)), "{command:?} in {:?}", state_of(world));
                    assert_eq!((error.kind(), error.message()), (zentinel_core::Kind::Conflict, text));
                }
            }
        }
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [Pending, Running, Paused, Completed, Cancelled, Failed]
    );
}

#[test]
fn a_rollout_without_nodes_does_not_start() {
    let error = World::new(0, spec()).command(Command::Start).unwrap_err();
    assert_eq!(error.message(), "No target nodes matched the selector");
    assert_eq!(error.kind(), zentinel_core::Kind::Invalid);
}
