//! The bet: canaries do not rank higher among their controls than chance has it.

use std::collections::BTreeMap;

/// Most controls that one canary is ranked among.
pub const MOST_CONTROLS: usize = 19;

/// How boldly to bet on high ranks; the average over all is the bet, so that none has to be guessed.
const BOLDNESS: [f64; 5] = [0.25, 0.5, 1.0, 1.5, 2.5];

/// No e-value is taken to be larger: beyond, there is nothing left to decide.
const ENOUGH: f64 = 1e12;

/// A node with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Its failure domain; only nodes of one domain are compared.
    pub stratum: u32,
    /// A number that has nothing to do with what the node is like.
    pub lot: u64,
    /// Higher is worse.
    pub score: f64,
}

/// What is evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Canaries score higher than their controls.
    Higher,
    /// Canaries score lower than their controls.
    Lower,
}

/// An e-value against "the canaries were drawn by lot, and that they are canaries makes no difference".
///
/// In each stratum every node of the smaller arm is put together with as many nodes of the larger one, at most
/// [`MOST_CONTROLS`], as there are for each; nobody is in two groups. Under the hypothesis its rank in its group is uniform
/// and independent of the other groups', because who is grouped does not depend on any score. Each group multiplies the
/// stake by a function of the rank whose mean is 1. 1 where nothing can be compared.
///
/// ```
/// use zentinel_rollout::analysis::{Ranked, Tail, rank_e_value};
///
/// let node = |lot: u64, score: f64| Ranked { stratum: 0, lot, score };
/// let baseline: Vec<_> = (0..95).map(|lot| node(lot, (lot % 7) as f64)).collect();
/// let bad: Vec<_> = (0..5).map(|lot| node(lot, 100.0)).collect();
/// assert!(rank_e_value(&bad, &baseline, Tail::Higher) > 1_000.0);
/// assert!(rank_e_value(&bad, &baseline, Tail::Lower) < 0.1);
/// assert_eq!(rank_e_value(&bad, &[], Tail::Higher), 1.0);
/// ```
#[must_use]
pub fn rank_e_value(canary: &[Ranked], baseline: &[Ranked], tail: Tail) -> f64 {
    let mut stakes = [0.0; BOLDNESS.len()];
    let mut bets = BTreeMap::new();
    let mut baseline = by_stratum(baseline);
    for (stratum, canaries) in by_stratum(canary) {
        let controls = baseline.remove(&stratum).unwrap_or_default();
        let mirrored = canaries.len() > controls.len();
        let (single, many) = if mirrored { (&controls, &canaries) } else { (&canaries, &controls) };
        let size = many.len().checked_div(single.len()).unwrap_or(0).min(MOST_CONTROLS);
        if size == 0 {
            continue;
        }
        let bet = bets.entry(size).or_insert_with(|| logarithms(size + 1));
        for (one, others) in single.iter().zip(many.chunks_exact(size)) {
            let below = others.iter().filter(|other| goes_before(other, one)).count();
            let worse = (tail == Tail::Higher) != mirrored;
            let rank = if worse { below } else { size - below };
            for (stake, logarithms) in stakes.iter_mut().zip(bet.iter()) {
                *stake += logarithms[rank];
            }
        }
    }
    let sum: f64 = stakes.iter().map(|stake| stake.exp()).sum();
    (sum / BOLDNESS.len() as f64).min(ENOUGH)
}

/// The nodes of each stratum in the order of their lots.
fn by_stratum(nodes: &[Ranked]) -> BTreeMap<u32, Vec<Ranked>> {
    let mut strata: BTreeMap<u32, Vec<Ranked>> = BTreeMap::new();
    for node in nodes {
        strata.entry(node.stratum).or_default().push(*node);
    }
    for nodes in strata.values_mut() {
        nodes.sort_by_key(|node| node.lot);
    }
    strata
}

/// Lower score first; ties by a hash of the lot, because the lot itself decides who is a canary.
fn goes_before(a: &Ranked, b: &Ranked) -> bool {
    let tie = |node: &Ranked| node.lot.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    a.score.total_cmp(&b.score).then_with(|| tie(a).cmp(&tie(b))).is_lt()
}

/// For each boldness: the logarithm of the factor at each of `ranks` ranks, lowest first. Factors are exponential in the
/// logit of the rank, and their mean is 1.
fn logarithms(ranks: usize) -> [Vec<f64>; BOLDNESS.len()] {
    let logit = |rank: usize| {
        let share = (rank as f64 + 0.5) / ranks as f64;
        (share / (1.0 - share)).ln()
    };
    BOLDNESS.map(|boldness| {
        let mean = (0..ranks).map(|rank| (boldness * logit(rank)).exp()).sum::<f64>() / ranks as f64;
        (0..ranks).map(|rank| boldness * logit(rank) - mean.ln()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arm(scores: &[f64], stratum: u32, first: u64) -> Vec<Ranked> {
        (first..).zip(scores).map(|(lot, score)| Ranked { stratum, lot, score: *score }).collect()
    }

    #[test]
    fn factors_have_mean_one() {
        for ranks in 2..=MOST_CONTROLS + 1 {
            for logarithms in logarithms(ranks) {
                let mean = logarithms.iter().map(|value| value.exp()).sum::<f64>() / ranks as f64;
                assert!((mean - 1.0).abs() < 1e-12, "{ranks}: {mean}");
            }
        }
    }

    /// Over every way to draw the canaries out of the same nodes, the mean is exactly 1: that is what
    /// makes it an e-value.
    #[test]
    fn its_mean_over_all_draws_is_one() {
        let scores = [0.3, 1.1, 5.0, 5.1, -2.0, 0.7, 0.8];
        for (canaries, tail) in [(2, Tail::Higher), (3, Tail::Lower), (5, Tail::Higher), (6, Tail::Lower)] {
            let (mut sum, mut draws) = (0.0, 0.0);
            permute(&mut scores.to_vec(), 0, &mut |order| {
                let canary = arm(&order[..canaries], 0, 0);
                let baseline = arm(&order[canaries..], 0, 100);
                sum += rank_e_value(&canary, &baseline, tail);
                draws += 1.0;
            });
            let mean: f64 = sum / draws;
            assert!((mean - 1.0).abs() < 1e-9, "{canaries} of 7: {mean}");
        }
    }

    fn permute(items: &mut Vec<f64>, from: usize, visit: &mut impl FnMut(&[f64])) {
        if from == items.len() {
            visit(items);
            return;
        }
        for place in from..items.len() {
            items.swap(from, place);
            permute(items, from + 1, visit);
            items.swap(from, place);
        }
    }

    #[test]
    fn only_nodes_of_one_domain_are_compared() {
        let canary = arm(&[10.0; 4], 1, 0);
        let elsewhere = arm(&[0.0; 40], 2, 100);
        assert_eq!(rank_e_value(&canary, &elsewhere, Tail::Higher), 1.0);
    }

    #[test]
    fn a_large_canary_is_judged_by_its_few_controls() {
        let canary = arm(&[9.0; 60], 0, 0);
        let baseline = arm(&[1.0; 10], 0, 100);
        assert!(rank_e_value(&canary, &baseline, Tail::Higher) > 100.0);
        assert!(rank_e_value(&baseline, &canary, Tail::Lower) > 100.0);
    }

    proptest! {
        #[test]
        fn any_scores_give_a_number(
            canary in proptest::collection::vec((0..3_u32, any::<u64>(), any::<f64>()), 0..40),
            baseline in proptest::collection::vec((0..3_u32, any::<u64>(), any::<f64>()), 0..80),
        ) {
            let arm = |nodes: &[(u32, u64, f64)]| -> Vec<Ranked> {
                nodes.iter().map(|(stratum, lot, score)| Ranked { stratum: *stratum, lot: *lot, score: *score }).collect()
            };
            let e = rank_e_value(&arm(&canary), &arm(&baseline), Tail::Higher);
            prop_assert!(e.is_finite() && e >= 0.0);
        }
    }
}
