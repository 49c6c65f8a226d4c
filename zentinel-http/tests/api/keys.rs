//! API keys, registration tokens, signing keys.

use crate::world::{World, ids, request};
use axum::body::Body;
use serde_json::{Value, json};
use zentinel_core::entity::{ApiKey, ApiScope, RegistrationToken};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{RecordKind, Scope};

const KEYS: &str = "/api/v1/api-keys";

#[tokio::test]
async fn a_key_is_issued_shown_once_revoked_and_deleted() {
    let world = World::new().await;
    let body = json!({"name": "ci", "scopes": ["bundles:read", "bundles:write"], "expires_at": "2026-12-31T00:00:00Z"});
    let created = world.post(KEYS, body).await.expect(201);
    let raw = created["key"].as_str().unwrap();
    assert_eq!((raw.len(), &raw[..8]), (43, created["key_prefix"].as_str().unwrap()));
    assert_eq!(created["expires_at"], "2026-12-31T00:00:00Z");
    assert_eq!(created["project_id"], json!(null));
    world.call("GET", &world.home.path("/bundles"), raw, None).await.expect(200);

    let path = format!("{KEYS}/{}", created["id"].as_str().unwrap());
    let shown = world.get(&path).await;
    assert!(!shown.text.contains(raw) && !shown.text.contains("key_hash"));
    assert_eq!(shown.expect(200)["api_key"]["scopes"], json!(["bundles:read", "bundles:write"]));

    let first = world.post(&format!("{path}/revoke"), json!({})).await.expect(200);
    assert_eq!(first["api_key"]["revoked_at"], "2026-02-23T10:00:05Z");
    let reply = world.call("GET", &world.home.path("/bundles"), raw, None).await;
    reply.expect_error(401, "Invalid or expired API key");
    world.clock.advance(std::time::Duration::from_secs(5));
    let again = world.post(&format!("{path}/revoke"), json!({})).await.expect(200);
    assert_eq!(again["api_key"]["revoked_at"], first["api_key"]["revoked_at"]);

    assert_eq!(world.delete(&path).await.status.as_u16(), 204);
    world.get(&path).await.expect_error(404, "API key not found");
    assert_eq!(world.audited().await, ["api_key.created", "api_key.revoked", "api_key.deleted"]);
}

#[tokio::test]
async fn wrong_keys_are_refused() {
    let world = World::unlimited().await;
    let create = async |body| world.post(KEYS, body).await;
    let reply = create(json!({})).await;
    assert_eq!(reply.body["error"], json!({"name": ["can't be blank"], "scopes": ["can't be blank"]}));
    create(json!({"name": "a", "scopes": []})).await.expect_field("scopes", "can't be blank");
    create(json!({"name": "a", "scopes": ["nodes:all"]}))
        .await
        .expect_field("scopes", "has an invalid entry");
    create(json!({"name": "a", "scopes": "nodes:read"})).await.expect_field("scopes", "is invalid");
    let with = |field: &str, value: Value| json!({"name": "a", "scopes": ["nodes:read"], field: value});
    create(with("expires_at", json!("tomorrow"))).await.expect_field("expires_at", "is invalid");
    create(with("expires_at", json!(5))).await.expect_field("expires_at", "is invalid");
    let past = json!("2020-01-01T00:00:00Z");
    create(with("expires_at", past)).await.expect_field("expires_at", "must be in the future");
    create(with("project_id", json!("x"))).await.expect_field("project_id", "is invalid");
    let foreign = json!(world.stranger().await.project.id);
    create(with("project_id", foreign)).await.expect_field("project_id", "does not exist");
    assert!(world.audited().await.is_empty());
}

#[tokio::test]
async fn nobody_mints_more_than_they_hold() {
    let world = World::new().await;
    let admin = world.key(&[ApiScope::ApiKeysAdmin, ApiScope::NodesRead], false).await;
    let mint = async |key: &str, body: Value| world.call("POST", KEYS, key, Some(body)).await;
    mint(&admin, json!({"name": "a", "scopes": ["nodes:read"]})).await.expect(201);
    let reply = mint(&admin, json!({"name": "a", "scopes": ["nodes:read", "nodes:write"]})).await;
    reply.expect_error(403, "Insufficient scope. Required: nodes:write");

    let second = world.post("/api/v1/projects", json!({"name": "Second"})).await.expect(201);
    let second = second["project"]["id"].clone();
    let bound = world.key(ApiScope::ALL, true).await;
    let own = mint(&bound, json!({"name": "a", "scopes": ["nodes:read"]})).await.expect(201);
    assert_eq!(own["project_id"], json!(world.home.project.id));
    let reply = mint(&bound, json!({"name": "a", "scopes": ["nodes:read"], "project_id": second})).await;
    reply.expect_field("project_id", "does not exist");
    // And sees no keys but those of its project.
    let listed = world.call("GET", KEYS, &bound, None).await.expect(200);
    assert_eq!(listed["total"], 2);
}

#[tokio::test]
async fn keys_of_other_owners_are_invisible_and_lists_are_paged() {
    let world = World::new().await;
    let user = Some(zentinel_core::id::UserId::random());
    let scopes = [ApiScope::NodesRead].into();
    let organisation = world.home.organisation.id;
    let (theirs, _) = ApiKey::issue(organisation, None, user, "hers", scopes, None, world.now()).unwrap();
    crate::world::insert(&*world.store, &theirs).await;
    for name in ["a", "b", "c"] {
        world.post(KEYS, json!({"name": name, "scopes": ["nodes:read"]})).await.expect(201);
        world.clock.advance(std::time::Duration::from_secs(1));
    }
    let path = format!("{KEYS}/{}", theirs.id);
    world.get(&path).await.expect_error(404, "API key not found");
    world.delete(&path).await.expect_error(404, "API key not found");
    let first = world.get(&format!("{KEYS}?limit=3")).await.expect(200);
    assert_eq!((first["total"].as_u64(), ids(&first, "api_keys").len()), (Some(4), 3));
    assert_eq!(first["api_keys"][0]["name"], "c");
    let next = first["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("{KEYS}?limit=3&cursor={next}")).await.expect(200);
    assert_eq!((ids(&rest, "api_keys").len(), &rest["next_cursor"]), (1, &json!(null)));
}

#[tokio::test]
async fn a_registration_token_lives_its_life() {
    let world = World::new().await;
    let path = world.home.path("/registration-tokens");
    let body = json!({"name": "rack 12", "labels": {"region": "eu"}, "max_uses": 3});
    let created = world.post(&path, body).await.expect(201)["registration_token"].clone();
    assert_eq!(created["token"].as_str().unwrap().len(), 43);
    assert_eq!((&created["max_uses"], &created["uses"]), (&json!(3), &json!(0)));
    assert_eq!(created["expires_at"], "2026-02-24T10:00:05Z");

    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    let listed = world.get(&path).await;
    assert!(!listed.text.contains(created["token"].as_str().unwrap()));
    assert_eq!(listed.expect(200)["registration_tokens"][0]["usable"], true);
    let revoked = world.post(&format!("{one}/revoke"), json!({})).await.expect(200);
    assert_eq!(revoked["registration_token"]["usable"], false);
    assert_eq!(revoked["registration_token"]["revoked_at"], "2026-02-23T10:00:05Z");
    assert_eq!(world.get(&one).await.expect(200), revoked);
    assert_eq!(world.delete(&one).await.status.as_u16(), 204);
    world.get(&one).await.expect_error(404, "Registration token not found");
    let expected = ["created", "revoked", "deleted"].map(|verb| format!("registration_token.{verb}"));
    assert_eq!(world.audited().await, expected);
}

#[tokio::test]
async fn tokens_are_for_one_use_unless_told_otherwise() {
    let world = World::new().await;
    let path = world.home.path("/registration-tokens");
    let uses = async |body: Value| {
        world.post(&path, body).await.expect(201)["registration_token"]["max_uses"].clone()
    };
    assert_eq!(uses(json!({"name": "a"})).await, json!(1));
    assert_eq!(uses(json!({"name": "a", "max_uses": null})).await, json!(null));
    let create = async |body| world.post(&path, body).await;
    create(json!({})).await.expect_field("name", "can't be blank");
    create(json!({"name": "a", "max_uses": 0})).await.expect_field("max_uses", "must be greater than 0");
    create(json!({"name": "a", "max_uses": -1})).await.expect_field("max_uses", "is invalid");
    create(json!({"name": "a", "expires_at": "never"})).await.expect_field("expires_at", "is invalid");
    let late = json!({"name": "a", "expires_at": "2126-01-01T00:00:00Z"});
    create(late).await.expect_field("expires_at", "must be within a year");
    let past = json!({"name": "a", "expires_at": "2026-01-01T00:00:00Z"});
    create(past).await.expect_field("expires_at", "must be in the future");
    let many: std::collections::BTreeMap<_, _> = (0..100_000).map(|n| (format!("k{n}"), "v")).collect();
    let reply = create(json!({"name": "a", "labels": many})).await;
    reply.expect_field("labels", "should have at most 64 entries");
    let scope = Scope::Instance;
    let stored = world.store.list_all::<RegistrationToken>(&scope, Query::all(RecordKind::RegistrationToken));
    assert_eq!(stored.await.unwrap().len(), 2);
}

#[tokio::test]
async fn public_keys_are_for_operators_and_for_the_projects_nodes() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let path = world.home.path("/signing-key");
    let keys = world.get(&path).await.expect(200);
    assert_eq!(keys["signing_key"], keys["signing_keys"][0]);
    assert_eq!(
        (&keys["signing_key"]["algorithm"], &keys["signing_key"]["active"]),
        (&json!("ed25519"), &json!(true))
    );
    let as_node = async |key: &str| {
        let request = request("GET", &path).header("x-zentinel-node-key", key);
        world.send(request.body(Body::empty()).unwrap()).await
    };
    let (node, key) = world.node(&world.home, "edge-1", &[]).await;
    assert_eq!(as_node(&key).await.expect(200), keys);
    let exchange =
        request("POST", &format!("/api/v1/nodes/{node}/token")).header("x-zentinel-node-key", &key);
    let token = world.send(exchange.body(Body::empty()).unwrap()).await.expect(200)["token"].clone();
    let token = token.as_str().unwrap();
    assert_eq!(world.call("GET", &path, token, None).await.expect(200), keys);
    let reply = world.call("GET", &path, &format!("{token}x"), None).await;
    assert_eq!(reply.status.as_u16(), 401, "{}", reply.text);
    as_node("made-up").await.expect_error(401, "Invalid node key");
    world.post("/api/v1/projects", json!({"name": "Second"})).await.expect(201);
    let second = request("GET", "/api/v1/projects/second/signing-key").header("x-zentinel-node-key", &key);
    let reply = world.send(second.body(Body::empty()).unwrap()).await;
    reply.expect_error(404, "Project not found");
    // Both projects have the same slug: each sees its own.
    world.call("GET", &path, &stranger.key, None).await.expect(200);
}
