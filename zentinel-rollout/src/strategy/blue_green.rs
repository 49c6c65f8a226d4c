//! `blue_green`: the bundle goes to a slot without traffic, then the traffic goes there weight by weight.

mod config;

pub use config::BlueGreenConfig;

use super::{Memory, PlannedStep, Proposal, Strategy, View};
use zentinel_core::Result;
use zentinel_core::entity::{RolloutSpec, Slot, StepState};
use zentinel_core::error::Checks;
use zentinel_core::id::NodeId;

/// `blue_green`: half of the nodes, the green slot, get the bundle while they have no traffic; then the
/// traffic shifts to them in steps of 10, 50 and 100 % by default, each held for a validation period and, unless
/// `auto_advance`, until an operator advances; at last the other half, the blue slot, catches up.
///
/// [`traffic`](crate::traffic) says who has which weight when. One node is a slot of its own and just gets the bundle.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlueGreen;

fn step(nodes: &[NodeId], slot: Slot, weight: u8) -> PlannedStep {
    PlannedStep { nodes: nodes.to_vec(), slot: Some(slot.as_str().to_owned()), weight: Some(weight) }
}

impl Strategy for BlueGreen {
    fn name(&self) -> &str {
        "blue_green"
    }

    fn check(&self, spec: &RolloutSpec, checks: &mut Checks) {
        BlueGreenConfig::read(&spec.strategy_config, checks);
    }

    fn plan(&self, spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        let config = BlueGreenConfig::of(spec);
        if targets.len() < 2 {
            let only = targets.iter().map(|_| step(targets, Slot::Green, 100));
            return Ok(only.collect());
        }
        let share = targets.len() * usize::from(config.green_percentage.get()) / 100;
        let (green, blue) = targets.split_at(share.max(1));
        let mut steps = vec![step(green, Slot::Green, 0)];
        steps.extend(config.traffic_steps.iter().map(|weight| step(green, Slot::Green, weight.get())));
        steps.push(step(blue, Slot::Blue, 100));
        Ok(steps)
    }

    fn after_gates(&self, view: &View<'_>, _memory: &mut Memory) -> Proposal {
        let active = view.step();
        let shifts = active.deployment_slot.as_deref() == Some(Slot::Green.as_str()) && active.index > 0;
        if !shifts {
            return Proposal::Complete;
        }
        let config = BlueGreenConfig::of(&view.rollout().spec);
        let weight = active.traffic_weight.unwrap_or(0);
        let held = match active.state {
            StepState::Validating => view.elapsed(),
            _ => chrono::TimeDelta::zero(),
        };
        let left = config.hold() - held;
        if active.state != StepState::Validating || left > chrono::TimeDelta::zero() {
            let why = format!("The green slot has {weight} % of the traffic; its gates are being watched.");
            return Proposal::Hold { until: view.now() + left, why };
        }
        if config.auto_advance {
            return Proposal::Complete;
        }
        let seconds = config.hold().num_seconds();
        let why = format!(
            "The green slot has had {weight} % of the traffic for {seconds} s and its gates pass; advance to go on."
        );
        Proposal::Pause { why }
    }
}

#[cfg(test)]
mod tests;
