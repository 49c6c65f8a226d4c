//! What goes into the compiler: configuration text and the files beside it, within limits.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use zentinel_core::{Error, Result, Sha256Digest};

/// The name of the configuration inside an archive.
pub const CONFIG_PATH: &str = "zentinel.kdl";
/// The name of the manifest inside an archive.
pub const MANIFEST_PATH: &str = "manifest.json";
/// The name of the bill of materials inside an archive.
pub const SBOM_PATH: &str = "sbom.cdx.json";
/// Names that extra files can't have.
const RESERVED: [&str; 3] = [MANIFEST_PATH, CONFIG_PATH, SBOM_PATH];

/// Longest path inside an archive, in bytes: what the name field of a ustar header holds.
pub const MAX_PATH_BYTES: usize = 100;

/// A file that travels beside the configuration: a plugin, a CA certificate, a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative path of `[a-zA-Z0-9._-]` segments joined by `/`, at most [`MAX_PATH_BYTES`] long.
    pub path: String,
    /// The content.
    pub bytes: Bytes,
}

impl SourceFile {
    /// A file with this path and content.
    #[must_use]
    pub fn new(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { path: path.into(), bytes: bytes.into() }
    }
}

/// How large a source may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Most bytes of configuration text.
    pub config_bytes: usize,
    /// Most files beside it.
    pub files: usize,
    /// Most bytes of one file.
    pub file_bytes: usize,
    /// Most bytes of text and files together.
    pub total_bytes: usize,
}

impl Default for SourceLimits {
    /// 4 MiB of configuration, 256 files of at most 16 MiB, 64 MiB in all.
    fn default() -> Self {
        Self { config_bytes: 4 << 20, files: 256, file_bytes: 16 << 20, total_bytes: 64 << 20 }
    }
}

/// Configuration text and its files, known to be within limits and to have usable paths.
///
/// The files are kept in the order of their paths, so that the order in which a caller hands them
/// in never matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    config: String,
    files: Vec<SourceFile>,
    generated: bool,
}

impl Source {
    /// Checks a source against the default [`SourceLimits`]. `generated` text came from our own
    /// generator: keys that the proxy would ignore are then errors.
    ///
    /// # Errors
    /// As [`Source::with_limits`].
    pub fn new(config: impl Into<String>, files: Vec<SourceFile>, generated: bool) -> Result<Self> {
        Self::with_limits(config, files, generated, &SourceLimits::default())
    }

    /// Checks a source against limits.
    ///
    /// # Errors
    /// [`Kind::TooLarge`](zentinel_core::Kind::TooLarge) beyond a limit,
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on `files` for a path that can't be used or
    /// is there twice.
    pub fn with_limits(
        config: impl Into<String>,
        mut files: Vec<SourceFile>,
        generated: bool,
        limits: &SourceLimits,
    ) -> Result<Self> {
        let config = config.into();
        check_sizes(&config, &files, limits)?;
        check_paths(files.iter().map(|file| file.path.as_str()))?;
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { config, files, generated })
    }

    /// The configuration text.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The files, by path.
    #[must_use]
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Whether the text came from our own generator.
    #[must_use]
    pub fn generated(&self) -> bool {
        self.generated
    }

    /// The digest of the whole source: SHA-256 over one line `<sha-256 in hex><two spaces><path>`
    /// per file, `zentinel.kdl` first, then the others by path. It is what
    /// `sha256sum zentinel.kdl FILE... | sha256sum` prints.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let mut hasher = Sha256::new();
        let mut line = |path: &str, bytes: &[u8]| {
            hasher.update(format!("{}  {path}\n", Sha256Digest::of(bytes)));
        };
        line(CONFIG_PATH, self.config.as_bytes());
        for file in &self.files {
            line(&file.path, &file.bytes);
        }
        Sha256Digest::from_bytes(hasher.finalize().into())
    }
}

fn check_sizes(config: &str, files: &[SourceFile], limits: &SourceLimits) -> Result<()> {
    let too_large = |what: String| Err(Error::new(zentinel_core::Kind::TooLarge, what));
    if config.len() > limits.config_bytes {
        return too_large(format!(
            "configuration has {} bytes, at most {} are allowed",
            config.len(),
            limits.config_bytes
        ));
    }
    if files.len() > limits.files {
        return too_large(format!("bundle has {} files, at most {} are allowed", files.len(), limits.files));
    }
    let mut total = config.len();
    for file in files {
        if file.bytes.len() > limits.file_bytes {
            return too_large(format!(
                "file {:?} has {} bytes, at most {} are allowed",
                shorten(&file.path),
                file.bytes.len(),
                limits.file_bytes
            ));
        }
        total = total.saturating_add(file.bytes.len());
    }
    if total > limits.total_bytes {
        return too_large(format!("bundle has {total} bytes, at most {} are allowed", limits.total_bytes));
    }
    Ok(())
}

/// Checks the paths of all extra files together.
pub(crate) fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut taken: HashSet<String> = RESERVED.iter().map(|&path| path.to_owned()).collect();
    let mut folders = HashSet::new();
    for path in paths {
        check_path(path)?;
        // Compared without case: an archive must unpack the same way on every file system.
        let key = path.to_ascii_lowercase();
        if RESERVED.contains(&key.as_str()) {
            return refuse(path, "is a reserved name");
        }
        let parents = key.match_indices('/').map(|(end, _)| key[..end].to_owned());
        folders.extend(parents);
        if !taken.insert(key) {
            return refuse(path, "is there twice (upper and lower case count as the same)");
        }
    }
    match taken.iter().find(|path| folders.contains(*path)) {
        Some(path) => refuse(path, "is both a file and a folder"),
        None => Ok(()),
    }
}

/// Checks one path: relative, short, of plain segments.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if path.is_empty() {
        return refuse(path, "is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return refuse(path, "is longer than 100 bytes");
    }
    if path.starts_with('/') {
        return refuse(path, "must be relative");
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return refuse(path, "has an empty segment");
        }
        if segment.bytes().all(|byte| byte == b'.') {
            return refuse(path, "must not contain . or .. segments");
        }
        if !segment.bytes().all(plain) {
            return refuse(path, "may only contain letters, digits, dot, underscore and hyphen");
        }
    }
    Ok(())
}

fn refuse<T>(path: &str, why: &str) -> Result<T> {
    Err(Error::invalid_field("files", format!("path {:?} {why}", shorten(path))))
}

/// Enough of a caller's text to recognise it in a message.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zentinel_core::Kind;

    fn with_paths(paths: &[&str]) -> Result<Source> {
        let files = paths.iter().map(|path| SourceFile::new(*path, "x")).collect();
        Source::new("system {}", files, false)
    }

    #[test]
    fn paths_that_could_escape_or_collide_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "...",
            "a//b",
            "a/",
            "a\\b",
            "a b",
            "é",
            "a\0b",
            "C:",
            "manifest.json",
            "Manifest.JSON",
            "zentinel.kdl",
            "sbom.cdx.json",
            "zentinel.kdl/x",
            &"a".repeat(101),
        ] {
            let error = with_paths(&[bad]).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad:?}");
            assert!(error.fields().contains_key("files"), "{bad:?}");
        }
        assert!(with_paths(&["ca/root.pem", "ca/Root.pem"]).is_err());
        assert!(with_paths(&["ca", "ca/root.pem"]).is_err());
        assert!(with_paths(&["ca/root.pem", "CA"]).is_err());
        assert!(with_paths(&["ca/root.pem", "ca/other.pem", "plugins/geo-1.0_x.wasm", ".hidden"]).is_ok());
    }

    #[test]
    fn limits_are_inclusive() {
        let limits = SourceLimits { config_bytes: 4, files: 2, file_bytes: 3, total_bytes: 9 };
        let source = |config: &str, sizes: &[usize]| {
            let file = |(index, size): (usize, &usize)| SourceFile::new(format!("f{index}"), vec![0; *size]);
            let files = sizes.iter().enumerate().map(file).collect();
            Source::with_limits(config, files, false, &limits)
        };
        assert!(source("1234", &[3, 2]).is_ok());
        for refused in
            [source("12345", &[]), source("1", &[1, 1, 1]), source("1", &[4]), source("1234", &[3, 3])]
        {
            assert_eq!(refused.unwrap_err().kind(), Kind::TooLarge);
        }
    }

    #[test]
    fn the_digest_is_what_sha256sum_says() {
        // printf 'a' >zentinel.kdl; printf 'b' >b.pem; sha256sum zentinel.kdl b.pem | sha256sum
        let source = Source::new("a", vec![SourceFile::new("b.pem", "b")], false).unwrap();
        let lines = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  zentinel.kdl\n\
                     3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  b.pem\n";
        assert_eq!(source.digest(), Sha256Digest::of(lines.as_bytes()));
    }

    proptest! {
        #[test]
        fn any_path_is_judged_without_panicking(path in "\\PC{0,130}") {
            let accepted = with_paths(&[&path]).is_ok();
            if accepted {
                prop_assert!(!path.starts_with('/') && path.split('/').all(|part| part != ".." && !part.is_empty()));
            }
        }

        #[test]
        fn the_order_of_files_does_not_matter(mut paths in proptest::collection::btree_set("[a-z]{1,8}", 1..8)) {
            paths.remove("manifest");
            let forward: Vec<_> = paths.iter().map(String::as_str).collect();
            let backward: Vec<_> = forward.iter().rev().copied().collect();
            prop_assert_eq!(with_paths(&forward).unwrap().digest(), with_paths(&backward).unwrap().digest());
        }
    }
}
