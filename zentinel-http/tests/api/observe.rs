//! Health, readiness, metrics, and what every response carries.

use crate::world::{World, request};
use axum::body::Body;
use serde_json::json;
use std::time::Duration;
use zentinel_core::Secret;
use zentinel_core::port::{NewJob, Queue};
use zentinel_core::{Changes, port::Store};

#[tokio::test]
async fn health_and_readiness() {
    let world = World::new().await;
    let get = async |path: &str| world.send(request("GET", path).body(Body::empty()).unwrap()).await;
    assert_eq!(get("/health").await.expect(200), json!({"status": "ok"}));
    assert_eq!(get("/ready").await.expect(200), json!({"status": "ok"}));
    // Nobody works on a job that has been due for minutes.
    let job = NewJob::new(Queue::Default, "compile", json!({"bundle_id": null}), world.now());
    world.store.commit(Changes::new().job(job)).await.unwrap();
    get("/ready").await.expect(200);
    world.clock.advance(Duration::from_secs(121));
    let body = get("/ready").await.expect(503);
    assert_eq!(body, json!({"status": "unavailable", "reason": "job runner unavailable"}));
    get("/health").await.expect(200);
}

#[tokio::test]
async fn metrics_count_nodes_bundles_and_requests() {
    let world = World::with(|options| options.metrics_token = Some(Secret::new("scrape"))).await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = json!({"version": "1", "config_source": "x"});
    world.post(&world.home.path("/bundles"), bundle).await.expect(201);
    let scrape = async |token: &str| {
        let request = request("GET", "/metrics").header("authorization", format!("Bearer {token}"));
        world.send(request.body(Body::empty()).unwrap()).await
    };
    scrape("wrong").await.expect_error(401, "Missing or invalid metrics token");
    let reply = scrape("scrape").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = reply.text;
    for line in [
        r#"zentinel_cp_nodes_total{status="online"} 1"#,
        r#"zentinel_cp_bundles_total{status="pending"} 1"#,
        "zentinel_cp_rollouts_active 0",
        r#"zentinel_cp_http_requests_total{method="POST",path="/api/v1/projects/{project_slug}/bundles",status="201"} 1"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn every_response_has_an_id_and_safe_headers() {
    let world = World::new().await;
    let id = "client-request-0123456789";
    let request_with_id = request("GET", "/nowhere").header("x-request-id", id);
    let reply = world.send(request_with_id.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.headers["x-request-id"], id);
    assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(reply.expect(404), json!({"errors": {"detail": "Not Found"}}));
    let reply = world.send(request("PATCH", "/health").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.headers["x-request-id"].len(), 36);
    assert!(reply.headers.contains_key("allow"));
    assert_eq!(reply.expect(405), json!({"errors": {"detail": "Method Not Allowed"}}));
}

#[tokio::test]
async fn only_json_is_spoken() {
    let world = World::new().await;
    let ask = async |accept: &str| {
        let request = request("GET", &world.home.path("/nodes"))
            .header("authorization", format!("Bearer {}", world.home.key))
            .header("accept", accept);
        world.send(request.body(Body::empty()).unwrap()).await
    };
    let reply = ask("application/json").await;
    assert_eq!(reply.headers["content-type"], "application/json; charset=utf-8");
    ask("*/*").await.expect(200);
    let body = ask("text/html").await.expect(406);
    assert_eq!(body, json!({"errors": {"detail": "Not Acceptable"}}));
}

#[tokio::test]
async fn the_router_nests() {
    let mut world = World::new().await;
    world.app = axum::Router::new().nest("/cp", world.app.clone());
    world.get("/cp/api/v1/projects").await.expect(200);
    assert_eq!(world.get("/cp/nowhere").await.expect(404), json!({"errors": {"detail": "Not Found"}}));
}
