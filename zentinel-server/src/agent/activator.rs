//! Making a bundle the one that serves traffic.

use super::check::{CONFIG, check_files, check_text, read_config};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zentinel_core::entity::Activation;
use zentinel_core::id::BundleId;
use zentinel_core::port::ConfigValidator;

/// A bundle that was verified and unpacked.
#[derive(Clone, Debug)]
pub struct Release {
    /// The sequence of its statement: a node activates one of them once.
    pub sequence: u64,
    /// The bundle.
    pub bundle_id: BundleId,
    /// Where its files are; `zentinel.kdl` among them.
    pub directory: PathBuf,
    /// What activating it takes.
    pub activation: Activation,
    /// Whether `activation` is said for want of knowledge: what serves here decides, where it can be
    /// compared.
    pub compare: bool,
}

/// Why a bundle does not serve traffic. What ran before still does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Stable word, for example `invalid_config`, `missing_static_root`, `reload_not_proven`.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Whether the same bundle may serve at another try: a fault of the node or its surroundings,
    /// not of the bundle. It is tried again, and reported once it has lasted.
    pub retryable: bool,
}

impl Rejection {
    /// The bundle is at fault; it is not tried again.
    #[must_use]
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), retryable: false }
    }

    /// Something else is at fault and may pass.
    #[must_use]
    pub fn fault(reason: &str, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::new(reason, message) }
    }
}

/// What became of an activation that an earlier run of the agent had begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The sequence of the statement.
    pub sequence: u64,
    /// The bundle.
    pub bundle_id: BundleId,
    /// Whether it serves.
    pub result: Result<(), Rejection>,
}

/// Something that happened to what serves without the agent having asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// A release that had been activated was taken back: it did not last. What served before it
    /// serves again.
    TakenBack(Outcome),
    /// The proxy ended; whether it comes back is in the message.
    ProxyDied(String),
    /// The proxy runs again.
    ProxyReturned(String),
}

/// Switches to a bundle and proves that it serves.
///
/// # Contract
/// `Ok` means that the bundle serves traffic now. After an `Err` what served before serves again.
/// The agent calls it for one release at a time and may repeat a call after a crash or a
/// retryable rejection. `active` is the truth about what serves, also after a crash.
#[async_trait]
pub trait Activator: Debug + Send + Sync + 'static {
    /// Activates a release.
    async fn activate(&self, release: &Release) -> Result<(), Rejection>;

    /// The bundle that serves, if one does. Asked when the agent starts. A release whose activation
    /// has not ended does not count.
    fn active(&self) -> Option<BundleId>;

    /// Ends what an earlier run of the agent had begun, and sees to it that what should serve does.
    /// Called once, before any release is activated. The outcome is that of the last activation
    /// when the agent may not have noted it.
    async fn recover(&self) -> Option<Outcome> {
        None
    }

    /// Watches what serves and returns when there is news. Called again and again while the agent
    /// runs, also during activations.
    async fn watch(&self) -> Incident {
        std::future::pending().await
    }

    /// The agent ends.
    async fn stop(&self) {}
}

/// The symbolic link to the release that serves.
pub(super) const CURRENT: &str = "current";

/// Checks a release with the proxy's own parser and with what only the node can check, then
/// switches the symbolic link `current` to it with one rename. It drives no process: whoever
/// serves from `current` picks the release up.
#[derive(Debug)]
pub struct DirectoryActivator {
    directory: PathBuf,
    file_root: PathBuf,
    validator: Arc<dyn ConfigValidator>,
}

impl DirectoryActivator {
    /// Switches `current` in `directory`. Absolute paths in the configuration are looked up below
    /// `file_root`, which is `/` for a proxy that runs in the node's own file system.
    #[must_use]
    pub fn new(directory: PathBuf, file_root: PathBuf, validator: Arc<dyn ConfigValidator>) -> Self {
        Self { directory, file_root, validator }
    }
}

/// Makes `current` in `directory` lead to `target` with one rename. Both paths are absolute, or
/// both are relative.
pub(super) fn switch(directory: &Path, target: &Path) -> std::io::Result<()> {
    let draft = directory.join("current.new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target.strip_prefix(directory).unwrap_or(target), &draft)?;
    std::fs::rename(&draft, directory.join(CURRENT))?;
    // The switch has happened. Whether it outlives a power failure is looked up at the start.
    if let Err(error) = std::fs::File::open(directory).and_then(|directory| directory.sync_all()) {
        tracing::warn!(directory = %directory.display(), %error, "the switch is not on disk yet");
    }
    Ok(())
}

#[async_trait]
impl Activator for DirectoryActivator {
    async fn activate(&self, release: &Release) -> Result<(), Rejection> {
        let kdl = read_config(&release.directory)?;
        check_text(&*self.validator, &kdl).await?;
        check_files(&kdl, false, |path| self.file_root.join(path.trim_start_matches('/')))?;
        switch(&self.directory, &release.directory)
            .map_err(|error| Rejection::fault("activation_failed", error.to_string()))
    }

    fn active(&self) -> Option<BundleId> {
        let link = self.directory.join(CURRENT);
        let target = std::fs::read_link(&link).ok()?;
        // A link that leads nowhere serves nothing.
        let serves = link.join(CONFIG).is_file();
        let name = target.file_name()?.to_str()?;
        name.parse().ok().filter(|_| serves)
    }
}
