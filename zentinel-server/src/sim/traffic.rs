//! The requests that a simulated node says it has served.

use super::node::put;
use zentinel_core::entity::{LATENCY_BUCKETS, TrafficCounts};

/// Buckets of ordinary, slow and very slow requests.
const BUCKETS: [usize; 3] = [3, 6, 7];
/// Of a thousand requests: failed, slow and very slow ones.
const ORDINARY: [u64; 3] = [10, 40, 8];

/// What one node has served.
#[derive(Clone, Debug)]
pub(super) struct Served {
    per_second: f64,
    /// Until when, in seconds since the run began.
    until: u64,
    total: TrafficCounts,
}

impl Served {
    /// Nodes differ: `lot` makes one serve up to three times as much as another.
    pub(super) fn new(per_second: f64, lot: u32) -> Self {
        // An hour of the past, so that comparisons have something to start from.
        let mut served = Self {
            per_second: per_second * (0.5 + f64::from(lot % 101) / 100.0),
            until: 0,
            total: TrafficCounts::default(),
        };
        served.serve(3_600.0, lot, 1);
        served
    }

    /// Serves until `now_s`; errors and slow requests are `factor` times the ordinary ones.
    pub(super) fn until(&mut self, now_s: u64, dice: u32, factor: u64) {
        let seconds = now_s.saturating_sub(self.until);
        self.until = self.until.max(now_s);
        if seconds > 0 {
            self.serve(seconds as f64, dice, factor);
        }
    }

    fn serve(&mut self, seconds: f64, dice: u32, factor: u64) {
        let requests = (self.per_second * seconds) as u64;
        // Rounding by lot keeps small counts right on average.
        let share = |of_thousand: u64, shift: u32| {
            let lot = u64::from(dice.rotate_left(shift) % 1_000);
            (requests * of_thousand * factor + lot) / 1_000
        };
        let [errors, slow, very_slow] =
            [share(ORDINARY[0], 0), share(ORDINARY[1], 9), share(ORDINARY[2], 18)];
        let slow = slow.min(requests);
        let very_slow = very_slow.min(requests - slow);
        let mut latency = [0; LATENCY_BUCKETS];
        for (bucket, count) in BUCKETS.into_iter().zip([requests - slow - very_slow, slow, very_slow]) {
            latency[bucket] = count;
        }
        self.total.add(&TrafficCounts { requests, errors: errors.min(requests), latency });
    }

    /// Appends the field of the heartbeat, with a comma in front.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","traffic":{"epoch":1,"#);
        counts(out, &self.total);
        out.extend_from_slice(br#","recent":{"#);
        counts(out, &self.total);
        out.extend_from_slice(b"}}");
    }
}

fn counts(out: &mut Vec<u8>, counts: &TrafficCounts) {
    out.extend_from_slice(br#""requests":"#);
    put(out, counts.requests);
    out.extend_from_slice(br#","errors":"#);
    put(out, counts.errors);
    out.extend_from_slice(br#","latency":["#);
    for (place, count) in counts.latency.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        put(out, *count);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::entity::Traffic;

    #[test]
    fn what_is_written_is_what_the_control_plane_reads() {
        let mut served = Served::new(100.0, 7);
        let past = served.total;
        served.until(10, 3, 1);
        served.until(10, 4, 1);
        let mut out = b"{\"x\":0".to_vec();
        served.write(&mut out);
        out.push(b'}');
        let body: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let traffic: Traffic = serde_json::from_value(body["traffic"].clone()).unwrap();
        let since = traffic.total.since(&past).unwrap();
        assert_eq!((since.requests, since.timed()), (570, 570));
        assert!((4..=7).contains(&since.errors), "{since:?}");
    }
}
