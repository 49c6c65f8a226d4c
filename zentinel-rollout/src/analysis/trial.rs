//! One step of a canary rollout: who takes part, what is measured, and what follows from it.

mod ceiling;
mod judge;
mod report;

pub use report::{Analysis, Arm, Finding, Verdict};

use super::evidence::Evidence;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zentinel_core::Timestamp;
use zentinel_core::entity::{LATENCY_BOUNDS_MS, Traffic, TrafficCounts};
use zentinel_core::id::NodeId;

/// What is asked of a canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialConfig {
    /// Highest error rate of the canaries in percent, whatever the baseline does.
    pub error_rate_ceiling: f64,
    /// Highest 99th percentile of the canaries' latency in milliseconds, whatever the baseline does.
    pub latency_p99_ceiling_ms: f64,
    /// How long a step is watched before it may pass without positive evidence.
    pub window_seconds: u32,
    /// When an analysis that has not come to an answer is inconclusive.
    pub deadline_seconds: u32,
    /// Most probable it may be that a whole rollout is rolled back although nothing is worse; between 0 and 1.
    pub alpha: f64,
    /// Most probable it may be that a step passes early although it is worse by `harmful_effect`; between 0 and 1.
    pub beta: f64,
    /// A ratio below this is never a reason to roll back; above 1.
    pub minimum_effect: f64,
    /// An increase below this is never a reason to roll back, in percentage points of the requests.
    pub minimum_increase: f64,
    /// The ratio that a step must be shown not to have, to pass before its window is over; above 1.
    pub harmful_effect: f64,
    /// Requests that each arm must have served before anything is concluded.
    pub min_requests: u64,
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self {
            error_rate_ceiling: 5.0,
            latency_p99_ceiling_ms: 500.0,
            window_seconds: 300,
            deadline_seconds: 900,
            alpha: 0.05,
            beta: 0.02,
            minimum_effect: 1.2,
            minimum_increase: 0.1,
            harmful_effect: 1.5,
            min_requests: 10,
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Failed requests.
    ErrorRate,
    /// Requests slower than the fleet's 95th percentile of before.
    LatencyP95,
    /// Requests slower than the fleet's 99th percentile of before.
    LatencyP99,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Self; 3] = [Self::ErrorRate, Self::LatencyP95, Self::LatencyP99];

    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::LatencyP95 => "latency_p95",
            Self::LatencyP99 => "latency_p99",
        }
    }

    /// For a sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::ErrorRate => "errors",
            Self::LatencyP95 => "requests slower than the fleet's p95 of before",
            Self::LatencyP99 => "requests slower than the fleet's p99 of before",
        }
    }

    fn tail(self) -> Option<f64> {
        match self {
            Self::ErrorRate => None,
            Self::LatencyP95 => Some(0.05),
            Self::LatencyP99 => Some(0.01),
        }
    }
}

/// The evidence against a whole rollout, carried from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger([Evidence; Measure::ALL.len()]);

/// A node that takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node_id: NodeId,
    /// Whether it runs the new bundle.
    pub canary: bool,
    /// Its failure domain.
    pub stratum: u32,
    /// See [`Ranked::lot`](super::Ranked::lot).
    pub lot: u64,
    /// What it had served lately when the step began.
    pub before: TrafficCounts,
    /// The counting at the start of the comparison, and how far it was.
    mark: Option<(u64, TrafficCounts)>,
}

impl Member {
    /// A node, as it reports when the step begins.
    #[must_use]
    pub fn new(node_id: NodeId, canary: bool, stratum: u32, lot: u64, traffic: &Traffic) -> Self {
        Self { node_id, canary, stratum, lot, before: traffic.recent, mark: None }
    }

    /// What it served since the mark.
    fn during(&self, traffic: &Traffic) -> Option<TrafficCounts> {
        let (epoch, counts) = self.mark.as_ref()?;
        (traffic.epoch == *epoch).then(|| traffic.total.since(counts)).flatten()
    }
}

/// The comparison of one step's canaries with the nodes that still run the old bundle.
///
/// ```text
/// begin(): who takes part, and each one's own past    (before any canary of the step is told)
/// mark():  counting starts                            (every canary runs the bundle and passes its gates)
/// look():  one more look, one more Analysis           (at next_look(), as often as it takes)
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The step that it is about.
    pub step_index: u32,
    /// Places in [`LATENCY_BOUNDS_MS`]: beyond is slower than the 95th and the 99th percentile of before.
    tail_bounds: [usize; 2],
    members: Vec<Member>,
    marked_at: Option<Timestamp>,
    looks: u32,
    /// Evidence that the step is *not* worse by the harmful effect.
    harmless: [Evidence; Measure::ALL.len()],
}

/// Looks within the first window: after 1/16, 1/8, 1/4, 1/2 of it and at its end.
const LOOKS_PER_WINDOW: u32 = 5;

impl Trial {
    /// Nodes that take part in a step, before it begins.
    #[must_use]
    pub fn begin(step_index: u32, members: Vec<Member>) -> Self {
        let mut before = TrafficCounts::default();
        for member in &members {
            before.add(&member.before);
        }
        let bound = |share| tail_bound(&before, share);
        Self {
            step_index,
            tail_bounds: [bound(0.05), bound(0.01)],
            members,
            marked_at: None,
            looks: 0,
            harmless: [Evidence::default(); Measure::ALL.len()],
        }
    }

    /// The same without anybody's own past, for a comparison that begins when canaries run the bundle already. Where the
    /// tails of the latency begin stays as it is.
    #[must_use]
    pub fn without_past(mut self) -> Self {
        for member in &mut self.members {
            member.before = TrafficCounts::default();
        }
        self
    }

    /// Who takes part.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// When counting started.
    #[must_use]
    pub fn marked_at(&self) -> Option<Timestamp> {
        self.marked_at
    }

    /// Starts counting. Nodes that do not report what they serve no longer take part.
    pub fn mark<'a>(&mut self, traffic: impl Fn(NodeId) -> Option<&'a Traffic>, now: Timestamp) {
        for member in &mut self.members {
            member.mark = traffic(member.node_id).map(|traffic| (traffic.epoch, traffic.total));
        }
        self.members.retain(|member| member.mark.is_some());
        self.marked_at = Some(now);
    }

    /// When to look next; `None` before counting has started.
    ///
    /// Looks are taken ever less often within the first window, and then once per window: each costs some
    /// of the evidence, and what is badly wrong shows at the first one.
    #[must_use]
    pub fn next_look(&self, config: &TrialConfig) -> Option<Timestamp> {
        let window = i64::from(config.window_seconds);
        let seconds = if self.looks < LOOKS_PER_WINDOW {
            (window >> (LOOKS_PER_WINDOW - 1 - self.looks)).max(1)
        } else {
            window.saturating_mul(i64::from(self.looks - LOOKS_PER_WINDOW) + 2)
        };
        let after = TimeDelta::try_seconds(seconds).unwrap_or(TimeDelta::MAX);
        self.marked_at?.checked_add_signed(after)
    }

    /// Takes one more look. `overdue` is whether the analysis has had its time: it then ends, at worst
    /// inconclusive.
    pub fn look<'a>(
        &mut self,
        config: &TrialConfig,
        ledger: &mut Ledger,
        traffic: impl Fn(NodeId) -> Option<&'a Traffic>,
        now: Timestamp,
        overdue: bool,
    ) -> Analysis {
        self.looks = self.looks.saturating_add(1);
        let during: BTreeMap<NodeId, TrafficCounts> = self
            .members
            .iter()
            .filter_map(|member| Some((member.node_id, member.during(traffic(member.node_id)?)?)))
            .filter(|(_, during)| during.requests > 0)
            .collect();
        judge::Look { trial: self, config, during: &during, now, overdue }.judge(ledger)
    }
}

/// The place of the bound beyond which the share of slow requests is nearest to `share` on a logarithmic scale; the
/// last one without any traffic.
fn tail_bound(counts: &TrafficCounts, share: f64) -> usize {
    let timed = counts.timed() as f64;
    let distance = |place: &usize| {
        let slow = (counts.slower_than(*place) as f64 + 0.5) / (timed + 1.0);
        (slow / share).ln().abs()
    };
    (0..LATENCY_BOUNDS_MS.len())
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .filter(|_| timed > 0.0)
        .unwrap_or(LATENCY_BOUNDS_MS.len() - 1)
}

#[cfg(test)]
mod tests;
