use super::*;
use crate::risk::testing::{BASE, changed};
use crate::validate::InProcessValidator;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zentinel_core::entity::{BundleSbom, Rollout, RolloutSpec, RolloutState, Waiting};
use zentinel_core::id::RolloutId;
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{
    BlobMeta, ClaimedJob, Clock, ConfigValidator, Diagnostic, JobHandler, ManualClock, Scheduler, Store,
    StoreExt,
};
use zentinel_core::presign::UrlSigner;
use zentinel_core::{Scope, Stored};
use zentinel_store::{MemorySigner, MemoryStore, ObjectBlobStore};

/// A blob store that can be away.
#[derive(Debug)]
struct Blobs {
    inner: ObjectBlobStore,
    away: AtomicBool,
}

#[async_trait]
impl BlobStore for Blobs {
    async fn put(&self, key: &str, bytes: Bytes, digest: &Sha256Digest) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the blob store is away"));
        }
        self.inner.put(key, bytes, digest).await
    }
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }
    async fn head(&self, key: &str) -> Result<Option<BlobMeta>> {
        self.inner.head(key).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn presign_get(&self, key: &str, now: Timestamp, expires: Timestamp) -> Result<url::Url> {
        self.inner.presign_get(key, now, expires).await
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

/// What happens to the bundle while it is validated.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Nothing,
    Revoked,
    Deleted,
    Touched,
}

#[derive(Debug)]
struct Validator {
    inner: InProcessValidator,
    store: Arc<MemoryStore>,
    meanwhile: Mutex<Meanwhile>,
}

#[async_trait]
impl ConfigValidator for Validator {
    async fn validate(&self, kdl: &str, generated: bool) -> Result<Vec<Diagnostic>> {
        let meanwhile = std::mem::replace(&mut *self.meanwhile.lock().unwrap(), Meanwhile::Nothing);
        if meanwhile != Meanwhile::Nothing {
            let query =
                zentinel_core::port::Query::all(zentinel_core::RecordKind::Bundle).in_states(&["compiling"]);
            for read in self.store.list::<Bundle>(&Scope::Instance, query).await?.items {
                let mut next = read.value.clone();
                let changes = match meanwhile {
                    Meanwhile::Deleted => Changes::new().delete(&read),
                    Meanwhile::Revoked => {
                        next.status = BundleStatus::Revoked;
                        Changes::new().update(&read, &next)?
                    }
                    _ => Changes::new().update(&read, &next)?,
                };
                self.store.commit(changes).await?;
            }
        }
        self.inner.validate(kdl, generated).await
    }
}

struct World {
    store: Arc<MemoryStore>,
    blobs: Arc<Blobs>,
    signer: Arc<MemorySigner>,
    validator: Arc<Validator>,
    clock: Arc<ManualClock>,
    handler: CompileHandler,
    project: (OrganisationId, ProjectId),
}

impl World {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let base = url::Url::parse("http://127.0.0.1:1").unwrap();
        let blobs = Arc::new(Blobs {
            inner: ObjectBlobStore::memory(base, UrlSigner::new([1; 32])),
            away: AtomicBool::new(false),
        });
        let signer = Arc::new(MemorySigner::generate());
        let validator = Arc::new(Validator {
            inner: InProcessValidator::default(),
            store: store.clone(),
            meanwhile: Mutex::new(Meanwhile::Nothing),
        });
        let start = chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let clock = Arc::new(ManualClock::new(start));
        let handler = CompileHandler::new(
            store.clone(),
            blobs.clone(),
            signer.clone(),
            validator.clone(),
            clock.clone(),
        );
        Self {
            store,
            blobs,
            signer,
            validator,
            clock,
            handler,
            project: (OrganisationId::random(), ProjectId::random()),
        }
    }

    async fn add(&self, new: NewBundle) -> Bundle {
        self.clock.advance(Duration::from_secs(1));
        let (bundle, changes) = create(self.project, Actor::System, new, self.clock.now()).unwrap();
        self.store.commit(changes).await.unwrap();
        bundle
    }

    async fn job(&self) -> ClaimedJob {
        let now = self.clock.now();
        let lease = Duration::from_secs(60);
        let mut jobs = self.store.claim(Queue::Default, "worker", 10, lease, now).await.unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.remove(0)
    }

    /// Creates a bundle and runs its job.
    async fn compiled(&self, version: &str, config: &str) -> Bundle {
        let bundle = self.add(new(version, config)).await;
        let job = self.job().await;
        self.handler.run(&job).await.unwrap();
        self.store.complete(&job, self.clock.now()).await.unwrap();
        self.read(bundle.id).await.value
    }

    async fn read(&self, id: BundleId) -> Stored<Bundle> {
        self.store.fetch::<Bundle>(&Scope::Instance, id).await.unwrap()
    }

    /// The audit actions and event types about everything, oldest first.
    async fn told(&self) -> (Vec<String>, Vec<String>) {
        let words = async |kind: LogKind, field: &str| {
            let query = LogQuery::after(kind, 0, 500);
            let entries = self.store.read_log(&Scope::Instance, &query).await.unwrap();
            let word = |body: &serde_json::Value| body[field].as_str().unwrap().to_owned();
            entries.iter().map(|entry| word(&entry.row.body)).collect()
        };
        (words(LogKind::Audit, "action").await, words(LogKind::Event, "type").await)
    }

    async fn completed_rollout(&self, bundle_id: BundleId) {
        self.clock.advance(Duration::from_secs(1));
        let now = self.clock.now();
        let rollout = Rollout {
            id: RolloutId::random(),
            organisation_id: self.project.0,
            project_id: self.project.1,
            bundle_id,
            spec: RolloutSpec::default(),
            state: RolloutState::Completed,
            rollback_of: None,
            rolled_back_by: None,
            excluded: Vec::new(),
            started_at: Some(now),
            completed_at: Some(now),
            paused_at: None,
            unavailable_grace: None,
            error: None,
            waiting: Waiting::default(),
            next_tick_at: None,
            created_by: Actor::System,
            created_at: now,
            updated_at: now,
            environment_id: None,
            scheduled_at: None,
            starts_by_itself: false,
            queued: false,
            supersedes: false,
            revert: None,
            approval: zentinel_core::entity::Approval::default(),
            freeze_override: None,
            template_id: None,
            promoted_from: None,
            requested_by: None,
            traffic: None,
        };
        let changes = Changes::new().insert(&rollout).unwrap();
        self.store.commit(changes).await.unwrap();
    }
}

fn new(version: &str, config: &str) -> NewBundle {
    NewBundle { version: version.to_owned(), config_source: config.to_owned(), ..NewBundle::default() }
}

fn with_file(version: &str, path: &str, content: &str) -> NewBundle {
    NewBundle {
        files: vec![ExtraFile { path: path.to_owned(), content: content.to_owned() }],
        ..new(version, BASE)
    }
}

#[test]
fn fields_are_checked() {
    let scope = (OrganisationId::random(), ProjectId::random());
    let now = chrono::DateTime::UNIX_EPOCH;
    for (bad, field) in [
        (new("", BASE), "version"),
        (new(&"v".repeat(101), BASE), "version"),
        (new("1\n0", BASE), "version"),
        (new("1", "  \n"), "config_source"),
        (new("1", "a\0b"), "config_source"),
        (new("1", &" a".repeat(3 << 20)), "config_source"),
        (with_file("1", "../x", ""), "files"),
        (with_file("1", "manifest.json", ""), "files"),
        (with_file("1", "x", "not base64!"), "files"),
        (with_file("1", "x", &"A".repeat(24 << 20)), "files"),
    ] {
        let error = create(scope, Actor::System, bad, now).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.fields().contains_key(field), "{field}: {error:?}");
    }
}

#[test]
fn a_bundle_is_never_stored_without_its_job() {
    let scope = (OrganisationId::random(), ProjectId::random());
    let (bundle, changes) =
        create(scope, Actor::System, new("1", BASE), chrono::DateTime::UNIX_EPOCH).unwrap();
    assert_eq!(bundle.status, BundleStatus::Pending);
    assert_eq!(changes.writes.len(), 2);
    assert_eq!(changes.jobs.len(), 1);
    assert_eq!(changes.jobs[0].kind, COMPILE_JOB);
    assert_eq!(changes.jobs[0].queue, Queue::Default);
    assert_eq!(changes.jobs[0].unique_key, Some(bundle.id.to_string()));
    assert_eq!(changes.jobs[0].payload["bundle_id"], bundle.id.to_string());
    assert_eq!(changes.audit[0].action, "bundle.created");
    assert_eq!(changes.events[0].kind, "bundle.created");
}

#[tokio::test]
async fn a_good_source_is_compiled_stored_and_signed() {
    let world = World::new();
    let bundle = world.compiled("1.0.0", BASE).await;
    assert_eq!(bundle.status, BundleStatus::Compiled, "{:?}", bundle.diagnostics);
    let key = bundle.storage_key.clone().unwrap();
    assert_eq!(key, format!("bundles/{}/{}.tar.zst", bundle.project_id, bundle.id));
    let archive = world.blobs.get(&key, None).await.unwrap();
    assert_eq!(bundle.size_bytes, Some(archive.len() as u64));
    assert_eq!(bundle.checksum, Some(Sha256Digest::of(&archive)));
    assert_eq!(bundle.config_hash, Some(Sha256Digest::of(BASE.as_bytes())));
    assert_eq!(bundle.manifest.as_ref().unwrap()["files"][0]["path"], "zentinel.kdl");
    assert_eq!((bundle.parent_bundle_id, bundle.activation), (None, Activation::Restart));
    assert_eq!((bundle.risk_level, bundle.risk_findings.len()), (RiskLevel::Low, 0));
    let sbom = world.store.fetch::<BundleSbom>(&bundle.scope(), bundle.id).await.unwrap();
    assert_eq!(sbom.document["serialNumber"], format!("urn:uuid:{}", bundle.id));
    let (audit, events) = world.told().await;
    assert_eq!(audit, ["bundle.created", "bundle.compiled"]);
    assert_eq!(events, ["bundle.created", "bundle.compiled"]);
}

#[tokio::test]
async fn a_stored_archive_can_be_verified() {
    let world = World::new();
    let bundle = world.compiled("1.0.0", BASE).await;
    let verification = verify(&bundle, &*world.blobs, &*world.signer).await.unwrap();
    assert_eq!((verification.verified, verification.signed), (true, true));
    assert_eq!(verification.key_id, bundle.signing_key_id);
    let mut forged = bundle.clone();
    forged.signature = Some(STANDARD.encode([7; 64]));
    assert!(!verify(&forged, &*world.blobs, &*world.signer).await.unwrap().verified);
    let other = MemorySigner::generate();
    assert!(!verify(&bundle, &*world.blobs, &other).await.unwrap().verified);
    let mut swapped = bundle.clone();
    swapped.checksum = Some(Sha256Digest::of(b"other"));
    assert!(!verify(&swapped, &*world.blobs, &*world.signer).await.unwrap().verified);
    let mut unsigned = bundle.clone();
    unsigned.signature = None;
    let verification = verify(&unsigned, &*world.blobs, &*world.signer).await.unwrap();
    assert_eq!((verification.verified, verification.signed, verification.key_id), (false, false, None));
    for (status, message) in [
        (BundleStatus::Revoked, "Bundle has been revoked"),
        (BundleStatus::Compiling, "Bundle is not yet compiled"),
    ] {
        let early = Bundle { status, ..bundle.clone() };
        let error = verify(&early, &*world.blobs, &*world.signer).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Conflict, message));
    }
    world.blobs.delete(bundle.storage_key.as_deref().unwrap()).await.unwrap();
    let error = verify(&bundle, &*world.blobs, &*world.signer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert_eq!(error.message(), "Failed to retrieve bundle for verification");
}

#[tokio::test]
async fn a_bad_source_fails_and_keeps_its_diagnostics() {
    let world = World::new();
    let bundle = world.compiled("1.0.0", "routes {\n").await;
    assert_eq!(bundle.status, BundleStatus::Failed);
    assert!(!bundle.diagnostics.is_empty());
    assert_eq!((bundle.checksum, bundle.storage_key.as_deref()), (None, None));
    let (audit, events) = world.told().await;
    assert_eq!(audit, ["bundle.created", "bundle.compilation_failed"]);
    assert_eq!(events, ["bundle.created", "bundle.failed"]);
    let endless = "a ".repeat(1_000).replace(' ', "\n");
    let bundle = world.compiled("1.0.1", &endless).await;
    assert_eq!(bundle.status, BundleStatus::Failed);
    assert!(bundle.diagnostics.len() <= 200);
    assert!(bundle.diagnostics.is_sorted_by(|a, b| a.severity >= b.severity));
}

#[tokio::test]
async fn a_bundle_is_compared_with_the_one_that_runs() {
    let world = World::new();
    let first = world.compiled("1", BASE).await;
    let second = world.compiled("2", &changed("timeout-secs 20", "timeout-secs 21")).await;
    assert_eq!((second.parent_bundle_id, second.activation), (Some(first.id), Activation::Reload));
    assert_eq!(second.risk_level, RiskLevel::Low);
    // The newest one counts, until a rollout says which one really runs.
    let third = world.compiled("3", &changed("max-rps 50", "max-rps 60")).await;
    assert_eq!((third.parent_bundle_id, third.activation), (Some(second.id), Activation::Restart));
    assert_eq!(third.risk_level, RiskLevel::Medium);
    world.completed_rollout(first.id).await;
    let fourth = world.compiled("4", &changed("\"login\" \"sec\"", "\"sec\"")).await;
    assert_eq!((fourth.parent_bundle_id, fourth.risk_level), (Some(first.id), RiskLevel::High));
    world.completed_rollout(third.id).await;
    let fifth = world.compiled("5", BASE).await;
    assert_eq!(fifth.parent_bundle_id, Some(third.id));
    // A revoked bundle is not what the next one is compared with.
    let read = world.read(third.id).await;
    let revoked = Bundle { status: BundleStatus::Revoked, ..read.value.clone() };
    let changes = Changes::new().update(&read, &revoked).unwrap();
    world.store.commit(changes).await.unwrap();
    let sixth = world.compiled("6", BASE).await;
    assert_eq!(sixth.parent_bundle_id, Some(first.id));
}

#[tokio::test]
async fn the_authors_judgement_is_only_raised_and_files_are_compared() {
    let world = World::new();
    let run = async |new: NewBundle| {
        let bundle = world.add(new).await;
        let job = world.job().await;
        world.handler.run(&job).await.unwrap();
        world.store.complete(&job, world.clock.now()).await.unwrap();
        world.read(bundle.id).await.value
    };
    let careful = NewBundle { risk_level: RiskLevel::High, ..with_file("1", "ca/root.pem", "AAAA") };
    let first = run(careful).await;
    assert_eq!((first.status, first.risk_level), (BundleStatus::Compiled, RiskLevel::High));
    let second = run(with_file("2", "ca/root.pem", "AAAB")).await;
    assert_eq!(second.risk_level, RiskLevel::Medium);
    assert_eq!(second.risk_findings[0].code, "file_changed");
    assert_eq!(second.risk_findings[0].path, "ca/root.pem");
}

#[tokio::test]
async fn the_job_is_retried_while_the_blob_store_is_away() {
    let world = World::new();
    let bundle = world.add(new("1", BASE)).await;
    let job = world.job().await;
    world.blobs.away.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = world.handler.run(&job).await.unwrap_err();
        assert!(error.kind().is_transient());
        assert_eq!(world.read(bundle.id).await.status, BundleStatus::Compiling);
    }
    world.blobs.away.store(false, Ordering::SeqCst);
    world.handler.run(&job).await.unwrap();
    let read = world.read(bundle.id).await;
    assert_eq!(read.status, BundleStatus::Compiled);
    // Running it once more changes nothing.
    world.handler.run(&job).await.unwrap();
    assert_eq!(world.read(bundle.id).await.revision, read.revision);
    assert_eq!(world.told().await.1, ["bundle.created", "bundle.compiled"]);
}

#[tokio::test]
async fn a_crash_after_the_upload_is_harmless_and_other_bytes_are_an_error() {
    let world = World::new();
    let bundle = world.add(new("1", BASE)).await;
    let source = Source::new(BASE, Vec::new(), false).unwrap();
    let compiler = crate::pipeline::Compiler::new(world.validator.clone());
    let assembled = compiler.compile(source, None).await.unwrap();
    let key = Bundle::archive_key(bundle.project_id, bundle.id);
    let archive = assembled.archive();
    world.blobs.put(&key, archive.bytes().clone(), &archive.checksum()).await.unwrap();
    let job = world.job().await;
    world.handler.run(&job).await.unwrap();
    world.store.complete(&job, world.clock.now()).await.unwrap();
    assert_eq!(world.read(bundle.id).await.checksum, Some(archive.checksum()));

    let other = world.add(new("2", BASE)).await;
    let key = Bundle::archive_key(other.project_id, other.id);
    world.blobs.put(&key, "else".into(), &Sha256Digest::of(b"else")).await.unwrap();
    world.handler.run(&world.job().await).await.unwrap();
    let other = world.read(other.id).await;
    assert_eq!(other.status, BundleStatus::Failed);
    assert_eq!(other.diagnostics[0].code, "archive-conflict");
}

#[tokio::test]
async fn what_happens_to_a_bundle_while_it_is_compiled_stands() {
    for (meanwhile, left) in [(Meanwhile::Revoked, Some(BundleStatus::Revoked)), (Meanwhile::Deleted, None)] {
        let world = World::new();
        let bundle = world.add(new("1", BASE)).await;
        let job = world.job().await;
        *world.validator.meanwhile.lock().unwrap() = meanwhile;
        world.handler.run(&job).await.unwrap();
        let now = world.store.find::<Bundle>(&Scope::Instance, bundle.id).await.unwrap();
        assert_eq!(now.map(|bundle| bundle.status), left);
        assert_eq!(world.told().await.1, ["bundle.created"]);
        if meanwhile == Meanwhile::Deleted {
            let key = Bundle::archive_key(bundle.project_id, bundle.id);
            assert_eq!(world.blobs.head(&key).await.unwrap(), None);
            world.handler.run(&job).await.unwrap();
        }
    }
    // Somebody touched it: the job is tried again and then succeeds.
    let world = World::new();
    let bundle = world.add(new("1", BASE)).await;
    let job = world.job().await;
    *world.validator.meanwhile.lock().unwrap() = Meanwhile::Touched;
    assert_eq!(world.handler.run(&job).await.unwrap_err().kind(), Kind::Stale);
    world.handler.run(&job).await.unwrap();
    assert_eq!(world.read(bundle.id).await.status, BundleStatus::Compiled);
}

#[tokio::test]
async fn a_job_that_is_given_up_fails_its_bundle() {
    let world = World::new();
    let bundle = world.add(new("1", BASE)).await;
    let job = world.job().await;
    world.blobs.away.store(true, Ordering::SeqCst);
    world.handler.run(&job).await.unwrap_err();
    world.handler.give_up(&job.job, "PUT https://blobs.internal/b?sig=1 failed").await.unwrap();
    let read = world.read(bundle.id).await;
    assert_eq!(read.status, BundleStatus::Failed);
    assert_eq!(read.diagnostics[0].code, "compile-gave-up");
    assert!(read.diagnostics[0].message.contains(&job.job.id.to_string()));
    assert_eq!(world.told().await.1, ["bundle.created", "bundle.failed"]);
    // The reason is for the log; tenants read the rest.
    for kind in [LogKind::Audit, LogKind::Event] {
        let query = LogQuery::after(kind, 0, 500);
        let entries = world.store.read_log(&Scope::Instance, &query).await.unwrap();
        assert!(!format!("{entries:?} {:?}", read.diagnostics).contains("blobs.internal"));
    }
    // Giving up on what is decided changes nothing, and a bad payload is an error.
    world.handler.give_up(&job.job, "again").await.unwrap();
    assert_eq!(world.read(bundle.id).await.revision, read.revision);
    let mut odd = job.clone();
    odd.job.payload = json!({});
    assert_eq!(world.handler.run(&odd).await.unwrap_err().kind(), Kind::Malformed);
}
