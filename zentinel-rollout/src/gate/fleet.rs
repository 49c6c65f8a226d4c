//! Gates that judge all nodes of a rollout together, beside those that judge each by itself.
//!
//! ```
//! use std::sync::Arc;
//! use zentinel_core::entity::HealthGates;
//! use zentinel_rollout::gate::{FleetGate, FleetSample, Gates, Ruling, Verdict};
//!
//! /// At most one node of a zone may be unwell.
//! #[derive(Debug)]
//! struct OnePerZone;
//! impl FleetGate for OnePerZone {
//!     fn name(&self) -> &str {
//!         "one_per_zone"
//!     }
//!     fn judge(&self, fleet: &FleetSample<'_>) -> Ruling {
//!         let mut unwell = std::collections::BTreeMap::<_, u32>::new();
//!         for node in &fleet.nodes {
//!             let Some(facts) = node.facts else {
//!                 return Ruling::unknown("A node was not looked at yet.");
//!             };
//!             *unwell.entry(&facts.zone).or_default() += u32::from(!node.is_well());
//!         }
//!         let worst = unwell.values().max().copied().unwrap_or(0);
//!         let sentence = format!("{worst} nodes of one zone are unwell, 1 may be.");
//!         if worst <= 1 {
//!             return Ruling { verdict: Verdict::Pass, sentence };
//!         }
//!         let (value, limit) = (Some(worst.into()), Some(1.0));
//!         Ruling { verdict: Verdict::Fail { value, limit }, sentence }
//!     }
//! }
//! let gates = Gates::of(&HealthGates::heartbeat()).with_fleet(Arc::new(OnePerZone));
//! assert_eq!(gates.fleet_names().collect::<Vec<_>>(), ["one_per_zone"]);
//! ```

mod aggregate;
mod endpoint;

pub use aggregate::{FleetErrors, FleetLatency, HealthyShare};
pub use endpoint::Endpoint;

use super::{Gates, Sample, Verdict};
use crate::observation::{CheckFacts, NodeFacts, Observation};
use crate::transition::State;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use zentinel_core::Timestamp;
use zentinel_core::entity::{RolloutNode, RolloutSpec, StepState};
use zentinel_core::id::HealthCheckId;

/// One node among all.
#[derive(Clone, Debug)]
pub struct FleetNode<'a> {
    /// Its part in the rollout.
    pub part: &'a RolloutNode,
    /// What is known of it; `None` when nobody looked.
    pub facts: Option<&'a NodeFacts>,
    /// Why its last report says nothing about the bundle, if so.
    pub unusable: Option<Cow<'static, str>>,
    /// Whether it belongs to the active step.
    pub in_step: bool,
}

impl FleetNode<'_> {
    /// Whether it runs the bundle and says, in a report that can be believed, that it is healthy.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.unusable.is_none() && self.facts.is_some_and(|facts| facts.health.is_healthy())
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self.facts {
            Some(facts) if !facts.name.is_empty() => facts.name.clone(),
            _ => self.part.node_id.to_string(),
        }
    }
}

/// What a gate over all nodes may look at.
#[derive(Clone, Debug)]
pub struct FleetSample<'a> {
    /// The nodes of the completed steps and of the active one; deleted ones are left out.
    pub nodes: Vec<FleetNode<'a>>,
    /// Whether nodes of the step may be offline.
    pub tolerates_offline: bool,
    /// The endpoints that the rollout names, as far as they exist, with their answers.
    pub checks: &'a BTreeMap<HealthCheckId, CheckFacts>,
    /// Since when the step is in its phase: answers from before say nothing.
    pub since: Timestamp,
    /// The instant of the tick.
    pub now: Timestamp,
}

/// What a gate says of all nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// Whether it opens.
    pub verdict: Verdict,
    /// Why, for a person, with the figures.
    pub sentence: String,
}

impl Ruling {
    /// Nobody can tell.
    #[must_use]
    pub fn unknown(sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { verdict: Verdict::unknown(sentence.clone()), sentence }
    }

    /// It does not hold, and no figure says how much.
    #[must_use]
    pub fn fail(sentence: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail { value: None, limit: None }, sentence: sentence.into() }
    }
}

/// A condition on all nodes that a rollout has reached, asked once every node of the step passes its own gates.
///
/// # Contract
/// Pure: same sample, same ruling. What it can't tell is [`Verdict::Unknown`], never a pass. A ruling that fails for
/// longer than [`SUSTAINED_FAILURE`](crate::step::SUSTAINED_FAILURE) rolls back a rollout with `auto_rollback`.
pub trait FleetGate: Debug + Send + Sync + 'static {
    /// Stable snake-case name, shown to operators.
    fn name(&self) -> &str;
    /// Whether it needs the facts of nodes whose step is done; otherwise they may be missing from the sample.
    fn looks_back(&self) -> bool {
        true
    }
    /// Judges.
    fn judge(&self, fleet: &FleetSample<'_>) -> Ruling;
}

/// The gates over all nodes that a specification asks for.
pub(super) fn of(spec: &RolloutSpec) -> Vec<Arc<dyn FleetGate>> {
    let (wanted, mut gates) = (&spec.aggregate_gates, Vec::<Arc<dyn FleetGate>>::new());
    let least = wanted.min_requests.unwrap_or(1).max(1);
    if let Some(limit) = wanted.max_error_rate {
        gates.push(Arc::new(FleetErrors { limit, least }));
    }
    if let Some(limit) = wanted.max_latency_ms {
        gates.push(Arc::new(FleetLatency { limit, least }));
    }
    if let Some(limit) = wanted.min_healthy_percent {
        gates.push(Arc::new(HealthyShare { limit }));
    }
    for id in &spec.custom_health_checks {
        gates.push(Arc::new(Endpoint::new(*id)));
    }
    gates
}

/// What the gates over all nodes see while the step at `place` is active.
pub(super) fn sample<'a>(
    gates: &Gates,
    state: &'a State,
    observation: &'a Observation,
    place: usize,
    now: Timestamp,
) -> FleetSample<'a> {
    let mut nodes = Vec::new();
    for (at, step) in state.steps().iter().enumerate() {
        if at != place && step.state != StepState::Completed {
            continue;
        }
        for part in step.node_ids.iter().filter_map(|id| state.nodes().get(id)) {
            let facts = observation.nodes.get(&part.node_id);
            if facts.is_some_and(|facts| !facts.exists) {
                continue;
            }
            let unusable = match facts {
                Some(facts) => {
                    gates.unusable(&Sample { node_id: part.node_id, bundle_id: part.bundle_id, facts, now })
                }
                None => Some(Cow::Borrowed("nobody looked at it yet")),
            };
            nodes.push(FleetNode { part, facts, unusable, in_step: at == place });
        }
    }
    let since = state.steps().get(place).and_then(|step| step.entered_at).unwrap_or(now);
    let tolerates_offline = state.rollout().spec.max_unavailable > 0;
    FleetSample { nodes, tolerates_offline, checks: &observation.checks, since, now }
}

#[cfg(test)]
mod tests;
