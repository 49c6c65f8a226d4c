//! What every [`BlobStore`] must do. Run [`suite`] from the back end's own tests.

use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;
use zentinel_core::port::BlobStore;
use zentinel_core::{Kind, Sha256Digest};

fn key() -> String {
    format!("bundles/{}/{}.tar.zst", Uuid::new_v4(), Uuid::new_v4())
}

/// Runs every case against an empty or used store; keys are fresh.
///
/// # Panics
/// When the back end breaks the contract.
pub async fn suite(blobs: Arc<dyn BlobStore>) {
    blobs.ping().await.expect("ping");
    what_was_put_is_read_back(&*blobs).await;
    ranges_are_cut_at_the_end(&*blobs).await;
    a_blob_never_changes(&*blobs).await;
    a_wrong_digest_is_refused(&*blobs).await;
    absent_keys_are_absent(&*blobs).await;
    bad_keys_are_refused(&*blobs).await;
    racing_writers_agree(blobs).await;
}

async fn what_was_put_is_read_back(blobs: &dyn BlobStore) {
    for size in [0, 1, 100_000, 6_000_000] {
        let (key, bytes) = (key(), Bytes::from(vec![7; size]));
        blobs.put(&key, bytes.clone(), &Sha256Digest::of(&bytes)).await.expect("put");
        assert_eq!(blobs.get(&key, None).await.expect("get"), bytes);
        assert_eq!(blobs.head(&key).await.expect("head").expect("present").size, size as u64);
    }
}

async fn ranges_are_cut_at_the_end(blobs: &dyn BlobStore) {
    let (key, bytes) = (key(), Bytes::from_static(b"0123456789"));
    blobs.put(&key, bytes.clone(), &Sha256Digest::of(&bytes)).await.expect("put");
    for (range, expected) in [(2..5, "234"), (8..100, "89"), (10..20, ""), (0..10, "0123456789"), (3..3, "")]
    {
        assert_eq!(blobs.get(&key, Some(range)).await.expect("range"), expected);
    }
}

async fn a_blob_never_changes(blobs: &dyn BlobStore) {
    let (key, bytes) = (key(), Bytes::from_static(b"first"));
    let other = Bytes::from_static(b"other");
    blobs.put(&key, bytes.clone(), &Sha256Digest::of(&bytes)).await.expect("put");
    blobs.put(&key, bytes.clone(), &Sha256Digest::of(&bytes)).await.expect("the same bytes again");
    let refused = blobs.put(&key, other.clone(), &Sha256Digest::of(&other)).await.expect_err("other bytes");
    assert_eq!(refused.kind(), Kind::Conflict);
    assert_eq!(blobs.get(&key, None).await.expect("get"), bytes);
}

async fn a_wrong_digest_is_refused(blobs: &dyn BlobStore) {
    let key = key();
    let refused =
        blobs.put(&key, Bytes::from_static(b"x"), &Sha256Digest::of(b"y")).await.expect_err("digest");
    assert_eq!(refused.kind(), Kind::Invalid);
    assert_eq!(blobs.head(&key).await.expect("head"), None);
}

async fn absent_keys_are_absent(blobs: &dyn BlobStore) {
    let key = key();
    assert_eq!(blobs.get(&key, None).await.expect_err("get").kind(), Kind::NotFound);
    assert_eq!(blobs.get(&key, Some(0..1)).await.expect_err("range").kind(), Kind::NotFound);
    assert_eq!(blobs.head(&key).await.expect("head"), None);
    blobs.delete(&key).await.expect("deleting nothing");
    let bytes = Bytes::from_static(b"x");
    blobs.put(&key, bytes.clone(), &Sha256Digest::of(&bytes)).await.expect("put");
    blobs.delete(&key).await.expect("delete");
    assert_eq!(blobs.head(&key).await.expect("head"), None);
}

async fn bad_keys_are_refused(blobs: &dyn BlobStore) {
    for bad in ["", "../x", "/x", "a/../b", "a b", "x\0"] {
        let refused = blobs.get(bad, None).await.expect_err("bad key");
        assert_eq!(refused.kind(), Kind::Invalid, "{bad:?}");
    }
}

async fn racing_writers_agree(blobs: Arc<dyn BlobStore>) {
    let (key, bytes) = (key(), Bytes::from(vec![3; 50_000]));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (blobs, key, bytes) = (Arc::clone(&blobs), key.clone(), bytes.clone());
            tokio::spawn(async move { blobs.put(&key, bytes.clone(), &Sha256Digest::of(&bytes)).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic").expect("idempotent put");
    }
    assert_eq!(blobs.get(&key, None).await.expect("get"), bytes);
}
