use super::*;
use chrono::DateTime;
use std::collections::BTreeMap;
use zentinel_core::entity::LATENCY_BUCKETS;
use zentinel_core::id::TypedId;

/// A fleet whose nodes serve steadily.
struct World {
    now: Timestamp,
    traffic: BTreeMap<NodeId, Traffic>,
}

fn node(number: usize) -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(number as u128))
}

fn counts(requests: u64, errors: u64, slow: u64) -> TrafficCounts {
    let mut latency = [0; LATENCY_BUCKETS];
    (latency[2], latency[6]) = (requests - slow, slow);
    TrafficCounts { requests, errors, latency }
}

impl World {
    fn new(nodes: usize) -> Self {
        let recent = counts(1_000, 10, 30);
        let traffic = (0..nodes).map(|at| (node(at), Traffic { epoch: 1, total: recent, recent })).collect();
        Self { now: DateTime::UNIX_EPOCH, traffic }
    }

    /// The first `canaries` nodes against the others.
    fn trial(&mut self, canaries: usize) -> Trial {
        let members = self.traffic.iter().enumerate().map(|(place, (id, traffic))| {
            Member::new(*id, place < canaries, 0, (place as u64).wrapping_mul(0x9e37_79b9), traffic)
        });
        let mut trial = Trial::begin(0, members.collect());
        trial.mark(|id| self.traffic.get(&id), self.now);
        trial
    }

    fn serve(&mut self, seconds: i64, canaries: usize, canary: (u64, u64, u64), baseline: (u64, u64, u64)) {
        self.now += TimeDelta::seconds(seconds);
        for (place, traffic) in self.traffic.values_mut().enumerate() {
            let (requests, errors, slow) = if place < canaries { canary } else { baseline };
            traffic.total.add(&counts(requests, errors, slow));
        }
    }

    fn look(&self, trial: &mut Trial, ledger: &mut Ledger, overdue: bool) -> Analysis {
        trial.look(&TrialConfig::default(), ledger, |id| self.traffic.get(&id), self.now, overdue)
    }
}

#[test]
fn looks_are_spread_over_the_window_and_go_on_after_it() {
    let (mut world, config) = (World::new(4), TrialConfig::default());
    let mut trial = world.trial(1);
    let mut at = Vec::new();
    for _ in 0..8 {
        at.push((trial.next_look(&config).unwrap() - world.now).num_seconds());
        trial.looks += 1;
    }
    assert_eq!(at, [18, 37, 75, 150, 300, 600, 900, 1_200]);
    assert_eq!(Trial::begin(0, Vec::new()).next_look(&config), None);
    world.serve(1, 0, (0, 0, 0), (0, 0, 0));
}

#[test]
fn a_regression_of_errors_is_rolled_back_with_its_evidence() {
    let mut world = World::new(200);
    let (mut trial, mut ledger) = (world.trial(20), Ledger::default());
    world.serve(150, 20, (1_000, 30, 30), (1_000, 10, 30));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::RollBack, "{analysis:#?}");
    let finding = &analysis.findings[0];
    assert!(finding.evidence >= finding.needed && finding.effect.low > 2.0, "{finding:?}");
    assert!(
        analysis.summary.contains("600 of 20000 requests against 1800 of 180000"),
        "{}",
        analysis.summary
    );
}

#[test]
fn a_slow_canary_is_found_by_its_tail() {
    let mut world = World::new(200);
    let (mut trial, mut ledger) = (world.trial(20), Ledger::default());
    world.serve(150, 20, (1_000, 10, 90), (1_000, 10, 30));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::RollBack, "{analysis:#?}");
    assert!(analysis.summary.contains("slower than the fleet's p9"), "{}", analysis.summary);
}

#[test]
fn a_healthy_canary_passes_early() {
    let mut world = World::new(400);
    let (mut trial, mut ledger) = (world.trial(40), Ledger::default());
    world.serve(75, 40, (1_000, 10, 30), (1_000, 10, 30));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::Promote, "{analysis:#?}");
}

#[test]
fn what_all_nodes_suffer_is_not_the_canarys_fault() {
    let mut world = World::new(400);
    let (mut trial, mut ledger) = (world.trial(40), Ledger::default());
    world.serve(300, 40, (1_000, 40, 120), (1_000, 40, 120));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::Promote, "{analysis:#?}");
}

#[test]
fn ceilings_hold_whatever_the_baseline_does() {
    let mut world = World::new(40);
    let (mut trial, mut ledger) = (world.trial(10), Ledger::default());
    world.serve(20, 10, (1_000, 80, 30), (1_000, 80, 30));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::RollBack);
    assert!(analysis.summary.contains("the ceiling is 5 %"), "{}", analysis.summary);
    // One failure of ten requests is 10 %, and says nothing.
    let mut world = World::new(40);
    let (mut trial, mut ledger) = (world.trial(1), Ledger::default());
    world.serve(20, 1, (10, 1, 0), (1_000, 10, 30));
    assert_eq!(world.look(&mut trial, &mut ledger, false).decision, Verdict::Extend);
}

#[test]
fn without_data_nothing_passes() {
    let (mut world, mut ledger) = (World::new(20), Ledger::default());
    let mut trial = world.trial(2);
    world.serve(900, 2, (0, 0, 0), (1_000, 10, 30));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::Extend);
    assert!(analysis.summary.contains("have served 0 requests; 10 are needed"), "{}", analysis.summary);
    assert_eq!(world.look(&mut trial, &mut ledger, true).decision, Verdict::Inconclusive);
    let mut trial = Trial::begin(0, Vec::new());
    trial.mark(|_| None, world.now);
    assert_eq!(world.look(&mut trial, &mut ledger, true).decision, Verdict::Inconclusive);
}

#[test]
fn what_looks_worse_but_may_be_chance_is_inconclusive_at_last() {
    let mut world = World::new(20);
    let (mut trial, mut ledger) = (world.trial(2), Ledger::default());
    world.serve(300, 2, (1_000, 17, 30), (1_000, 10, 30));
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!(analysis.decision, Verdict::Extend, "{analysis:#?}");
    assert_eq!(world.look(&mut trial, &mut ledger, true).decision, Verdict::Inconclusive);
    // A smaller difference, with none at all within its interval, is let pass once the time is over.
    let mut world = World::new(20);
    let (mut trial, mut ledger) = (world.trial(2), Ledger::default());
    world.serve(300, 2, (1_000, 13, 30), (1_000, 10, 30));
    assert_eq!(world.look(&mut trial, &mut ledger, false).decision, Verdict::Extend);
    assert_eq!(world.look(&mut trial, &mut ledger, true).decision, Verdict::Promote);
}

#[test]
fn the_last_step_is_held_against_the_ceilings_alone() {
    let mut world = World::new(20);
    let (mut trial, mut ledger) = (world.trial(20), Ledger::default());
    world.serve(20, 20, (1_000, 10, 30), (0, 0, 0));
    assert_eq!(world.look(&mut trial, &mut ledger, false).decision, Verdict::Extend);
    world.serve(280, 20, (1_000, 10, 30), (0, 0, 0));
    assert_eq!(world.look(&mut trial, &mut ledger, false).decision, Verdict::Promote);
}

#[test]
fn a_node_that_counts_anew_takes_no_part() {
    let mut world = World::new(20);
    let (mut trial, mut ledger) = (world.trial(2), Ledger::default());
    world.serve(300, 2, (1_000, 10, 30), (1_000, 10, 30));
    if let Some(traffic) = world.traffic.get_mut(&node(0)) {
        *traffic = Traffic { epoch: 2, total: counts(5_000, 5_000, 0), recent: TrafficCounts::default() };
    }
    let analysis = world.look(&mut trial, &mut ledger, false);
    assert_eq!((analysis.canary.nodes, analysis.canary.total_errors), (1, 10));
}

#[test]
fn a_trial_survives_being_stored() {
    let mut world = World::new(10);
    let mut trial = world.trial(2);
    world.serve(60, 2, (100, 1, 3), (100, 1, 3));
    let mut ledger = Ledger::default();
    world.look(&mut trial, &mut ledger, false);
    let text = serde_json::to_string(&(&trial, &ledger)).unwrap();
    let (again, same): (Trial, Ledger) = serde_json::from_str(&text).unwrap();
    assert_eq!((again, same), (trial, ledger));
}
