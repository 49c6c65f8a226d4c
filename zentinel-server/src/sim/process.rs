//! What a process uses, from `/proc`; and how many files this one may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

/// `/proc` counts in ticks of `USER_HZ`, which the kernel keeps at 100 for programs.
const MS_PER_TICK: u64 = 10;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Processor time outside the kernel.
    pub(super) user: Duration,
    /// Processor time in the kernel on its behalf.
    pub(super) system: Duration,
    /// Memory in KiB.
    pub(super) rss_kib: u64,
    /// The most memory it ever had, in KiB.
    pub(super) peak_kib: u64,
}

impl Usage {
    /// Processor time altogether.
    pub(super) fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// What a process uses; `None` when there is no such process or it may not be looked at.
pub(super) fn usage(process: &str) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    read(&stat, &status)
}

fn read(stat: &str, status: &str) -> Option<Usage> {
    // The second field is the program's name in parentheses and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut time = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(ticks * MS_PER_TICK))
    };
    let (user, system) = (time()?, time()?);
    let memory = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().split(' ').next()?.parse::<u64>().ok()
    };
    Some(Usage { user, system, rss_kib: memory("VmRSS:")?, peak_kib: memory("VmHWM:")? })
}

/// Raises the number of files this process may open to what the machine allows; answers it.
pub(super) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_parentheses() {
        let stat = "42 (a) (b) S 1 1 1 0 -1 4194560 1 0 0 0 250 31 0 0 20 0 3 0 1 1 1";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let usage = read(stat, status).unwrap();
        assert_eq!((usage.user.as_millis(), usage.system.as_millis()), (2_500, 310));
        assert_eq!((usage.rss_kib, usage.peak_kib), (1_024, 2_048));
        assert_eq!(read("42 (a", status), None);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        assert!(usage("self").is_some_and(|usage| usage.rss_kib > 100));
        assert_eq!(usage("0"), None);
        assert!(raise_open_files() >= 256);
    }
}
