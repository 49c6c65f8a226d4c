//! Is the canary worse than the rest of the fleet? Statistics that may be looked at as often as one likes.
//!
//! Errors and slow answers come in lumps: one node has an unlucky upstream, another serves robots, a third is busy at
//! night. Counting requests as if each were an independent draw makes such differences look like a regression, and so does looking
//! again and again until something shows. Three decisions avoid both:
//!
//! 1. **The node is the unit.** Who is a canary was drawn by lot ([`TargetOrder::ByLot`](crate::strategy::TargetOrder::ByLot)), so if the
//!    bundle changes nothing, a canary's [score](Model::score) is as likely to be the worst among its matched controls of the
//!    same failure domain as that of any of them. That holds whatever the distribution of the scores. The
//!    [rank e-value](rank_e_value) is a bet against it.
//! 2. **A node is compared with its own past.** Its score is what it did beyond what its earlier rate, shrunk towards
//!    the fleet's, and the fleet's present trend foretell. That takes out most of what makes nodes differ, and a daily rhythm.
//! 3. **Evidence is spent.** Each look yields an e-value, a number whose mean is at most 1 while nothing is wrong; a
//!    [weighted sum](Evidence) of them, with weights that add up to 1, is one too. By Markov's inequality it ever reaches 1/α
//!    with a probability of at most α, however many looks there are and whenever one stops.
//!
//! Latency is judged by its tails, never by means: how many requests were slower than the fleet's own 95th
//! and 99th percentile of before. A [`Trial`] puts it together for one step of a rollout; the strategy
//! [`Canary`](crate::strategy::Canary) runs one per step.
//!
//! # Sources
//! * V. Vovk and R. Wang, *E-values: Calibration, combination and applications*, Annals of Statistics 49 (2021), for the
//!   averaging of e-values.
//! * G. Shafer, *Testing by betting*, JRSS A 184 (2021), for e-values as bets and their thresholds.
//! * A. Ramdas, P. Grünwald, V. Vovk and G. Shafer, *Game-theoretic statistics and safe anytime-valid inference*,
//!   Statistical Science 38 (2023), for stopping at any time.
//! * M. Lindon, C. Sanden and V. Shirikian, *Rapid regression detection in software deployments through sequential
//!   testing*, KDD 2022 (arXiv 2205.14762), for the same aim with requests as the unit.
//! * E. L. Lehmann, *Nonparametrics* (1975), for tests by ranks.
//!
//! `cargo bench -p zentinel-rollout --bench canary` prints how often healthy rollouts are rolled back and regressions caught.

mod effect;
mod evidence;
mod rank;
mod score;
mod trial;

pub use effect::{Effect, effect};
pub use evidence::Evidence;
pub use rank::{MOST_CONTROLS, Ranked, Tail, rank_e_value};
pub use score::{Counts, Model, Unit};
pub use trial::{Analysis, Arm, Finding, Ledger, Measure, Member, Trial, TrialConfig, Verdict};
