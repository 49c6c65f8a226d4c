//! The manifest: what an archive holds, with sizes and digests.

use crate::source::{CONFIG_PATH, SBOM_PATH, Source};
use serde::{Deserialize, Serialize};
use zentinel_core::{Result, Sha256Digest};

/// The version of the archive layout that this crate writes and reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The release of the proxy whose parser checked the configuration.
pub const PROXY_VERSION: &str = "0.6.45";

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path in the archive.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256Digest,
}

impl ManifestFile {
    fn of(path: &str, bytes: &[u8]) -> Self {
        Self { path: path.to_owned(), size: bytes.len() as u64, sha256: Sha256Digest::of(bytes) }
    }
}

/// What an archive holds. It depends on the source alone: no time, no id, no host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// [`Source::digest`].
    pub source_sha256: Sha256Digest,
    /// [`PROXY_VERSION`] of the compiler that packed it.
    pub proxy_version: String,
    /// Every file but the manifest itself, in the order of the archive.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// The manifest of a source with its bill of materials.
    #[must_use]
    pub fn new(source: &Source, sbom: &[u8]) -> Self {
        let mut files = vec![
            ManifestFile::of(CONFIG_PATH, source.config().as_bytes()),
            ManifestFile::of(SBOM_PATH, sbom),
        ];
        let extra = source.files().iter();
        files.extend(extra.map(|file| ManifestFile::of(&file.path, &file.bytes)));
        Self {
            schema_version: SCHEMA_VERSION,
            source_sha256: source.digest(),
            proxy_version: PROXY_VERSION.to_owned(),
            files,
        }
    }

    /// The bytes that go into the archive: indented JSON with two spaces, fields in the order of
    /// the struct, and a final line feed.
    ///
    /// # Errors
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when it does not serialise.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceFile;

    #[test]
    fn every_file_is_listed_in_archive_order() {
        let files = vec![SourceFile::new("b", "2"), SourceFile::new("a", "1")];
        let source = Source::new("system {}", files, false).unwrap();
        let manifest = Manifest::new(&source, b"{}");
        let paths: Vec<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [CONFIG_PATH, SBOM_PATH, "a", "b"]);
        let text = String::from_utf8(manifest.to_bytes().unwrap()).unwrap();
        assert!(text.starts_with("{\n  \"schema_version\": 1,\n  \"source_sha256\": \""), "{text}");
        assert!(text.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn the_proxy_version_is_the_pinned_one() {
        let lock = include_str!("../../Cargo.toml");
        assert!(lock.contains(&format!("zentinel-config = {{ version = \"={PROXY_VERSION}\"")));
    }
}
