//! The shell of a simulation: what decisions do to the model fleet.

use super::{Run, TRACE, What};
use crate::command::Command;
use crate::decision::{Decision, Effect, Restore, Rollback};
use crate::sim::fleet::{Fleet, Told};
use crate::sim::rng::Rng;
use crate::transition::State;
use chrono::DateTime;
use zentinel_core::Actor;
use zentinel_core::entity::{NodeTraffic, RolloutState};
use zentinel_core::id::{NodeId, RolloutId};

impl Run {
    pub(super) fn remember(&mut self, rollout: usize, before: RolloutState, decision: &Decision) {
        if decision.effects.is_empty() && decision.events.is_empty() {
            self.digest = self.digest.rotate_left(5) ^ decision.changed_nodes.len() as u64;
            return;
        }
        let numbers = |id: &NodeId| Fleet::place(*id) + 1;
        let effects: Vec<String> = decision
            .effects
            .iter()
            .map(|effect| match effect {
                Effect::Claim { nodes } => format!("claim {}", nodes.len()),
                Effect::Stage { nodes } => {
                    format!("stage {:?}", nodes.iter().map(numbers).collect::<Vec<_>>())
                }
                Effect::Unstage { nodes } => {
                    format!("unstage {:?}", nodes.iter().map(numbers).collect::<Vec<_>>())
                }
                Effect::Expect { nodes } => {
                    format!("expect {:?}", nodes.iter().map(numbers).collect::<Vec<_>>())
                }
                Effect::Release { nodes } => format!("release {}", nodes.len()),
                Effect::RollBack(rollback) => format!("roll back {}", rollback.nodes.len()),
                Effect::Restore { nodes } => format!("restore {}", nodes.len()),
                Effect::Traffic { slot, weight, nodes } => format!("{slot} {weight} on {}", nodes.len()),
                Effect::Shift { number } => format!("shift {number}"),
            })
            .collect();
        let second = (self.now - DateTime::UNIX_EPOCH).num_seconds();
        let after = decision.state.rollout().state;
        let line = format!(
            "{second:>6} s rollout {rollout} {} -> {}: {}",
            before.as_str(),
            after.as_str(),
            effects.join(", ")
        );
        self.digest ^= Rng::named(self.digest, &line).next_u64();
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub(super) fn carry_out(&mut self, rollout: usize, by: RolloutId, effect: &Effect) {
        match effect {
            Effect::Claim { nodes } => {
                for id in nodes {
                    let node = self.fleet.node(*id);
                    if node.claim.is_some_and(|claim| claim != by) {
                        self.violate("nobody_is_claimed_twice", id.to_string());
                    } else if !node.deleted {
                        node.claim = Some(by);
                    }
                }
            }
            Effect::Stage { nodes } => {
                for id in nodes {
                    let told = self.rollouts[rollout].nodes().get(id).map(|node| node.bundle_id);
                    if let Some(bundle) = told {
                        self.tell(*id, Told { bundle, by });
                    }
                }
            }
            Effect::Unstage { nodes } => {
                for id in nodes {
                    let node = self.fleet.node(*id);
                    node.target = node.target.filter(|target| target.by != by);
                }
            }
            Effect::Expect { nodes } => {
                for id in nodes {
                    let wanted = self.rollouts[rollout].nodes().get(id).map(|node| node.bundle_id);
                    let node = self.fleet.node(*id);
                    if node.claim.is_none_or(|claim| claim == by) {
                        node.expected = wanted.unwrap_or(node.expected);
                    }
                }
            }
            Effect::Release { nodes } => {
                for id in nodes {
                    let node = self.fleet.node(*id);
                    node.claim = node.claim.filter(|claim| *claim != by);
                }
            }
            Effect::RollBack(rollback) => self.roll_back(rollout, rollback),
            Effect::Restore { nodes } => self.restore(by, nodes),
            Effect::Traffic { slot, weight, nodes } => {
                for id in nodes {
                    let node = self.fleet.node(*id);
                    if node.claim.is_none_or(|claim| claim == by) {
                        node.traffic = Some(NodeTraffic { slot: *slot, weight: *weight });
                    }
                }
            }
            Effect::Shift { number } => {
                let takes = self.engine_rng.between(1, 40).cast_signed();
                self.at(takes, What::Shifted(rollout, *number));
            }
        }
    }

    fn tell(&mut self, id: NodeId, told: Told) {
        let facts = self.fleet.observation.nodes.get(&id).and_then(|facts| facts.active_bundle_id);
        let node = &mut self.fleet.nodes[Fleet::place(id)];
        if node.deleted || node.target == Some(told) {
            return;
        }
        node.target = Some(told);
        node.told.insert(told.bundle);
        self.ran_before.entry((told.by, id)).or_insert(facts.unwrap_or(node.original));
        // A long poll is answered.
        let soon = self.nodes_rng.between(1, 5).cast_signed();
        self.at(soon, What::Poll(Fleet::place(id)));
    }

    fn restore(&mut self, by: RolloutId, nodes: &[Restore]) {
        for restore in nodes {
            let node = self.fleet.node(restore.node_id);
            if node.claim.is_some_and(|claim| claim != by) {
                continue;
            }
            node.expected = restore.bundle_id;
            let bundle = restore.bundle_id;
            self.tell(restore.node_id, Told { bundle, by });
        }
    }

    fn roll_back(&mut self, rollout: usize, rollback: &Rollback) {
        if self.rollouts.len() > 1 {
            return; // It exists: carried out twice.
        }
        self.rollbacks += 1;
        for restore in &rollback.nodes {
            self.fleet.node(restore.node_id).expected = restore.bundle_id;
        }
        let original = self.rollouts[rollout].rollout();
        match State::rollback(original, rollback, &self.strategies, Actor::System, self.now) {
            Ok(state) => {
                self.rollouts.push(state);
                self.due.push(None);
                self.command(1, Command::Start);
            }
            Err(error) => self.violate("a_rollback_can_be_created", error.to_string()),
        }
    }

    /// Once a rollout has failed or was cancelled, no node may be told to run its bundle any more.
    pub(super) fn check_the_end(&mut self, rollout: usize) {
        let state = &self.rollouts[rollout];
        if !matches!(state.rollout().state, RolloutState::Failed | RolloutState::Cancelled) {
            return;
        }
        if state.rollout().rollback_of.is_some() && state.rollout().state == RolloutState::Failed {
            return; // What a rollback leads to stays wanted.
        }
        let told = self.fleet.nodes.iter().find(|node| {
            let part = state.nodes().get(&node.id);
            let waits = part.is_some_and(|part| part.activated_at.is_none());
            waits && node.target.is_some_and(|target| target.by == state.rollout().id)
        });
        if let Some(told) = told.map(|node| node.id) {
            self.violate("nobody_is_told_after_the_end", told.to_string());
        }
    }
}
