//! Checking configuration text.

use crate::error::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fmt::Debug;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know; for example what only the node can check.
    Info,
    /// Probably not what was meant.
    Warning,
    /// The configuration cannot be used.
    Error,
}

/// One finding about a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Stable kebab-case code, documented in `zentinel-compiler`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// The file, for example `zentinel.kdl`.
    pub file: String,
    /// Line, from 1, where known.
    pub line: Option<u32>,
    /// Column in characters, from 1, where known.
    pub column: Option<u32>,
    /// The configuration path, for example `routes/api/upstream`, where known.
    pub path: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// What a check found, and what was parsed on the way.
#[derive(Debug, Default)]
pub struct Examination {
    /// All findings, errors first.
    pub diagnostics: Vec<Diagnostic>,
    /// The parsed text, where the validator can hand it over: exactly what a parse of the same text
    /// would give. Its type is a matter between validator and caller; a caller that does not know it
    /// parses the text itself.
    pub parsed: Option<Box<dyn Any + Send>>,
}

impl From<Vec<Diagnostic>> for Examination {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics, parsed: None }
    }
}

/// Checks KDL text.
///
/// # Contract
/// Reads no file, environment or network of the server on behalf of the text. No input takes the
/// process down, blocks the caller's thread or takes longer than the implementation's limit.
///
/// # Errors
/// Findings are the result, not an error; errors mean that the check could not be carried out.
///
/// # Testing
/// `zentinel_store::conformance::validator`.
#[async_trait]
pub trait ConfigValidator: Debug + Send + Sync + 'static {
    /// All findings, errors first. `generated` text came from our own generator: keys that the
    /// proxy would ignore are then errors.
    async fn validate(&self, kdl: &str, generated: bool) -> Result<Vec<Diagnostic>>;

    /// As [`ConfigValidator::validate`], for a caller that goes on to use the parsed text.
    async fn examine(&self, kdl: &str, generated: bool) -> Result<Examination> {
        self.validate(kdl, generated).await.map(Examination::from)
    }
}
