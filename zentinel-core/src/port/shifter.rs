//! Moving traffic outside of the fleet.

use crate::entity::{Slot, TrafficSplit};
use crate::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId};
use crate::value::Timestamp;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fmt::Debug;
use std::time::Duration;

/// What an external load balancer shall do: give each slot its weight, whatever it had before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficShift {
    /// The idempotency key: the rollout and the number. A repeated call carries the same one.
    pub id: String,
    /// Counts the shifts of the rollout, from 1. A receiver that has carried out a higher number ignores a lower one.
    pub number: u32,
    /// The tenant.
    pub organisation_id: OrganisationId,
    /// The project.
    pub project_id: ProjectId,
    /// The rollout.
    pub rollout_id: RolloutId,
    /// The bundle that it brings.
    pub bundle_id: BundleId,
    /// The weights of the slots.
    #[serde(flatten)]
    pub split: TrafficSplit,
    /// When the rollout decided so.
    pub requested_at: Timestamp,
    /// The nodes with their weights, where there are at most [`TrafficShift::MOST_NODES`]; otherwise none.
    pub nodes: Vec<ShiftedNode>,
}

impl TrafficShift {
    /// Most nodes that a shift names.
    pub const MOST_NODES: usize = 2_000;
}

/// One node of a shift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftedNode {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: Slot,
    /// Its weight, 0 to 100.
    pub weight: u8,
}

/// Why a shift was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftFailure {
    /// Whether the same call may succeed later without anybody doing anything.
    pub retryable: bool,
    /// When to ask again, where the receiver said so.
    pub after: Option<Duration>,
    /// For the operator; no secrets.
    pub reason: String,
}

impl ShiftFailure {
    /// One that passes.
    #[must_use]
    pub fn retry(reason: impl Into<String>) -> Self {
        Self { retryable: true, after: None, reason: reason.into() }
    }

    /// One that somebody must mend.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { retryable: false, after: None, reason: reason.into() }
    }
}

impl fmt::Display for ShiftFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ShiftFailure {}

/// Drives whatever splits the traffic between the slots of a blue-green fleet.
///
/// # Contract
/// The weights are absolute and the call is idempotent by [`TrafficShift::id`]. `Ok` means that the weights are in
/// force, not that they were noted. It returns within a minute.
///
/// # Errors
/// [`ShiftFailure`]; the rollout waits, and asks again.
///
/// # Testing
/// `zentinel_store::conformance::shifter`.
#[async_trait]
pub trait TrafficShifter: Debug + Send + Sync + 'static {
    /// Brings the weights into force.
    async fn shift(&self, shift: &TrafficShift) -> std::result::Result<(), ShiftFailure>;
}
