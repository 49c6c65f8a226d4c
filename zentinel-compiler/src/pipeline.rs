//! The pipeline: each stage is a value that only the stage before it can make.
//!
//! [`Source`] → [`Validated`] → [`Assembled`] → [`Signed`]. Validation collects every problem
//! before it refuses. Work that keeps a processor busy runs on blocking threads.

use crate::activation;
use crate::archive::Archive;
use crate::manifest::Manifest;
use crate::model::Model;
use crate::risk::{self, RiskCode, finding};
use crate::sbom;
use crate::source::{CONFIG_PATH, Source};
use crate::unpack::{UnpackLimits, unpack};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use zentinel_config::Config;
use zentinel_core::entity::{Activation, Finding, RiskLevel};
use zentinel_core::port::{ConfigValidator, Diagnostic, Examination, Severity, Signature, Signer};
use zentinel_core::{Error, Result, Scope, Sha256Digest};

/// Why there is no bundle.
#[derive(Debug)]
pub enum CompileFailure {
    /// The source has errors. All diagnostics, errors first, warnings included.
    Invalid(Vec<Diagnostic>),
    /// The compiler could not do its work; trying again may help.
    Error(Error),
}

impl CompileFailure {
    /// The diagnostics; empty when the compiler could not do its work.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Invalid(diagnostics) => diagnostics,
            Self::Error(_) => &[],
        }
    }
}

impl fmt::Display for CompileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(diagnostics) => match diagnostics.first() {
                Some(first) => write!(f, "the configuration has errors: {}", first.message),
                None => f.write_str("the configuration has errors"),
            },
            Self::Error(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for CompileFailure {}

impl From<Error> for CompileFailure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<CompileFailure> for Error {
    /// Diagnostics become the details of a [`Kind::Invalid`](zentinel_core::Kind::Invalid) error
    /// on `config_source`.
    fn from(failure: CompileFailure) -> Self {
        let text = failure.to_string();
        match failure {
            CompileFailure::Error(error) => error,
            CompileFailure::Invalid(diagnostics) => {
                let details = serde_json::to_value(&diagnostics).unwrap_or(Value::Null);
                Self::invalid(text.clone()).with_field("config_source", text).with_details(details)
            }
        }
    }
}

/// What runs now, to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Its configuration text.
    pub config: String,
    /// The digests of its extra files by path, where they are known.
    pub files: Option<BTreeMap<String, Sha256Digest>>,
}

impl Baseline {
    /// The baseline of a bundle, from its text and the manifest in its record.
    #[must_use]
    pub fn of(config: String, manifest: Option<&Value>) -> Self {
        let manifest = manifest.and_then(|value| serde_json::from_value::<Manifest>(value.clone()).ok());
        let files = manifest.map(|manifest| extra_files(&manifest));
        Self { config, files }
    }
}

/// The digests of the files beside configuration and bill of materials.
fn extra_files(manifest: &Manifest) -> BTreeMap<String, Sha256Digest> {
    let extra = manifest.files.iter().skip(2);
    extra.map(|file| (file.path.clone(), file.sha256)).collect()
}

/// A source without errors, parsed.
#[derive(Clone, Debug)]
pub struct Validated {
    source: Source,
    model: Model,
    diagnostics: Vec<Diagnostic>,
}

impl Validated {
    /// The source.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What the proxy's parser made of it.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Warnings and notes.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

/// A packed bundle: everything but the signature.
#[derive(Clone, Debug)]
pub struct Assembled {
    validated: Validated,
    archive: Archive,
    activation: Activation,
    findings: Vec<Finding>,
}

impl Assembled {
    /// The validated source it was packed from.
    #[must_use]
    pub fn validated(&self) -> &Validated {
        &self.validated
    }

    /// The archive with its checksum and manifest.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Warnings and notes.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.validated.diagnostics
    }

    /// What is risky about it and why a reload is not enough, worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The level of the worst finding.
    #[must_use]
    pub fn risk(&self) -> RiskLevel {
        risk::level(&self.findings)
    }

    /// What activating it takes on a proxy that runs the baseline.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// SHA-256 of the configuration text.
    #[must_use]
    pub fn config_hash(&self) -> Sha256Digest {
        Sha256Digest::of(self.validated.source.config().as_bytes())
    }

    /// The bill of materials to serve for this bundle.
    ///
    /// # Errors
    /// As [`sbom::served`].
    pub fn sbom(&self, about: &sbom::Served<'_>) -> Result<Value> {
        sbom::served(&self.validated.source, &self.validated.model, about)
    }

    /// Signs the archive with the key that `signer` uses for `scope`.
    ///
    /// # Errors
    /// Those of the signer.
    pub async fn sign(self, signer: &dyn Signer, scope: &Scope) -> Result<Signed> {
        let signature = signer.sign(scope, self.archive.bytes()).await?;
        Ok(Signed { assembled: self, signature })
    }
}

/// A bundle that can be stored and handed out.
#[derive(Clone, Debug)]
pub struct Signed {
    assembled: Assembled,
    signature: Signature,
}

impl Signed {
    /// What was signed.
    #[must_use]
    pub fn assembled(&self) -> &Assembled {
        &self.assembled
    }

    /// The archive's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        self.assembled.archive.bytes()
    }

    /// The archive's SHA-256.
    #[must_use]
    pub fn checksum(&self) -> Sha256Digest {
        self.assembled.archive.checksum()
    }

    /// The Ed25519 signature over the archive's bytes.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

/// Turns sources into bundles. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Compiler {
    validator: Arc<dyn ConfigValidator>,
}

impl Compiler {
    /// A compiler that trusts this validator.
    #[must_use]
    pub fn new(validator: Arc<dyn ConfigValidator>) -> Self {
        Self { validator }
    }

    /// Checks and parses a source.
    ///
    /// # Errors
    /// [`CompileFailure::Invalid`] when it has errors.
    pub async fn validate(&self, source: Source) -> Result<Validated, CompileFailure> {
        let Examination { mut diagnostics, parsed } =
            self.validator.examine(source.config(), source.generated()).await?;
        diagnostics.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
        if diagnostics.first().is_some_and(|first| first.severity == Severity::Error) {
            return Err(CompileFailure::Invalid(diagnostics));
        }
        if let Some(config) = parsed.and_then(|parsed| parsed.downcast::<Config>().ok()) {
            return Ok(Validated { source, model: Model::new(*config), diagnostics });
        }
        blocking(move || match Model::parse(source.config()) {
            Ok(model) => Ok(Validated { source, model, diagnostics }),
            // Validators may be lenient; a text that does not parse is an error all the same.
            Err(error) => {
                diagnostics.insert(0, problem("parse-failed", error.message()));
                Err(CompileFailure::Invalid(diagnostics))
            }
        })
        .await?
    }

    /// Packs a validated source and compares it with what runs.
    ///
    /// # Errors
    /// [`CompileFailure::Invalid`] when our own reader would refuse the archive, because it
    /// compresses like a decompression bomb.
    pub async fn assemble(
        &self,
        validated: Validated,
        baseline: Option<Baseline>,
    ) -> Result<Assembled, CompileFailure> {
        blocking(move || assemble(validated, baseline.as_ref())).await?
    }

    /// Validates, packs and compares: the whole pipeline up to the signature. `baseline` is the
    /// configuration that runs now.
    ///
    /// # Errors
    /// As [`Compiler::validate`] and [`Compiler::assemble`].
    pub async fn compile(&self, source: Source, baseline: Option<&str>) -> Result<Assembled, CompileFailure> {
        let baseline = baseline.map(|config| Baseline::of(config.to_owned(), None));
        let validated = self.validate(source).await?;
        self.assemble(validated, baseline).await
    }

    /// The whole pipeline, with the signature.
    ///
    /// # Errors
    /// As [`Compiler::compile`], and those of the signer.
    pub async fn build(
        &self,
        source: Source,
        baseline: Option<&str>,
        signer: &dyn Signer,
        scope: &Scope,
    ) -> Result<Signed, CompileFailure> {
        let assembled = self.compile(source, baseline).await?;
        Ok(assembled.sign(signer, scope).await?)
    }
}

fn assemble(validated: Validated, baseline: Option<&Baseline>) -> Result<Assembled, CompileFailure> {
    let document = sbom::archived(&validated.source, &validated.model)?;
    let archive = Archive::pack(&validated.source, &document)?;
    // What our reader refuses, every node would refuse: better to know before a rollout.
    if let Err(error) = unpack(archive.bytes(), &UnpackLimits::default()) {
        let mut diagnostics = validated.diagnostics;
        diagnostics.insert(0, problem("archive-refused", error.message()));
        return Err(CompileFailure::Invalid(diagnostics));
    }
    let (activation, findings) = compare(&validated.model, archive.manifest(), baseline);
    Ok(Assembled { validated, archive, activation, findings })
}

fn compare(new: &Model, manifest: &Manifest, baseline: Option<&Baseline>) -> (Activation, Vec<Finding>) {
    let Some(baseline) = baseline else {
        return activation::decide(None, new);
    };
    let old = match Model::parse(&baseline.config) {
        Ok(old) => old,
        Err(error) => {
            tracing::warn!(%error, "the running configuration could not be read");
            let message = "the running configuration could not be read, so nothing was compared";
            let finding = finding(RiskCode::BaselineUnreadable, String::new(), message.to_owned());
            return (Activation::Restart, vec![finding]);
        }
    };
    let mut findings = risk::assess(Some(&old), new);
    if let Some(files) = &baseline.files {
        findings.extend(risk::changed_files(files, &extra_files(manifest)));
    }
    let (activation, reasons) = activation::decide(Some(&old), new);
    findings.extend(reasons);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    (activation, findings)
}

/// An error that the compiler itself found, about the whole configuration.
pub(crate) fn problem(code: &str, message: &str) -> Diagnostic {
    Diagnostic {
        code: code.to_owned(),
        severity: Severity::Error,
        file: CONFIG_PATH.to_owned(),
        line: None,
        column: None,
        path: None,
        message: message.to_owned(),
        help: None,
    }
}

/// Runs work that keeps a processor busy on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the compiler stopped unexpectedly").with_source(error))
}
