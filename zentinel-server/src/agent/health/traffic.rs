//! What the proxy has served since the agent runs, for the control plane to compare.

use super::scrape::Bound;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use zentinel_core::entity::{LATENCY_BOUNDS_MS, Traffic, TrafficCounts};

/// How far back the node's own past reaches.
const PAST: Duration = Duration::from_secs(3_600);
/// How often a place in the past is remembered.
const STRIDE: Duration = Duration::from_secs(120);

/// Counts that only grow, whatever becomes of the proxies that they were read from.
#[derive(Debug)]
pub(super) struct Tally {
    epoch: u64,
    total: TrafficCounts,
    /// How far the counts were at places in the past, oldest first.
    past: VecDeque<(Instant, TrafficCounts)>,
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        // Any number that no earlier run of the agent is likely to have used.
        Self { epoch: rand::random::<u64>() >> 12, total: TrafficCounts::default(), past: VecDeque::new() }
    }

    /// Adds what was served between two scrapes: requests, failed ones, and latencies as cumulative
    /// counts by upper bound in seconds.
    pub(super) fn add(&mut self, requests: f64, errors: f64, buckets: &BTreeMap<Bound, f64>, now: Instant) {
        self.remember(now);
        let whole = |number: f64| if number.is_finite() { number.max(0.0).round() as u64 } else { 0 };
        let mut counts = TrafficCounts { requests: whole(requests), ..TrafficCounts::default() };
        counts.errors = whole(errors).min(counts.requests);
        let mut below = 0.0_f64;
        for (Bound(upper), cumulative) in buckets {
            let place = LATENCY_BOUNDS_MS.iter().position(|bound| upper * 1_000.0 <= bound * 1.000_001);
            let place = place.unwrap_or(LATENCY_BOUNDS_MS.len());
            counts.latency[place] += whole(cumulative - below);
            below = below.max(*cumulative);
        }
        self.total.add(&counts);
    }

    fn remember(&mut self, now: Instant) {
        if self.past.back().is_none_or(|(at, _)| now.duration_since(*at) >= STRIDE) {
            self.past.push_back((now, self.total));
        }
        while self.past.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= PAST) {
            self.past.pop_front();
        }
    }

    /// For the heartbeat.
    pub(super) fn report(&self) -> Traffic {
        let recent = self.past.front().and_then(|(_, then)| self.total.since(then)).unwrap_or_default();
        Traffic { epoch: self.epoch, total: self.total, recent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(counts: &[(f64, f64)]) -> BTreeMap<Bound, f64> {
        counts.iter().map(|(bound, count)| (Bound(*bound), *count)).collect()
    }

    #[test]
    fn the_proxys_buckets_are_the_reports() {
        let mut tally = Tally::new();
        let seen = buckets(&[(0.001, 1.0), (0.005, 5.0), (10.0, 9.0), (f64::INFINITY, 11.0)]);
        tally.add(12.0, 2.0, &seen, Instant::now());
        let total = tally.report().total;
        assert_eq!((total.requests, total.errors, total.timed()), (12, 2, 11));
        assert_eq!((total.latency[0], total.latency[1], total.latency[11], total.latency[12]), (1, 4, 4, 2));
        assert_eq!(tally.report().recent, total);
    }

    #[test]
    fn the_past_is_an_hour_long_at_most() {
        let (mut tally, mut now) = (Tally::new(), Instant::now());
        for _ in 0..1_000 {
            tally.add(10.0, 1.0, &BTreeMap::new(), now);
            now += Duration::from_secs(10);
        }
        let report = tally.report();
        assert_eq!(report.total.requests, 10_000);
        assert!((3_500..=3_800).contains(&report.recent.requests), "{report:?}");
        assert!(tally.past.len() <= 32);
    }
}
