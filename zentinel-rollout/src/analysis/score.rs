//! What a node did beyond what was to be expected of it.

use serde::{Deserialize, Serialize};

/// Requests, and how many of them were bad in the sense of one measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Bad ones, at most `requests`.
    pub events: u64,
}

/// One node in one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its failure domain; only nodes of one domain are compared.
    pub stratum: u32,
    /// A number that has nothing to do with what the node is like: pairs nodes and breaks ties.
    pub lot: u64,
    /// What it did before the change, on either side. May be nothing.
    pub before: Counts,
    /// What it did since.
    pub during: Counts,
}

impl Unit {
    /// The node as it would be if it were `factor` times better: each bad request is kept with the probability
    /// 1/`factor`. A node that fails `factor` times as often as its controls then fails as often as they do, and
    /// its rank among them is uniform again (thinning of a Poisson process). The lots are deterministic.
    #[must_use]
    pub fn thinned(mut self, factor: f64) -> Self {
        let kept = (u64::MAX as f64 / factor.max(1.0)) as u64;
        let draw = |event: u64| {
            // SplitMix64.
            let mut bits = (self.lot ^ self.during.requests.rotate_left(32))
                .wrapping_add(event.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^ (bits >> 31)
        };
        // Beyond, the share that is kept is as good as certain.
        const DRAWN: u64 = 10_000;
        let drawn = self.during.events.min(DRAWN);
        let sample = (1..=drawn).filter(|event| draw(*event) <= kept).count() as u64;
        self.during.events = if self.during.events > DRAWN {
            (self.during.events as f64 * sample as f64 / DRAWN as f64) as u64
        } else {
            sample
        };
        self
    }
}

/// What is to be expected of a node: an empirical Bayes model (gamma-Poisson) of all nodes' rates before the
/// change, times one trend for all of them since.
///
/// It is fitted to both arms together without knowing which is which, so that scores stay exchangeable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Bad requests per request before, over all nodes.
    pub mean: f64,
    /// How many requests the fleet's mean weighs against a node's own past; large where nodes are alike.
    pub strength: f64,
    /// How much the rate of all nodes has changed since.
    pub trend: f64,
}

/// The strength where nodes do not differ at all.
const ALIKE: f64 = 1e12;

impl Model {
    /// Fits the model by the method of moments.
    #[must_use]
    pub fn fit<'a>(units: impl Iterator<Item = &'a Unit> + Clone) -> Self {
        let sum = |of: fn(&Unit) -> u64| units.clone().map(|unit| of(unit) as f64).sum::<f64>();
        let (requests, events) = (sum(|unit| unit.before.requests), sum(|unit| unit.before.events));
        let (mean, strength) = if requests > 0.0 {
            let mean = (events + 0.5) / (requests + 1.0);
            (mean, strength(units.clone(), mean))
        } else {
            let mean = (sum(|unit| unit.during.events) + 0.5) / (sum(|unit| unit.during.requests) + 1.0);
            (mean, ALIKE)
        };
        Self { mean, strength, trend: 1.0 }.with_trend_of(units)
    }

    /// The same model with the trend of these nodes alone.
    #[must_use]
    pub fn with_trend_of<'a>(self, units: impl Iterator<Item = &'a Unit> + Clone) -> Self {
        let trendless = Self { trend: 1.0, ..self };
        let foretold: f64 = units.clone().map(|unit| trendless.expected(unit)).sum();
        let observed: f64 = units.map(|unit| unit.during.events as f64).sum();
        Self { trend: (observed + 0.5) / (foretold + 0.5), ..self }
    }

    /// The rate that a node's past foretells, before the trend.
    fn rate(&self, unit: &Unit) -> f64 {
        (unit.before.events as f64 + self.strength * self.mean)
            / (unit.before.requests as f64 + self.strength)
    }

    /// How many bad requests are expected of a node.
    #[must_use]
    pub fn expected(&self, unit: &Unit) -> f64 {
        self.trend * unit.during.requests as f64 * self.rate(unit)
    }

    /// By how many standard deviations a node did worse than expected.
    #[must_use]
    pub fn score(&self, unit: &Unit) -> f64 {
        let expected = self.expected(unit);
        // The rate itself is known as well as the requests behind it are many.
        let known_by = unit.before.requests as f64 + self.strength;
        let unknown = expected * self.trend * unit.during.requests as f64 / known_by;
        // A quarter keeps scores of hardly any traffic apart from noise.
        (unit.during.events as f64 - expected) / (expected + unknown + 0.25).sqrt()
    }
}

/// The requests that the mean is worth: from how much more rates vary than chance alone makes them.
fn strength<'a>(units: impl Iterator<Item = &'a Unit>, mean: f64) -> f64 {
    let (mut excess, mut squares) = (0.0, 0.0);
    for unit in units {
        let (requests, events) = (unit.before.requests as f64, unit.before.events as f64);
        let expected = requests * mean;
        excess += (events - expected).powi(2) - expected;
        squares += requests * requests;
    }
    let variance = if squares > 0.0 { excess / squares } else { 0.0 };
    if variance > 0.0 { (mean / variance).clamp(1.0, ALIKE) } else { ALIKE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(before: (u64, u64), during: (u64, u64)) -> Unit {
        let counts = |(requests, events)| Counts { requests, events };
        Unit { stratum: 0, lot: 0, before: counts(before), during: counts(during) }
    }

    #[test]
    fn nodes_that_differ_are_expected_to_go_on_as_before() {
        let units: Vec<Unit> = (0..50)
            .map(|place| {
                let events = if place % 2 == 0 { 10 } else { 190 };
                unit((10_000, events), (1_000, events / 10))
            })
            .collect();
        let model = Model::fit(units.iter());
        assert!(model.strength < 1_000.0, "{model:?}");
        assert!((model.trend - 1.0).abs() < 0.05, "{model:?}");
        for unit in &units {
            assert!(model.score(unit).abs() < 0.5, "{unit:?} {model:?}");
        }
        let worse = unit((10_000, 10), (1_000, 19));
        assert!(model.score(&worse) > 5.0, "a quiet node that became as bad as the others");
    }

    #[test]
    fn what_all_do_is_a_trend_and_no_news() {
        let units: Vec<Unit> = (0..50).map(|_| unit((1_000, 10), (1_000, 30))).collect();
        let model = Model::fit(units.iter());
        assert!((model.trend - 3.0).abs() < 0.2, "{model:?}");
        assert!(model.score(&units[0]).abs() < 0.5);
    }

    #[test]
    fn thinning_keeps_its_share() {
        for (events, low, high) in [(0, 0, 0), (300, 170, 230), (1_000_000, 640_000, 690_000)] {
            let units = (0..20).map(|lot| Unit { lot, ..unit((0, 0), (2_000_000, events)) }.thinned(1.5));
            let kept: u64 = units.map(|unit| unit.during.events).sum();
            assert!((20 * low..=20 * high).contains(&kept), "{kept} of {events}");
        }
    }

    #[test]
    fn nothing_is_known_of_a_fleet_without_traffic() {
        let units = [unit((0, 0), (0, 0)), unit((0, 0), (5, 5))];
        let model = Model::fit(units.iter());
        for unit in &units {
            assert!(model.score(unit).is_finite(), "{model:?}");
        }
        assert!(Model::fit([].iter()).mean.is_finite());
    }
}
