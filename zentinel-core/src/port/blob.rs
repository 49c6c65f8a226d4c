//! Where archives are kept.

use crate::error::Result;
use crate::value::{Sha256Digest, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use url::Url;

/// What is known of a blob without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobMeta {
    /// Length in bytes.
    pub size: u64,
}

/// Immutable objects by key. Keys are relative paths of `[a-zA-Z0-9._-]` segments joined by `/`.
///
/// # Contract
/// A blob never changes: putting the same bytes again succeeds and changes nothing, putting other
/// bytes under a taken key fails. A put that returned is durable and visible to every reader.
///
/// # Errors
/// `NotFound` for an absent key, `Conflict` for other bytes under a taken key, `Invalid` for a
/// key that is not allowed or bytes that do not have the digest, `Unavailable` when the back end
/// is away.
///
/// # Testing
/// `zentinel_store::conformance::blob`.
#[async_trait]
pub trait BlobStore: Debug + Send + Sync + 'static {
    /// Stores `bytes`, which must have `digest`, under `key`. Idempotent.
    async fn put(&self, key: &str, bytes: Bytes, digest: &Sha256Digest) -> Result<()>;
    /// Reads a blob or the given range of it; a range is cut at the end of the blob.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;
    /// What is known of a blob; `None` when there is none.
    async fn head(&self, key: &str) -> Result<Option<BlobMeta>>;
    /// Removes a blob; removing an absent one succeeds.
    async fn delete(&self, key: &str) -> Result<()>;
    /// A URL under which anybody may GET the blob, with `Range`, until `expires`.
    async fn presign_get(&self, key: &str, now: Timestamp, expires: Timestamp) -> Result<Url>;
    /// Whether the back end answers.
    async fn ping(&self) -> Result<()>;
}
