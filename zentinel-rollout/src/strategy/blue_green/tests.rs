use super::*;
use crate::Effect;
use crate::command::{Command, acknowledge, shift_failed};
use crate::fixture::{NEW, World, node};
use crate::traffic;
use serde_json::{Value, json};
use std::sync::Arc;
use zentinel_core::entity::{RolloutState, TrafficSplit};

fn spec(config: Value) -> RolloutSpec {
    RolloutSpec {
        strategy: "blue_green".to_owned(),
        strategy_config: config,
        auto_rollback: true,
        ..RolloutSpec::default()
    }
}

fn complaints(config: Value) -> Vec<String> {
    let mut checks = Checks::new();
    BlueGreen.check(&spec(config), &mut checks);
    match checks.finish() {
        Ok(()) => Vec::new(),
        Err(error) => error.fields().get("blue_green_config").cloned().unwrap_or_default(),
    }
}

/// Slot, weight and number of nodes of each step.
fn cut(config: Value, nodes: u128) -> Vec<(String, u8, usize)> {
    let targets: Vec<NodeId> = (1..=nodes).map(node).collect();
    let steps = BlueGreen.plan(&spec(config), &targets).unwrap();
    let name = |step: &PlannedStep| (step.slot.clone().unwrap(), step.weight.unwrap(), step.nodes.len());
    steps.iter().map(name).collect()
}

fn green(weight: u8, nodes: usize) -> (String, u8, usize) {
    ("green".to_owned(), weight, nodes)
}

fn blue(nodes: usize) -> (String, u8, usize) {
    ("blue".to_owned(), 100, nodes)
}

#[test]
fn the_fleet_is_cut_as_the_contract_says() {
    assert_eq!(cut(Value::Null, 5), [green(0, 2), green(10, 2), green(50, 2), green(100, 2), blue(3)]);
    assert_eq!(cut(Value::Null, 1), [green(100, 1)]);
    assert_eq!(cut(json!({"traffic_steps": [100]}), 2), [green(0, 1), green(100, 1), blue(1)]);
    assert_eq!(cut(json!({"green_percentage": 1, "traffic_steps": [100]}), 3)[0], green(0, 1));
    assert_eq!(cut(json!({"green_percentage": 99, "traffic_steps": [100]}), 3)[2], blue(1));
    assert_eq!(cut(Value::Null, 0), []);
}

#[test]
fn settings_are_checked() {
    for good in [
        Value::Null,
        json!({"traffic_steps": [1, 2, 100], "auto_advance": true, "advance_delay_seconds": 0}),
        json!({"validation_period_seconds": 86400, "shift_traffic": true, "green_percentage": 99}),
    ] {
        assert_eq!(complaints(good), Vec::<String>::new());
    }
    for (bad, says) in [
        (json!([]), "must be an object"),
        (json!({"steps": [100]}), "unknown keys: steps"),
        (json!({"traffic_steps": []}), "traffic_steps"),
        (json!({"traffic_steps": [10, 50]}), "traffic_steps"),
        (json!({"traffic_steps": [50, 10, 100]}), "traffic_steps"),
        (json!({"traffic_steps": [10, 10, 100]}), "traffic_steps"),
        (json!({"traffic_steps": [0, 100]}), "traffic_steps"),
        (json!({"traffic_steps": [10, 101]}), "traffic_steps"),
        (json!({"traffic_steps": "100"}), "traffic_steps"),
        (json!({"auto_advance": "yes"}), "auto_advance"),
        (json!({"advance_delay_seconds": -1}), "advance_delay_seconds"),
        (json!({"validation_period_seconds": 86401}), "validation_period_seconds"),
        (json!({"green_percentage": 100}), "green_percentage"),
    ] {
        let complaints = complaints(bad.clone());
        assert!(complaints.len() == 1 && complaints[0].contains(says), "{bad}: {complaints:?}");
    }
}

fn split(world: &World) -> Option<(u8, u8)> {
    let split = traffic::split(world.state.rollout(), world.state.steps());
    split.map(|TrafficSplit { green, blue }| (green, blue))
}

fn reason(world: &World) -> Option<&str> {
    world.state.rollout().error.as_ref().map(|error| error.reason.as_str())
}

fn shown(world: &World) -> Vec<u8> {
    let shown = |step| traffic::shown_weight(world.state.rollout(), step).unwrap();
    world.state.steps().iter().map(shown).collect()
}

/// Four nodes of which the green slot has just been brought the bundle.
fn deployed(config: Value) -> World {
    let mut world = World::with_strategy(4, spec(config), Arc::new(BlueGreen));
    world.command(Command::Start).unwrap();
    world.pass(1);
    world.tick();
    world
}

fn green_is_up(world: &mut World) {
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.settle();
}

#[test]
fn each_advance_moves_exactly_one_weight() {
    let mut world = deployed(Value::Null);
    assert_eq!(split(&world), Some((0, 100)));
    let first = world.last.clone().unwrap().effects;
    let weigh = |slot, weight, nodes: [u128; 2]| Effect::Traffic {
        slot,
        weight,
        nodes: nodes.into_iter().map(node).collect(),
    };
    let stage = Effect::Stage { nodes: vec![node(1), node(2)] };
    assert_eq!(first, [weigh(Slot::Blue, 100, [3, 4]), weigh(Slot::Green, 0, [1, 2]), stage]);
    green_is_up(&mut world);
    let effects = world.tick().effects;
    assert!(effects.contains(&weigh(Slot::Green, 10, [1, 2])), "{effects:?}");
    assert!(effects.contains(&weigh(Slot::Blue, 90, [3, 4])), "{effects:?}");
    for (done, weight, next) in [(0, 10, 50), (1, 50, 100)] {
        assert_eq!(split(&world), Some((weight, 100 - weight)));
        assert_eq!(traffic::traffic_steps_done(world.state.steps()), done);
        world.pass(299);
        assert_eq!((world.tick().effects, world.state.rollout().state), (vec![], RolloutState::Running));
        world.pass(1);
        world.tick();
        assert_eq!(reason(&world), Some("validation_hold"));
        // However often it is looked at, nothing moves by itself.
        world.pass(1_000);
        world.tick();
        assert_eq!(
            (split(&world), world.state.rollout().state),
            (Some((weight, 100 - weight)), RolloutState::Paused)
        );
        world.command(Command::Advance).unwrap();
        world.pass(1);
        world.tick();
        assert_eq!(split(&world).map(|split| split.0), Some(next));
    }
    assert_eq!(traffic::deployment_slot(world.state.rollout(), world.state.steps()), Some(Slot::Blue));
    world.pass(300);
    world.tick();
    world.command(Command::Advance).unwrap();
    world.pass(1);
    let effects = world.tick().effects;
    assert!(effects.contains(&Effect::Stage { nodes: vec![node(3), node(4)] }), "{effects:?}");
    assert_eq!(traffic::deployment_slot(world.state.rollout(), world.state.steps()), Some(Slot::Green));
    assert_eq!((split(&world), traffic::traffic_steps_done(world.state.steps())), (Some((100, 0)), 3));
    world.activate(3, NEW);
    world.activate(4, NEW);
    world.settle();
    world.tick();
    assert_eq!((world.state.rollout().state, split(&world)), (RolloutState::Completed, Some((100, 100))));
}

#[test]
fn a_plain_resume_holds_the_same_weight_again() {
    let mut world = deployed(json!({"traffic_steps": [10, 100]}));
    green_is_up(&mut world);
    world.tick();
    world.pass(300);
    world.tick();
    world.pass(50);
    world.command(Command::Resume).unwrap();
    world.pass(299);
    world.tick();
    assert_eq!((split(&world), world.state.rollout().state), (Some((10, 90)), RolloutState::Running));
    world.pass(1);
    world.tick();
    assert_eq!((split(&world), world.state.rollout().state), (Some((10, 90)), RolloutState::Paused));
}

#[test]
fn weights_rise_by_themselves_where_asked() {
    let config = json!({"auto_advance": true, "advance_delay_seconds": 60, "validation_period_seconds": 10});
    let mut world = deployed(config);
    green_is_up(&mut world);
    world.tick();
    for weight in [10, 50, 100] {
        assert_eq!(split(&world).map(|split| split.0), Some(weight));
        world.pass(60);
        world.tick();
    }
    assert!(traffic::is_catching_up(world.state.steps()));
    assert_eq!(split(&world), Some((100, 0)));
}

#[test]
fn the_weight_does_not_rise_while_a_gate_fails() {
    let mut world = deployed(json!({"traffic_steps": [10, 100]}));
    green_is_up(&mut world);
    world.tick();
    world.pass(300);
    world.tick();
    world.facts(1).health.status = Some("degraded".to_owned());
    world.command(Command::Advance).unwrap();
    world.pass(5);
    world.tick();
    assert_eq!(split(&world), Some((10, 90)));
    // And a failure that lasts takes everything back, before any node is told anything.
    let mut decision = world.tick();
    for _ in 0..12 {
        world.pass(5);
        decision = world.tick();
        if world.state.rollout().state == RolloutState::Failed {
            break;
        }
    }
    assert_eq!((reason(&world), split(&world)), (Some("sustained_gate_failure"), Some((0, 100))));
    let drained = Effect::Traffic { slot: Slot::Green, weight: 0, nodes: vec![node(1), node(2)] };
    assert!(decision.effects[..2].contains(&drained), "{:?}", decision.effects);
    assert!(decision.effects.iter().any(|effect| matches!(effect, Effect::RollBack(_))));
}

#[test]
fn a_rollback_takes_the_traffic_back_at_once() {
    for command in [Command::Rollback, Command::Cancel] {
        let mut world = deployed(Value::Null);
        green_is_up(&mut world);
        world.tick();
        let decision = world.command(command).unwrap();
        assert!(matches!(decision.effects[0], Effect::Traffic { slot: Slot::Blue, weight: 100, .. }));
        assert!(matches!(decision.effects[1], Effect::Traffic { slot: Slot::Green, weight: 0, .. }));
        assert_eq!(split(&world), Some((0, 100)));
        assert_eq!(shown(&world), [0, 0, 0, 0, 0]);
    }
}

#[test]
fn once_the_old_slot_catches_up_the_traffic_stays() {
    let mut world =
        deployed(json!({"traffic_steps": [100], "auto_advance": true, "validation_period_seconds": 0}));
    green_is_up(&mut world);
    world.tick();
    world.pass(60);
    world.tick();
    assert!(traffic::is_catching_up(world.state.steps()));
    let error = world.command(Command::SwapSlot).unwrap_err();
    assert_eq!(error.message(), "Rollout cannot swap slot in current state");
    world.command(Command::Rollback).unwrap();
    assert_eq!(split(&world), Some((100, 0)));
}

#[test]
fn a_swap_takes_the_weight_and_a_resume_gives_it_back_after_the_gates() {
    let mut world = deployed(Value::Null);
    green_is_up(&mut world);
    world.tick();
    assert_eq!((split(&world), shown(&world)), (Some((10, 90)), vec![0, 10, 50, 100, 100]));
    world.command(Command::SwapSlot).unwrap();
    assert_eq!((split(&world), shown(&world)), (Some((0, 100)), vec![0, 0, 50, 100, 100]));
    assert_eq!(world.state.rollout().state, RolloutState::Paused);
    let slot = |world: &World| traffic::deployment_slot(world.state.rollout(), world.state.steps());
    assert_eq!(slot(&world), Some(Slot::Green));
    world.command(Command::SwapSlot).unwrap();
    assert_eq!((slot(&world), split(&world)), (Some(Slot::Blue), Some((0, 100))));
    assert_eq!(
        world.command(Command::Advance).unwrap_err().message(),
        "Rollout must be paused to advance traffic"
    );
    world.facts(1).health.status = Some("degraded".to_owned());
    world.pass(30);
    world.command(Command::Resume).unwrap();
    world.tick();
    assert_eq!(split(&world), Some((0, 100)));
    world.facts(1).health.status = Some("healthy".to_owned());
    world.pass(5);
    world.tick();
    assert_eq!((split(&world), slot(&world)), (Some((10, 90)), Some(Slot::Blue)));
    world.pass(300);
    world.tick();
    assert_eq!(reason(&world), Some("validation_hold"));
}

#[test]
fn one_node_keeps_its_traffic() {
    let mut world = World::with_strategy(1, spec(Value::Null), Arc::new(BlueGreen));
    world.command(Command::Start).unwrap();
    world.pass(1);
    world.tick();
    assert_eq!(split(&world), Some((100, 0)));
    assert!(world.command(Command::SwapSlot).is_err());
    let mut cancelled = world.clone();
    cancelled.command(Command::Cancel).unwrap();
    assert_eq!(split(&cancelled), Some((100, 0)));
    world.activate(1, NEW);
    world.settle();
    world.tick();
    assert_eq!(world.state.rollout().state, RolloutState::Completed);
}

#[test]
fn a_node_that_is_left_behind_gets_no_traffic() {
    let mut spec = spec(json!({"traffic_steps": [10, 100], "auto_advance": true}));
    spec.max_unavailable = 1;
    let mut world = World::with_strategy(4, spec, Arc::new(BlueGreen));
    world.command(Command::Start).unwrap();
    world.pass(1);
    world.tick();
    world.activate(1, NEW);
    world.goes_offline(2);
    world.settle();
    world.tick();
    let weights = |world: &World| -> Vec<u8> {
        traffic::weights(&world.state).into_values().map(|traffic| traffic.weight).collect()
    };
    assert_eq!(weights(&world), [10, 0, 90, 90]);
    world.facts(2).status = zentinel_core::entity::NodeStatus::Online;
    world.activate(2, NEW);
    world.settle();
    let effects = world.tick().effects;
    assert_eq!(weights(&world), [10, 10, 90, 90]);
    assert!(
        effects.contains(&Effect::Traffic { slot: Slot::Green, weight: 10, nodes: vec![node(2)] }),
        "{effects:?}"
    );
}

/// What the load balancer answers, as the next decision.
fn answer(world: &mut World, number: u32) {
    let decision = acknowledge(world.state.clone(), number, world.now).unwrap();
    assert_eq!(crate::check(&decision.state), []);
    world.state = decision.state;
}

#[test]
fn no_step_goes_on_before_the_load_balancer_has_acknowledged() {
    let config = json!({"traffic_steps": [10, 100], "auto_advance": true, "shift_traffic": true,
        "validation_period_seconds": 60});
    let mut world = deployed(config);
    let told = |world: &World| world.state.nodes().values().filter(|node| node.staged_at.is_some()).count();
    assert!(world.last.clone().unwrap().effects.contains(&Effect::Shift { number: 1 }));
    world.pass(60);
    world.tick();
    assert_eq!(told(&world), 0, "nobody changes under traffic");
    let failed = shift_failed(world.state.clone(), 1, "503", world.now).unwrap();
    world.state = failed.state;
    assert!(shift_failed(world.state.clone(), 1, "503", world.now).is_none());
    world.pass(5);
    assert!(world.tick().report().summary.contains("503"));
    answer(&mut world, 1);
    world.tick();
    assert_eq!(told(&world), 2);
    green_is_up(&mut world);
    assert!(world.tick().effects.contains(&Effect::Shift { number: 2 }));
    world.pass(300);
    world.tick();
    assert_eq!(split(&world), Some((10, 90)));
    assert!(acknowledge(world.state.clone(), 1, world.now).is_none(), "an old answer");
    world.command(Command::Pause).unwrap();
    assert!(world.command(Command::Advance).is_err());
    world.command(Command::Resume).unwrap();
    answer(&mut world, 2);
    assert_eq!(world.state.steps()[1].shifted_at, Some(world.now));
    world.pass(59);
    world.tick();
    assert_eq!(split(&world), Some((10, 90)), "the weight counts from the acknowledgement");
    world.pass(1);
    world.tick();
    assert_eq!(split(&world), Some((100, 0)));
    // A rollback shifts as well; an acknowledgement that never comes ends the rollout.
    let mut back = world.clone();
    assert!(back.command(Command::Rollback).unwrap().effects.contains(&Effect::Shift { number: 4 }));
    world.pass(601);
    world.tick();
    assert_eq!((reason(&world), split(&world)), (Some("step_deadline_exceeded"), Some((0, 100))));
}
