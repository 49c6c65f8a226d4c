//! Signed downloads.

use crate::world::{Reply, World};
use bytes::Bytes;
use std::time::Duration;
use zentinel_core::Sha256Digest;
use zentinel_core::port::BlobStore;

const KEY: &str = "bundles/a/b.tar.zst";

async fn blob(world: &World, size: usize) -> (Bytes, String) {
    let bytes: Bytes = (0..size).map(|n| (n * 31 % 251) as u8).collect();
    world.blobs.put(KEY, bytes.clone(), &Sha256Digest::of(&bytes)).await.unwrap();
    let expires = world.now() + Duration::from_secs(60);
    let url = world.blobs.presign_get(KEY, world.now(), expires).await.unwrap();
    (bytes, format!("{}?{}", url.path(), url.query().unwrap()))
}

async fn get(world: &World, path: &str, headers: &[(&str, &str)]) -> Reply {
    world.call("GET", path, headers, None).await
}

#[tokio::test]
async fn a_whole_archive_larger_than_one_piece() {
    let world = World::new().await;
    let (bytes, path) = blob(&world, 2_500_000).await;
    let reply = get(&world, &path, &[]).await;
    assert_eq!(reply.status.as_u16(), 200);
    assert_eq!(reply.bytes, bytes);
    assert_eq!(reply.header("content-length"), "2500000");
    assert_eq!(reply.header("content-type"), "application/zstd");
    assert_eq!(reply.header("accept-ranges"), "bytes");
    let etag = reply.header("etag").to_owned();
    let head = world.call("HEAD", &path, &[], None).await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!((head.header("content-length"), head.header("etag")), ("2500000", etag.as_str()));
    let same = get(&world, &path, &[("if-none-match", &etag)]).await;
    assert_eq!((same.status.as_u16(), same.bytes.len()), (304, 0));
}

#[tokio::test]
async fn parts_of_it() {
    let world = World::new().await;
    let (bytes, path) = blob(&world, 1_000).await;
    for (range, start, end) in [("bytes=0-9", 0, 10), ("bytes=990-", 990, 1_000), ("bytes=-5", 995, 1_000)] {
        let reply = get(&world, &path, &[("range", range)]).await;
        assert_eq!(reply.status.as_u16(), 206);
        assert_eq!(reply.bytes, bytes.slice(start..end));
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/1000", end - 1));
    }
    let beyond = get(&world, &path, &[("range", "bytes=1000-")]).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */1000"));
    for ignored in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1"] {
        assert_eq!(get(&world, &path, &[("range", ignored)]).await.bytes, bytes);
    }
    let etag = get(&world, &path, &[]).await.header("etag").to_owned();
    let part = get(&world, &path, &[("range", "bytes=0-9"), ("if-range", &etag)]).await;
    assert_eq!(part.status.as_u16(), 206);
    let whole = get(&world, &path, &[("range", "bytes=0-9"), ("if-range", "\"other\"")]).await;
    assert_eq!(whole.status.as_u16(), 200);
}

#[tokio::test]
async fn only_a_valid_signature_opens_it() {
    let world = World::new().await;
    let (_, path) = blob(&world, 10).await;
    let (place, query) = path.split_once('?').unwrap();
    let wrong = "Invalid download signature";
    get(&world, place, &[]).await.expect_error(403, wrong);
    get(&world, &format!("{place}?expires=99999999999&signature=x"), &[]).await.expect_error(403, wrong);
    get(&world, &format!("{place}?{}", query.replace("expires=1", "expires=2")), &[])
        .await
        .expect_error(403, wrong);
    get(&world, &format!("/blobs/bundles/a/c.tar.zst?{query}"), &[]).await.expect_error(403, wrong);
    get(&world, &format!("/blobs/bundles/a/../a/b.tar.zst?{query}"), &[]).await.expect_error(403, wrong);
    get(&world, &format!("{place}?expires=x&signature=x"), &[]).await.expect_error(403, wrong);
    // Signed, but there is no such blob, or cannot be.
    for key in ["bundles/a/none.tar.zst", "bundles/a b/c"] {
        let expires = world.now() + Duration::from_secs(60);
        let signer = world.services.url_signer.clone().unwrap();
        let url = signer.sign(&world.url, key, expires).unwrap();
        let reply = get(&world, &format!("{}?{}", url.path(), url.query().unwrap()), &[]).await;
        assert_eq!(reply.status.as_u16(), 404, "{key}");
    }
    get(&world, &path, &[]).await.expect(200);
    world.advance(61);
    get(&world, &path, &[]).await.expect_error(403, "Download URL has expired");
}

#[tokio::test]
async fn without_a_signer_there_is_nothing() {
    let world = World::new().await;
    let (_, path) = blob(&world, 10).await;
    let services = zentinel_http::Services { url_signer: None, ..(*world.services).clone() };
    let app = zentinel_http::router(std::sync::Arc::new(services));
    let request = http::Request::get(&path).body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(app, request).await.unwrap();
    assert_eq!(response.status().as_u16(), 404);
}
