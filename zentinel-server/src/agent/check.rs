//! What is looked at before a configuration is let near the proxy.

use super::activator::Rejection;
use super::certificates::check_certificates;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use zentinel_compiler::diagnostic::Code;
use zentinel_compiler::document::{Document, Node};
use zentinel_core::port::{ConfigValidator, Severity};

/// The name of the configuration in a bundle and in a release.
pub(super) const CONFIG: &str = "zentinel.kdl";

/// Reads the configuration of a release.
pub(super) fn read_config(directory: &Path) -> Result<String, Rejection> {
    std::fs::read_to_string(directory.join(CONFIG)).map_err(|error| {
        let message = format!("{CONFIG}: {error}");
        match error.kind() {
            ErrorKind::InvalidData => Rejection::new("invalid_config", message),
            _ => Rejection::fault("activation_failed", message),
        }
    })
}

/// Checks a text with the proxy's own parser.
pub(super) async fn check_text(validator: &dyn ConfigValidator, kdl: &str) -> Result<(), Rejection> {
    let diagnostics = validator
        .validate(kdl, false)
        .await
        .map_err(|error| Rejection::fault("validation_unavailable", error.to_string()))?;
    let Some(error) = diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error) else {
        return Ok(());
    };
    // A busy node is no reason to give a bundle up that was checked before.
    let late = error.code == Code::ValidationTimeout.as_str();
    let rejection = if late { Rejection::fault } else { Rejection::new };
    let reason = if late { "validation_unavailable" } else { "invalid_config" };
    Err(rejection(reason, error.message.clone()))
}

/// Files and directories that the configuration names must be there; `place` says where a path of the
/// configuration is looked up. The proxy starts without them and leaves out what needs them. With
/// `same_user`, what the agent may not read is as good as missing.
pub(super) fn check_files(
    kdl: &str,
    same_user: bool,
    place: impl Fn(&str) -> PathBuf,
) -> Result<(), Rejection> {
    let document = Document::parse(kdl)
        .map_err(|_| Rejection::new("invalid_config", "the configuration does not parse"))?;
    for node in document.nodes() {
        let (Some(named), Some(path)) = (named(node), node.text()) else { continue };
        let missing = |what: &str| format!("{path} {what} ({})", node.path());
        let found = match named {
            Named::Root if !place(path).is_dir() => {
                return Err(Rejection::new("missing_static_root", missing("does not exist on this node")));
            }
            Named::Root => Ok(()),
            Named::Folder => std::fs::read_dir(place(path)).map(drop),
            Named::Place => directory(&place(path)),
            Named::File => readable(&place(path)),
        };
        let Err(error) = found else { continue };
        let Some((reason, what)) = verdict(error.kind(), same_user) else {
            // The node's trouble with its disk, which may be gone when the proxy looks.
            tracing::warn!(path, %error, "not checked");
            continue;
        };
        return Err(Rejection::new(reason, missing(what)));
    }
    check_certificates(&document, place)
}

/// Why a file that could not be opened is of no use to the proxy, if so.
fn verdict(kind: ErrorKind, same_user: bool) -> Option<(&'static str, &'static str)> {
    match kind {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            Some(("missing_file", "is missing on this node"))
        }
        ErrorKind::PermissionDenied if same_user => {
            Some(("unreadable_file", "may not be read by the proxy's user"))
        }
        _ => None,
    }
}

/// What a setting names.
#[derive(Clone, Copy)]
enum Named {
    /// A directory that files are served from.
    Root,
    /// A directory that is read.
    Folder,
    /// A directory that the proxy moves to: without it no process starts.
    Place,
    /// A file that is read.
    File,
}

/// Those without which the proxy lacks something, or does not start. Sockets of agents may come later.
fn named(node: Node<'_>) -> Option<Named> {
    match (node.parent_name()?, node.name()) {
        ("static-files", "root") => Some(Named::Root),
        ("sni-certs", "cert-folder") => Some(Named::Folder),
        ("system" | "server", "working-directory") => Some(Named::Place),
        ("tls" | "sni", "cert-file" | "key-file" | "ca-file")
        | ("tls", "client-cert" | "client-key" | "ca-cert")
        | ("dns-provider", "credentials-file")
        | ("filter", "database-path")
        | ("api-schema", "schema-file") => Some(Named::File),
        _ => None,
    }
}

/// Whether a directory is there.
fn directory(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_dir() { Ok(()) } else { Err(ErrorKind::NotADirectory.into()) }
}

/// Whether a file can be read. Only a file is opened: a pipe would wait for its writer.
fn readable(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if path.is_file() { std::fs::File::open(path).map(drop) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_proxy_would_miss_counts() {
        let reason = |kind, same_user| verdict(kind, same_user).map(|(reason, _)| reason);
        assert_eq!(reason(ErrorKind::NotFound, false), Some("missing_file"));
        assert_eq!(reason(ErrorKind::PermissionDenied, true), Some("unreadable_file"));
        assert_eq!(reason(ErrorKind::PermissionDenied, false), None, "the proxy's user may have more rights");
        assert_eq!(reason(ErrorKind::Interrupted, true), None);
    }

    #[test]
    fn every_file_and_directory_is_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("folder")).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        let check = |kdl: &str| {
            check_files(kdl, true, |path| directory.path().join(path)).map_err(|rejection| rejection.reason)
        };
        for (block, parent, setting, good) in [
            ("route", "static-files", "root", "folder"),
            ("listener", "sni-certs", "cert-folder", "folder"),
            ("one", "system", "working-directory", "folder"),
            ("listener", "tls", "ca-file", "file"),
            ("upstream", "tls", "ca-cert", "file"),
            ("agent", "tls", "client-key", "file"),
            ("acme", "dns-provider", "credentials-file", "file"),
            ("filters", "filter", "database-path", "file"),
            ("route", "api-schema", "schema-file", "file"),
        ] {
            let text = |path: &str| format!("{block} {{\n {parent} {{\n {setting} \"{path}\"\n }}\n}}\n");
            assert_eq!(check(&text(good)), Ok(()), "{setting}");
            let wrong = if good == "file" { "folder" } else { "file" };
            for missing in ["absent", "file/below", wrong] {
                let reason = if setting == "root" { "missing_static_root" } else { "missing_file" };
                assert_eq!(check(&text(missing)), Err(reason.to_owned()), "{setting} {missing}");
            }
        }
    }
}
