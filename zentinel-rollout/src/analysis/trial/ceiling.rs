//! Absolute limits.

use super::super::score::Unit;
use super::Member;
use super::judge::Look;
use super::report::{Arm, Verdict};
use zentinel_core::entity::{LATENCY_BOUNDS_MS, TrafficCounts};

/// How sure one must be that a ceiling is exceeded before the window is over: the 99.95 % quantile of the normal
/// distribution.
const CEILING_Z: f64 = 3.29;

impl Look<'_> {
    /// Absolute limits: at once where chance does not explain it, at the end of the window in any case. Canaries that were
    /// above a limit before they got the bundle are only held against the baseline, or else no fleet in trouble
    /// could be given what helps it.
    pub(super) fn above_ceiling(&self, enough: bool, served: &TrafficCounts) -> Option<(Verdict, String)> {
        if !enough {
            return None;
        }
        let (_, past) = Arm::of(self.canaries().map(|member| &member.before));
        self.fails_too_often(served, &past).or_else(|| self.is_too_slow(served, &past))
    }

    fn canaries(&self) -> impl Iterator<Item = &Member> {
        self.trial.members.iter().filter(|member| member.canary)
    }

    fn fails_too_often(&self, served: &TrafficCounts, past: &TrafficCounts) -> Option<(Verdict, String)> {
        if past.error_percent().is_some_and(|before| before > self.config.error_rate_ceiling) {
            return None;
        }
        let limit = self.config.error_rate_ceiling / 100.0;
        let rate = served.errors as f64 / served.requests.max(1) as f64;
        self.exceeds(rate, limit).then(|| {
            let text = format!(
                "{:.2} % of the canaries' requests failed ({} of {}); the ceiling is {} %.",
                100.0 * rate,
                served.errors,
                served.requests,
                self.config.error_rate_ceiling
            );
            (Verdict::RollBack, text)
        })
    }

    fn is_too_slow(&self, served: &TrafficCounts, past: &TrafficCounts) -> Option<(Verdict, String)> {
        let ceiling = self.config.latency_p99_ceiling_ms;
        if past.latency_quantile_ms(0.99).is_some_and(|before| before > ceiling) {
            return None;
        }
        let beyond = LATENCY_BOUNDS_MS.iter().position(|bound| *bound >= ceiling);
        let certain = beyond.is_some_and(|bound| {
            let slow = served.slower_than(bound) as f64 / served.timed().max(1) as f64;
            self.surely_exceeds(Some(bound), slow, 0.01)
        });
        let p99 = served.latency_quantile_ms(0.99)?;
        (certain || (self.window_is_over() && p99 > ceiling)).then(|| {
            let text = format!("The canaries' p99 latency is {p99:.0} ms; the ceiling is {ceiling} ms.");
            (Verdict::RollBack, text)
        })
    }

    fn exceeds(&self, rate: f64, limit: f64) -> bool {
        rate > limit && (self.window_is_over() || self.surely_exceeds(None, rate, limit))
    }

    /// Whether the lower confidence limit of a rate, with nodes as the sampling unit, is above a limit.
    fn surely_exceeds(&self, bound: Option<usize>, rate: f64, limit: f64) -> bool {
        let units = self.units(bound, true);
        let events: f64 = units.iter().map(|unit| unit.during.events as f64).sum();
        if rate <= limit || events < 1.0 {
            return false;
        }
        let residual = |unit: &Unit| unit.during.events as f64 - rate * unit.during.requests as f64;
        let squares: f64 = units.iter().map(|unit| residual(unit).powi(2)).sum();
        let variance = (squares / events.powi(2)).max(1.0 / events);
        rate * (-CEILING_Z * variance.sqrt()).exp() > limit
    }
}
