//! The job that compiles a bundle.

use super::{COMPILE_JOB, running_bundle, source_of};
use crate::pipeline::{Baseline, CompileFailure, Compiler, Signed, blocking, problem};
use crate::sbom::Served;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::sync::Arc;
use zentinel_core::entity::{AuditEntry, Bundle, BundleSbom, BundleSource, BundleStatus, Event};
use zentinel_core::id::{BundleId, ProjectId};
use zentinel_core::port::{
    BlobStore, ClaimedJob, Clock, ConfigValidator, Diagnostic, JobHandler, JobOutcome, NewJob, Signer, Store,
    StoreExt,
};
use zentinel_core::{Actor, Changes, Error, Kind, Result, Scope, Stored};

/// Most diagnostics that a record keeps; errors come first.
const MAX_DIAGNOSTICS: usize = 200;

/// Runs compile jobs.
#[derive(Clone, Debug)]
pub struct CompileHandler {
    store: Arc<dyn Store>,
    blobs: Arc<dyn BlobStore>,
    signer: Arc<dyn Signer>,
    compiler: Compiler,
    clock: Arc<dyn Clock>,
}

/// What became of the source.
enum Verdict {
    Compiled(Box<Signed>),
    Refused(Vec<Diagnostic>),
}

impl CompileHandler {
    /// A handler over these ports.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        blobs: Arc<dyn BlobStore>,
        signer: Arc<dyn Signer>,
        validator: Arc<dyn ConfigValidator>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, blobs, signer, compiler: Compiler::new(validator), clock }
    }

    /// Compiles one bundle. Does nothing when it is not there or is not waiting to be compiled.
    ///
    /// # Errors
    /// Those of the back ends; calling again is safe.
    pub async fn compile(&self, id: BundleId) -> Result<()> {
        let Some(bundle) = self.begin(id).await? else {
            return Ok(());
        };
        let parent = running_bundle(&*self.store, (bundle.organisation_id, bundle.project_id), id).await?;
        let verdict = match self.verdict(&bundle, parent.as_ref()).await {
            Ok(signed) => match self.upload(&bundle, &signed).await? {
                Ok(()) => Verdict::Compiled(Box::new(signed)),
                Err(diagnostic) => Verdict::Refused(vec![diagnostic]),
            },
            Err(CompileFailure::Invalid(diagnostics)) => Verdict::Refused(diagnostics),
            Err(CompileFailure::Error(error)) => return Err(error),
        };
        let parent = parent.map(|parent| parent.id);
        let project = bundle.project_id;
        match self.finish(bundle, parent, verdict).await {
            // Revoked or deleted meanwhile: what was decided there stands.
            Err(error) if error.kind() == Kind::NotFound => self.discard(project, id).await,
            Err(error) if error.kind() == Kind::Stale => self.after_race(project, id, error).await,
            other => other,
        }
    }

    /// Claims the bundle for compiling; `None` when there is nothing to do.
    async fn begin(&self, id: BundleId) -> Result<Option<Stored<Bundle>>> {
        let Some(mut bundle) = self.store.find::<Bundle>(&Scope::Instance, id).await? else {
            return Ok(None);
        };
        match bundle.status {
            BundleStatus::Pending => {
                let mut next = bundle.value.clone();
                next.status = BundleStatus::Compiling;
                next.updated_at = self.clock.now();
                let changes = Changes::new().update(&bundle, &next)?;
                self.store.commit(changes).await?;
                bundle.value = next;
                bundle.revision.0 += 1;
                Ok(Some(bundle))
            }
            // A worker died, or its lease ran out.
            BundleStatus::Compiling => Ok(Some(bundle)),
            _ => Ok(None),
        }
    }

    /// Validates, assembles and signs.
    async fn verdict(
        &self,
        bundle: &Bundle,
        parent: Option<&Stored<Bundle>>,
    ) -> Result<Signed, CompileFailure> {
        let scope = bundle.scope();
        let Some(stored) = self.store.find::<BundleSource>(&scope, bundle.id).await? else {
            return Err(refused("source-missing", "the source of the bundle is not there any more"));
        };
        let stored = stored.value;
        let generated = bundle.generated;
        let source = blocking(move || source_of(stored.config_source, &stored.files, generated))
            .await?
            .map_err(|error| refused("source-refused", error.message()))?;
        let baseline = match parent {
            Some(parent) => self.baseline(parent).await?,
            None => None,
        };
        let validated = self.compiler.validate(source).await?;
        let assembled = self.compiler.assemble(validated, baseline).await?;
        Ok(assembled.sign(&*self.signer, &scope).await?)
    }

    async fn baseline(&self, parent: &Bundle) -> Result<Option<Baseline>> {
        let source = self.store.find::<BundleSource>(&parent.scope(), parent.id).await?;
        Ok(source.map(|source| Baseline::of(source.value.config_source, parent.manifest.as_ref())))
    }

    /// Stores the archive. The inner error is one that trying again does not cure.
    async fn upload(&self, bundle: &Bundle, signed: &Signed) -> Result<Result<(), Diagnostic>> {
        let key = Bundle::archive_key(bundle.project_id, bundle.id);
        match self.blobs.put(&key, signed.bytes().clone(), &signed.checksum()).await {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.kind() == Kind::Conflict => {
                tracing::error!(bundle = %bundle.id, key, %error, "another archive is in the way");
                let message = "another archive is already stored for this bundle";
                Ok(Err(problem("archive-conflict", message)))
            }
            Err(error) => Err(error),
        }
    }

    /// The one commit that decides.
    async fn finish(&self, bundle: Stored<Bundle>, parent: Option<BundleId>, verdict: Verdict) -> Result<()> {
        let mut next = bundle.value.clone();
        next.parent_bundle_id = parent;
        next.updated_at = self.clock.now();
        let changes = match verdict {
            Verdict::Refused(diagnostics) => {
                tracing::info!(bundle = %bundle.id, errors = diagnostics.len(), "bundle has errors");
                return self.fail(&bundle, next, diagnostics).await;
            }
            Verdict::Compiled(signed) => {
                tracing::info!(bundle = %bundle.id, checksum = %signed.checksum(), "bundle compiled");
                blocking(move || compiled(&bundle, next, &signed)).await??
            }
        };
        self.store.commit(changes).await.map(drop)
    }

    async fn fail(
        &self,
        read: &Stored<Bundle>,
        mut next: Bundle,
        diagnostics: Vec<Diagnostic>,
    ) -> Result<()> {
        let now = next.updated_at;
        let scope = read.scope();
        next.status = BundleStatus::Failed;
        next.diagnostics = capped(diagnostics);
        let first = next.diagnostics.first().map(|first| first.message.clone());
        let told = json!({
            "bundle_id": next.id,
            "version": next.version,
            "project_id": next.project_id,
            "reason": first,
        });
        let audit = AuditEntry::new(&scope, Actor::System, "bundle.compilation_failed", next.id, now)
            .with_changes(json!({ "status": "failed", "reason": first }));
        let changes = Changes::new().update(read, &next)?.audit(audit).event(Event::new(
            &scope,
            "bundle.failed",
            told,
            now,
        ));
        self.store.commit(changes).await.map(drop)
    }

    /// Removes the archive of a bundle that was deleted while it was compiled.
    async fn discard(&self, project: ProjectId, id: BundleId) -> Result<()> {
        tracing::info!(bundle = %id, "bundle was deleted while it was compiled");
        self.blobs.delete(&Bundle::archive_key(project, id)).await
    }

    /// Somebody else wrote the bundle: fine if it is not ours to compile any more.
    async fn after_race(&self, project: ProjectId, id: BundleId, error: Error) -> Result<()> {
        match self.store.find::<Bundle>(&Scope::Instance, id).await? {
            None => self.discard(project, id).await,
            Some(bundle) if is_open(&bundle) => Err(error),
            Some(_) => Ok(()),
        }
    }
}

fn is_open(bundle: &Bundle) -> bool {
    matches!(bundle.status, BundleStatus::Pending | BundleStatus::Compiling)
}

fn refused(code: &str, message: &str) -> CompileFailure {
    CompileFailure::Invalid(vec![problem(code, message)])
}

/// Errors first, at most [`MAX_DIAGNOSTICS`].
fn capped(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
    diagnostics.truncate(MAX_DIAGNOSTICS);
    diagnostics
}

fn compiled(read: &Stored<Bundle>, mut next: Bundle, signed: &Signed) -> Result<Changes> {
    let now = next.updated_at;
    let scope = read.scope();
    let assembled = signed.assembled();
    next.status = BundleStatus::Compiled;
    next.checksum = Some(signed.checksum());
    next.size_bytes = Some(signed.bytes().len() as u64);
    next.storage_key = Some(Bundle::archive_key(next.project_id, next.id));
    next.config_hash = Some(assembled.config_hash());
    next.manifest = Some(serde_json::to_value(assembled.archive().manifest())?);
    next.diagnostics = capped(assembled.diagnostics().to_vec());
    next.signature = Some(STANDARD.encode(&signed.signature().bytes));
    next.signing_key_id = Some(signed.signature().key_id.clone());
    next.risk_findings = assembled.findings().to_vec();
    next.risk_level = next.declared_risk.max(assembled.risk());
    next.activation = assembled.activation();
    let sbom = BundleSbom {
        bundle_id: next.id,
        organisation_id: next.organisation_id,
        project_id: next.project_id,
        document: assembled.sbom(&Served { bundle_id: next.id, version: &next.version, compiled_at: now })?,
        created_at: now,
    };
    let told = json!({
        "bundle_id": next.id,
        "version": next.version,
        "project_id": next.project_id,
        "checksum": next.checksum,
        "risk_level": next.risk_level,
        "activation": next.activation,
    });
    let audit = AuditEntry::new(&scope, Actor::System, "bundle.compiled", next.id, now).with_changes(
        json!({ "status": "compiled", "checksum": next.checksum, "risk_level": next.risk_level }),
    );
    Ok(Changes::new().update(read, &next)?.upsert(&sbom)?.audit(audit).event(Event::new(
        &scope,
        "bundle.compiled",
        told,
        now,
    )))
}

/// The bundle that a job is about.
fn bundle_id(job: &NewJob) -> Result<BundleId> {
    serde_json::from_value(job.payload["bundle_id"].clone())
        .map_err(|_| Error::malformed("the payload of a compile job must be {\"bundle_id\": \"<uuid>\"}"))
}

#[async_trait]
impl JobHandler for CompileHandler {
    fn kind(&self) -> &str {
        COMPILE_JOB
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        self.compile(bundle_id(&job.job)?).await?;
        Ok(JobOutcome::Done)
    }

    async fn give_up(&self, job: &NewJob, reason: &str) -> Result<()> {
        let id = bundle_id(job)?;
        let Some(bundle) = self.store.find::<Bundle>(&Scope::Instance, id).await? else {
            return Ok(());
        };
        if !is_open(&bundle) {
            return Ok(());
        }
        // The reason may name internals, such as URLs; the log has it under the job's id.
        tracing::error!(bundle = %id, job = %job.id, reason, "compiling was given up");
        let message = format!(
            "the bundle could not be compiled because of a fault of the control plane, and trying again did \
             not help; its operator finds the details under job {}",
            job.id
        );
        let mut next = bundle.value.clone();
        next.updated_at = self.clock.now();
        self.fail(&bundle, next, vec![problem("compile-gave-up", &message)]).await
    }
}
