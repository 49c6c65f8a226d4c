//! Canary rollouts over simulated traffic: how often a healthy one is rolled back, and how soon a regression is caught.
//!
//! Nodes differ in how much they serve and how often they fail, each drifts on its own, and all follow a daily rhythm
//! that every zone has at another hour. Whoever wants to know what a setting does to a fleet like theirs
//! changes the numbers and counts.
//!
//! ```
//! use zentinel_rollout::sim::{TrafficWorld, TrialEnd};
//!
//! let healthy = TrafficWorld { nodes: 200, ..TrafficWorld::default() };
//! let ended = (0..5).filter(|seed| matches!(healthy.run(*seed).end, TrialEnd::RolledBack { .. })).count();
//! assert_eq!(ended, 0);
//! ```

use super::rng::Rng;
use crate::analysis::{Ledger, Member, Trial, TrialConfig, Verdict};
use chrono::{DateTime, TimeDelta};
use std::f64::consts::TAU;
use uuid::Uuid;
use zentinel_core::Timestamp;
use zentinel_core::entity::{LATENCY_BUCKETS, Traffic, TrafficCounts};
use zentinel_core::id::{NodeId, TypedId};

/// How long nodes' own past reaches.
const PAST: f64 = 3_600.0;
/// How long nodes take to activate and pass their gates.
const ACTIVATION: i64 = 45;
/// A day, for the rhythm.
const DAY: f64 = 86_400.0;
/// Where requests that are not slow, slow and very slow are counted.
const FAST: usize = 3;
const SLOW: usize = 6;
const VERY_SLOW: usize = 7;

/// A fleet and its traffic.
#[derive(Clone, Debug)]
pub struct TrafficWorld {
    /// Number of nodes.
    pub nodes: usize,
    /// Number of failure domains.
    pub zones: usize,
    /// Requests per second and node, on average.
    pub requests_per_second: f64,
    /// Share of requests that fail, on average over the nodes.
    pub error_share: f64,
    /// How much nodes differ: the coefficient of variation of their error rates, their tails and their load.
    pub variation: f64,
    /// How far the logarithm of a node's rates wanders in an hour: its standard deviation.
    pub drift: f64,
    /// Amplitude of the daily rhythm of load and rates, 0 to 1.
    pub rhythm: f64,
    /// The canaries' errors times this; 1 is healthy.
    pub error_effect: f64,
    /// The canaries' slow requests times this; 1 is healthy.
    pub latency_effect: f64,
    /// Cumulative shares of the steps in percent.
    pub steps: Vec<usize>,
    /// What is asked of each step.
    pub config: TrialConfig,
}

impl Default for TrafficWorld {
    fn default() -> Self {
        Self {
            nodes: 1_000,
            zones: 3,
            requests_per_second: 4.0,
            error_share: 0.01,
            variation: 1.0,
            drift: 0.2,
            rhythm: 0.5,
            error_effect: 1.0,
            latency_effect: 1.0,
            steps: vec![5, 25, 50, 100],
            config: TrialConfig { alpha: 0.01, ..TrialConfig::default() },
        }
    }
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrialEnd {
    /// Every step passed.
    Completed,
    /// The canaries were found to be worse.
    RolledBack {
        /// Share of the fleet that had the bundle, in percent.
        percent: usize,
    },
    /// A person was asked.
    Paused {
        /// Share of the fleet that had the bundle, in percent.
        percent: usize,
    },
}

/// What came of a rollout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrialOutcome {
    /// How it ended.
    pub end: TrialEnd,
    /// Virtual seconds from the first activation to the end.
    pub seconds: i64,
    /// How many looks were taken.
    pub looks: u32,
}

struct SimNode {
    id: NodeId,
    zone: u32,
    /// Relative to the average.
    load: f64,
    errors: f64,
    slow: f64,
    /// Logarithm of what it has drifted by.
    wandered: f64,
    served: Vec<(f64, TrafficCounts)>,
    traffic: Traffic,
}

struct Fleet<'a> {
    world: &'a TrafficWorld,
    nodes: Vec<SimNode>,
    rng: Rng,
    /// Seconds since the start of the day.
    clock: f64,
    now: Timestamp,
    /// Nodes with the new bundle are the first ones.
    canaries: usize,
}

impl TrafficWorld {
    /// Runs one rollout.
    #[must_use]
    pub fn run(&self, seed: u64) -> TrialOutcome {
        let mut fleet = Fleet::new(self, seed);
        let (mut ledger, mut looks, began) = (Ledger::default(), 0, fleet.now);
        let outcome =
            |end, looks, now: Timestamp| TrialOutcome { end, looks, seconds: (now - began).num_seconds() };
        for (index, percent) in self.steps.iter().copied().enumerate() {
            let mut trial = fleet.begin(index, (self.nodes * percent).div_ceil(100));
            fleet.serve(ACTIVATION);
            trial.mark(|id| fleet.traffic(id), fleet.now);
            let marked = fleet.now;
            loop {
                let next = trial.next_look(&self.config).unwrap_or(fleet.now);
                fleet.serve((next - fleet.now).num_seconds());
                let overdue = (fleet.now - marked).num_seconds() >= i64::from(self.config.deadline_seconds);
                looks += 1;
                let analysis =
                    trial.look(&self.config, &mut ledger, |id| fleet.traffic(id), fleet.now, overdue);
                match analysis.decision {
                    Verdict::Extend => {}
                    Verdict::Promote => break,
                    Verdict::RollBack => return outcome(TrialEnd::RolledBack { percent }, looks, fleet.now),
                    Verdict::Inconclusive => return outcome(TrialEnd::Paused { percent }, looks, fleet.now),
                }
            }
        }
        outcome(TrialEnd::Completed, looks, fleet.now)
    }
}

impl<'a> Fleet<'a> {
    fn new(world: &'a TrafficWorld, seed: u64) -> Self {
        let mut rng = Rng::named(seed, "traffic");
        // A log-normal with mean 1 and this coefficient of variation.
        let sigma = (1.0 + world.variation.powi(2)).ln().sqrt();
        let relative = |rng: &mut Rng| (sigma * normal(rng) - sigma * sigma / 2.0).exp();
        let mut node = |number: usize| SimNode {
            id: NodeId::from_uuid(Uuid::from_u128(number as u128)),
            zone: u32::try_from(number % world.zones.max(1)).unwrap_or(0),
            load: relative(&mut rng),
            errors: relative(&mut rng),
            slow: relative(&mut rng),
            wandered: 0.0,
            served: Vec::new(),
            traffic: Traffic { epoch: 1, ..Traffic::default() },
        };
        let nodes = (0..world.nodes).map(&mut node).collect();
        let clock = uniform(&mut rng) * DAY;
        let mut fleet = Self { world, nodes, rng, clock, now: DateTime::UNIX_EPOCH, canaries: 0 };
        for _ in 0..4 {
            fleet.serve(PAST as i64 / 4);
        }
        fleet
    }

    fn traffic(&self, id: NodeId) -> Option<&Traffic> {
        let place = usize::try_from(id.uuid().as_u128()).ok()?;
        self.nodes.get(place).map(|node| &node.traffic)
    }

    /// The next step begins: nodes up to `until` become canaries.
    fn begin(&mut self, index: usize, until: usize) -> Trial {
        let member = |place: usize| {
            let node = &self.nodes[place];
            // Numbers were given without regard to what a node is like: they are the lots.
            Member::new(node.id, place < until, node.zone, place as u64, &node.traffic)
        };
        let members = (self.canaries..self.nodes.len()).map(member).collect();
        self.canaries = until;
        Trial::begin(u32::try_from(index).unwrap_or(u32::MAX), members)
    }

    /// Time passes.
    fn serve(&mut self, seconds: i64) {
        let length = seconds as f64;
        self.now += TimeDelta::seconds(seconds);
        self.clock += length;
        let (world, clock, rng) = (self.world, self.clock, &mut self.rng);
        for (place, node) in self.nodes.iter_mut().enumerate() {
            let hour = f64::from(node.zone) / world.zones.max(1) as f64;
            let rhythm = 1.0 + world.rhythm * (TAU * (clock / DAY + hour)).sin();
            node.wandered += world.drift * (length / 3_600.0).sqrt() * normal(rng);
            let canary = place < self.canaries;
            let effect = |of: f64| if canary { of } else { 1.0 };
            let requests = poisson(rng, length * world.requests_per_second * node.load * rhythm);
            let busy = rhythm * node.wandered.exp();
            let share = |average: f64, node: f64, effect: f64| (average * node * busy * effect).min(0.9);
            let mut draw = |share: f64| poisson(rng, share * requests as f64).min(requests);
            let errors = draw(share(world.error_share, node.errors, effect(world.error_effect)));
            let slow = draw(share(0.04, node.slow, effect(world.latency_effect)));
            let very_slow = draw(share(0.007, node.slow, effect(world.latency_effect))).min(requests - slow);
            let mut latency = [0; LATENCY_BUCKETS];
            (latency[FAST], latency[SLOW], latency[VERY_SLOW]) =
                (requests - slow - very_slow, slow, very_slow);
            let counts = TrafficCounts { requests, errors, latency };
            node.traffic.total.add(&counts);
            node.served.push((clock, counts));
            node.served.retain(|(at, _)| clock - at < PAST);
            node.traffic.recent = TrafficCounts::default();
            for (_, counts) in &node.served {
                node.traffic.recent.add(counts);
            }
        }
    }
}

fn uniform(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Box-Muller.
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (TAU * uniform(rng)).cos()
}

/// Knuth's method for small means, the normal approximation for others.
fn poisson(rng: &mut Rng, mean: f64) -> u64 {
    if mean > 50.0 {
        return (mean + mean.sqrt() * normal(rng) + 0.5).max(0.0) as u64;
    }
    let (limit, mut product, mut count) = ((-mean).exp(), uniform(rng), 0);
    while product > limit {
        product *= uniform(rng);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(world: &TrafficWorld, runs: u64) -> (u64, u64, u64) {
        let (mut completed, mut rolled_back, mut paused) = (0, 0, 0);
        for seed in 0..runs {
            match world.run(seed).end {
                TrialEnd::Completed => completed += 1,
                TrialEnd::RolledBack { .. } => rolled_back += 1,
                TrialEnd::Paused { .. } => paused += 1,
            }
        }
        (completed, rolled_back, paused)
    }

    #[test]
    fn healthy_rollouts_are_let_pass() {
        let world = TrafficWorld { nodes: 200, ..TrafficWorld::default() };
        let (completed, rolled_back, paused) = ends(&world, 40);
        println!("completed {completed}, rolled back {rolled_back}, paused {paused}");
        // At a probability of at most 1 % each, three of forty would happen once in 150 test runs.
        assert!(rolled_back < 3, "{rolled_back} of 40 healthy rollouts were rolled back");
    }

    #[test]
    fn a_tripled_error_rate_is_caught_at_the_first_step() {
        let world = TrafficWorld { nodes: 400, error_effect: 3.0, ..TrafficWorld::default() };
        for seed in 0..10 {
            assert_eq!(world.run(seed).end, TrialEnd::RolledBack { percent: 5 }, "seed {seed}");
        }
    }
}
