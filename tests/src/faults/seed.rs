//! Chances that can be played again.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::time::Duration;

/// Where the chances of one run come from. What is decided follows from it; when the machine does
/// what, does not.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u64);

impl Seed {
    /// `ZENTINEL_FAULT_SEED`, or a new one; printed.
    #[must_use]
    pub fn announced(test: &str) -> Self {
        let seed = number("ZENTINEL_FAULT_SEED").unwrap_or_else(rand::random);
        println!("{test}: ZENTINEL_FAULT_SEED={seed}");
        Self(seed)
    }

    /// The chances for one purpose, so that one more draw in one place does not shift the others.
    #[must_use]
    pub fn stream(self, purpose: &str) -> Chance {
        // FNV-1a over the purpose.
        let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Chance(StdRng::seed_from_u64(self.0 ^ hash))
    }
}

/// A stream of chances.
#[derive(Debug)]
pub struct Chance(StdRng);

impl Chance {
    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// A time from `low` to `high` milliseconds.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// Whether something of this chance in percent happens.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.between(0, 99) < chance
    }

    /// One of them, if there is any.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let last = all.len().checked_sub(1)?;
        all.get(self.between(0, last as u64) as usize)
    }
}

/// A number from the environment.
///
/// # Panics
/// When the variable holds something else.
#[must_use]
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a whole number")))
}
