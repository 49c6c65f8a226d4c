//! Traffic follows the steps: whatever moves the split says so at once, in the decision that moves it.

use super::Draft;
use crate::decision::Effect;
use crate::traffic;
use std::collections::BTreeMap;
use zentinel_core::entity::{NodeTraffic, RolloutState, RolloutTraffic, ShiftRequest, StepState};
use zentinel_core::id::NodeId;

impl Draft {
    /// Changes what the rollout knows of its traffic beyond its steps.
    pub(crate) fn edit_traffic(&mut self, edit: impl FnOnce(&mut RolloutTraffic)) {
        self.edit_rollout(|rollout| edit(rollout.traffic.get_or_insert_default()));
    }

    /// Says what every node gets, and asks the load balancer, if the split is another one than before.
    pub(crate) fn settle_traffic(&mut self) {
        let split = traffic::split(self.rollout(), self.state().steps());
        if split == self.split {
            return;
        }
        self.split = split;
        self.reweighed.clear();
        self.weigh(|_| true);
        let Some(split) = split.filter(|_| traffic::wants_shifts(&self.rollout().spec)) else {
            return;
        };
        let now = self.now();
        let number = traffic::shift(self.rollout()).map_or(1, |shift| shift.number.saturating_add(1));
        self.edit_traffic(|traffic| {
            traffic.shift =
                Some(ShiftRequest { number, split, requested_at: now, acknowledged_at: None, error: None });
        });
        self.effect(Effect::Shift { number });
    }

    pub(super) fn ended_badly(&self) -> bool {
        matches!(self.rollout().state, RolloutState::Failed | RolloutState::Cancelled)
    }

    /// The rollout has just failed, was cancelled or undone: that may change what single nodes get even where the slots keep theirs.
    pub(crate) fn give_traffic_back(&mut self) {
        if traffic::split(self.rollout(), self.state().steps()) == self.split {
            self.reweighed.clear();
            self.weigh(|_| true);
        }
    }

    /// Says what these nodes get.
    pub(super) fn weigh(&mut self, wanted: impl Fn(NodeId) -> bool) {
        let mut groups: BTreeMap<NodeTraffic, Vec<NodeId>> = BTreeMap::new();
        for (id, weight) in traffic::weights_where(self.state(), wanted) {
            groups.entry(weight).or_default().push(id);
        }
        for (NodeTraffic { slot, weight }, nodes) in groups {
            self.effect(Effect::Traffic { slot, weight, nodes });
        }
    }

    /// The load balancer has done what it was asked for. The weight counts from here.
    pub(crate) fn acknowledge_shift(&mut self) {
        let now = self.now();
        self.edit_traffic(|traffic| {
            if let Some(shift) = &mut traffic.shift {
                shift.acknowledged_at = Some(now);
                shift.error = None;
            }
        });
        if let Some(place) = self.state().active() {
            let validating = self.step(place).state == StepState::Validating;
            self.edit_step(place, |step| {
                step.shifted_at = Some(now);
                if validating {
                    step.entered_at = Some(now);
                    step.paused_ms = 0;
                }
            });
        }
    }
}
