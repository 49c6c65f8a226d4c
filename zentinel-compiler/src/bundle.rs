//! Bundles as records: creating one, compiling it as a durable job, verifying it.
//!
//! A bundle goes `pending → compiling → compiled | failed`. Each step is one commit with its audit
//! entry and its event. A job that dies half way is run again from `compiling`: the archive is the
//! same bytes, and storing it again changes nothing.

mod compile;
mod parent;
#[cfg(test)]
mod tests;

pub use compile::CompileHandler;
pub use parent::running_bundle;

use crate::pipeline::blocking;
use crate::source::{Source, SourceFile, SourceLimits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zentinel_core::entity::{
    Activation, AuditEntry, Bundle, BundleOrigin, BundleSource, BundleStatus, Event, ExtraFile, RiskLevel,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{BundleId, OrganisationId, ProjectId};
use zentinel_core::port::{BlobStore, NewJob, Queue, Signer};
use zentinel_core::{Actor, Changes, Error, Kind, Result, Sha256Digest, Timestamp};

/// The kind of the job that compiles a bundle; its payload is `{"bundle_id": "..."}`.
pub const COMPILE_JOB: &str = "compile";

/// How often a compile job is tried: with growing delays, enough to outlast a back end that is away
/// for hours. A try whose process is killed counts as well, and a bundle must not fail because the
/// control plane was restarted some times.
const COMPILE_ATTEMPTS: u32 = 60;

/// What an author hands in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewBundle {
    /// Unique in the project, 1 to 100 characters.
    pub version: String,
    /// KDL text, at most 4 MiB.
    pub config_source: String,
    /// Files beside it.
    pub files: Vec<ExtraFile>,
    /// The author's own judgement; the compiler only raises it.
    pub risk_level: RiskLevel,
    /// Whether the text came from our own generator: ignored keys are then errors.
    pub generated: bool,
    /// Where the source came from.
    pub origin: BundleOrigin,
    /// The person who makes it.
    pub author: Option<Actor>,
}

/// A new bundle, pending, with everything to commit: the record, its source, the audit entry
/// `bundle.created`, the event and the compile job.
///
/// # Errors
/// [`Kind::Invalid`] on `version`, `config_source` or `files`.
pub fn create(
    scope: (OrganisationId, ProjectId),
    actor: Actor,
    new: NewBundle,
    now: Timestamp,
) -> Result<(Bundle, Changes)> {
    check(&new)?;
    let bundle = pending(scope, &new, now);
    let source = BundleSource {
        bundle_id: bundle.id,
        organisation_id: scope.0,
        project_id: scope.1,
        config_source: new.config_source,
        files: new.files,
        created_at: now,
    };
    let scope = bundle.scope();
    let told = json!({ "bundle_id": bundle.id, "version": bundle.version, "project_id": bundle.project_id });
    let audit = AuditEntry::new(&scope, actor, "bundle.created", bundle.id, now)
        .with_changes(json!({ "version": bundle.version }));
    let mut job = NewJob::new(Queue::Default, COMPILE_JOB, json!({ "bundle_id": bundle.id }), now)
        .unique(bundle.id.to_string());
    job.max_attempts = COMPILE_ATTEMPTS;
    let changes = Changes::new()
        .insert(&bundle)?
        .insert(&source)?
        .audit(audit)
        .event(Event::new(&scope, "bundle.created", told, now))
        .job(job);
    Ok((bundle, changes))
}

fn check(new: &NewBundle) -> Result<()> {
    let mut checks = Checks::new();
    checks.text("version", &new.version, 100);
    let printable = !new.version.chars().any(char::is_control);
    checks.that("version", printable, "must not contain control characters");
    let config = &new.config_source;
    checks.that("config_source", !config.trim().is_empty(), "can't be blank");
    checks.that("config_source", !config.contains('\0'), "must not contain NUL bytes");
    let most = SourceLimits::default().config_bytes;
    let fits = config.len() <= most;
    checks.that("config_source", fits, format!("should be at most {most} byte(s)"));
    if fits {
        match source_of(String::new(), &new.files, new.generated) {
            Ok(_) => {}
            Err(error) if error.fields().is_empty() => {
                checks.that("files", false, error.message().to_owned())
            }
            Err(error) => {
                checks.absorb::<()>(Err(error))?;
            }
        }
    }
    checks.finish()
}

fn pending(scope: (OrganisationId, ProjectId), new: &NewBundle, now: Timestamp) -> Bundle {
    Bundle {
        id: BundleId::random(),
        organisation_id: scope.0,
        project_id: scope.1,
        version: new.version.clone(),
        status: BundleStatus::Pending,
        generated: new.generated,
        origin: new.origin.clone(),
        declared_risk: new.risk_level,
        risk_level: new.risk_level,
        risk_findings: Vec::new(),
        parent_bundle_id: None,
        activation: Activation::default(),
        checksum: None,
        size_bytes: None,
        storage_key: None,
        config_hash: None,
        manifest: None,
        diagnostics: Vec::new(),
        signature: None,
        signing_key_id: None,
        created_at: now,
        updated_at: now,
        author: new.author,
    }
}

/// The compiler's source from what is stored.
pub(crate) fn source_of(config: String, files: &[ExtraFile], generated: bool) -> Result<Source> {
    let decoded = files.iter().map(|file| match STANDARD.decode(&file.content) {
        Ok(bytes) => Ok(SourceFile::new(file.path.clone(), bytes)),
        Err(_) => Err(Error::invalid_field("files", "content must be standard base64")),
    });
    Source::new(config, decoded.collect::<Result<_>>()?, generated)
}

/// Whether a stored archive is what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The archive has the recorded digest and a valid signature by a key that is still accepted.
    pub verified: bool,
    /// A signature is recorded.
    pub signed: bool,
    /// The key that made it.
    pub key_id: Option<String>,
}

/// Reads a bundle's archive back and checks its digest and signature.
///
/// # Errors
/// [`Kind::Conflict`] when it is not compiled or was revoked, [`Kind::Internal`] when the archive
/// can't be read.
pub async fn verify(bundle: &Bundle, blobs: &dyn BlobStore, signer: &dyn Signer) -> Result<Verification> {
    match bundle.status {
        BundleStatus::Revoked => return Err(Error::conflict("Bundle has been revoked")),
        status if !status.is_deployable() => return Err(Error::conflict("Bundle is not yet compiled")),
        _ => {}
    }
    let (Some(signature), Some(key_id)) = (&bundle.signature, &bundle.signing_key_id) else {
        return Ok(Verification { verified: false, signed: false, key_id: None });
    };
    let archive = read_archive(bundle, blobs).await?;
    let key = signer.public_key(&bundle.scope(), key_id).await?;
    let signature = STANDARD.decode(signature).unwrap_or_default();
    let checksum = bundle.checksum;
    let verified = blocking(move || {
        let genuine = key.is_some_and(|key| key.verify(&archive, &signature));
        genuine && checksum == Some(Sha256Digest::of(&archive))
    });
    Ok(Verification { verified: verified.await?, signed: true, key_id: Some(key_id.clone()) })
}

async fn read_archive(bundle: &Bundle, blobs: &dyn BlobStore) -> Result<bytes::Bytes> {
    let key = Bundle::archive_key(bundle.project_id, bundle.id);
    let key = bundle.storage_key.as_deref().unwrap_or(&key);
    blobs.get(key, None).await.map_err(|error| {
        Error::new(Kind::Internal, "Failed to retrieve bundle for verification").with_source(error)
    })
}
