//! How much worse, with an interval.

use super::score::{Model, Unit};
use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.96;

/// The ratio of what the canaries did to what they would have done as controls. For people and for the
/// minimum effect; whether it is real is the e-value's to say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The ratio; 1 is no difference, above is worse.
    pub ratio: f64,
    /// Lower end of the 95 % interval at this look.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
}

/// Observed over expected events of the canaries, divided by the same of the baseline. The interval treats nodes as the
/// sampling unit (the sandwich variance of a ratio estimator) on the logarithmic scale; it holds at one
/// look, not over all of them.
#[must_use]
pub fn effect(canary: &[Unit], baseline: &[Unit], model: &Model) -> Effect {
    let (canary, baseline) = (standing(canary, model), standing(baseline, model));
    let ratio = canary.0 / baseline.0;
    let spread = (Z * (canary.1 + baseline.1).sqrt()).min(700.0);
    Effect { ratio, low: ratio * (-spread).exp(), high: (ratio * spread.exp()).min(f64::MAX) }
}

/// Observed over expected, and the variance of its logarithm.
fn standing(units: &[Unit], model: &Model) -> (f64, f64) {
    let observed = units.iter().map(|unit| unit.during.events as f64).sum::<f64>() + 0.5;
    let expected = units.iter().map(|unit| model.expected(unit)).sum::<f64>() + 0.5;
    let ratio = observed / expected;
    let squares: f64 =
        units.iter().map(|unit| (unit.during.events as f64 - ratio * model.expected(unit)).powi(2)).sum();
    (ratio, (squares / observed.powi(2)).max(1.0 / observed))
}

#[cfg(test)]
mod tests {
    use super::super::score::Counts;
    use super::*;

    fn arm(nodes: u64, events: u64) -> Vec<Unit> {
        let unit = |lot| Unit {
            stratum: 0,
            lot,
            before: Counts { requests: 1_000, events: 10 },
            during: Counts { requests: 1_000, events },
        };
        (0..nodes).map(unit).collect()
    }

    #[test]
    fn the_ratio_is_found_within_its_interval() {
        let (canary, baseline) = (arm(50, 20), arm(500, 10));
        let model = Model::fit(canary.iter().chain(&baseline));
        let effect = effect(&canary, &baseline, &model);
        assert!((effect.ratio - 2.0).abs() < 0.02, "{effect:?}");
        assert!(effect.low > 1.8 && effect.high < 2.2, "{effect:?}");
    }

    #[test]
    fn nothing_seen_is_nothing_known() {
        let (canary, baseline) = (arm(1, 0), arm(3, 0));
        let model = Model::fit(canary.iter().chain(&baseline));
        let effect = effect(&canary, &baseline, &model);
        assert!(effect.low < 0.2 && effect.high > 5.0, "{effect:?}");
    }
}
