//! Health gates: what must hold on every node of a step before the step is done.
//!
//! The rule of the house: **unknown is not healthy**. [`Gates::judge`] applies it before any gate is
//! asked, so that a gate written outside this crate can't forget it. A node without a report, with a
//! report older than three poll intervals, with only the report that announced the activation, or
//! one that does not run the bundle, is [`Verdict::Unknown`] to every gate.
//!
//! ```
//! use std::sync::Arc;
//! use zentinel_core::entity::HealthGates;
//! use zentinel_rollout::gate::{Gate, Gates, Sample, Verdict};
//!
//! /// Passes nodes whose name ends in a digit.
//! #[derive(Debug)]
//! struct Numbered;
//! impl Gate for Numbered {
//!     fn name(&self) -> &str {
//!         "numbered"
//!     }
//!     fn evaluate(&self, sample: &Sample<'_>) -> Verdict {
//!         match sample.facts.name.ends_with(|c: char| c.is_ascii_digit()) {
//!             true => Verdict::Pass,
//!             false => Verdict::Fail { value: None, limit: None },
//!         }
//!     }
//! }
//! let gates = Gates::of(&HealthGates::heartbeat()).with(Arc::new(Numbered));
//! assert_eq!(gates.names().collect::<Vec<_>>(), ["heartbeat_healthy", "numbered"]);
//! ```

mod fleet;
mod standard;

pub use fleet::{
    Endpoint, FleetErrors, FleetGate, FleetLatency, FleetNode, FleetSample, HealthyShare, Ruling,
};
pub use standard::{Heartbeat, Metric, MetricGate};

use crate::observation::{NodeFacts, Observation};
use crate::transition::State;
use chrono::TimeDelta;
use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::Timestamp;
use zentinel_core::entity::{HealthGates, RolloutSpec};
use zentinel_core::id::{BundleId, NodeId};

/// Healthy heartbeats in a row that the heartbeat gate asks for.
pub const HEALTHY_STREAK: u32 = 2;
/// A report older than this many poll intervals says nothing.
pub const STALE_AFTER_POLLS: i32 = 3;
/// The poll interval that nodes are told by default.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) const NOT_ONLINE: &str = "the node is not online";

/// What a gate says of one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail {
        /// The measured value, where there is one.
        value: Option<f64>,
        /// The limit, where there is one.
        limit: Option<f64>,
    },
    /// Nobody can tell; never opens the gate.
    Unknown {
        /// Why not.
        why: Cow<'static, str>,
    },
}

impl Verdict {
    /// [`Verdict::Unknown`].
    #[must_use]
    pub fn unknown(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Unknown { why: why.into() }
    }
}

/// One node as a gate sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The node.
    pub node_id: NodeId,
    /// The bundle it shall run.
    pub bundle_id: BundleId,
    /// What is known of it.
    pub facts: &'a NodeFacts,
    /// The instant of the tick.
    pub now: Timestamp,
}

/// A condition on one node.
///
/// # Contract
/// Pure: same sample, same verdict. A gate is only asked about a node that runs the bundle and has
/// a fresh report from after the activation; what it can't tell from that is
/// [`Verdict::Unknown`], never a pass.
pub trait Gate: Debug + Send + Sync + 'static {
    /// Stable snake-case name, shown to operators.
    fn name(&self) -> &str;
    /// Whether the verdict depends on the facts alone and never on [`Sample::now`]. While a step
    /// waits for gates that say so, looks with nothing new cost next to nothing.
    fn is_timeless(&self) -> bool {
        false
    }
    /// Judges one node.
    fn evaluate(&self, sample: &Sample<'_>) -> Verdict;
}

/// One gate's verdict that is not a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Objection {
    /// The gate's name.
    pub gate: String,
    /// What it said.
    pub verdict: Verdict,
}

/// The gates of one rollout.
#[derive(Clone, Debug)]
pub struct Gates {
    gates: Vec<Arc<dyn Gate>>,
    fleet: Vec<Arc<dyn FleetGate>>,
    stale_after: TimeDelta,
}

impl Gates {
    /// The gates on single nodes that a rollout's specification asks for, with the default poll interval.
    #[must_use]
    pub fn of(wanted: &HealthGates) -> Self {
        let stale_after = stale_after(DEFAULT_POLL_INTERVAL);
        Self { gates: standard::gates(wanted), fleet: Vec::new(), stale_after }
    }

    /// All gates that a rollout's specification asks for, those over all nodes as well.
    #[must_use]
    pub fn of_spec(spec: &RolloutSpec) -> Self {
        Self { fleet: fleet::of(spec), ..Self::of(&spec.health_gates) }
    }

    /// Uses another poll interval: reports older than three of them say nothing.
    #[must_use]
    pub fn polled_every(mut self, interval: Duration) -> Self {
        self.stale_after = stale_after(interval);
        self
    }

    /// Adds a gate.
    #[must_use]
    pub fn with(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gates.push(gate);
        self
    }

    /// Adds a gate over all nodes.
    #[must_use]
    pub fn with_fleet(mut self, gate: Arc<dyn FleetGate>) -> Self {
        self.fleet.push(gate);
        self
    }

    /// The names of the gates over all nodes, in order.
    pub fn fleet_names(&self) -> impl Iterator<Item = &str> {
        self.fleet.iter().map(|gate| gate.name())
    }

    /// Whether a gate needs the facts of nodes whose step is done.
    #[must_use]
    pub fn look_back(&self) -> bool {
        self.fleet.iter().any(|gate| gate.looks_back())
    }

    /// What each gate over all nodes says while the step at `place` is active.
    #[must_use]
    pub fn rule(
        &self,
        state: &State,
        observation: &Observation,
        place: usize,
        now: Timestamp,
    ) -> Vec<(&str, Ruling)> {
        if self.fleet.is_empty() {
            return Vec::new();
        }
        let sample = fleet::sample(self, state, observation, place, now);
        self.fleet.iter().map(|gate| (gate.name(), gate.judge(&sample))).collect()
    }

    /// The names of the gates on single nodes, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.gates.iter().map(|gate| gate.name())
    }

    /// The first gate that does not pass; `None` when all do. A gate that fails goes before one that is
    /// unknown. Without any gate there is nothing to object to.
    #[must_use]
    pub fn judge(&self, sample: &Sample<'_>) -> Option<Objection> {
        let first = self.gates.first()?;
        if let Some(why) = self.unusable(sample) {
            return Some(Objection { gate: first.name().to_owned(), verdict: Verdict::Unknown { why } });
        }
        let mut unknown = None;
        for gate in &self.gates {
            let objection = |verdict| Objection { gate: gate.name().to_owned(), verdict };
            match gate.evaluate(sample) {
                Verdict::Pass => {}
                verdict @ Verdict::Fail { .. } => return Some(objection(verdict)),
                verdict @ Verdict::Unknown { .. } => {
                    unknown.get_or_insert_with(|| objection(verdict));
                }
            }
        }
        unknown
    }

    /// Every gate that does not pass. A report that says nothing about the bundle leaves all of them unknown.
    #[must_use]
    pub fn judge_all(&self, sample: &Sample<'_>) -> Vec<Objection> {
        let unusable = self.unusable(sample);
        let judge = |gate: &Arc<dyn Gate>| {
            let verdict = match &unusable {
                Some(why) => Verdict::Unknown { why: why.clone() },
                None => gate.evaluate(sample),
            };
            (verdict != Verdict::Pass).then(|| Objection { gate: gate.name().to_owned(), verdict })
        };
        self.gates.iter().filter_map(judge).collect()
    }

    /// Whether every gate is timeless. Those over all nodes are not.
    pub(crate) fn are_timeless(&self) -> bool {
        self.fleet.is_empty() && self.gates.iter().all(|gate| gate.is_timeless())
    }

    /// The last instant at which a report from `seen` is believed.
    pub(crate) fn believed_until(&self, seen: Timestamp) -> Timestamp {
        seen.checked_add_signed(self.stale_after).unwrap_or(Timestamp::MAX_UTC)
    }

    /// Why the last report says nothing about the bundle, if so.
    fn unusable(&self, sample: &Sample<'_>) -> Option<Cow<'static, str>> {
        let facts = sample.facts;
        if !facts.is_available() {
            return Some(Cow::Borrowed(NOT_ONLINE));
        }
        if !facts.runs(sample.bundle_id) {
            return Some(Cow::Borrowed("the node does not run the bundle"));
        }
        let (Some(seen), Some(since)) = (facts.last_seen_at, facts.active_since) else {
            return Some(Cow::Borrowed("there is no report since the activation"));
        };
        let age = sample.now - seen;
        if age > self.stale_after {
            let text = format!("the last report is {} s old", age.num_seconds());
            return Some(Cow::Owned(text));
        }
        // The report that announces the activation measured the time before it.
        (seen <= since).then_some(Cow::Borrowed("there is no report from after the activation"))
    }
}

fn stale_after(interval: Duration) -> TimeDelta {
    TimeDelta::from_std(interval)
        .ok()
        .and_then(|interval| interval.checked_mul(STALE_AFTER_POLLS))
        .unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests;
