//! Who the nodes are: registered once, kept in a file, used again.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zentinel_core::id::{NodeId, ProjectId};
use zentinel_core::port::PublicKey;
use zentinel_core::{Error, Result};

/// What all nodes of a file share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Common {
    /// The project; statements for another one are refused.
    pub(super) project_id: ProjectId,
    /// The keys that were trusted when the first node registered.
    pub(super) signing_keys: Vec<PublicKey>,
}

/// One node.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Its id.
    pub(super) node_id: NodeId,
    /// Its static key.
    pub(super) node_key: String,
    /// Its name.
    pub(super) name: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// The nodes that are known, and the file they are kept in, where there is one: JSON lines, first
/// what they share, then one node each.
#[derive(Debug, Default)]
pub(super) struct Identities {
    pub(super) common: Option<Common>,
    pub(super) nodes: Vec<Identity>,
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Identities {
    /// Reads the file, or makes it, readable by its owner only.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| failed(path, error);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let mut known = Self::default();
        let mut good = 0;
        let mut lines = BufReader::new(&file);
        let mut line = String::new();
        loop {
            line.clear();
            let length = lines.read_line(&mut line).map_err(failed)?;
            // The last line may be torn, if an earlier run was killed: it is written anew.
            if length == 0 || !line.ends_with('\n') {
                break;
            }
            known.take(&line).map_err(|error| {
                let text = format!("{}, byte {good}: {error}", path.display());
                Error::invalid(text).with_hint("Name another file, or remove this one to register anew.")
            })?;
            good += length as u64;
        }
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        file.set_len(good).map_err(failed)?;
        known.file = Some((path.to_owned(), BufWriter::new(file)));
        Ok(known)
    }

    fn take(&mut self, line: &str) -> serde_json::Result<()> {
        if self.common.is_none() {
            self.common = Some(serde_json::from_str(line)?);
        } else {
            self.nodes.push(serde_json::from_str(line)?);
        }
        Ok(())
    }

    /// Adds a node, and what it shares with the others if it is the first.
    pub(super) fn add(&mut self, common: Common, node: Identity) -> Result<()> {
        if self.common.is_none() {
            self.append(&common)?;
            self.common = Some(common);
        }
        self.append(&node)?;
        self.nodes.push(node);
        Ok(())
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        file.write_all(&text).map_err(|error| failed(path, error))
    }

    /// Hands what was added to the operating system.
    pub(super) fn save(&mut self) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.flush().map_err(|error| failed(path, error))
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common {
        Common { project_id: ProjectId::random(), signing_keys: vec![PublicKey::new("k", &[7; 32])] }
    }

    fn node(name: &str) -> Identity {
        Identity { node_id: NodeId::random(), node_key: "secret".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn identities_are_found_again_and_nobody_else_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nodes");
        std::fs::write(&path, "").unwrap();
        let (shared, first, second) = (common(), node("a"), node("b"));
        let mut identities = Identities::open(&path).unwrap();
        identities.add(shared.clone(), first.clone()).unwrap();
        identities.save().unwrap();
        drop(identities);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A run that was killed in the middle of a line.
        let torn = OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"node_id\":");
        torn.unwrap();
        let mut again = Identities::open(&path).unwrap();
        assert_eq!((again.common.clone(), again.nodes.clone()), (Some(shared.clone()), vec![first.clone()]));
        again.add(common(), second.clone()).unwrap();
        again.save().unwrap();
        let again = Identities::open(&path).unwrap();
        assert_eq!((again.common, again.nodes), (Some(shared), vec![first, second]));
    }

    #[test]
    fn another_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        std::fs::write(&path, "buy milk\n").unwrap();
        let error = Identities::open(&path).unwrap_err();
        assert!(error.hint().is_some() && error.message().contains("byte 0"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "buy milk\n");
        assert!(!format!("{:?}", node("a")).contains("secret"));
    }
}
