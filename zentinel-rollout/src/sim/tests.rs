use super::*;
use std::collections::BTreeMap;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `ZENTINEL_SIM_RUNS` scales it, `ZENTINEL_SIM_NODES` sizes the fleet, `ZENTINEL_SIM_SEED` replays one run.
#[test]
fn simulation() {
    let seeds = match setting("ZENTINEL_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("ZENTINEL_SIM_RUNS").unwrap_or(60),
    };
    // Every run is its own world: as many at a time as there are processors.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ended = BTreeMap::<String, u64>::new();
    let next = std::sync::Mutex::new(seeds);
    std::thread::scope(|scope| {
        let worker = || {
            let mut ended = BTreeMap::<String, u64>::new();
            loop {
                let Some(seed) = next.lock().unwrap().next() else { return ended };
                let sized = setting("ZENTINEL_SIM_NODES").unwrap_or(1 + seed % 50);
                let options = Options { nodes: usize::try_from(sized).unwrap(), ..Options::default() };
                let outcome = Simulation::run(seed, &options);
                assert_eq!(outcome.failure(), None, "{}", outcome.failure().unwrap_or_default());
                *ended.entry(format!("{:?}", outcome.rollouts)).or_default() += 1;
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            for (how, count) in worker.join().unwrap() {
                *ended.entry(how).or_default() += count;
            }
        }
    });
    println!("{ended:#?}");
}

/// The promises about traffic, over more rollouts with slots than the mixed runs have.
#[test]
fn blue_green_keeps_its_promises() {
    let strategy: Arc<dyn Strategy> = Arc::new(crate::strategy::BlueGreen);
    assert_eq!(strategy_suite(&strategy, 20_000..20_100), Ok(()));
}

#[test]
fn a_fleet_of_a_thousand() {
    for seed in 5_000..5_003 {
        let outcome = Simulation::run(seed, &Options { nodes: 1_000, ..Options::default() });
        assert_eq!(outcome.failure(), None, "{}", outcome.failure().unwrap_or_default());
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = Options::default();
    for seed in 1_000..1_005 {
        assert_eq!(Simulation::run(seed, &options), Simulation::run(seed, &options));
    }
    assert_ne!(Simulation::run(1, &options).digest, Simulation::run(2, &options).digest);
}

#[test]
fn a_perfect_world_completes() {
    for seed in 0..10 {
        let options = Options {
            nodes: 20,
            faulty_percent: 0,
            operators: false,
            engine_faults: false,
            world_faults: false,
            strategy: None,
        };
        let outcome = Simulation::run(seed, &options);
        assert_eq!(
            (outcome.failure(), outcome.rollouts.as_slice()),
            (None, [RolloutState::Completed].as_slice())
        );
    }
}

/// The harness notices: a strategy that opens gates on nothing would be useless if nobody saw it, so a
/// planted fault must be found.
#[test]
fn a_planted_fault_is_found() {
    use crate::strategy::PlannedStep;
    use zentinel_core::id::NodeId;

    /// Leaves the last target out.
    #[derive(Debug)]
    struct Forgetful;
    impl Strategy for Forgetful {
        fn name(&self) -> &str {
            "forgetful"
        }
        fn plan(
            &self,
            _spec: &zentinel_core::entity::RolloutSpec,
            targets: &[NodeId],
        ) -> zentinel_core::Result<Vec<PlannedStep>> {
            Ok(targets.split_last().map(|(_, rest)| PlannedStep::deploy(rest)).into_iter().collect())
        }
    }
    let strategy: Arc<dyn Strategy> = Arc::new(Forgetful);
    let failure = strategy_suite(&strategy, 10..11).unwrap_err();
    assert!(failure.contains("state_is_consistent"), "{failure}");
    assert!(failure.contains("ZENTINEL_SIM_SEED=10"), "{failure}");
}
