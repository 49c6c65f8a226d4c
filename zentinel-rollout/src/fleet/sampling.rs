//! Which heartbeats go into the history.

use zentinel_core::Timestamp;

/// Keeps every heartbeat while the fleet sends few, and an even share of them when it sends many: the
/// history is for people, and would otherwise be most of what a large fleet makes the store write.
///
/// The share follows the rate of the second before, so that it is the same for every node of that second.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    second: i64,
    heard: u32,
    /// How many were heard in the second before.
    rate: u32,
}

impl Sampling {
    /// Whether a heartbeat is kept, when at most about `limit` a second are to be; `chance` is drawn
    /// evenly from 0 to 1.
    pub(super) fn keeps(&mut self, now: Timestamp, limit: u32, chance: f64) -> bool {
        let second = now.timestamp();
        if second != self.second {
            self.rate = if second == self.second + 1 { self.heard } else { 0 };
            (self.second, self.heard) = (second, 0);
        }
        self.heard = self.heard.saturating_add(1);
        // The first second of a storm is known only while it lasts.
        let rate = self.rate.max(self.heard);
        rate <= limit || chance * f64::from(rate) < f64::from(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{TimeDelta, TimeZone as _, Utc};

    fn kept(sampling: &mut Sampling, second: i64, heard: u32, limit: u32) -> u32 {
        let now = Utc.timestamp_opt(second, 0).unwrap() + TimeDelta::milliseconds(3);
        let kept = (0..heard).filter(|n| sampling.keeps(now, limit, f64::from(n % 97) / 97.0));
        u32::try_from(kept.count()).unwrap()
    }

    #[test]
    fn everything_is_kept_of_a_small_fleet() {
        let mut sampling = Sampling::default();
        for second in 0..10 {
            assert_eq!(kept(&mut sampling, second, 1_000, 1_000), 1_000);
        }
    }

    #[test]
    fn about_the_limit_is_kept_of_a_large_one() {
        let mut sampling = Sampling::default();
        kept(&mut sampling, 0, 10_000, 1_000);
        for second in 1..10 {
            let kept = kept(&mut sampling, second, 10_000, 1_000);
            assert!((900..=1_150).contains(&kept), "{kept}");
        }
    }

    #[test]
    fn a_quiet_second_ends_it() {
        let mut sampling = Sampling::default();
        kept(&mut sampling, 0, 10_000, 1_000);
        assert_eq!(kept(&mut sampling, 2, 1_000, 1_000), 1_000);
    }
}
