//! Cases for [`TrafficShifter`].

use super::fixture::at;
use async_trait::async_trait;
use zentinel_core::entity::{Slot, TrafficSplit};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId};
use zentinel_core::port::{ShiftedNode, TrafficShift, TrafficShifter};

/// A shifter with a load balancer that the suite can look into.
#[async_trait]
pub trait ShifterBackend: Send + Sync {
    /// The shifter.
    fn shifter(&self) -> &dyn TrafficShifter;
    /// Makes the load balancer fail the next call, as if busy; false where it can't be made to.
    async fn fail_once(&self) -> bool;
    /// The weights that are in force for a rollout.
    async fn in_force(&self, rollout: RolloutId) -> Option<TrafficSplit>;
}

/// Every case.
pub async fn suite(backend: &dyn ShifterBackend) {
    what_is_acknowledged_is_in_force(backend).await;
    a_repeat_changes_nothing(backend).await;
    an_earlier_shift_does_not_undo_a_later_one(backend).await;
    rollouts_are_independent(backend).await;
    a_failure_is_no_acknowledgement(backend).await;
}

/// The shift with this number and weight of the green slot.
#[must_use]
pub fn shift(rollout: RolloutId, number: u32, green: u8) -> TrafficShift {
    TrafficShift {
        id: format!("{rollout}:{number}"),
        number,
        organisation_id: OrganisationId::random(),
        project_id: ProjectId::random(),
        rollout_id: rollout,
        bundle_id: BundleId::random(),
        split: TrafficSplit { green, blue: 100 - green },
        requested_at: at(0),
        nodes: vec![ShiftedNode {
            node_id: NodeId::random(),
            name: "edge-1".to_owned(),
            slot: Slot::Green,
            weight: green,
        }],
    }
}

async fn green(backend: &dyn ShifterBackend, rollout: RolloutId) -> Option<u8> {
    backend.in_force(rollout).await.map(|split| split.green)
}

/// `Ok` means that the weights are in force.
pub async fn what_is_acknowledged_is_in_force(backend: &dyn ShifterBackend) {
    let rollout = RolloutId::random();
    for (number, weight) in [(1, 0), (2, 10), (3, 100), (4, 0)] {
        backend.shifter().shift(&shift(rollout, number, weight)).await.unwrap();
        assert_eq!(green(backend, rollout).await, Some(weight));
    }
}

/// The same call again is acknowledged again.
pub async fn a_repeat_changes_nothing(backend: &dyn ShifterBackend) {
    let rollout = RolloutId::random();
    let again = shift(rollout, 1, 50);
    for _ in 0..3 {
        backend.shifter().shift(&again).await.unwrap();
        assert_eq!(green(backend, rollout).await, Some(50));
    }
}

/// A call that was on its way for long must not bring old weights back.
pub async fn an_earlier_shift_does_not_undo_a_later_one(backend: &dyn ShifterBackend) {
    let rollout = RolloutId::random();
    backend.shifter().shift(&shift(rollout, 3, 0)).await.unwrap();
    let _whatever = backend.shifter().shift(&shift(rollout, 2, 50)).await;
    assert_eq!(green(backend, rollout).await, Some(0));
}

/// Numbers count per rollout.
pub async fn rollouts_are_independent(backend: &dyn ShifterBackend) {
    let (first, second) = (RolloutId::random(), RolloutId::random());
    backend.shifter().shift(&shift(first, 7, 50)).await.unwrap();
    backend.shifter().shift(&shift(second, 1, 10)).await.unwrap();
    assert_eq!((green(backend, first).await, green(backend, second).await), (Some(50), Some(10)));
}

/// A failing load balancer is an error that says whether to ask again, and the next call works.
pub async fn a_failure_is_no_acknowledgement(backend: &dyn ShifterBackend) {
    if !backend.fail_once().await {
        return;
    }
    let rollout = RolloutId::random();
    let wanted = shift(rollout, 1, 10);
    let failure = backend.shifter().shift(&wanted).await.unwrap_err();
    assert!(failure.retryable && !failure.reason.is_empty(), "{failure:?}");
    assert_eq!(green(backend, rollout).await, None);
    backend.shifter().shift(&wanted).await.unwrap();
    assert_eq!(green(backend, rollout).await, Some(10));
}
