//! Telling the proxy what to do.

use super::process::ProcessId;
use async_trait::async_trait;
use std::fmt::Debug;

/// What is known about the proxy's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyState {
    /// It runs.
    Running(ProcessId),
    /// It does not run.
    Dead,
    /// Nobody told the agent where to look: only what the proxy answers counts.
    Unknown,
}

impl ProxyState {
    /// The process, when it is known to run.
    #[must_use]
    pub fn process(self) -> Option<ProcessId> {
        match self {
            Self::Running(process) => Some(process),
            Self::Dead | Self::Unknown => None,
        }
    }
}

/// Why the proxy could not be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFault {
    /// Stable word.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

impl ControlFault {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The means to drive the proxy.
///
/// # Contract
/// An `Ok` of `reload` and `restart` means that the proxy was told, not that it obeyed: that is
/// proved elsewhere. Both may be repeated.
#[async_trait]
pub trait ProxyControl: Debug + Send + Sync + 'static {
    /// What is known about the process now.
    fn state(&self) -> ProxyState;

    /// Tells the running process to load its configuration again.
    async fn reload(&self) -> Result<(), ControlFault>;

    /// Ends the process, if there is one, and starts another.
    async fn restart(&self) -> Result<(), ControlFault>;

    /// Ends the process. Whether there is none now.
    async fn stop(&self) -> bool;

    /// Asks the process to end and does not wait for it.
    fn dismiss(&self) {}

    /// Whether the agent brings a process back that has ended.
    fn supervises(&self) -> bool;

    /// The last lines of the proxy's log and how it ended, as far as the agent has them.
    fn last_words(&self) -> Option<String> {
        None
    }

    /// Regular upkeep, for example of the log.
    fn tidy(&self) {}
}
