//! The validators on real texts: every code has a fixture, bad input is survived, and nothing of
//! the server is read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "diagnostics/external.rs"]
mod external;
#[path = "diagnostics/fixtures.rs"]
mod fixtures;
#[path = "diagnostics/handed_over.rs"]
mod handed_over;
#[path = "diagnostics/hostile.rs"]
mod hostile;
#[path = "diagnostics/isolated.rs"]
mod isolated;

use std::path::PathBuf;
use std::sync::Arc;
use zentinel_compiler::validate::{
    ExternalOptions, ExternalValidator, InProcessValidator, IsolatedOptions, IsolatedValidator,
    ValidateOptions,
};
use zentinel_core::port::{ConfigValidator, Diagnostic, Severity};
use zentinel_store::conformance::validator::suite;

/// A configuration that the proxy itself was seen to run.
const SAMPLE: &str = include_str!("fixtures/sample.kdl");
/// A small configuration without any warning.
const CLEAN: &str = include_str!("fixtures/clean.kdl");

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.kdl"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn isolated() -> IsolatedValidator {
    isolated_with(ValidateOptions::default())
}

fn isolated_with(validate: ValidateOptions) -> IsolatedValidator {
    IsolatedValidator::new(IsolatedOptions {
        validate,
        program: Some(env!("CARGO_BIN_EXE_zentinel-validate").into()),
        ..IsolatedOptions::default()
    })
}

async fn check(text: &str) -> Vec<Diagnostic> {
    InProcessValidator::default().validate(text, false).await.unwrap()
}

fn codes(diagnostics: &[Diagnostic], severity: Severity) -> Vec<&str> {
    diagnostics.iter().filter(|d| d.severity == severity).map(|d| d.code.as_str()).collect()
}

/// A script that stands in for a program.
#[cfg(unix)]
fn script(directory: &tempfile::TempDir, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.path().join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The contract of the port, on every validator.
#[tokio::test]
async fn every_validator_conforms() {
    let in_process = InProcessValidator::default();
    let external = ExternalValidator::new(Arc::new(isolated()), ExternalOptions::new("/bin/true"));
    suite(&in_process).await;
    suite(&isolated()).await;
    suite(&external).await;
}
