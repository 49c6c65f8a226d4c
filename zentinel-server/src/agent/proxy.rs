//! The proxy as a process that serves bundles: what it loads, how it is told, and what proves that
//! it did.
//!
//! ```text
//! bundle text + own listener and marker route ─> releases/<sequence>/   (render)
//!        ─> parser, files on the node, the proxy's own `test`           (check)
//!        ─> addresses that are new, where a new process is needed       (addresses)
//!        ─> current -> releases/<sequence>                              (one rename)
//!        ─> SIGHUP, or a new process                                    (control)
//!        ─> marker answers 302, same process, every listener accepts    (proof)
//!        ─> still alive after the settling time ─> it serves
//!                     otherwise the release before it goes through the same, and the bundle is refused
//! ```
//!
//! The proxy is always started with `-c <directory>/current/zentinel.kdl`. How far an activation
//! is stands in `activation.json`, so that it goes on where it stopped when the agent comes back.

mod activator;
mod addresses;
mod control;
mod difference;
mod external;
mod journal;
mod log;
mod process;
mod proof;
mod render;
mod supervised;
mod takeback;
mod test_command;
#[cfg(test)]
mod tests;
mod watch;

pub use activator::{ProxyActivator, ProxyOptions};
pub use control::{ControlFault, ProxyControl, ProxyState};
pub(super) use external::run_limited;
pub use external::{ExternalCommands, ExternalProxy};
pub use process::ProcessId;
pub(crate) use proof::scrape;
pub use render::RenderedRelease;
pub use supervised::SupervisedProxy;
pub(crate) use supervised::recorded;
pub(crate) use test_command::version_of;
