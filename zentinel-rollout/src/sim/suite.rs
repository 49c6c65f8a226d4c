use super::{Options, Simulation};
use crate::strategy::Strategy;
use std::sync::Arc;

/// Drives a strategy over random fleets, one per seed: sizes from 1 to 60, with and without faults. For the
/// tests of strategies that are written outside this crate.
///
/// # Errors
/// The first broken promise, with how to reproduce it.
///
/// ```
/// use std::sync::Arc;
/// use zentinel_rollout::{sim::strategy_suite, strategy::Rolling};
/// strategy_suite(&(Arc::new(Rolling) as _), 0..3).unwrap();
/// ```
pub fn strategy_suite(
    strategy: &Arc<dyn Strategy>,
    seeds: impl IntoIterator<Item = u64>,
) -> Result<(), String> {
    for seed in seeds {
        let options = Options {
            nodes: 1 + usize::try_from(seed % 60).unwrap_or(0),
            faulty_percent: if seed % 4 == 0 { 0 } else { 20 },
            strategy: Some(Arc::clone(strategy)),
            ..Options::default()
        };
        if let Some(failure) = Simulation::run(seed, &options).failure() {
            return Err(format!("strategy {}: {failure}", strategy.name()));
        }
    }
    Ok(())
}
