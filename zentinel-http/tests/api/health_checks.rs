//! Health check endpoints.

use crate::world::{World, insert};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use zentinel_core::RecordKind;
use zentinel_core::entity::{ApiScope, HealthCheck};
use zentinel_core::id::HealthCheckId;
use zentinel_core::port::{Query, StoreExt as _};

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

/// A server on the loopback network that is well and one that is not.
async fn endpoint() -> String {
    let app = Router::new().route("/well", get(|| async { "fine" })).route(
        "/ill",
        get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "the database password is hunter2") }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn created(world: &World, name: &str, url: &str) -> Value {
    let body = json!({"name": name, "url": url});
    world.post(&world.home.path("/health-checks"), body).await.expect(201)["health_check"].take()
}

async fn stored(world: &World) -> Vec<HealthCheck> {
    let query = Query::all(RecordKind::HealthCheck);
    let found = world.store.list_all::<HealthCheck>(&world.home.project.scope(), query).await.unwrap();
    found.into_iter().map(|check| check.value).collect()
}

#[tokio::test]
async fn an_endpoint_is_created_shown_changed_and_deleted() {
    let world = World::new().await;
    let path = world.home.path("/health-checks");
    let made = created(&world, "ready", "https://{node_ip}/ready").await;
    assert_eq!(
        (&made["method"], &made["timeout_ms"], &made["expected_status"], &made["enabled"], &made["per_node"]),
        (&json!("GET"), &json!(5_000), &json!(200), &json!(true), &json!(true))
    );
    let one = format!("{path}/{}", id(&made));
    let change = json!({"headers": {"Authorization": "Bearer sesame"}, "method": "POST", "enabled": false});
    let changed = world.patch(&one, change).await;
    assert!(!changed.text.contains("sesame"), "{}", changed.text);
    let changed = changed.expect(200);
    assert_eq!(changed["health_check"]["headers"], json!({"Authorization": "[redacted]"}));
    assert_eq!(changed["health_check"]["name"], "ready");
    // What was shown is given back: the value stays.
    let headers = json!({"headers": {"Authorization": "[redacted]", "X-More": "1"}});
    world.patch(&one, headers).await.expect(200);
    let stored = stored(&world).await;
    assert_eq!(stored[0].headers.0["Authorization"], "Bearer sesame");
    assert_eq!(stored[0].headers.0["X-More"], "1");
    let list = world.get(&path).await.expect(200);
    assert_eq!((&list["total"], &list["health_checks"][0]["name"]), (&json!(1), &json!("ready")));
    world.get(&one).await.expect(200);
    assert_eq!(world.delete(&one).await.status, 204);
    world.get(&one).await.expect_error(404, "Health check not found");
    let audited = world.audited().await;
    for action in ["health_check.created", "health_check.updated", "health_check.deleted"] {
        assert!(audited.iter().any(|known| known == action), "{action}");
    }
    let log = world.get("/api/v1/audit/logs?limit=500").await;
    assert!(!log.text.contains("sesame"));
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_and_names_are_unique() {
    let world = World::new().await;
    let path = world.home.path("/health-checks");
    for (field, body) in [
        ("name", json!({"url": "http://example.com"})),
        ("url", json!({"name": "x"})),
        ("url", json!({"name": "x", "url": "gopher://example.com"})),
        ("method", json!({"name": "x", "url": "http://example.com", "method": "DELETE"})),
        ("timeout_ms", json!({"name": "x", "url": "http://example.com", "timeout_ms": 60_001})),
        ("timeout_ms", json!({"name": "x", "url": "http://example.com", "timeout_ms": -1})),
        ("expected_status", json!({"name": "x", "url": "http://example.com", "expected_status": 70_000})),
        ("headers", json!({"name": "x", "url": "http://example.com", "headers": {"a b": "c"}})),
        ("enabled", json!({"name": "x", "url": "http://example.com", "enabled": "yes"})),
    ] {
        let reply = world.post(&path, body.clone()).await;
        assert_eq!(reply.status, 422, "{body}");
        assert!(reply.body["error"][field].is_array(), "{field}: {}", reply.text);
    }
    created(&world, "ready", "http://example.com").await;
    let twice = json!({"name": "ready", "url": "http://example.com"});
    world.post(&path, twice).await.expect_field("name", "has already been taken");
}

#[tokio::test]
async fn an_endpoint_can_be_tried_and_says_nothing_but_its_status() {
    let world = World::new().await;
    let base = endpoint().await;
    let path = world.home.path("/health-checks");
    let tried =
        async |check: &Value, body: Value| world.post(&format!("{path}/{}/test", id(check)), body).await;
    let well = created(&world, "well", &format!("{base}/well")).await;
    let answer = tried(&well, json!({})).await.expect(200);
    assert_eq!((&answer["result"], &answer["status"]), (&json!("pass"), &json!(200)));
    assert!(answer.get("reason").is_none());
    let ill = created(&world, "ill", &format!("{base}/ill")).await;
    let answer = tried(&ill, json!({})).await;
    assert!(!answer.text.contains("hunter2"), "{}", answer.text);
    let answer = answer.expect(200);
    assert_eq!((&answer["result"], &answer["reason"]), (&json!("fail"), &json!("status 503 instead of 200")));
    // Metadata services and internal networks are out of reach.
    for (name, url) in [("metadata", "http://169.254.169.254/latest"), ("inside", "http://10.0.0.1/")] {
        let answer = tried(&created(&world, name, url).await, json!({})).await.expect(200);
        assert_eq!(answer["result"], "fail");
        assert!(answer["reason"].as_str().unwrap().contains("not public"), "{answer}");
    }
    let per_node = created(&world, "each", &format!("{base}/well?{{node_name}}")).await;
    tried(&per_node, json!({})).await.expect_field("node_id", "can't be blank: the URL is for single nodes");
    let node = world.node(&world.home, "edge-1", &[]).await.0;
    assert_eq!(tried(&per_node, json!({"node_id": node})).await.expect(200)["result"], "pass");
}

#[tokio::test]
async fn scopes_and_tenants_are_kept_apart() {
    let world = World::new().await;
    let path = world.home.path("/health-checks");
    let made = created(&world, "ready", "http://example.com").await;
    let reader = world.key(&[ApiScope::RolloutsRead], true).await;
    world.call("GET", &path, &reader, None).await.expect(200);
    let body = Some(json!({"name": "x", "url": "http://example.com"}));
    assert_eq!(world.call("POST", &path, &reader, body).await.status, 403);
    let test = format!("{path}/{}/test", id(&made));
    assert_eq!(world.call("POST", &test, &reader, Some(json!({}))).await.status, 403);
    // A project of the same name elsewhere does not have it.
    let stranger = world.stranger().await;
    let theirs = stranger.path(&format!("/health-checks/{}", id(&made)));
    assert_eq!(world.call("GET", &theirs, &stranger.key, None).await.status, 404);
}

#[tokio::test]
async fn rollouts_and_templates_name_endpoints_of_their_project() {
    let world = World::new().await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let made = created(&world, "ready", "http://example.com").await;
    let mut foreign = stored(&world).await.remove(0);
    let stranger = world.stranger().await;
    foreign.id = HealthCheckId::random();
    (foreign.organisation_id, foreign.project_id) = (stranger.organisation.id, stranger.project.id);
    insert(&*world.store, &foreign).await;
    let (rollouts, templates) = (world.home.path("/rollouts"), world.home.path("/rollout-templates"));
    for unknown in [json!(foreign.id), json!(HealthCheckId::random())] {
        let message = format!("{} does not exist in this project", unknown.as_str().unwrap());
        let body = json!({"bundle_id": bundle, "custom_health_checks": [unknown]});
        world.post(&rollouts, body).await.expect_field("custom_health_checks", &message);
        let body = json!({"name": "careful", "custom_health_checks": [unknown]});
        world.post(&templates, body).await.expect_field("custom_health_checks", &message);
    }
    for (key, message) in
        [("max_error_rate", "max_error_rate must be a number from 0 to 100"), ("x", "unknown keys: x")]
    {
        let body = json!({"bundle_id": bundle, "aggregate_gates": {key: 101}});
        world.post(&rollouts, body).await.expect_field("aggregate_gates", message);
    }
    let gates = json!({"max_error_rate": 1.5, "min_healthy_percent": 90.0});
    let template = json!({"name": "careful", "custom_health_checks": [id(&made)], "aggregate_gates": gates});
    let template = world.post(&templates, template).await.expect(201);
    let body = json!({"bundle_id": bundle, "template_id": template["rollout_template"]["id"]});
    let rollout = world.post(&rollouts, body).await.expect(201);
    assert_eq!(rollout["custom_health_checks"], json!([id(&made)]));
    assert_eq!(rollout["aggregate_gates"], gates);
}
