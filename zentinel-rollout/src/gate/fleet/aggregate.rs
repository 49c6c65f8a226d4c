//! `aggregate_gates`: requests and health of all nodes taken together.

use super::{FleetGate, FleetSample, Ruling};
use crate::gate::Verdict;
use zentinel_core::entity::TrafficCounts;

/// Most names in a sentence.
const MAX_NAMES: usize = 5;

/// The share of failed requests over all requests since the nodes activated the bundle is at most the limit.
#[derive(Clone, Copy, Debug)]
pub struct FleetErrors {
    /// In percent.
    pub limit: f64,
    /// How many requests there must be.
    pub least: u64,
}

/// The 99th percentile of the latency over all those requests is at most the limit.
#[derive(Clone, Copy, Debug)]
pub struct FleetLatency {
    /// In milliseconds.
    pub limit: f64,
    /// How many requests with a latency there must be.
    pub least: u64,
}

/// The share of nodes that are well is at least the limit.
#[derive(Clone, Copy, Debug)]
pub struct HealthyShare {
    /// In percent.
    pub limit: f64,
}

/// What all nodes have served since each activated the bundle.
fn served(fleet: &FleetSample<'_>) -> Result<TrafficCounts, Ruling> {
    let (mut sum, mut silent) = (TrafficCounts::default(), Vec::new());
    for node in &fleet.nodes {
        let away = node.facts.is_some_and(|facts| !facts.is_available());
        if away && (fleet.tolerates_offline || !node.in_step) {
            // It serves nothing; that it is away is for other gates.
            continue;
        }
        if node.part.lagging && node.part.activated_at.is_none() {
            continue;
        }
        let now =
            node.facts.filter(|_| node.unusable.is_none()).and_then(|facts| facts.health.traffic.as_deref());
        match (now, &node.part.served_before) {
            (Some(now), Some(before)) => {
                // Another epoch has counted from nothing.
                let same = now.epoch == before.epoch;
                let since = if same { now.total.since(&before.total) } else { None };
                sum.add(&since.unwrap_or(now.total));
            }
            _ => silent.push(node.name()),
        }
    }
    if silent.is_empty() {
        return Ok(sum);
    }
    let (count, more) = (silent.len(), if silent.len() > MAX_NAMES { ", …" } else { "" });
    silent.truncate(MAX_NAMES);
    let names = silent.join(", ");
    let verb = if count == 1 { "node has" } else { "nodes have" };
    Err(Ruling::unknown(format!(
        "{count} {verb} not reported what they served with the bundle: {names}{more}."
    )))
}

/// Too few to judge.
fn too_few(what: &str, count: u64, least: u64) -> Ruling {
    Ruling::unknown(format!("{count} {what} since the activation, {least} are needed to judge."))
}

fn at_most(value: f64, limit: f64, sentence: String) -> Ruling {
    let verdict =
        if value <= limit { Verdict::Pass } else { Verdict::Fail { value: Some(value), limit: Some(limit) } };
    Ruling { verdict, sentence }
}

impl FleetGate for FleetErrors {
    fn name(&self) -> &str {
        "aggregate_max_error_rate"
    }

    fn judge(&self, fleet: &FleetSample<'_>) -> Ruling {
        let served = match served(fleet) {
            Ok(served) => served,
            Err(ruling) => return ruling,
        };
        match served.error_percent() {
            Some(value) if served.requests >= self.least => {
                let (errors, requests, limit) = (served.errors, served.requests, self.limit);
                let sentence =
                    format!("{errors} of {requests} requests failed, {value:.2} %; at most {limit} % may.");
                at_most(value, limit, sentence)
            }
            _ => too_few("requests", served.requests, self.least),
        }
    }
}

impl FleetGate for FleetLatency {
    fn name(&self) -> &str {
        "aggregate_max_latency_ms"
    }

    fn judge(&self, fleet: &FleetSample<'_>) -> Ruling {
        let served = match served(fleet) {
            Ok(served) => served,
            Err(ruling) => return ruling,
        };
        let timed = served.timed();
        match served.latency_quantile_ms(0.99) {
            Some(value) if timed >= self.least => {
                let limit = self.limit;
                let sentence =
                    format!("99 % of {timed} requests took at most {value:.0} ms; the limit is {limit} ms.");
                at_most(value, limit, sentence)
            }
            _ => too_few("timed requests", timed, self.least),
        }
    }
}

impl FleetGate for HealthyShare {
    fn name(&self) -> &str {
        "aggregate_min_healthy_percent"
    }

    fn judge(&self, fleet: &FleetSample<'_>) -> Ruling {
        if fleet.nodes.is_empty() {
            return Ruling::unknown("There is no node to judge.");
        }
        let unseen = fleet.nodes.iter().filter(|node| node.facts.is_none()).count();
        if unseen > 0 {
            return Ruling::unknown(format!("{unseen} nodes were not looked at yet."));
        }
        let (well, all) = (fleet.nodes.iter().filter(|node| node.is_well()).count(), fleet.nodes.len());
        let value = 100.0 * well as f64 / all as f64;
        let limit = self.limit;
        let sentence =
            format!("{well} of {all} nodes are healthy, {value:.1} %; at least {limit} % must be.");
        let verdict = if value >= limit {
            Verdict::Pass
        } else {
            Verdict::Fail { value: Some(value), limit: Some(limit) }
        };
        Ruling { verdict, sentence }
    }
}
