//! What a proxy served, as counts that can be added up and compared: never as averages.

use serde::{Deserialize, Serialize};

/// Upper bounds of the latency buckets in milliseconds; beyond the last one there is one more bucket. They
/// are the proxy's own (`zentinel_request_duration_seconds`).
pub const LATENCY_BOUNDS_MS: [f64; 12] =
    [1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0];

/// Number of latency buckets.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

/// Requests, failed requests and their latencies over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficCounts {
    /// Requests, failed ones included.
    pub requests: u64,
    /// Failed requests, at most `requests`.
    pub errors: u64,
    /// Requests by latency: how many took longer than the bound before and at most the bound at
    /// the same place of [`LATENCY_BOUNDS_MS`]; the last for all beyond. Their sum may be below `requests`:
    /// a request without an answer has no latency.
    pub latency: [u64; LATENCY_BUCKETS],
}

impl TrafficCounts {
    /// What was added since `earlier`; `None` when any count is smaller than it was.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let mut latency = [0; LATENCY_BUCKETS];
        for (difference, (now, before)) in latency.iter_mut().zip(self.latency.iter().zip(&earlier.latency)) {
            *difference = now.checked_sub(*before)?;
        }
        Some(Self {
            requests: self.requests.checked_sub(earlier.requests)?,
            errors: self.errors.checked_sub(earlier.errors)?,
            latency,
        })
    }

    /// Adds counts.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        for (sum, count) in self.latency.iter_mut().zip(&other.latency) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// Requests with a known latency.
    #[must_use]
    pub fn timed(&self) -> u64 {
        self.latency.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Requests that took longer than the bound at this place of [`LATENCY_BOUNDS_MS`].
    #[must_use]
    pub fn slower_than(&self, bound: usize) -> u64 {
        self.latency.iter().skip(bound.saturating_add(1)).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Share of failed requests in percent; `None` without requests.
    #[must_use]
    pub fn error_percent(&self) -> Option<f64> {
        (self.requests > 0).then(|| 100.0 * self.errors as f64 / self.requests as f64)
    }

    /// A quantile (`share` from 0 to 1) of the latency in milliseconds, linear within a bucket as Prometheus does it;
    /// beyond the last bound, that bound. `None` without timed requests.
    #[must_use]
    pub fn latency_quantile_ms(&self, share: f64) -> Option<f64> {
        let timed = self.timed();
        if timed == 0 {
            return None;
        }
        let wanted = share.clamp(0.0, 1.0) * timed as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (upper, count) in LATENCY_BOUNDS_MS.iter().zip(&self.latency) {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                return Some(lower + (upper - lower) * ((wanted - below) / count).max(0.0));
            }
            (below, lower) = (below + count, *upper);
        }
        Some(lower)
    }
}

/// What a node has served since it began to count, as it reports it with a heartbeat
/// (`metrics.traffic`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Names the counting: another number means that all counts began anew.
    pub epoch: u64,
    /// Since the epoch began; only grows.
    #[serde(flatten)]
    pub total: TrafficCounts,
    /// How much of it was served lately: the node's own past, to compare with after a change.
    pub recent: TrafficCounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, errors: u64, buckets: &[(usize, u64)]) -> TrafficCounts {
        let mut latency = [0; LATENCY_BUCKETS];
        for (bucket, count) in buckets {
            latency[*bucket] = *count;
        }
        TrafficCounts { requests, errors, latency }
    }

    #[test]
    fn differences_notice_a_new_beginning() {
        let (before, now) = (counts(10, 1, &[(0, 9)]), counts(30, 3, &[(0, 20), (12, 6)]));
        assert_eq!(now.since(&before), Some(counts(20, 2, &[(0, 11), (12, 6)])));
        assert_eq!(before.since(&now), None);
        assert_eq!(now.error_percent(), Some(10.0));
        assert_eq!(TrafficCounts::default().error_percent(), None);
    }

    #[test]
    fn tails_and_quantiles_come_from_the_buckets() {
        let counts = counts(101, 0, &[(1, 90), (3, 8), (12, 2)]);
        assert_eq!((counts.timed(), counts.slower_than(1), counts.slower_than(11)), (100, 10, 2));
        assert_eq!(counts.latency_quantile_ms(0.9), Some(5.0));
        assert_eq!(counts.latency_quantile_ms(0.45), Some(3.0));
        assert_eq!(counts.latency_quantile_ms(1.0), Some(10_000.0));
        assert_eq!(TrafficCounts::default().latency_quantile_ms(0.5), None);
    }
}
