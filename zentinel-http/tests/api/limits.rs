//! Rate limits as callers see them.

use crate::world::{START, World, request};
use axum::body::Body;
use serde_json::json;
use std::time::Duration;
use zentinel_core::entity::ApiScope;

fn header(reply: &crate::world::Reply, name: &str) -> i64 {
    reply.headers[name].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_limited_response_says_where_the_caller_stands() {
    let world = World::new().await;
    let reset = START - START.rem_euclid(60) + 60;
    let reply = world.get(&world.home.path("/nodes")).await;
    assert_eq!(header(&reply, "x-ratelimit-limit"), 1_000);
    assert_eq!(header(&reply, "x-ratelimit-remaining"), 999);
    assert_eq!(header(&reply, "x-ratelimit-reset"), reset);
    // Refusals that come later count as well.
    let reply = world.get("/api/v1/projects/nowhere/nodes").await;
    assert_eq!(header(&reply, "x-ratelimit-remaining"), 998);
    let narrow = world.key(&[ApiScope::NodesWrite], false).await;
    let reply = world.call("GET", &world.home.path("/nodes"), &narrow, None).await;
    assert_eq!((reply.status.as_u16(), header(&reply, "x-ratelimit-remaining")), (403, 999));
    // What is not limited says nothing.
    let reply = world.send(request("GET", "/health").body(Body::empty()).unwrap()).await;
    assert!(!reply.headers.contains_key("x-ratelimit-limit"));
}

#[tokio::test]
async fn actions_cost_what_the_contract_says() {
    let world = World::new().await;
    let cases = [
        ("GET", "/bundles", 500, 1),
        ("POST", "/bundles", 100, 5),
        ("POST", "/bundles/validate", 100, 10),
        ("POST", "/rollouts", 100, 3),
        ("GET", "/rollouts", 500, 1),
        ("GET", "/node-groups", 1_000, 1),
        ("POST", "/node-groups", 200, 1),
        ("GET", "/events", 300, 1),
        ("GET", "/signing-key", 300, 1),
    ];
    for (method, path, limit, cost) in cases {
        let key = world.key(ApiScope::ALL, false).await;
        let body = (method == "POST").then(|| json!({}));
        let reply = world.call(method, &world.home.path(path), &key, body).await;
        assert_eq!(header(&reply, "x-ratelimit-limit"), limit, "{method} {path}");
        assert_eq!(header(&reply, "x-ratelimit-remaining"), limit - cost, "{method} {path}");
    }
    let key = world.key(ApiScope::ALL, false).await;
    let reply = world.call("GET", "/api/v1/api-keys", &key, None).await;
    assert_eq!(header(&reply, "x-ratelimit-limit"), 50);
    let reply = world.call("GET", "/api/v1/audit/logs", &key, None).await;
    assert_eq!(header(&reply, "x-ratelimit-limit"), 300);
}

#[tokio::test]
async fn an_empty_bucket_is_refused_until_the_minute_ends() {
    let world = World::with(|options| {
        options.rate_limits.scopes.insert("nodes:read".to_owned(), 2);
    })
    .await;
    let path = world.home.path("/nodes");
    world.get(&path).await.expect(200);
    world.get(&path).await.expect(200);
    let reply = world.get(&path).await;
    let reset = header(&reply, "x-ratelimit-reset");
    assert_eq!(header(&reply, "x-ratelimit-remaining"), 0);
    let wait = reset - START;
    assert_eq!(header(&reply, "retry-after"), wait);
    let body = reply.expect(429);
    let expected = json!({
        "error": "rate_limit_exceeded",
        "message": format!("Rate limit exceeded. Try again after {reset}."),
        "retry_after": wait,
    });
    assert_eq!(body, expected);
    // Another scope and another key have buckets of their own.
    world.get(&world.home.path("/bundles")).await.expect(200);
    let other = world.key(ApiScope::ALL, false).await;
    world.call("GET", &path, &other, None).await.expect(200);
    world.clock.advance(Duration::from_secs(wait.unsigned_abs()));
    world.get(&path).await.expect(200);
}

#[tokio::test]
async fn guessing_keys_is_limited_by_address() {
    let world = World::with(|options| {
        options.rate_limits.default = 3;
        options.trusted_proxies = vec!["198.51.100.0/24".parse().unwrap()];
    })
    .await;
    let guess = async |from: &str| {
        let request = request("GET", &world.home.path("/nodes"))
            .header("authorization", "Bearer guess")
            .header("x-forwarded-for", from);
        world.send(request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    for _ in 0..3 {
        assert_eq!(guess("203.0.113.1").await, 401);
    }
    assert_eq!(guess("203.0.113.1").await, 429);
    assert_eq!(guess("203.0.113.2").await, 401);
    // Where nodes may ask as well, their credentials are no easier to guess.
    let guess = async |name: &str, value: &str, from: &str| {
        let request = request("GET", &world.home.path("/signing-key"))
            .header(name, value)
            .header("x-forwarded-for", from);
        world.send(request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    for (name, value, from) in
        [("authorization", "Bearer a.b.c", "203.0.113.3"), ("x-zentinel-node-key", "guess", "203.0.113.4")]
    {
        for _ in 0..3 {
            assert_eq!(guess(name, value, from).await, 401);
        }
        assert_eq!(guess(name, value, from).await, 429);
    }
    world.get(&world.home.path("/nodes")).await.expect(200);
}
