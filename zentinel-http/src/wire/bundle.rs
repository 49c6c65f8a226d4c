//! Bundles.

use super::Time;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{Bundle, BundleSource, BundleStatus};
use zentinel_core::id::TypedId;
use zentinel_core::port::{Diagnostic, Severity};

/// A compiled configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BundleBody {
    id: Uuid,
    project_id: Uuid,
    #[schema(example = "1.4.0")]
    version: String,
    /// `pending`, `compiling`, `compiled`, `failed`, `revoked` or `superseded`.
    #[schema(example = "compiled")]
    status: &'static str,
    /// SHA-256 of the archive, lower-case hexadecimal.
    checksum: Option<String>,
    size_bytes: Option<u64>,
    /// `low`, `medium` or `high`.
    #[schema(example = "low")]
    risk_level: &'static str,
    /// Codes of the findings behind the level.
    risk_reasons: Vec<String>,
    /// The findings: `{code, level, message, path}`.
    risk_findings: Value,
    manifest: Option<Value>,
    /// What the compiler said, a line per finding.
    compiler_output: Option<String>,
    /// The same, structured: `{code, severity, file, line, column, path, message, help}`.
    diagnostics: Value,
    /// What activating it takes: `reload` or `restart`.
    activation: Value,
    signed: bool,
    signing_key_id: Option<String>,
    source_type: Option<String>,
    source_ref: Option<String>,
    source_branch: Option<String>,
    source_repo: Option<String>,
    parent_bundle_id: Option<Uuid>,
    /// SHA-256 of `zentinel.kdl`.
    config_hash: Option<String>,
    inserted_at: Time,
    updated_at: Time,
}

impl From<&Bundle> for BundleBody {
    fn from(bundle: &Bundle) -> Self {
        let origin = &bundle.origin;
        let mut risk_reasons: Vec<_> = bundle.risk_findings.iter().map(|found| found.code.clone()).collect();
        risk_reasons.dedup();
        Self {
            id: bundle.id.uuid(),
            project_id: bundle.project_id.uuid(),
            version: bundle.version.clone(),
            status: bundle.status.as_str(),
            checksum: bundle.checksum.map(|digest| digest.to_string()),
            size_bytes: bundle.size_bytes,
            risk_level: bundle.risk_level.as_str(),
            risk_reasons,
            risk_findings: serde_json::json!(bundle.risk_findings),
            manifest: bundle.manifest.clone(),
            compiler_output: compiler_output(bundle),
            diagnostics: serde_json::json!(bundle.diagnostics),
            activation: serde_json::json!(bundle.activation),
            signed: bundle.signature.is_some(),
            signing_key_id: bundle.signing_key_id.clone(),
            source_type: (!origin.source_type.is_empty()).then(|| origin.source_type.clone()),
            source_ref: origin.source_ref.clone(),
            source_branch: origin.source_branch.clone(),
            source_repo: origin.source_repo.clone(),
            parent_bundle_id: bundle.parent_bundle_id.map(TypedId::uuid),
            config_hash: bundle.config_hash.map(|digest| digest.to_string()),
            inserted_at: Time(bundle.created_at),
            updated_at: Time(bundle.updated_at),
        }
    }
}

fn compiler_output(bundle: &Bundle) -> Option<String> {
    if matches!(bundle.status, BundleStatus::Pending | BundleStatus::Compiling) {
        return None;
    }
    let lines: Vec<_> = bundle.diagnostics.iter().map(line).collect();
    Some(lines.join("\n"))
}

/// `zentinel.kdl:3:7: error[unknown-upstream]: …`, as compilers write it.
fn line(found: &Diagnostic) -> String {
    let severity = match found.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let place = match (found.line, found.column) {
        (Some(line), Some(column)) => format!(":{line}:{column}"),
        (Some(line), None) => format!(":{line}"),
        _ => String::new(),
    };
    let help = found.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
    format!("{}{place}: {severity}[{}]: {}{help}", found.file, found.code, found.message)
}

/// One bundle.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BundleOne {
    pub(crate) bundle: BundleBody,
}

/// A page of bundles, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BundleList {
    pub(crate) bundles: Vec<BundleBody>,
    /// How many match in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// A file beside the configuration.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileBody {
    #[schema(example = "ca/root.pem")]
    path: String,
    /// Standard base64.
    content: String,
}

/// What a bundle was made from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SourceBody {
    bundle_id: Uuid,
    /// The KDL text, as it was handed in.
    config_source: String,
    files: Vec<FileBody>,
    inserted_at: Time,
}

/// A source.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SourceOne {
    pub(crate) source: SourceBody,
}

impl From<BundleSource> for SourceBody {
    fn from(source: BundleSource) -> Self {
        let files = source.files.into_iter().map(|file| FileBody { path: file.path, content: file.content });
        Self {
            bundle_id: source.bundle_id.uuid(),
            config_source: source.config_source,
            files: files.collect(),
            inserted_at: Time(source.created_at),
        }
    }
}

/// What is wrong with a configuration, if anything.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Diagnostics {
    /// Whether it has no errors.
    valid: bool,
    /// Findings that prevent its use: `{code, severity, file, line, column, path, message, help}`.
    errors: Vec<Value>,
    /// Findings that probably are mistakes.
    warnings: Vec<Value>,
    /// What else is worth knowing, for example what only the node can check.
    infos: Vec<Value>,
}

impl Diagnostics {
    pub(crate) fn new(found: &[Diagnostic]) -> Self {
        let of = |severity: Severity| {
            found
                .iter()
                .filter(|found| found.severity == severity)
                .map(|found| serde_json::json!(found))
                .collect::<Vec<_>>()
        };
        let errors = of(Severity::Error);
        Self { valid: errors.is_empty(), errors, warnings: of(Severity::Warning), infos: of(Severity::Info) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_like_a_compilers() {
        let mut found = Diagnostic {
            code: "unknown-upstream".to_owned(),
            severity: Severity::Error,
            file: "zentinel.kdl".to_owned(),
            line: Some(3),
            column: Some(7),
            path: None,
            message: "no upstream `api`".to_owned(),
            help: None,
        };
        assert_eq!(line(&found), "zentinel.kdl:3:7: error[unknown-upstream]: no upstream `api`");
        assert!(!Diagnostics::new(&[found.clone()]).valid);
        found.severity = Severity::Warning;
        assert!(Diagnostics::new(&[found]).valid);
    }
}
