//! Making a bundle the one that serves traffic.

use async_trait::async_trait;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zentinel_compiler::diagnostic::Code;
use zentinel_core::entity::Activation;
use zentinel_core::id::BundleId;
use zentinel_core::port::{ConfigValidator, Severity};

/// A bundle that was verified and unpacked.
#[derive(Clone, Debug)]
pub struct Release {
    /// The bundle.
    pub bundle_id: BundleId,
    /// Where its files are; `zentinel.kdl` among them.
    pub directory: PathBuf,
    /// What activating it takes.
    pub activation: Activation,
}

/// Why a bundle does not serve traffic. What ran before still does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Stable word, for example `invalid_config`, `missing_static_root`, `activation_failed`.
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

    /// The bundle that serves, if one does. Asked when the agent starts.
    fn active(&self) -> Option<BundleId>;
}

/// The symbolic link to the release that serves.
const CURRENT: &str = "current";

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

    /// Directories that the configuration serves files from must exist here.
    fn check_static_roots(&self, kdl: &str) -> Result<(), Rejection> {
        let document = zentinel_compiler::document::Document::parse(kdl)
            .map_err(|_| Rejection::new("invalid_config", "the configuration does not parse"))?;
        let roots = document
            .nodes()
            .filter(|node| node.name() == "root" && node.parent_name() == Some("static-files"));
        for root in roots.filter_map(|node| node.text()) {
            let path = self.file_root.join(root.trim_start_matches('/'));
            if !path.is_dir() {
                return Err(Rejection::new(
                    "missing_static_root",
                    format!("{root} does not exist on this node"),
                ));
            }
        }
        Ok(())
    }

    fn switch(&self, release: &Release) -> std::io::Result<()> {
        let draft = self.directory.join("current.new");
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let target = release.directory.strip_prefix(&self.directory).unwrap_or(&release.directory);
        std::os::unix::fs::symlink(target, &draft)?;
        std::fs::rename(&draft, self.directory.join(CURRENT))?;
        // The switch has happened. Whether it outlives a power failure is looked up at the start.
        let synced = std::fs::File::open(&self.directory).and_then(|directory| directory.sync_all());
        if let Err(error) = synced {
            tracing::warn!(directory = %self.directory.display(), %error, "the switch is not on disk yet");
        }
        Ok(())
    }
}

#[async_trait]
impl Activator for DirectoryActivator {
    async fn activate(&self, release: &Release) -> Result<(), Rejection> {
        let kdl = read_config(&release.directory)?;
        let diagnostics = self
            .validator
            .validate(&kdl, false)
            .await
            .map_err(|error| Rejection::fault("validation_unavailable", error.to_string()))?;
        if let Some(error) = diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error) {
            // A busy node is no reason to give a bundle up that was checked before.
            let late = error.code == Code::ValidationTimeout.as_str();
            let rejection = if late { Rejection::fault } else { Rejection::new };
            let reason = if late { "validation_unavailable" } else { "invalid_config" };
            return Err(rejection(reason, error.message.clone()));
        }
        self.check_static_roots(&kdl)?;
        self.switch(release).map_err(|error| Rejection::fault("activation_failed", error.to_string()))
    }

    fn active(&self) -> Option<BundleId> {
        let link = self.directory.join(CURRENT);
        let target = std::fs::read_link(&link).ok()?;
        // A link that leads nowhere serves nothing.
        let serves = link.join("zentinel.kdl").is_file();
        let name = target.file_name()?.to_str()?;
        name.parse().ok().filter(|_| serves)
    }
}

fn read_config(directory: &Path) -> Result<String, Rejection> {
    std::fs::read_to_string(directory.join("zentinel.kdl")).map_err(|error| {
        let message = format!("zentinel.kdl: {error}");
        match error.kind() {
            std::io::ErrorKind::InvalidData => Rejection::new("invalid_config", message),
            _ => Rejection::fault("activation_failed", message),
        }
    })
}
