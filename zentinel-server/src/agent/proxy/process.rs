//! Processes of this machine, told apart from later ones with the same number.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// One process: its number is used again after it ended, its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
}

/// What the kernel says of a process.
struct Stat {
    state: char,
    started: u64,
}

impl ProcessId {
    /// The living process with this number.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        alive(stat.state).then_some(Self { pid, started: stat.started })
    }

    /// Whether it still runs. One that has ended and was not waited for does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| alive(stat.state) && stat.started == self.started)
    }

    /// How long it has run.
    #[must_use]
    pub fn uptime(self) -> Option<Duration> {
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let machine: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        #[expect(clippy::cast_precision_loss, reason = "ticks of a machine's life are exact in a double")]
        let started = self.started as f64 / rustix::param::clock_ticks_per_second() as f64;
        Duration::try_from_secs_f64(machine - started).ok()
    }

    /// Sends a signal, if it still runs.
    ///
    /// # Errors
    /// Those of the system, for example of a process of another user.
    pub(super) fn signal(self, signal: Signal) -> std::io::Result<()> {
        let gone = || std::io::Error::new(std::io::ErrorKind::NotFound, format!("no process {}", self.pid));
        if !self.is_alive() {
            return Err(gone());
        }
        let pid = Pid::from_raw(self.pid).ok_or_else(gone)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Ends it and what it started at once; it must lead a process group of its own.
    pub(super) fn kill_group(self) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid))
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            tracing::debug!(pid = self.pid, %error, "not killed; it has probably just ended");
        }
    }

    /// Waits until it has ended; whether it has.
    pub(super) async fn ended_within(self, patience: Duration) -> bool {
        let waited = async {
            while self.is_alive() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, waited).await.is_ok()
    }
}

/// The oldest living process that was started as `program .. arguments`. An interpreter may stand
/// before the program.
pub(super) fn find(program: &Path, arguments: &[&str]) -> Option<ProcessId> {
    let program = program.as_os_str().as_encoded_bytes();
    let own = std::process::id().cast_signed();
    let started_so = |pid: &i32| {
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
            return false;
        };
        let words: Vec<&[u8]> = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0).collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        words.strip_suffix(arguments.as_slice()).is_some_and(|before| before.contains(&program))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own && started_so(pid))
        .filter_map(ProcessId::of)
        .min_by_key(|process| process.started)
}

fn alive(state: char) -> bool {
    !matches!(state, 'Z' | 'X' | 'x')
}

/// The third and the 22nd field of `/proc/<pid>/stat`. The second is the program's name in
/// brackets, which may hold anything.
fn stat(pid: i32) -> Option<Stat> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ended_process_is_not_alive_although_nobody_waited_for_it() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(process.is_alive());
        assert!(process.uptime().unwrap() < Duration::from_secs(10));
        let later = ProcessId { started: process.started + 1, ..process };
        assert!(!later.is_alive(), "the number alone does not make it the same");
        assert!(later.signal(Signal::HUP).is_err());
        assert!(!process.ended_within(Duration::from_millis(30)).await);
        process.signal(Signal::TERM).unwrap();
        assert!(process.ended_within(Duration::from_secs(5)).await);
        assert!(process.signal(Signal::TERM).is_err());
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_found_by_how_it_was_started() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("proxy.sh");
        std::fs::write(&script, "sleep 30 & wait\n").unwrap();
        let arguments = ["run", "-c", "/somewhere/current/zentinel.kdl"];
        let mut child = std::process::Command::new("sh").arg(&script).args(arguments).spawn().unwrap();
        let expected = child.id().cast_signed();
        let mut found = None;
        for _ in 0..100 {
            found = find(&script, &arguments);
            if found.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(found.map(|process| process.pid), Some(expected));
        assert_eq!(find(&script, &["run", "-c", "/elsewhere/current/zentinel.kdl"]), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
