//! Another organisation's ids do not exist, on any route that takes one.

use crate::world::{Tenant, World, registration_token};
use serde_json::{Value, json};
use zentinel_core::Scope;
use zentinel_core::entity::{ApiKey, ApiScope};
use zentinel_core::log::LogKind;
use zentinel_core::log::LogQuery;
use zentinel_core::port::Store;

/// What the stranger owns, by the place that its id takes in a path.
struct Theirs {
    bundle: String,
    rollout: String,
    node: String,
    group: String,
    token: String,
    key: String,
}

async fn fill(world: &World, tenant: &Tenant) -> Theirs {
    let (node, _) = world.node(tenant, "edge-1", &[]).await;
    let bundle = world.compiled(tenant, "1").await;
    let post = async |path: &str, body: Value| {
        world.call("POST", &tenant.path(path), &tenant.key, Some(body)).await.expect(201)
    };
    let rollout = post("/rollouts", json!({"bundle_id": bundle, "auto_start": false})).await;
    let group = post("/node-groups", json!({"name": "g"})).await;
    let scopes = [ApiScope::NodesRead].into();
    let (key, _) = ApiKey::issue(tenant.organisation.id, None, None, "k", scopes, None, world.now()).unwrap();
    crate::world::insert(&*world.store, &key).await;
    Theirs {
        bundle,
        rollout: rollout["id"].as_str().unwrap().to_owned(),
        node: node.to_string(),
        group: group["node_group"]["id"].as_str().unwrap().to_owned(),
        token: registration_token(world, tenant).await.id.to_string(),
        key: key.id.to_string(),
    }
}

/// Every route with an id: method, path below the project (or absolute), text of its 404.
fn routes(theirs: &Theirs) -> Vec<(&'static str, String, &'static str)> {
    let Theirs { bundle, rollout, node, group, token, key } = theirs;
    let mut routes = Vec::new();
    let mut add = |methods: &[&'static str], path: String, text: &'static str| {
        routes.extend(methods.iter().map(|method| (*method, path.clone(), text)));
    };
    let text = "Bundle not found";
    add(&["GET", "DELETE"], format!("/bundles/{bundle}"), text);
    for rest in ["download", "verify", "source", "diff"] {
        add(&["GET"], format!("/bundles/{bundle}/{rest}"), text);
    }
    add(&["GET"], format!("/bundles/{bundle}/sbom"), "Not found");
    add(&["POST"], format!("/bundles/{bundle}/assign"), text);
    add(&["POST"], format!("/bundles/{bundle}/revoke"), text);
    let text = "Rollout not found";
    add(&["GET"], format!("/rollouts/{rollout}"), text);
    for verb in ["start", "pause", "resume", "cancel", "rollback"] {
        add(&["POST"], format!("/rollouts/{rollout}/{verb}"), text);
    }
    let text = "Node not found";
    add(&["GET", "PATCH", "DELETE"], format!("/nodes/{node}"), text);
    add(&["GET"], format!("/nodes/{node}/events"), text);
    add(&["GET"], format!("/nodes/{node}/heartbeats"), text);
    add(&["PUT"], format!("/nodes/{node}/pin"), text);
    add(&["POST"], format!("/nodes/{node}/revoke-key"), text);
    let text = "Node group not found";
    add(&["GET", "PATCH", "DELETE"], format!("/node-groups/{group}"), text);
    add(&["PUT"], format!("/node-groups/{group}/nodes"), text);
    let text = "Registration token not found";
    add(&["GET", "DELETE"], format!("/registration-tokens/{token}"), text);
    add(&["POST"], format!("/registration-tokens/{token}/revoke"), text);
    let text = "API key not found";
    add(&["GET", "DELETE"], format!("/api/v1/api-keys/{key}"), text);
    add(&["POST"], format!("/api/v1/api-keys/{key}/revoke"), text);
    routes
}

/// Everything that is stored of the stranger's, to see whether anything was touched.
async fn logged(world: &World, tenant: &Tenant) -> usize {
    let scope = Scope::Organisation(tenant.organisation.id);
    let query = LogQuery::newest(LogKind::Audit, 500);
    world.store.read_log(&scope, &query).await.unwrap().len()
}

#[tokio::test]
async fn foreign_ids_are_as_absent_as_unknown_ones() {
    let world = World::unlimited().await;
    let stranger = world.stranger().await;
    let theirs = fill(&world, &stranger).await;
    let before = logged(&world, &stranger).await;
    let body = |path: &str| match path.rsplit('/').next().unwrap() {
        "pin" => json!({"bundle_id": theirs.bundle}),
        "nodes" | "assign" => json!({"node_ids": [theirs.node]}),
        _ => json!({"name": "x", "labels": {}}),
    };
    for (method, path, text) in routes(&theirs) {
        let full = if path.starts_with("/api") { path.clone() } else { world.home.path(&path) };
        let body = matches!(method, "POST" | "PUT" | "PATCH").then(|| body(&path));
        let foreign = world.call(method, &full, &world.home.key, body.clone()).await;
        assert_eq!(foreign.status.as_u16(), 404, "{method} {full}: {}", foreign.text);
        assert_eq!(foreign.body, json!({"error": text}), "{method} {full}");
        // Byte for byte what an unknown id gets.
        let id = path.split('/').find(|part| part.len() == 36).unwrap();
        let unknown = full.replace(id, &uuid::Uuid::new_v4().to_string());
        let unknown = world.call(method, &unknown, &world.home.key, body).await;
        assert_eq!((unknown.status, unknown.text), (foreign.status, foreign.text), "{method} {full}");
    }
    assert_eq!(logged(&world, &stranger).await, before);
    // For its owner everything is still there.
    for (method, path, _) in routes(&theirs).into_iter().filter(|(method, ..)| *method == "GET") {
        let full = if path.starts_with("/api") { path } else { stranger.path(&path) };
        world.call(method, &full, &stranger.key, None).await.expect(200);
    }
}

#[tokio::test]
async fn lists_hold_nothing_foreign() {
    let world = World::unlimited().await;
    let stranger = world.stranger().await;
    fill(&world, &stranger).await;
    for list in ["nodes", "bundles", "rollouts", "node-groups", "registration-tokens", "events"] {
        let body = world.get(&world.home.path(&format!("/{list}"))).await.expect(200);
        assert_eq!(body["total"], 0, "{list}: {body}");
    }
    assert_eq!(world.get("/api/v1/projects").await.expect(200)["total"], 1);
    assert_eq!(world.get("/api/v1/api-keys").await.expect(200)["total"], 1);
    assert_eq!(world.get("/api/v1/audit/logs").await.expect(200)["total"], 0);
    let stats = world.get(&world.home.path("/nodes/stats")).await.expect(200);
    assert_eq!(stats, json!({"total": 0, "by_status": {}}));
}

#[tokio::test]
async fn a_foreign_cursor_opens_nothing() {
    let world = World::unlimited().await;
    let stranger = world.stranger().await;
    for version in ["1", "2", "3"] {
        let body = Some(json!({"version": version, "config_source": "x"}));
        world.call("POST", &stranger.path("/bundles"), &stranger.key, body).await.expect(201);
    }
    let page = world.call("GET", &stranger.path("/bundles?limit=1"), &stranger.key, None).await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let body = world.get(&world.home.path(&format!("/bundles?cursor={cursor}"))).await;
    assert!(body.body.get("bundles").is_none_or(|bundles| bundles == &json!([])), "{}", body.text);
}

#[tokio::test]
async fn the_same_slug_in_two_organisations_is_two_projects() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    assert_eq!(world.home.project.slug, stranger.project.slug);
    let mine = world.get("/api/v1/projects/edge").await.expect(200);
    let theirs = world.call("GET", "/api/v1/projects/edge", &stranger.key, None).await.expect(200);
    assert_eq!(mine["project"]["id"], json!(world.home.project.id));
    assert_eq!(theirs["project"]["id"], json!(stranger.project.id));
}
