//! A proxy that another supervisor runs.

use super::control::{ControlFault, ProxyControl, ProxyState};
use super::log::last_lines;
use super::process::ProcessId;
use async_trait::async_trait;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// How long a command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// How long output is waited for after a command has ended.
const LINGER: Duration = Duration::from_millis(500);
/// Longest output of a command that is read, in bytes.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// How to reach a proxy that another supervisor runs.
#[derive(Clone, Debug, Default)]
pub struct ExternalCommands {
    /// A shell command that makes it load its configuration again; SIGHUP to the process in
    /// `pid_file` when absent.
    pub reload: Option<String>,
    /// A shell command that starts it anew.
    pub restart: Option<String>,
    /// The file that holds the number of its process.
    pub pid_file: Option<PathBuf>,
}

/// Reaches the proxy with commands and its process by a file.
#[derive(Clone, Debug)]
pub struct ExternalProxy {
    commands: ExternalCommands,
}

impl ExternalProxy {
    /// Uses these commands.
    #[must_use]
    pub fn new(commands: ExternalCommands) -> Self {
        Self { commands }
    }
}

#[async_trait]
impl ProxyControl for ExternalProxy {
    fn state(&self) -> ProxyState {
        match &self.commands.pid_file {
            None => ProxyState::Unknown,
            Some(file) => pid_in(file).and_then(ProcessId::of).map_or(ProxyState::Dead, ProxyState::Running),
        }
    }

    async fn reload(&self) -> Result<(), ControlFault> {
        if let Some(command) = &self.commands.reload {
            return run(command).await.map_err(|message| ControlFault::new("reload_failed", message));
        }
        let process = self.state().process().ok_or_else(|| {
            ControlFault::new(
                "proxy_died",
                "the pid file names no process that runs, and there is no reload_command",
            )
        })?;
        process.signal(Signal::HUP).map_err(|error| ControlFault::new("reload_failed", error.to_string()))
    }

    async fn restart(&self) -> Result<(), ControlFault> {
        let Some(command) = &self.commands.restart else {
            let message = "the proxy must be started anew, and there is no proxy.restart_command";
            return Err(ControlFault::new("restart_unavailable", message));
        };
        run(command).await.map_err(|message| ControlFault::new("restart_failed", message))
    }

    async fn stop(&self) -> bool {
        // Its supervisor would start it again.
        self.state() == ProxyState::Dead
    }

    fn supervises(&self) -> bool {
        false
    }
}

fn pid_in(file: &Path) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

async fn run(command: &str) -> Result<(), String> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]);
    let outcome = run_limited(&mut shell, COMMAND_PATIENCE).await;
    match outcome {
        Ok((true, _)) => Ok(()),
        Ok((false, output)) => Err(format!("`{command}` failed: {output}")),
        Err(message) => Err(format!("`{command}`: {message}")),
    }
}

/// Runs a command to its end; whether it succeeded, and the end of its output.
pub(in crate::agent) async fn run_limited(
    command: &mut Command,
    patience: Duration,
) -> Result<(bool, String), String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("could not be started: {error}"))?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(ProcessId::of);
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let finished = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = {
            let reading = async {
                tokio::join!(read_capped(stdout.as_mut(), &mut out), read_capped(stderr.as_mut(), &mut err))
            };
            tokio::pin!(reading);
            let (status, read) = tokio::select! {
                status = child.wait() => (status, false),
                _ = &mut reading => (child.wait().await, true),
            };
            if !read {
                // What the command has started and left behind may keep the pipes open.
                drop(tokio::time::timeout(LINGER, reading).await);
            }
            status
        };
        let output = [out, err].concat();
        status.map(|status| {
            let text = last_lines(&String::from_utf8_lossy(&output));
            let told = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
            (status.success(), told)
        })
    };
    let outcome = tokio::time::timeout(patience, finished).await;
    match outcome {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            if let Some(group) = group {
                group.kill_group();
            }
            Err(format!("did not end within {} s", patience.as_secs_f64()))
        }
    }
}

/// Reads to the end, and keeps no more than the limit.
async fn read_capped(pipe: Option<&mut (impl tokio::io::AsyncRead + Unpin)>, kept: &mut Vec<u8>) {
    let Some(pipe) = pipe else {
        return;
    };
    // What cannot be read is not part of a message.
    drop(pipe.take(OUTPUT_LIMIT).read_to_end(kept).await);
    let mut rest = [0_u8; 4096];
    while matches!(pipe.read(&mut rest).await, Ok(read) if read > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commands_are_limited_in_time_and_output() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        };
        let done = run_limited(&mut shell("echo fine"), Duration::from_secs(10)).await.unwrap();
        assert!(done.0 && done.1.ends_with("fine"), "{done:?}");
        let failed =
            run_limited(&mut shell("echo no room >&2; exit 3"), Duration::from_secs(10)).await.unwrap();
        assert!(!failed.0 && failed.1.contains("no room") && failed.1.contains('3'), "{failed:?}");
        let late = run_limited(&mut shell("sleep 30"), Duration::from_millis(100)).await.unwrap_err();
        assert!(late.contains("did not end"), "{late}");
        let begun = tokio::time::Instant::now();
        let left = run_limited(&mut shell("sleep 20 & echo started"), Duration::from_secs(15)).await.unwrap();
        assert!(
            left.0 && left.1.ends_with("started") && begun.elapsed() < Duration::from_secs(10),
            "{left:?}"
        );
        let loud = "i=0; while [ $i -lt 3000 ]; do echo 'a line that is not short at all, number' $i; i=$((i+1)); done; exit 1";
        let cut = run_limited(&mut shell(loud), Duration::from_secs(20)).await.unwrap();
        assert!(!cut.0 && cut.1.len() < 3_000);
    }

    #[tokio::test]
    async fn without_a_restart_command_nothing_is_started_anew() {
        let proxy = ExternalProxy::new(ExternalCommands::default());
        assert_eq!(proxy.state(), ProxyState::Unknown);
        assert_eq!(proxy.restart().await.unwrap_err().reason, "restart_unavailable");
        assert_eq!(proxy.reload().await.unwrap_err().reason, "proxy_died");
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let told = directory.path().join("told");
        let proxy = ExternalProxy::new(ExternalCommands {
            reload: Some(format!("echo reloaded > {}", told.display())),
            restart: Some("exit 7".to_owned()),
            pid_file: Some(pid_file.clone()),
        });
        assert_eq!(proxy.state(), ProxyState::Dead);
        std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
        assert!(matches!(proxy.state(), ProxyState::Running(_)));
        proxy.reload().await.unwrap();
        assert_eq!(std::fs::read_to_string(told).unwrap(), "reloaded\n");
        assert_eq!(proxy.restart().await.unwrap_err().reason, "restart_failed");
    }
}
