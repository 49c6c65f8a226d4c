//! Absolute limits.

use super::super::score::Unit;
use super::Member;
use super::judge::Look;
use super::report::{Arm, Verdict};
use zentinel_core::entity::{LATENCY_BOUNDS_MS, TrafficCounts};

/// How sure one must be that a ceiling is exceeded while the window lasts, and once it is over: quantiles of the normal
/// distribution.
const SURE: (f64, f64) = (3.29, 1.645);

impl Look<'_> {
    /// Absolute limits. Beyond one by more than chance explains, the canaries are rolled back; a little beyond, they do not pass. Canaries that were
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
        let text = || {
            format!(
                "{:.2} % of the canaries' requests failed ({} of {}); the ceiling is {} %.",
                100.0 * rate,
                served.errors,
                served.requests,
                self.config.error_rate_ceiling
            )
        };
        self.beyond(rate > limit, self.surely_exceeds(None, rate, limit), text)
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
        let text = || format!("The canaries' p99 latency is {p99:.0} ms; the ceiling is {ceiling} ms.");
        self.beyond(p99 > ceiling, certain, text)
    }

    fn beyond(&self, seems: bool, surely: bool, text: impl FnOnce() -> String) -> Option<(Verdict, String)> {
        if surely {
            return Some((Verdict::RollBack, text()));
        }
        (seems && self.window_is_over()).then(|| self.undecided(format!("{} It may be chance.", text())))
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
        let z = if self.window_is_over() { SURE.1 } else { SURE.0 };
        rate * (-z * variance.sqrt()).exp() > limit
    }
}
