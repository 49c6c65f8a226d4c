//! Unpacked bundles on disk: written durably, checked before they are used again, removed in time.

use super::activator::Rejection;
use super::download::DOWNLOADS;
use super::state::NodeState;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use zentinel_compiler::manifest::{Manifest, ManifestFile};
use zentinel_compiler::source::MANIFEST_PATH;
use zentinel_compiler::unpack::{UnpackLimits, Unpacked, unpack};
use zentinel_core::Sha256Digest;

/// The folder of unpacked bundles.
pub(super) const BUNDLES: &str = "bundles";

/// Unpacks an archive whose digest was checked to `home`, which is there completely or not at all.
pub(super) fn install(home: &Path, archive: &[u8]) -> Result<(), Rejection> {
    let unpacked = unpack(archive, &UnpackLimits::default())
        .map_err(|error| Rejection::new("bad_archive", error.to_string()))?;
    let manifest =
        unpacked.manifest.to_bytes().map_err(|error| Rejection::new("bad_archive", error.to_string()))?;
    place(home, &unpacked, &manifest)
        .map_err(|error| Rejection::fault("unpacking_failed", format!("{}: {error}", home.display())))
}

fn place(home: &Path, unpacked: &Unpacked, manifest: &[u8]) -> std::io::Result<()> {
    let draft = home.with_extension("new");
    remove(&draft)?;
    let mut folders = BTreeSet::from([draft.clone()]);
    std::fs::create_dir_all(&draft)?;
    let files = unpacked.files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..]));
    for (path, bytes) in files.chain([(MANIFEST_PATH, manifest)]) {
        let path = draft.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
            folders.extend(
                parent.ancestors().take_while(|folder| folder.starts_with(&draft)).map(Path::to_path_buf),
            );
        }
        let mut file = File::create(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    for folder in &folders {
        File::open(folder)?.sync_all()?;
    }
    // Only a damaged one can be there.
    remove(home)?;
    std::fs::rename(&draft, home)?;
    home.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Whether a release is there and every file is what its manifest says.
pub(super) fn is_intact(home: &Path) -> bool {
    let manifest = std::fs::read(home.join(MANIFEST_PATH));
    let Some(manifest) = manifest.ok().and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok())
    else {
        return false;
    };
    manifest.files.iter().all(|file| is_file(home, file))
}

fn is_file(home: &Path, file: &ManifestFile) -> bool {
    let path = home.join(&file.path);
    let sized =
        std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() == file.size);
    sized && std::fs::read(&path).is_ok_and(|bytes| Sha256Digest::of(&bytes) == file.sha256)
}

/// Removes every release but the one that serves and those before it, and unfinished transfers.
/// What cannot be removed is logged and tried again after the next activation.
pub(super) fn prune(directory: &Path, state: &NodeState) {
    let kept: BTreeSet<_> =
        state.active_bundle_id.iter().chain(&state.previous).map(ToString::to_string).collect();
    let stale = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_str().is_none_or(|name| !kept.contains(name))
    };
    let releases = entries(&directory.join(BUNDLES)).into_iter().filter(stale);
    for path in releases.chain(entries(&directory.join(DOWNLOADS))) {
        if let Err(error) = remove(&path) {
            tracing::warn!(path = %path.display(), %error, "not removed");
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
