//! Reads an archive that may come from anybody.
//!
//! An archive is accepted only when it is, byte for byte below the compression, what
//! [`Archive::pack`](crate::archive::Archive::pack) writes for the files it holds: plain files in
//! manifest order with canonical headers, each with the listed size and digest, and nothing else.
//! So there is no header trick to look for, and one set of files has one tar file.

use crate::archive::{BLOCK, TRAILER, header, padded};
use crate::manifest::{Manifest, ManifestFile, SCHEMA_VERSION};
use crate::source::{CONFIG_PATH, MANIFEST_PATH, SBOM_PATH, check_path, check_paths};
use bytes::Bytes;
use std::collections::BTreeMap;
use zentinel_core::{Error, Kind, Result, Sha256Digest};
use zstd::zstd_safe;

/// The first bytes of a zstd frame; skippable frames have others.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// How much an archive may ask of its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Most bytes of the archive itself.
    pub archive_bytes: u64,
    /// Most bytes after decompression.
    pub total_bytes: u64,
    /// Most bytes of one file.
    pub file_bytes: u64,
    /// Most bytes of the manifest.
    pub manifest_bytes: u64,
    /// Most files, the manifest not counted.
    pub files: usize,
    /// Most bytes after decompression for one byte before it.
    pub ratio: u64,
    /// `ratio` does not matter up to this many bytes after decompression.
    pub ratio_free_bytes: u64,
}

impl Default for UnpackLimits {
    /// What the default [`SourceLimits`](crate::source::SourceLimits) can produce: 80 MiB in at
    /// most 300 files, and a ratio of 1,000 beyond 8 MiB.
    fn default() -> Self {
        Self {
            archive_bytes: 80 << 20,
            total_bytes: 80 << 20,
            file_bytes: 16 << 20,
            manifest_bytes: 1 << 20,
            files: 300,
            ratio: 1_000,
            ratio_free_bytes: 8 << 20,
        }
    }
}

/// The content of an archive, checked against its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The manifest.
    pub manifest: Manifest,
    /// Every file of the manifest, by path. The manifest itself is not among them.
    pub files: BTreeMap<String, Bytes>,
}

impl Unpacked {
    /// The configuration text.
    ///
    /// # Errors
    /// [`Kind::Malformed`] when it is not UTF-8.
    pub fn config(&self) -> Result<&str> {
        let bytes = self.files.get(CONFIG_PATH).map_or(&[][..], |bytes| bytes);
        std::str::from_utf8(bytes).map_err(|_| malformed("zentinel.kdl is not UTF-8"))
    }
}

/// Unpacks an archive into memory.
///
/// # Errors
/// [`Kind::TooLarge`] beyond a limit; [`Kind::Malformed`] for anything that is not exactly an
/// archive of this format: links, devices, folders, absolute paths or `..`, duplicates, wrong
/// sizes or digests, files that the manifest does not list, bytes after the end.
pub fn unpack(archive: &[u8], limits: &UnpackLimits) -> Result<Unpacked> {
    let tar = Bytes::from(decompress(archive, limits)?);
    let mut reader = Reader { tar, position: 0 };
    let (path, bytes) = reader.next(limits.manifest_bytes)?;
    if path != MANIFEST_PATH {
        return Err(malformed(format!("the first entry is {path:?} instead of {MANIFEST_PATH:?}")));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| malformed("manifest.json could not be read").with_source(error))?;
    check_manifest(&manifest, limits)?;
    let mut files = BTreeMap::new();
    for listed in &manifest.files {
        let (path, bytes) = reader.next(limits.file_bytes)?;
        check_file(listed, &path, &bytes)?;
        files.insert(path, bytes);
    }
    reader.finish()?;
    Ok(Unpacked { manifest, files })
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::malformed(message)
}

fn too_large(message: String) -> Error {
    Error::new(Kind::TooLarge, message)
}

fn decompress(archive: &[u8], limits: &UnpackLimits) -> Result<Vec<u8>> {
    let length = archive.len() as u64;
    if length > limits.archive_bytes {
        let most = limits.archive_bytes;
        return Err(too_large(format!("archive has {length} bytes, at most {most} are allowed")));
    }
    if !archive.starts_with(&FRAME_MAGIC) {
        return Err(malformed("archive is not a zstd frame"));
    }
    let frame = zstd_safe::find_frame_compressed_size(archive)
        .map_err(|_| malformed("archive is truncated or damaged"))?;
    if frame != archive.len() {
        return Err(malformed("archive has bytes after its frame"));
    }
    let size = match zstd_safe::get_frame_content_size(archive) {
        Ok(Some(size)) => size,
        _ => return Err(malformed("archive does not say how large its content is")),
    };
    if size > limits.total_bytes {
        let most = limits.total_bytes;
        return Err(too_large(format!("archive unpacks to {size} bytes, at most {most} are allowed")));
    }
    if size > limits.ratio_free_bytes && size / length.max(1) > limits.ratio {
        return Err(too_large(format!("archive unpacks to more than {} times its size", limits.ratio)));
    }
    let size = usize::try_from(size).map_err(|_| too_large("archive does not fit into memory".to_owned()))?;
    let tar = zstd::bulk::decompress(archive, size)
        .map_err(|error| malformed("archive is damaged").with_source(error))?;
    if tar.len() != size {
        return Err(malformed("archive is shorter than it says"));
    }
    Ok(tar)
}

/// Walks over the entries of a tar file in memory.
struct Reader {
    tar: Bytes,
    position: usize,
}

impl Reader {
    fn next(&mut self, most: u64) -> Result<(String, Bytes)> {
        let end = self.position + BLOCK;
        let Some(raw) = self.tar.get(self.position..end) else {
            return Err(malformed("archive ends before its last file"));
        };
        let (path, size) = read_header(raw, most)?;
        let Some(content) = self.tar.get(end..end + size) else {
            return Err(malformed(format!("file {path:?} is cut off")));
        };
        let padding = self.tar.get(end + size..end + padded(size));
        if padding.is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
            return Err(malformed(format!("file {path:?} is not padded with zeros")));
        }
        let content = self.tar.slice_ref(content);
        self.position = end + padded(size);
        Ok((path, content))
    }

    fn finish(&self) -> Result<()> {
        let rest = self.tar.get(self.position..).unwrap_or_default();
        if rest.len() == TRAILER && rest.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(malformed("archive holds more than its manifest lists"))
        }
    }
}

/// The path and size of an entry, if its header is the canonical one for them.
fn read_header(raw: &[u8], most: u64) -> Result<(String, usize)> {
    let found = tar::Header::from_byte_slice(raw);
    let kind = found.entry_type();
    if raw.iter().all(|byte| *byte == 0) {
        return Err(malformed("archive ends before its last file"));
    }
    if !kind.is_file() {
        let kind = kind.as_byte().escape_ascii().to_string();
        return Err(malformed(format!(
            "archive holds an entry of type {kind:?}; only plain files are allowed"
        )));
    }
    let path = found.path_bytes();
    let path = std::str::from_utf8(&path).map_err(|_| malformed("archive holds a path that is not UTF-8"))?;
    check_path(path).map_err(|error| malformed(error.message().to_owned()))?;
    let size = found.entry_size().map_err(|_| malformed(format!("file {path:?} has no readable size")))?;
    if size > most {
        return Err(too_large(format!("file {path:?} has {size} bytes, at most {most} are allowed")));
    }
    let canonical = header(path, size).map_err(|_| malformed(format!("path {path:?} does not fit")))?;
    if canonical.as_bytes().as_slice() != raw {
        return Err(malformed(format!("the header of file {path:?} is not canonical")));
    }
    let size =
        usize::try_from(size).map_err(|_| too_large(format!("file {path:?} does not fit into memory")))?;
    Ok((path.to_owned(), size))
}

fn check_manifest(manifest: &Manifest, limits: &UnpackLimits) -> Result<()> {
    if manifest.schema_version != SCHEMA_VERSION {
        let version = manifest.schema_version;
        return Err(malformed(format!("schema version {version} is not supported")));
    }
    if manifest.files.len() > limits.files {
        let (found, most) = (manifest.files.len(), limits.files);
        return Err(too_large(format!("archive lists {found} files, at most {most} are allowed")));
    }
    let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let [CONFIG_PATH, SBOM_PATH, extra @ ..] = paths.as_slice() else {
        return Err(malformed("the manifest must list zentinel.kdl and sbom.cdx.json first"));
    };
    check_paths(extra.iter().copied()).map_err(|error| malformed(error.message().to_owned()))?;
    if !extra.is_sorted() {
        return Err(malformed("the manifest does not list its files by path"));
    }
    Ok(())
}

fn check_file(listed: &ManifestFile, path: &str, bytes: &Bytes) -> Result<()> {
    if listed.path != path {
        let wanted = &listed.path;
        return Err(malformed(format!("archive holds {path:?} where its manifest lists {wanted:?}")));
    }
    if listed.size != bytes.len() as u64 {
        return Err(malformed(format!("file {path:?} does not have the listed size")));
    }
    if listed.sha256 != Sha256Digest::of(bytes) {
        return Err(malformed(format!("file {path:?} does not have the listed digest")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
