//! What a node must remember across restarts: one JSON file, mode 0600, replaced atomically.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zentinel_core::id::{BundleId, NodeId, ProjectId};
use zentinel_core::port::PublicKey;
use zentinel_core::statement::Statement;
use zentinel_core::{Error, Result};

/// Who the node is, which keys it trusts, and what it runs.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its id.
    pub node_id: NodeId,
    /// Its static key.
    pub node_key: String,
    /// Its project; statements for another one are refused.
    pub project_id: ProjectId,
    /// The keys that are trusted: those that were active when it registered, and later those that
    /// a statement signed by one of them listed.
    pub pinned_keys: Vec<PublicKey>,
    /// The sequence of the statement that listed them; 0 for those of the registration.
    #[serde(default)]
    pub pinned_at: u64,
    /// The highest sequence it accepted; lower ones are refused.
    pub last_sequence: u64,
    /// The bundle that serves traffic.
    pub active_bundle_id: Option<BundleId>,
    /// A statement whose bundle it refused, and why; not tried again.
    pub refused: Option<Refused>,
    /// The activation that has begun and whose end is not written down yet.
    #[serde(default)]
    pub activating: Option<Activating>,
    /// The bundles that served before, the last one first; their files are kept.
    #[serde(default)]
    pub previous: Vec<BundleId>,
    /// What the control plane calls the bundles above.
    #[serde(default)]
    pub versions: BTreeMap<BundleId, String>,
}

/// How many bundles that served before keep their files.
const KEPT: usize = 2;

impl NodeState {
    /// Trusts the keys that an accepted statement lists in place of those that vouched for them.
    /// A statement from before the present pins does not bring old keys back.
    pub(super) fn pin(&mut self, statement: &Statement) {
        if statement.sequence < self.pinned_at {
            return;
        }
        if let Some(keys) = statement.vouched_keys() {
            self.pinned_keys = keys;
            self.pinned_at = statement.sequence;
        }
    }

    /// Remembers what a bundle is called, and forgets the names of those that nothing is known of.
    pub(super) fn name(&mut self, bundle_id: BundleId, version: &str) {
        let refused = self.refused.as_ref().map(|refused| refused.bundle_id);
        let activating = self.activating.map(|activating| activating.bundle_id);
        let known: BTreeSet<BundleId> = self
            .previous
            .iter()
            .copied()
            .chain(self.active_bundle_id)
            .chain(refused)
            .chain(activating)
            .collect();
        self.versions.retain(|id, _| known.contains(id));
        self.versions.insert(bundle_id, version.to_owned());
    }

    /// A statement's bundle serves.
    pub(super) fn settle(&mut self, sequence: u64, bundle_id: BundleId) {
        self.serve(Some(bundle_id));
        self.last_sequence = self.last_sequence.max(sequence);
        self.refused = None;
        self.activating = None;
    }

    /// Takes over what serves in truth, after a start: the last run may have ended between a
    /// switch and writing it down, and somebody else may have switched.
    pub(super) fn reconcile(&mut self, serves: Option<BundleId>) {
        match (self.activating.take(), serves) {
            (Some(begun), Some(bundle_id)) if begun.bundle_id == bundle_id => {
                self.settle(begun.sequence, bundle_id);
            }
            _ => self.serve(serves),
        }
    }

    /// Another bundle serves, or none.
    pub(super) fn serve(&mut self, bundle_id: Option<BundleId>) {
        if self.active_bundle_id == bundle_id {
            return;
        }
        let before = std::mem::replace(&mut self.active_bundle_id, bundle_id);
        self.previous.retain(|kept| Some(*kept) != bundle_id && Some(*kept) != before);
        self.previous.splice(0..0, before);
        self.previous.truncate(KEPT);
    }
}

/// An activation that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activating {
    /// The sequence of the statement.
    pub sequence: u64,
    /// The bundle.
    pub bundle_id: BundleId,
}

/// A bundle that could not be activated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The sequence of the statement; 0 for one that is not trusted.
    pub sequence: u64,
    /// The bundle.
    pub bundle_id: BundleId,
    /// Stable word.
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl std::fmt::Debug for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeState")
            .field("node_id", &self.node_id)
            .field("project_id", &self.project_id)
            .field("last_sequence", &self.last_sequence)
            .field("active_bundle_id", &self.active_bundle_id)
            .field("refused", &self.refused)
            .field("activating", &self.activating)
            .finish_non_exhaustive()
    }
}

/// The file that holds a [`NodeState`].
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join("node.json") }
    }

    /// The state, or `None` before the first registration.
    pub(crate) fn load(&self) -> Result<Option<NodeState>> {
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Error::invalid(format!("{} is damaged", self.path.display())).with_source(error).with_hint(
                    "bring it back from a backup; or delete the node (`zentinelctl node delete`), remove the \
                     file and start the agent with a new registration token: the node registers anew",
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Replaces the state; durable when it returns.
    pub(super) fn save(&self, state: &NodeState) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(state)?;
        write_durably(&self.path, &bytes).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::unavailable(format!("state file {}: {error}", self.path.display())).with_source(error)
    }
}

/// Replaces a file as a whole, readable for its owner alone; durable when it returns.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn survives_a_restart_and_stays_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::in_directory(dir.path());
        assert!(file.load().unwrap().is_none());
        let state = NodeState {
            node_id: NodeId::random(),
            node_key: "secret".to_owned(),
            project_id: ProjectId::random(),
            pinned_keys: Vec::new(),
            pinned_at: 0,
            last_sequence: 7,
            active_bundle_id: None,
            refused: None,
            activating: None,
            previous: Vec::new(),
            versions: BTreeMap::new(),
        };
        file.save(&state).unwrap();
        assert_eq!(file.load().unwrap().unwrap().last_sequence, 7);
        let mode = std::fs::metadata(dir.path().join("node.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{state:?}").contains("secret"));
        for damaged in ["{", ""] {
            std::fs::write(dir.path().join("node.json"), damaged).unwrap();
            let error = file.load().unwrap_err();
            assert_eq!((error.kind(), error.hint().is_some()), (zentinel_core::Kind::Invalid, true));
        }
    }
}
