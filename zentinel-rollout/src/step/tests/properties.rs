//! Whatever happens in whatever order, the promises hold.

use super::{Effect, Percent, RolloutSpec, RolloutState, State, state_of};
use crate::Command;
use crate::fixture::{NEW, OLD, World, bundle, node};
use crate::sim::{INVARIANTS, Moment};
use proptest::prelude::*;
use std::collections::BTreeMap;
use zentinel_core::entity::NodeStatus;
use zentinel_core::id::{BundleId, NodeId, RolloutId};

const NODES: u128 = 7;

#[derive(Clone, Debug)]
enum Action {
    Activates(u128),
    FallsBack(u128),
    Rejects(u128),
    Degrades(u128),
    GoesOffline(u128),
    ComesBack(u128),
    Stages(u128),
    IsDeleted(u128),
    IsNotLookedAt(u128),
    Settle,
    Pass(i64),
    Tick,
    Restart,
    Revoke,
    Operator(Command),
}

fn action() -> impl Strategy<Value = Action> {
    let node = || 1..=NODES;
    let command = proptest::sample::select(Command::ALL.to_vec());
    prop_oneof![
        6 => node().prop_map(Action::Activates),
        1 => node().prop_map(Action::FallsBack),
        1 => node().prop_map(Action::Rejects),
        1 => node().prop_map(Action::Degrades),
        1 => node().prop_map(Action::GoesOffline),
        2 => node().prop_map(Action::ComesBack),
        1 => node().prop_map(Action::Stages),
        1 => node().prop_map(Action::IsDeleted),
        1 => node().prop_map(Action::IsNotLookedAt),
        6 => Just(Action::Settle),
        3 => (0_i64..200).prop_map(Action::Pass),
        8 => Just(Action::Tick),
        1 => Just(Action::Restart),
        1 => Just(Action::Revoke),
        2 => command.prop_map(Action::Operator),
    ]
}

fn spec() -> impl Strategy<Value = RolloutSpec> {
    (1_u32..5, 0_u32..3, any::<bool>(), 1_u8..=100, any::<bool>()).prop_map(
        |(batch_size, max_unavailable, auto_rollback, threshold, all)| RolloutSpec {
            strategy: if all { "all_at_once" } else { "rolling" }.to_owned(),
            batch_size,
            max_unavailable,
            auto_rollback,
            rollback_threshold: Percent::new(threshold).unwrap(),
            progress_deadline_seconds: 300,
            ..RolloutSpec::default()
        },
    )
}

/// A world, and what the invariants need to remember.
struct Witness {
    world: World,
    ran_before: BTreeMap<(RolloutId, NodeId), BundleId>,
    rollbacks: usize,
}

impl Witness {
    fn watch(&mut self, decide: impl FnOnce(&mut World) -> Option<crate::Decision>) {
        let before = state_of(&self.world);
        let Some(decision) = decide(&mut self.world) else {
            return;
        };
        let rollout = self.world.state.rollout().id;
        for (id, part) in decision.state.nodes() {
            if let (Some(_), Some(previous)) = (part.staged_at, part.previous_bundle_id) {
                self.ran_before.entry((rollout, *id)).or_insert(previous);
            }
        }
        let moment = Moment {
            before,
            split_before: None,
            decision: &decision,
            observation: &self.world.observation,
            ran_before: &self.ran_before,
            rollbacks: self.rollbacks,
            now: self.world.now,
        };
        for (name, broken) in INVARIANTS {
            assert_eq!(broken(&moment), None, "{name}");
        }
        let is_rollback = |effect: &&Effect| matches!(effect, Effect::RollBack(_));
        self.rollbacks += decision.effects.iter().filter(is_rollback).count();
        for effect in &decision.effects {
            if let Effect::Stage { nodes } = effect {
                assert!(nodes.iter().all(|id| self.world.state.nodes().contains_key(id)));
            }
        }
    }

    fn happens(&mut self, action: &Action) {
        let world = &mut self.world;
        let known = |world: &World, number: u128| world.observation.nodes.contains_key(&node(number));
        match action {
            Action::Activates(number) | Action::FallsBack(number) if known(world, *number) => {
                let told = world.state.nodes()[&node(*number)].staged_at.is_some();
                let back = matches!(action, Action::FallsBack(_));
                world.activate(*number, if told && !back { NEW } else { OLD });
            }
            Action::Rejects(number) if known(world, *number) => world.rejects(*number),
            Action::Degrades(number) if known(world, *number) => {
                world.facts(*number).health.status = Some("degraded".to_owned());
                world.facts(*number).healthy_streak = 0;
            }
            Action::GoesOffline(number) if known(world, *number) => world.goes_offline(*number),
            Action::ComesBack(number) if known(world, *number) => {
                world.facts(*number).status = NodeStatus::Online
            }
            Action::Stages(number) if known(world, *number) => {
                world.facts(*number).staged_bundle_id = Some(bundle(NEW));
            }
            Action::IsDeleted(number) if known(world, *number) => {
                *world.facts(*number) = crate::NodeFacts::deleted()
            }
            Action::IsNotLookedAt(number) => {
                world.observation.nodes.remove(&node(*number));
            }
            Action::Settle => world.settle(),
            Action::Pass(seconds) => world.pass(*seconds),
            Action::Tick => self.watch(|world| Some(world.tick())),
            Action::Restart => {
                let (rollout, steps, nodes) = world.state.clone().into_parts();
                let text = serde_json::to_string(&(rollout, steps, nodes.into_values().collect::<Vec<_>>()));
                let (rollout, steps, nodes): (_, _, Vec<_>) = serde_json::from_str(&text.unwrap()).unwrap();
                let again = State::new(rollout, steps, nodes);
                assert_eq!(again.watched(), world.state.watched());
                world.state = again;
            }
            Action::Revoke => {
                world.observation.deployable.remove(&bundle(NEW));
            }
            Action::Operator(command) => {
                let legal = command.check(&world.state, world.now).is_ok();
                self.watch(|world| {
                    let decision = world.command(*command).ok();
                    assert_eq!(decision.is_some(), legal, "{command:?}");
                    decision
                });
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold(
        spec in spec(),
        actions in proptest::collection::vec(action(), 1..120),
    ) {
        let mut witness = Witness {
            world: World::new(NODES, spec),
            ran_before: BTreeMap::new(),
            rollbacks: 0,
        };
        witness.happens(&Action::Operator(Command::Start));
        for action in &actions {
            witness.happens(action);
        }
        // Left alone, a running rollout ends within its deadlines.
        let steps = witness.world.state.steps().len();
        for _ in 0..=steps * 3 {
            witness.happens(&Action::Pass(301));
            witness.happens(&Action::Tick);
        }
        let unseen = witness.world.state.watched().into_iter()
            .any(|id| !witness.world.observation.nodes.contains_key(&id));
        prop_assert!(state_of(&witness.world) != RolloutState::Running || unseen);
        prop_assert!(witness.rollbacks <= 1);
    }
}
