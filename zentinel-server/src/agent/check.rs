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
            Named::File => readable(&place(path)),
        };
        let Err(error) = found else { continue };
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                return Err(Rejection::new("missing_file", missing("is missing on this node")));
            }
            ErrorKind::PermissionDenied if same_user => {
                return Err(Rejection::new(
                    "unreadable_file",
                    missing("may not be read by the proxy's user"),
                ));
            }
            // The node's trouble with its disk, which may be gone when the proxy looks.
            _ => tracing::warn!(path, %error, "not checked"),
        }
    }
    check_certificates(&document, place)
}

/// What a setting names.
#[derive(Clone, Copy)]
enum Named {
    /// A directory that files are served from.
    Root,
    /// A directory that is read.
    Folder,
    /// A file that is read.
    File,
}

/// Those that compiling leaves to the node, but for sockets of agents, which may come later.
fn named(node: Node<'_>) -> Option<Named> {
    match (node.parent_name()?, node.name()) {
        ("static-files", "root") => Some(Named::Root),
        ("sni-certs", "cert-folder") => Some(Named::Folder),
        ("tls" | "sni", "cert-file" | "key-file" | "ca-file")
        | ("tls", "client-cert" | "client-key" | "ca-cert")
        | ("dns-provider", "credentials-file")
        | ("filter", "database-path")
        | ("api-schema", "schema-file") => Some(Named::File),
        _ => None,
    }
}

/// Whether a file can be read. Only a file is opened: a pipe would wait for its writer.
fn readable(path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if path.is_file() { std::fs::File::open(path).map(drop) } else { Ok(()) }
}
