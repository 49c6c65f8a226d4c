//! What is looked at before a configuration is let near the proxy.

use super::activator::Rejection;
use std::path::{Path, PathBuf};
use zentinel_compiler::diagnostic::Code;
use zentinel_compiler::document::Document;
use zentinel_core::port::{ConfigValidator, Severity};

/// The name of the configuration in a bundle and in a release.
pub(super) const CONFIG: &str = "zentinel.kdl";

/// Reads the configuration of a release.
pub(super) fn read_config(directory: &Path) -> Result<String, Rejection> {
    std::fs::read_to_string(directory.join(CONFIG)).map_err(|error| {
        let message = format!("{CONFIG}: {error}");
        match error.kind() {
            std::io::ErrorKind::InvalidData => Rejection::new("invalid_config", message),
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

/// Directories that the configuration serves files from must exist; `place` says where a path of
/// the configuration is looked up.
pub(super) fn check_static_roots(kdl: &str, place: impl Fn(&str) -> PathBuf) -> Result<(), Rejection> {
    let document = Document::parse(kdl)
        .map_err(|_| Rejection::new("invalid_config", "the configuration does not parse"))?;
    let roots =
        document.nodes().filter(|node| node.name() == "root" && node.parent_name() == Some("static-files"));
    for root in roots.filter_map(|node| node.text()) {
        if !place(root).is_dir() {
            return Err(Rejection::new("missing_static_root", format!("{root} does not exist on this node")));
        }
    }
    Ok(())
}
