use serde::{Deserialize, Serialize};

/// Evidence gathered over any number of looks.
///
/// The e-value of the k-th look, from 0, counts with the weight 1/((k+1)(k+2)). All weights together are 1, so the sum has a
/// mean of at most 1 under the hypothesis, however the looks depend on one another; it never shrinks, so the
/// probability that it *ever* reaches 1/α is at most α.
///
/// ```
/// let mut evidence = zentinel_rollout::analysis::Evidence::default();
/// for _ in 0..1_000 {
///     evidence.add(1.0);
/// }
/// assert!(evidence.value() < 1.0);
/// evidence.add(1e9);
/// assert!(evidence.refutes_at(0.01));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    looks: u32,
    value: f64,
}

impl Evidence {
    /// Adds the e-value of one more look.
    pub fn add(&mut self, e_value: f64) {
        let k = f64::from(self.looks);
        self.looks = self.looks.saturating_add(1);
        if e_value.is_finite() && e_value > 0.0 {
            self.value = (self.value + e_value / ((k + 1.0) * (k + 2.0))).min(f64::MAX);
        }
    }

    /// The sum so far.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// How many looks were taken.
    #[must_use]
    pub fn looks(&self) -> u32 {
        self.looks
    }

    /// Whether the hypothesis is refuted at this level.
    #[must_use]
    pub fn refutes_at(&self, level: f64) -> bool {
        self.value * level >= 1.0
    }
}
