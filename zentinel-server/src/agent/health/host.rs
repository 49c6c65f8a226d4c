//! The host's processor and memory.

use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};
use tokio::time::Instant;

/// Reads the host; processor use is the mean since the last reading.
#[derive(Debug)]
pub(super) struct Host {
    /// Absent on a system that cannot be read.
    system: Option<System>,
    last: Option<Instant>,
    cpu_percent: Option<f64>,
}

/// What was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Over all processors, 0 to 100; absent at the first reading.
    pub(super) cpu_percent: Option<f64>,
    /// Of what the host, or the group that limits this process, has.
    pub(super) memory_percent: Option<f64>,
}

impl Default for Host {
    fn default() -> Self {
        let mut host = Self { system: System::new().ok(), last: None, cpu_percent: None };
        host.read();
        host
    }
}

impl Host {
    pub(super) fn read(&mut self) -> Reading {
        let Some(system) = &mut self.system else {
            return Reading { cpu_percent: None, memory_percent: None };
        };
        let now = Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last) >= MINIMUM_CPU_UPDATE_INTERVAL) {
            system.refresh_cpu_usage();
            let usage = f64::from(system.global_cpu_usage());
            self.cpu_percent = self.last.map(|_| usage.clamp(0.0, 100.0));
            self.last = Some(now);
        }
        system.refresh_memory();
        let (mut total, mut free) = (system.total_memory(), system.available_memory());
        if let Some(group) = system.cgroup_limits().filter(|group| group.total_memory < total) {
            (total, free) = (group.total_memory, group.free_memory);
        }
        Reading { cpu_percent: self.cpu_percent, memory_percent: used_percent(total, free) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than a double holds")]
fn used_percent(total: u64, free: u64) -> Option<f64> {
    (total > 0).then(|| 100.0 * total.saturating_sub(free) as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_percentages() {
        let mut host = Host::default();
        std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL * 2);
        let reading = host.read();
        assert!((0.0..=100.0).contains(&reading.cpu_percent.unwrap()));
        assert!((1.0..100.0).contains(&reading.memory_percent.unwrap()));
        assert!(host.read().cpu_percent.is_some(), "asked again at once, the last one holds");
        assert_eq!((used_percent(8, 2), used_percent(0, 0)), (Some(75.0), None));
    }
}
