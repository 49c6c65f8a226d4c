//! The figures of a runner.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A cheap handle to the figures of a [`Runner`](super::Runner), since it was made.
#[derive(Clone, Debug, Default)]
pub struct RunnerStats {
    kinds: Arc<Mutex<BTreeMap<String, KindStats>>>,
}

/// The figures of one kind of job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStats {
    /// Runs that ended, however they did.
    pub runs: u64,
    /// Runs that ended in an error, a panic, or by the time limit.
    pub failures: u64,
    /// Jobs that were given up.
    pub given_up: u64,
    /// Runs under way.
    pub running: u64,
    /// How long the last run took.
    pub last_duration: Duration,
    /// How long all runs together took.
    pub total_duration: Duration,
}

impl RunnerStats {
    /// The figures of every kind that has run.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, KindStats> {
        self.kinds.lock().clone()
    }

    fn update(&self, kind: &str, change: impl FnOnce(&mut KindStats)) {
        let mut kinds = self.kinds.lock();
        match kinds.get_mut(kind) {
            Some(stats) => change(stats),
            None => change(kinds.entry(kind.to_owned()).or_default()),
        }
    }

    /// Counts a run for as long as the value lives.
    pub(super) fn running(&self, kind: &str) -> Running {
        self.update(kind, |stats| stats.running += 1);
        Running { stats: self.clone(), kind: kind.to_owned() }
    }

    pub(super) fn ended(&self, kind: &str, took: Duration, failed: bool) {
        self.update(kind, |stats| {
            stats.runs += 1;
            stats.failures += u64::from(failed);
            stats.last_duration = took;
            stats.total_duration += took;
        });
    }

    pub(super) fn given_up(&self, kind: &str) {
        self.update(kind, |stats| stats.given_up += 1);
    }
}

/// A run under way.
pub(super) struct Running {
    stats: RunnerStats,
    kind: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stats.update(&self.kind, |stats| stats.running = stats.running.saturating_sub(1));
    }
}
