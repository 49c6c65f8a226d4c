//! What strategies may propose.

use super::*;
use crate::strategy::{Memory, PlannedStep, Proposal, Strategy, View};
use std::sync::Arc;
use zentinel_core::Result;

type Answer = fn(&View<'_>) -> Proposal;

/// Two nodes per step; a fixed answer.
#[derive(Debug)]
struct Asks(Answer);

impl Strategy for Asks {
    fn name(&self) -> &str {
        "asks"
    }
    fn plan(&self, _spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        Ok(targets.chunks(2).map(PlannedStep::deploy).collect())
    }
    fn after_gates(&self, view: &View<'_>, _memory: &mut Memory) -> Proposal {
        (self.0)(view)
    }
}

/// Four nodes, the first two active and healthy, looked at.
fn passed(answer: Answer) -> World {
    let mut world = World::with_strategy(4, RolloutSpec::default(), Arc::new(Asks(answer)));
    world.command(Command::Start).unwrap();
    world.tick();
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.settle();
    world.tick();
    world
}

fn held(view: &View<'_>) -> Proposal {
    let until = view.step().entered_at.unwrap_or(view.now()) + TimeDelta::seconds(300);
    if view.step().state == StepState::Validating && view.now() >= until {
        return Proposal::Complete;
    }
    Proposal::Hold { until, why: "Watching.".to_owned() }
}

fn paused(_view: &View<'_>) -> Proposal {
    Proposal::Pause { why: "Look at it.".to_owned() }
}

#[test]
fn a_hold_validates_until_the_strategy_is_content() {
    let mut world = passed(held);
    assert_eq!(world.state.steps()[0].state, StepState::Validating);
    assert_eq!(world.state.rollout().waiting.summary, "Watching.");
    world.pass(299);
    assert_eq!(world.tick().effects, []);
    world.pass(301);
    assert_eq!(world.tick().effects, [expect(&[1, 2]), stage(&[3, 4])]);
}

#[test]
fn a_pause_waits_for_an_operator_who_advances() {
    let mut world = passed(paused);
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Paused, VALIDATION_HOLD));
    let decision = world.command(Command::Advance).unwrap();
    assert_eq!(decision.effects, [expect(&[1, 2])]);
    assert_eq!(world.tick().effects, [stage(&[3, 4])]);
}

#[test]
fn a_resume_asks_the_strategy_again() {
    let mut world = passed(paused);
    world.command(Command::Resume).unwrap();
    assert_eq!(world.state.steps()[0].entered_at, Some(world.now));
    world.pass(1);
    world.tick();
    assert_eq!(state_of(&world), RolloutState::Paused);
}

#[test]
fn an_extension_ends_with_the_deadline() {
    let mut world = passed(|_| Proposal::Extend { why: "Too few requests.".to_owned() });
    assert_eq!(world.state.steps()[0].state, StepState::Verifying);
    world.pass(700);
    world.tick();
    assert_eq!(reason_of(&world), STEP_DEADLINE_EXCEEDED);
}

#[test]
fn a_strategy_that_holds_for_ever_is_paused() {
    let mut world =
        passed(|view| Proposal::Hold { until: view.now() + TimeDelta::hours(1), why: "More.".to_owned() });
    world.pass(86_401);
    world.tick();
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Paused, VALIDATION_HOLD));
}

#[test]
fn a_strategy_may_ask_for_a_rollback() {
    let world = passed(|_| Proposal::RollBack { why: "Errors doubled.".to_owned() });
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Failed, STRATEGY_ROLLBACK));
    let effects = &world.last.as_ref().unwrap().effects;
    assert!(matches!(effects.last(), Some(Effect::RollBack(rollback)) if rollback.nodes.len() == 2));
}

#[test]
fn a_strategy_may_cut_the_rest_anew() {
    let world = passed(|view| match view.steps().len() {
        2 => Proposal::Recut {
            steps: view.steps()[1].node_ids.iter().map(|id| PlannedStep::deploy([*id])).collect(),
        },
        _ => Proposal::Complete,
    });
    let sizes: Vec<usize> = world.state.steps().iter().map(|step| step.node_ids.len()).collect();
    assert_eq!(sizes, [2, 1, 1]);
    let decision = world.last.as_ref().unwrap();
    assert_eq!(decision.changed_steps.iter().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(decision.added_steps.iter().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(decision.effects, [expect(&[1, 2]), stage(&[3])]);
}

#[test]
fn a_wrong_cut_stops_the_rollout() {
    let world = passed(|_| Proposal::Recut { steps: vec![PlannedStep::deploy([node(3)])] });
    assert_eq!((state_of(&world), reason_of(&world)), (RolloutState::Paused, STRATEGY_FAULT));
    assert_eq!(world.state.steps().len(), 2);
}

/// Blue-green in miniature: deploy to one half, shift traffic to it, deploy to the other half.
#[derive(Debug)]
struct Shift;

impl Strategy for Shift {
    fn name(&self) -> &str {
        "shift"
    }
    fn plan(&self, _spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        let (green, blue) = targets.split_at(targets.len() / 2);
        let step = |nodes: &[NodeId], slot: &str, weight| PlannedStep {
            nodes: nodes.to_vec(),
            slot: Some(slot.to_owned()),
            weight: Some(weight),
        };
        Ok(vec![step(green, "green", 0), step(green, "green", 100), step(blue, "blue", 100)])
    }
}

#[test]
fn a_traffic_step_tells_nobody_and_is_watched_by_the_gates() {
    let mut world = World::with_strategy(4, RolloutSpec::default(), Arc::new(Shift));
    world.command(Command::Start).unwrap();
    world.tick();
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.settle();
    let mut effects = world.tick().effects;
    effects.retain(|effect| !matches!(effect, Effect::Traffic { .. }));
    assert_eq!(effects, [expect(&[1, 2]), stage(&[3, 4])]);
    assert_eq!(world.state.steps()[1].state, StepState::Completed);
    assert_eq!(world.state.steps()[1].traffic_weight, Some(100));
}
