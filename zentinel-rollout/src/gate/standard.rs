//! The five gates of the wire contract.

use super::{Gate, HEALTHY_STREAK, Sample, Verdict};
use std::sync::Arc;
use zentinel_core::entity::{Health, HealthGates};

/// `heartbeat_healthy`: the node called itself healthy at least twice in a row since it activated
/// the bundle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heartbeat;

impl Gate for Heartbeat {
    fn name(&self) -> &str {
        "heartbeat_healthy"
    }

    fn is_timeless(&self) -> bool {
        true
    }

    fn evaluate(&self, sample: &Sample<'_>) -> Verdict {
        let (health, streak) = (&sample.facts.health, sample.facts.healthy_streak);
        match &health.status {
            None => Verdict::unknown("the node does not report its health"),
            Some(_) if !health.is_healthy() => Verdict::Fail { value: None, limit: None },
            Some(_) if streak < HEALTHY_STREAK => {
                Verdict::unknown(format!("{streak} of {HEALTHY_STREAK} healthy heartbeats"))
            }
            Some(_) => Verdict::Pass,
        }
    }
}

/// A measurement that nodes report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Share of failed requests in percent.
    ErrorRate,
    /// 99th percentile of the latency in milliseconds.
    LatencyP99,
    /// Processor use in percent.
    Cpu,
    /// Memory use in percent.
    Memory,
}

impl Metric {
    fn gate_name(self) -> &'static str {
        match self {
            Self::ErrorRate => "max_error_rate",
            Self::LatencyP99 => "max_latency_ms",
            Self::Cpu => "max_cpu_percent",
            Self::Memory => "max_memory_percent",
        }
    }

    fn of(self, health: &Health) -> Option<f64> {
        match self {
            Self::ErrorRate => health.error_rate,
            Self::LatencyP99 => health.latency_p99_ms,
            Self::Cpu => health.cpu_percent,
            Self::Memory => health.memory_percent,
        }
    }
}

/// `max_*`: a measurement is at most its limit.
#[derive(Clone, Copy, Debug)]
pub struct MetricGate {
    /// What is measured.
    pub metric: Metric,
    /// The highest value that passes, in the metric's unit.
    pub limit: f64,
}

impl Gate for MetricGate {
    fn name(&self) -> &str {
        self.metric.gate_name()
    }

    fn is_timeless(&self) -> bool {
        true
    }

    fn evaluate(&self, sample: &Sample<'_>) -> Verdict {
        match self.metric.of(&sample.facts.health) {
            None => Verdict::unknown("the node does not report this metric"),
            Some(value) if !value.is_finite() || value < 0.0 => {
                Verdict::unknown("the node reports a value that is not a measurement")
            }
            Some(value) if value <= self.limit => Verdict::Pass,
            Some(value) => Verdict::Fail { value: Some(value), limit: Some(self.limit) },
        }
    }
}

pub(super) fn gates(wanted: &HealthGates) -> Vec<Arc<dyn Gate>> {
    let mut gates: Vec<Arc<dyn Gate>> = Vec::new();
    if wanted.heartbeat_healthy == Some(true) {
        gates.push(Arc::new(Heartbeat));
    }
    let limits = [
        (Metric::ErrorRate, wanted.max_error_rate),
        (Metric::LatencyP99, wanted.max_latency_ms),
        (Metric::Cpu, wanted.max_cpu_percent),
        (Metric::Memory, wanted.max_memory_percent),
    ];
    for (metric, limit) in limits {
        if let Some(limit) = limit {
            gates.push(Arc::new(MetricGate { metric, limit }));
        }
    }
    gates
}
