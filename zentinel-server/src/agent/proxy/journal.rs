//! How far an activation is: one file, so that it goes on where it stopped.

use crate::agent::activator::Rejection;
use crate::agent::state::write_durably;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use zentinel_core::Timestamp;
use zentinel_core::id::BundleId;

/// The last activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The sequence of the release.
    pub(super) sequence: u64,
    /// Its bundle.
    pub(super) bundle_id: BundleId,
    /// The sequence of the release that served before.
    pub(super) previous: Option<u64>,
    /// How far it is.
    pub(super) phase: Phase,
}

/// How far an activation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// The switch, the signal or the proof may have happened.
    Switching,
    /// It was proved to serve.
    Served {
        /// When.
        at: Timestamp,
    },
    /// It failed, and the release before is being brought back.
    Restoring(Rejection),
    /// It failed, and the release before serves, as far as it could be brought back.
    Restored(Rejection),
}

/// The file that holds the [`Entry`].
#[derive(Clone, Debug)]
pub(super) struct Journal {
    path: PathBuf,
}

impl Journal {
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join("activation.json") }
    }

    /// The last activation. A file that cannot be read is as good as none: what serves is then what
    /// the link says.
    pub(super) fn load(&self) -> Option<Entry> {
        let bytes = std::fs::read(&self.path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %self.path.display(), %error, "damaged journal"))
            .ok()
    }

    pub(super) fn save(&self, entry: &Entry) -> std::io::Result<()> {
        write_durably(&self.path, &serde_json::to_vec(entry)?)
    }

    /// As [`Journal::save`], where going on matters more: without the entry, a crash makes the agent
    /// prove again what it has proved.
    pub(super) fn note(&self, entry: &Entry) {
        if let Err(error) = self.save(entry) {
            tracing::warn!(path = %self.path.display(), %error, "journal not written");
        }
    }

    /// Forgets an activation that changed nothing.
    pub(super) fn clear(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "journal not removed");
        }
    }
}
