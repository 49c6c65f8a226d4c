//! What a simulated node does with the bundles it is offered.

use rand::seq::SliceRandom as _;
use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};
use std::fmt;
use std::str::FromStr;

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Behaviour {
    /// Activates what it is offered and is well.
    Healthy,
    /// Activates late and answers its own traffic slowly.
    Slow,
    /// Activates, and then fails every metric gate.
    Failing,
    /// Activates, and then fails three times as often as before: no gate sees it, a canary analysis does.
    Worse,
    /// Refuses bundles with a `bundle_error`.
    Rejecting,
    /// Is never heard of again once it has activated.
    Silent,
    /// Registers and is never heard of.
    Absent,
    /// Goes away and returns, over and over.
    Flapping,
    /// The bundle kills its proxy: it activates, then reports the one before and a `bundle_error`.
    Poisoned,
}

impl Behaviour {
    /// All, in the order of the documentation.
    pub(super) const ALL: [Self; 9] = [
        Self::Healthy,
        Self::Slow,
        Self::Failing,
        Self::Worse,
        Self::Rejecting,
        Self::Silent,
        Self::Absent,
        Self::Flapping,
        Self::Poisoned,
    ];

    /// Its name on the command line and in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Worse => "worse",
            Self::Rejecting => "rejecting",
            Self::Silent => "silent",
            Self::Absent => "absent",
            Self::Flapping => "flapping",
            Self::Poisoned => "poisoned",
        }
    }
}

/// Shares of behaviours, in percent. What is not named is healthy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shares(Vec<(Behaviour, f64)>);

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(kind, share)| format!("{}={share}", kind.name())).collect();
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, share) =
                part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=PERCENT"))?;
            let name = name.trim();
            let kind = Behaviour::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let names = Behaviour::ALL.map(Behaviour::name).join(", ");
                format!("there is no behaviour `{name}`; choose of {names}")
            })?;
            let share = share.trim().trim_end_matches('%').parse::<f64>().ok();
            let share = share.filter(|share| (0.0..=100.0).contains(share));
            let share = share.ok_or_else(|| format!("the share of `{name}` is not a percentage"))?;
            if shares.iter().any(|(known, _)| *known == kind) {
                return Err(format!("`{name}` is named twice"));
            }
            shares.push((kind, share));
        }
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if sum > 100.0 + 1e-9 { Err(format!("the shares add up to {sum} %")) } else { Ok(Self(shares)) }
    }
}

impl Shares {
    /// The behaviour of each of `count` nodes: the same seed chooses the same, and each share is
    /// met as nearly as whole nodes allow.
    pub(super) fn assign(&self, count: usize, seed: u64) -> Vec<Behaviour> {
        let mut all = Vec::with_capacity(count);
        let (mut share_so_far, mut given) = (0.0, 0);
        for (kind, share) in self.0.iter().filter(|(kind, _)| *kind != Behaviour::Healthy) {
            share_so_far += share;
            // Rounding the sum instead of each share keeps the total right.
            let until = (share_so_far / 100.0 * count as f64).round() as usize;
            let until = usize::min(until, count);
            all.resize(all.len() + until.saturating_sub(given), *kind);
            given = until;
        }
        all.resize(count, Behaviour::Healthy);
        all.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_read_and_refused() {
        let shares: Shares = "healthy=95, slow=2,failing=3%".parse().unwrap();
        assert_eq!(shares.to_string(), "healthy=95,slow=2,failing=3");
        assert_eq!("".parse::<Shares>().unwrap(), Shares::default());
        for (text, why) in [
            ("slow", "NAME=PERCENT"),
            ("lazy=3", "choose of healthy"),
            ("slow=x", "not a percentage"),
            ("slow=NaN", "not a percentage"),
            ("slow=60,failing=60", "120"),
            ("slow=1,slow=2", "twice"),
        ] {
            assert!(text.parse::<Shares>().unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn a_seed_chooses_the_same_nodes() {
        let shares: Shares = "rejecting=10".parse().unwrap();
        let chosen = shares.assign(200, 7);
        assert_eq!(chosen, shares.assign(200, 7));
        assert_ne!(chosen, shares.assign(200, 8));
        assert_eq!(chosen.iter().filter(|kind| **kind == Behaviour::Rejecting).count(), 20);
    }

    proptest! {
        #[test]
        fn shares_are_met(count in 0_usize..2_000, slow in 0_u32..50, silent in 0_u32..50) {
            let shares: Shares = format!("slow={slow},silent={silent}").parse().unwrap();
            let all = shares.assign(count, 1);
            prop_assert_eq!(all.len(), count);
            for (kind, share) in [(Behaviour::Slow, slow), (Behaviour::Silent, silent)] {
                let exact = f64::from(share) / 100.0 * count as f64;
                let found = all.iter().filter(|found| **found == kind).count() as f64;
                // Two sums are rounded, and binary fractions are not exact.
                prop_assert!((found - exact).abs() <= 1.0 + 1e-6, "{found} of {exact}");
            }
        }
    }
}
