//! Picking back ends for the ports.

use crate::settings::{BlobKind, Settings};
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use zentinel_compiler::validate::{
    ExternalOptions, ExternalValidator, IsolatedOptions, IsolatedValidator, ValidateOptions,
};
use zentinel_core::port::{BlobStore, Clock, ConfigValidator, Scheduler, Signer, Store};
use zentinel_core::presign::UrlSigner;
use zentinel_core::{Error, Result};
use zentinel_store::{
    MasterKey, MemoryStore, ObjectBlobStore, PemFileSigner, PostgresStore, S3Options, SealedSigner,
    SqliteStore,
};

/// The opened back ends.
pub(super) struct BackEnds {
    pub(super) store: Arc<dyn Store>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) blobs: Arc<dyn BlobStore>,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) validator: Arc<dyn ConfigValidator>,
    /// Checks download URLs; absent where S3 serves the archives.
    pub(super) url_signer: Option<UrlSigner>,
    /// Whether other replicas may write to the same store.
    pub(super) shared: bool,
}

/// Opens what the settings name.
pub(super) async fn open(settings: &Settings, public_url: &Url, clock: Arc<dyn Clock>) -> Result<BackEnds> {
    make_data_directory(settings)?;
    let master = master_key(settings)?;
    let (store, scheduler, shared) = records(settings).await?;
    let signer: Arc<dyn Signer> = match &settings.signing.key_file {
        Some(path) => Arc::new(PemFileSigner::open(path, "default")?),
        None => {
            let sealed = SealedSigner::new(Arc::clone(&store), Arc::clone(&clock), master.clone());
            sealed.check().await?;
            Arc::new(sealed)
        }
    };
    let url_signer = UrlSigner::new(master.derive("download-urls"));
    let (blobs, url_signer) = archives(settings, public_url, url_signer, &*clock)?;
    Ok(BackEnds { store, scheduler, blobs, signer, validator: validator(settings), url_signer, shared })
}

/// Opens the record store alone, for commands that don't serve.
///
/// # Errors
/// [`Kind::Unavailable`](zentinel_core::Kind::Unavailable) when it can't be opened.
pub async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>> {
    make_data_directory(settings)?;
    Ok(records(settings).await?.0)
}

/// The key of the data directory, made at the first start; or the one that an operator names, which
/// must be there: a replica that made its own could open nothing that the others sealed.
fn master_key(settings: &Settings) -> Result<MasterKey> {
    match &settings.signing.master_key_file {
        None => MasterKey::load_or_create(&settings.data_dir.join("master.key")),
        Some(path) if path.exists() => MasterKey::load_or_create(path),
        Some(path) => Err(Error::unavailable(format!("master key file {} does not exist", path.display()))
            .with_hint("make it once with `head -c 32 /dev/urandom`, and give every replica the same file")),
    }
}

fn make_data_directory(settings: &Settings) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&settings.data_dir).map_err(|error| {
        Error::unavailable(format!("data directory {}: {error}", settings.data_dir.display()))
            .with_source(error)
    })
}

/// A store that is also the scheduler, twice.
fn both<S: Store + Scheduler>(store: S) -> (Arc<dyn Store>, Arc<dyn Scheduler>) {
    let store = Arc::new(store);
    (Arc::clone(&store) as Arc<dyn Store>, store)
}

async fn records(settings: &Settings) -> Result<(Arc<dyn Store>, Arc<dyn Scheduler>, bool)> {
    let ((store, scheduler), shared) = match settings.database.url.expose() {
        "memory" => (both(MemoryStore::new()), false),
        "sqlite" => (both(SqliteStore::open(&settings.data_dir.join("zentinel.db")).await?), false),
        url => (both(PostgresStore::connect(url, settings.database.pool_size).await?), true),
    };
    Ok((store, scheduler, shared))
}

fn archives(
    settings: &Settings,
    public_url: &Url,
    url_signer: UrlSigner,
    clock: &dyn Clock,
) -> Result<(Arc<dyn BlobStore>, Option<UrlSigner>)> {
    let blobs = &settings.blobs;
    let (store, url_signer) = match blobs.kind {
        BlobKind::Memory => {
            (ObjectBlobStore::memory(public_url.clone(), url_signer.clone()), Some(url_signer))
        }
        BlobKind::Local => {
            let directory = settings.data_dir.join("blobs");
            let (below, now) = (directory.clone(), clock.now());
            // Nothing waits for it: the start must not take longer the more archives there are.
            drop(tokio::task::spawn_blocking(move || {
                let removed = ObjectBlobStore::remove_leftovers(&below, now);
                if removed > 0 {
                    tracing::info!(removed, "half-written archives of an earlier process were removed");
                }
            }));
            (ObjectBlobStore::local(&directory, public_url.clone(), url_signer.clone())?, Some(url_signer))
        }
        BlobKind::S3 => {
            let secret = blobs.s3_secret_access_key.get().cloned();
            let secret =
                secret.ok_or_else(|| Error::invalid_field("blobs.s3_secret_access_key", "can't be blank"))?;
            let mut options = S3Options::new(&blobs.s3_bucket, &blobs.s3_access_key_id, secret);
            options.endpoint = blobs.s3_endpoint.clone();
            options.region = blobs.s3_region.clone();
            (ObjectBlobStore::s3(options)?, None)
        }
    };
    Ok((Arc::new(store), url_signer))
}

/// The proxy's parser in child processes, with the proxy's binary behind it when one is named.
fn validator(settings: &Settings) -> Arc<dyn ConfigValidator> {
    let timeout = Duration::from_secs(settings.validation.timeout_seconds.into());
    let validate = ValidateOptions {
        time_limit: timeout,
        concurrency: settings.validation.max_concurrent as usize,
        ..ValidateOptions::default()
    };
    let isolated = IsolatedValidator::new(IsolatedOptions { validate, ..IsolatedOptions::default() });
    match &settings.validation.zentinel_binary {
        Some(program) => {
            let options = ExternalOptions { time_limit: timeout, ..ExternalOptions::new(program) };
            Arc::new(ExternalValidator::new(Arc::new(isolated), options))
        }
        None => Arc::new(isolated),
    }
}
