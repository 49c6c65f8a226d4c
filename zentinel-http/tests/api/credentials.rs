//! Who gets in, and in which order the doors are checked.

use crate::world::{Reply, World, insert, request};
use axum::body::Body;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use zentinel_core::entity::{ApiKey, ApiScope};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, RecordKind, Scope};

async fn with_header(world: &World, header: Option<&str>) -> Reply {
    let mut request = request("GET", &world.home.path("/nodes"));
    if let Some(header) = header {
        request = request.header("authorization", header);
    }
    world.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn missing_and_unknown_keys_have_the_contracts_texts() {
    let world = World::new().await;
    for header in [None, Some("Basic abc"), Some("Bearer"), Some("Bearer "), Some("abc")] {
        let reply = with_header(&world, header).await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        reply.expect_error(401, "Missing Authorization header");
    }
    let reply = with_header(&world, Some("Bearer made-up")).await;
    reply.expect_error(401, "Invalid or expired API key");
    let key = &world.home.key;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        with_header(&world, Some(&format!("{scheme} {key}"))).await.expect(200);
    }
}

#[tokio::test]
async fn expired_and_revoked_keys_are_like_unknown_ones() {
    let world = World::new().await;
    let scopes: BTreeSet<_> = [ApiScope::NodesRead].into();
    let until = world.now() + Duration::from_secs(10);
    let organisation = world.home.organisation.id;
    let (key, raw) =
        ApiKey::issue(organisation, None, None, "short", scopes, Some(until), world.now()).unwrap();
    insert(&*world.store, &key).await;
    let header = format!("Bearer {}", raw.expose());
    with_header(&world, Some(&header)).await.expect(200);
    world.clock.advance(Duration::from_secs(10));
    let reply = with_header(&world, Some(&header)).await;
    reply.expect_error(401, "Invalid or expired API key");
}

#[tokio::test]
async fn a_revocation_anywhere_is_in_force_at_once() {
    let world = World::new().await;
    let raw = world.key(&[ApiScope::NodesRead], false).await;
    let header = format!("Bearer {raw}");
    with_header(&world, Some(&header)).await.expect(200);
    // Not through the API: as another replica would.
    let scope = Scope::Organisation(world.home.organisation.id);
    let keys = world.store.list_all::<ApiKey>(&scope, Query::all(RecordKind::ApiKey)).await;
    for read in keys.unwrap().into_iter().filter(|key| key.name == "key") {
        loop {
            let read = world.store.fetch::<ApiKey>(&scope, read.id).await.unwrap();
            let mut key = read.value.clone();
            key.revoked_at = Some(world.now());
            let changes = Changes::new().update(&read, &key).unwrap();
            // The use of the key may be noted at the same time.
            if world.store.as_ref().commit_ok(changes).await {
                break;
            }
        }
    }
    let reply = with_header(&world, Some(&header)).await;
    reply.expect_error(401, "Invalid or expired API key");
}

/// Whether a commit went through.
trait CommitOk {
    async fn commit_ok(&self, changes: Changes) -> bool;
}

impl<S: zentinel_core::port::Store> CommitOk for S {
    async fn commit_ok(&self, changes: Changes) -> bool {
        self.commit(changes).await.is_ok()
    }
}

#[tokio::test]
async fn each_scope_is_needed_and_implies_nothing() {
    let world = World::new().await;
    let writer = world.key(&[ApiScope::NodesWrite], false).await;
    let reply = world.call("GET", &world.home.path("/nodes"), &writer, None).await;
    reply.expect_error(403, "Insufficient scope. Required: nodes:read");
    let reader = world.key(&[ApiScope::BundlesRead], false).await;
    let body = Some(json!({"version": "1", "config_source": "x"}));
    let reply = world.call("POST", &world.home.path("/bundles"), &reader, body).await;
    reply.expect_error(403, "Insufficient scope. Required: bundles:write");
    // The scope is checked before the project.
    let reply = world.call("GET", "/api/v1/projects/nowhere/nodes", &writer, None).await;
    reply.expect_error(403, "Insufficient scope. Required: nodes:read");
}

#[tokio::test]
async fn a_key_stored_without_scopes_has_all_but_administration() {
    let world = World::new().await;
    let scopes: BTreeSet<_> = [ApiScope::NodesRead].into();
    let organisation = world.home.organisation.id;
    let (mut key, raw) = ApiKey::issue(organisation, None, None, "old", scopes, None, world.now()).unwrap();
    key.scopes.clear();
    insert(&*world.store, &key).await;
    let raw = raw.expose();
    world.call("GET", &world.home.path("/bundles"), raw, None).await.expect(200);
    let reply = world.call("POST", "/api/v1/projects", raw, Some(json!({"name": "New"}))).await;
    reply.expect_error(403, "Insufficient scope. Required: orgs:admin");
    let body = world.call("GET", &format!("/api/v1/api-keys/{}", key.id), raw, None).await.expect(200);
    assert_eq!(body["api_key"]["legacy_full_access"], true);
}

#[tokio::test]
async fn a_bound_key_knows_only_its_project() {
    let world = World::new().await;
    world.post("/api/v1/projects", json!({"name": "Second"})).await.expect(201);
    let bound = world.key(ApiScope::ALL, true).await;
    world.call("GET", &world.home.path("/nodes"), &bound, None).await.expect(200);
    for slug in ["second", "nowhere", "NOT-a-slug", "%00"] {
        let path = format!("/api/v1/projects/{slug}/nodes");
        let reply = world.call("GET", &path, &bound, None).await;
        reply.expect_error(404, "Project not found");
    }
    let body = world.call("GET", "/api/v1/projects", &bound, None).await.expect(200);
    assert_eq!((body["total"].as_u64(), &body["projects"][0]["slug"]), (Some(1), &json!("edge")));
}

#[tokio::test]
async fn the_use_of_a_key_is_noted_once_a_minute() {
    let world = World::new().await;
    let scope = Scope::Organisation(world.home.organisation.id);
    let noted = async || {
        // The write happens beside the request.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let keys = world.store.list_all::<ApiKey>(&scope, Query::all(RecordKind::ApiKey)).await;
        let key = keys.unwrap().remove(0);
        (key.revision, key.last_used_at)
    };
    world.get("/api/v1/projects").await.expect(200);
    let first = noted().await;
    assert_eq!(first.1, Some(world.now()));
    world.clock.advance(Duration::from_secs(59));
    world.get("/api/v1/projects").await.expect(200);
    assert_eq!(noted().await, first);
    world.clock.advance(Duration::from_secs(1));
    world.get("/api/v1/projects").await.expect(200);
    assert_eq!(noted().await.1, Some(world.now()));
}
