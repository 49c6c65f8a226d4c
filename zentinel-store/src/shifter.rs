//! A load balancer that remembers instead of moving anything.

use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use zentinel_core::entity::TrafficSplit;
use zentinel_core::id::RolloutId;
use zentinel_core::port::{ShiftFailure, TrafficShift, TrafficShifter};

/// Records every call; for tests and for trying things out. Acknowledges at once unless told otherwise.
///
/// ```
/// # use zentinel_core::port::{ShiftFailure, TrafficShift, TrafficShifter};
/// # use zentinel_store::RecordingShifter;
/// # async fn example(shift: TrafficShift) {
/// let shifter = RecordingShifter::new();
/// shifter.fail_next(ShiftFailure::retry("busy"));
/// assert!(shifter.shift(&shift).await.is_err());
/// shifter.shift(&shift).await.unwrap();
/// assert_eq!(shifter.in_force(shift.rollout_id), Some((shift.number, shift.split)));
/// # }
/// ```
#[derive(Debug, Default)]
pub struct RecordingShifter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<TrafficShift>,
    failures: VecDeque<ShiftFailure>,
    withheld: Option<ShiftFailure>,
    in_force: HashMap<RolloutId, (u32, TrafficSplit)>,
}

impl RecordingShifter {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next call that has no answer yet fails like this. May be called several times.
    pub fn fail_next(&self, failure: ShiftFailure) {
        self.state.lock().failures.push_back(failure);
    }

    /// Every call fails like this, until it is called again with `None`.
    pub fn withhold(&self, failure: Option<ShiftFailure>) {
        self.state.lock().withheld = failure;
    }

    /// Every call so far, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<TrafficShift> {
        self.state.lock().calls.clone()
    }

    /// The number and the weights that are in force for a rollout.
    #[must_use]
    pub fn in_force(&self, rollout: RolloutId) -> Option<(u32, TrafficSplit)> {
        self.state.lock().in_force.get(&rollout).copied()
    }
}

#[async_trait]
impl TrafficShifter for RecordingShifter {
    async fn shift(&self, shift: &TrafficShift) -> Result<(), ShiftFailure> {
        let mut state = self.state.lock();
        state.calls.push(shift.clone());
        if let Some(failure) = state.failures.pop_front().or_else(|| state.withheld.clone()) {
            return Err(failure);
        }
        let known = state.in_force.get(&shift.rollout_id).map_or(0, |(number, _)| *number);
        if shift.number >= known {
            state.in_force.insert(shift.rollout_id, (shift.number, shift.split));
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::conformance::shifter::{ShifterBackend, suite};

    #[derive(Default)]
    struct Recording(RecordingShifter);

    #[async_trait]
    impl ShifterBackend for Recording {
        fn shifter(&self) -> &dyn TrafficShifter {
            &self.0
        }
        async fn fail_once(&self) -> bool {
            self.0.fail_next(ShiftFailure::retry("busy"));
            true
        }
        async fn in_force(&self, rollout: RolloutId) -> Option<TrafficSplit> {
            self.0.in_force(rollout).map(|(_, split)| split)
        }
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        suite(&Recording::default()).await;
    }
}
