//! What an analysis says, for people and for the rollout's log.

use super::super::effect::Effect;
use super::Measure;
use serde::{Deserialize, Serialize};
use zentinel_core::Timestamp;
use zentinel_core::entity::TrafficCounts;

/// What follows from an analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The step passes.
    Promote,
    /// Not yet known: look again.
    Extend,
    /// The canaries are worse.
    #[serde(rename = "rollback")]
    RollBack,
    /// There was no telling in the time there was: somebody must look.
    Inconclusive,
}

impl Verdict {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Extend => "extend",
            Self::RollBack => "rollback",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What the nodes of one arm served together since the comparison began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Nodes that served anything.
    pub nodes: u64,
    /// Their requests.
    pub total_requests: u64,
    /// Those that failed.
    pub total_errors: u64,
    /// Share of failed requests in percent.
    pub error_rate: Option<f64>,
    /// The 99th percentile of all their requests in milliseconds. The name is the wire contract's; it is no average.
    pub avg_latency_p99: Option<f64>,
}

impl Arm {
    pub(super) fn of<'a>(nodes: impl Iterator<Item = &'a TrafficCounts>) -> (Self, TrafficCounts) {
        let (mut count, mut all) = (0, TrafficCounts::default());
        for counts in nodes {
            count += 1;
            all.add(counts);
        }
        let arm = Self {
            nodes: count,
            total_requests: all.requests,
            total_errors: all.errors,
            error_rate: all.error_percent(),
            avg_latency_p99: all.latency_quantile_ms(0.99),
        };
        (arm, all)
    }
}

/// One measure at one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What is compared.
    pub measure: Measure,
    /// Latency: the bound in milliseconds beyond which a request counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slower_than_ms: Option<f64>,
    /// Bad requests of the canaries.
    pub canary_events: u64,
    /// Requests of the canaries.
    pub canary_requests: u64,
    /// Bad requests of the baseline.
    pub baseline_events: u64,
    /// Requests of the baseline.
    pub baseline_requests: u64,
    /// How much worse the canaries are.
    pub effect: Effect,
    /// By how many percentage points of the requests.
    pub increase: f64,
    /// The evidence of this look alone that they are worse.
    pub e_value: f64,
    /// The evidence of all looks of the rollout; at `needed` it rolls back.
    pub evidence: f64,
    /// The evidence at which the rollout is rolled back.
    pub needed: f64,
    /// The evidence of the step's looks that they are not worse by the harmful effect.
    pub harmless: f64,
    /// The evidence at which the step passes early.
    pub harmless_needed: f64,
}

/// One look at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// The step.
    pub step_index: u32,
    /// Which look at it this was, from 1.
    pub look: u32,
    /// When.
    pub analyzed_at: Timestamp,
    /// How long had been counted, in minutes.
    pub window_minutes: f64,
    /// The nodes that run the new bundle.
    pub canary: Arm,
    /// The nodes that run the old one.
    pub baseline: Arm,
    /// What was compared; empty while there is too little to compare.
    pub findings: Vec<Finding>,
    /// What follows.
    pub decision: Verdict,
    /// Why, in a plain sentence with the figures.
    pub summary: String,
}
