//! Blob back ends over [`object_store`]: memory, a local directory, S3-compatible services.

mod leftovers;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::signer::Signer as _;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use zentinel_core::port::{BlobMeta, BlobStore};
use zentinel_core::presign::UrlSigner;
use zentinel_core::{Error, Kind, Result, Secret, Sha256Digest, Timestamp};

/// How to reach an S3-compatible service.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The bucket; it must exist.
    pub bucket: String,
    /// Base URL of the service; `None` for AWS itself. Plain HTTP is accepted here, because the
    /// operator wrote it.
    pub endpoint: Option<Url>,
    /// The region, `us-east-1` where the service does not care.
    pub region: String,
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret,
    /// How long a call may take, retries included.
    pub timeout: Duration,
}

impl S3Options {
    /// Options with the defaults of the wire contract: region `us-east-1`, 15 s per call.
    #[must_use]
    pub fn new(
        bucket: impl Into<String>,
        access_key_id: impl Into<String>,
        secret_access_key: Secret,
    ) -> Self {
        Self {
            bucket: bucket.into(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            access_key_id: access_key_id.into(),
            secret_access_key,
            timeout: Duration::from_secs(15),
        }
    }
}

/// Who makes download URLs.
#[derive(Debug)]
enum Presigner {
    /// The control plane serves the bytes itself, below this URL.
    Own { base: Url, signer: UrlSigner },
    /// The service does.
    S3(Arc<AmazonS3>),
}

/// A [`BlobStore`] over any [`ObjectStore`].
#[derive(Debug)]
pub struct ObjectBlobStore {
    objects: Arc<dyn ObjectStore>,
    presigner: Presigner,
    attributes: Attributes,
}

impl ObjectBlobStore {
    /// Keeps blobs in memory. Download URLs lead to `base_url`'s `/blobs`, signed by `signer`.
    #[must_use]
    pub fn memory(base_url: Url, signer: UrlSigner) -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            presigner: Presigner::Own { base: base_url, signer },
            attributes: Attributes::new(),
        }
    }

    /// Keeps blobs below `dir`, which is made if needed. Every put is synced to disk.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when the directory can't be used.
    pub fn local(dir: &Path, base_url: Url, signer: UrlSigner) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| {
            Error::unavailable(format!("blob directory {} cannot be made", dir.display())).with_source(error)
        })?;
        let files = LocalFileSystem::new_with_prefix(dir).map_err(from_object_store)?.with_fsync(true);
        Ok(Self {
            objects: Arc::new(files),
            presigner: Presigner::Own { base: base_url, signer },
            attributes: Attributes::new(),
        })
    }

    /// Removes from a local directory what puts left behind whose process was killed an hour ago or
    /// earlier. It was never served, but it takes room. Returns how many files are gone.
    #[must_use]
    pub fn remove_leftovers(dir: &Path, now: Timestamp) -> usize {
        leftovers::remove(dir, now.into())
    }

    /// Keeps blobs in a bucket of an S3-compatible service, which presigns download URLs itself.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the options don't make sense together.
    pub fn s3(options: S3Options) -> Result<Self> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(options.bucket)
            .with_region(options.region)
            .with_access_key_id(options.access_key_id)
            .with_secret_access_key(options.secret_access_key.expose())
            .with_client_options(ClientOptions::new().with_timeout(options.timeout).with_allow_http(true))
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    ..BackoffConfig::default()
                },
                max_retries: 3,
                retry_timeout: options.timeout,
            });
        if let Some(endpoint) = options.endpoint {
            // A service at a fixed address has no host name per bucket.
            let endpoint = endpoint.as_str().trim_end_matches('/');
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        let bucket = Arc::new(builder.build().map_err(|error| Error::invalid(error.to_string()))?);
        let content_type = Attributes::from_iter([(Attribute::ContentType, "application/zstd")]);
        Ok(Self {
            objects: Arc::clone(&bucket) as Arc<dyn ObjectStore>,
            presigner: Presigner::S3(bucket),
            attributes: content_type,
        })
    }

    /// Succeeds when the blob under a taken key is the same.
    async fn must_be_same(&self, location: &ObjectPath, bytes: &Bytes) -> Result<()> {
        let present = self.objects.get(location).await.map_err(from_object_store)?;
        let present = present.bytes().await.map_err(from_object_store)?;
        if present == bytes { Ok(()) } else { Err(Error::conflict("another blob is stored under this key")) }
    }
}

/// Checks a key by the port's rules.
fn location(key: &str) -> Result<ObjectPath> {
    let segment = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if key.len() > 512 || !key.split('/').all(segment) {
        return Err(Error::invalid_field("key", "is invalid"));
    }
    ObjectPath::parse(key).map_err(|error| Error::invalid_field("key", "is invalid").with_source(error))
}

fn from_object_store(error: object_store::Error) -> Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => Kind::NotFound,
        object_store::Error::AlreadyExists { .. } => Kind::Conflict,
        _ => Kind::Unavailable,
    };
    let message = match kind {
        Kind::NotFound => "Blob not found",
        Kind::Conflict => "another blob is stored under this key",
        _ => "object storage is unavailable",
    };
    Error::new(kind, message).with_source(error)
}

#[async_trait]
impl BlobStore for ObjectBlobStore {
    async fn put(&self, key: &str, bytes: Bytes, digest: &Sha256Digest) -> Result<()> {
        let location = location(key)?;
        if Sha256Digest::of(&bytes) != *digest {
            return Err(Error::invalid_field("digest", "does not match the bytes"));
        }
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: self.attributes.clone(),
            ..PutOptions::default()
        };
        match self.objects.put_opts(&location, bytes.clone().into(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => self.must_be_same(&location, &bytes).await,
            Err(error) => Err(from_object_store(error)),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let location = location(key)?;
        if let Some(range) = &range {
            let size = self.objects.head(&location).await.map_err(from_object_store)?.size;
            if range.start >= size.min(range.end) {
                return Ok(Bytes::new());
            }
        }
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.objects.get_opts(&location, options).await.map_err(from_object_store)?;
        found.bytes().await.map_err(from_object_store)
    }

    async fn head(&self, key: &str) -> Result<Option<BlobMeta>> {
        match self.objects.head(&location(key)?).await {
            Ok(meta) => Ok(Some(BlobMeta { size: meta.size })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(from_object_store(error)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.objects.delete(&location(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(error)),
        }
    }

    async fn presign_get(&self, key: &str, now: Timestamp, expires: Timestamp) -> Result<Url> {
        let location = location(key)?;
        match &self.presigner {
            Presigner::Own { base, signer } => signer.sign(base, key, expires),
            Presigner::S3(bucket) => {
                let validity = (expires - now)
                    .to_std()
                    .map_err(|_| Error::invalid_field("expires", "is in the past"))?;
                bucket.signed_url(http::Method::GET, &location, validity).await.map_err(from_object_store)
            }
        }
    }

    async fn ping(&self) -> Result<()> {
        // A key that is never written: "not found" is a perfectly good answer.
        match self.objects.head(&ObjectPath::from("ping")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_the_store() {
        for bad in ["", "/", "a//b", "../a", "a/../b", ".hidden", "a/.tmp", "a b", "a\\b", "ä", "a\0"] {
            assert!(location(bad).is_err(), "{bad:?}");
        }
        assert_eq!(location("bundles/a-b/c.tar.zst").unwrap().as_ref(), "bundles/a-b/c.tar.zst");
    }
}
