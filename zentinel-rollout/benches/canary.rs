//! How often healthy canary rollouts are rolled back, and how soon regressions are caught.
//!
//! `cargo bench -p zentinel-rollout --features sim --bench canary [-- ROLLOUTS]`; 2,000 per row by default.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use zentinel_rollout::analysis::TrialConfig;
use zentinel_rollout::sim::{TrafficWorld, TrialEnd, TrialOutcome};

fn main() {
    let runs = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(2_000);
    println!(
        "{runs} rollouts per row; 1,000 nodes, 4 requests per second and node, steps of 5, 25, 50 and 100 %, level 0.01\n"
    );
    println!(
        "| World | rolled back | before 10 % of the fleet | asked a person | seconds to the end (median) |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    let varied = TrafficWorld::default();
    let alike = TrafficWorld { variation: 0.0, drift: 0.0, rhythm: 0.0, ..varied.clone() };
    let wild = TrafficWorld { variation: 2.0, drift: 0.5, rhythm: 0.8, ..varied.clone() };
    row("healthy, nodes alike", &alike, runs);
    row("healthy, unequal nodes, drift, daily rhythm", &varied, runs);
    row("healthy, very unequal nodes, strong drift and rhythm", &wild, runs);
    row("healthy, as above with 100 nodes", &TrafficWorld { nodes: 100, ..wild.clone() }, runs);
    let config = TrialConfig { alpha: 0.05, ..varied.config.clone() };
    row("healthy, unequal, level 0.05", &TrafficWorld { config, ..varied.clone() }, runs);
    let few = runs.div_ceil(4);
    for (what, factor) in [("1.2", 1.2), ("1.5", 1.5), ("2", 2.0)] {
        let worse = |world: &TrafficWorld| TrafficWorld { error_effect: factor, ..world.clone() };
        row(&format!("errors x {what}, nodes alike"), &worse(&alike), few);
        row(&format!("errors x {what}, unequal nodes"), &worse(&varied), few);
    }
    row("errors x 1.5, very unequal nodes", &TrafficWorld { error_effect: 1.5, ..wild.clone() }, few);
    row("slow requests x 1.5, unequal nodes", &TrafficWorld { latency_effect: 1.5, ..varied.clone() }, few);
    let small = TrafficWorld { nodes: 100, error_effect: 1.5, ..varied.clone() };
    row("errors x 1.5, unequal, 100 nodes", &small, few);
    row("healthy, unequal, 100 nodes", &TrafficWorld { nodes: 100, ..varied.clone() }, few);
    row("healthy, unequal, 20 nodes", &TrafficWorld { nodes: 20, ..varied.clone() }, few);
    row("errors x 5, unequal, 20 nodes", &TrafficWorld { nodes: 20, error_effect: 5.0, ..varied }, few);
}

fn row(name: &str, world: &TrafficWorld, runs: u64) {
    let mut outcomes: Vec<TrialOutcome> = (0..runs).map(|seed| world.run(seed)).collect();
    outcomes.sort_by_key(|outcome| outcome.seconds);
    let share = |of: &dyn Fn(&TrialEnd) -> bool| {
        let count = outcomes.iter().filter(|outcome| of(&outcome.end)).count();
        format!("{:.2} %", 100.0 * count as f64 / outcomes.len() as f64)
    };
    let rolled_back = share(&|end| matches!(end, TrialEnd::RolledBack { .. }));
    let early = share(&|end| matches!(end, TrialEnd::RolledBack { percent } if *percent < 10));
    let paused = share(&|end| matches!(end, TrialEnd::Paused { .. }));
    let median = outcomes.get(outcomes.len() / 2).map_or(0, |outcome| outcome.seconds);
    println!("| {name} | {rolled_back} | {early} | {paused} | {median} |");
}
