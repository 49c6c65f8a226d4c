//! Bodies and requests that nobody should send. Each gets a clear refusal, and nothing is stored.

use crate::world::{Reply, World, request};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use std::convert::Infallible;

async fn raw(world: &World, path: &str, content_type: &str, body: impl Into<Body>) -> Reply {
    let request = request("POST", &world.home.path(path))
        .header("authorization", format!("Bearer {}", world.home.key))
        .header("content-type", content_type);
    world.send(request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_400() {
    let world = World::unlimited().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_field = format!("{{\"version\":{deep}}}");
    let deep_object = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    for text in
        ["{", "[]", "null", "\"x\"", "{\"a\":1,}", "{\"a\":NaN}", "\u{1}", &deep, &deep_field, &deep_object]
    {
        let reply = raw(&world, "/bundles", "application/json", text.to_owned()).await;
        let shown: String = text.chars().take(20).collect();
        assert_eq!(reply.body["errors"]["detail"], "Bad Request", "{shown}: {}", reply.text);
        reply.expect(400);
    }
    let reply = raw(&world, "/bundles", "application/json", vec![b'{', 0xff, 0xfe, b'}']).await;
    reply.expect(400);
}

#[tokio::test]
async fn other_types_are_not_looked_at_and_forms_are() {
    let world = World::unlimited().await;
    let json = json!({"name": "g"}).to_string();
    let reply = raw(&world, "/node-groups", "text/plain", json.clone()).await;
    reply.expect_field("name", "can't be blank");
    // What `curl -d` sends.
    raw(&world, "/node-groups", "application/x-www-form-urlencoded", json).await.expect(201);
    raw(&world, "/node-groups", "application/x-www-form-urlencoded", "name=h&unknown=1").await.expect(201);
}

#[tokio::test]
async fn ten_megabytes_are_413() {
    let world = World::unlimited().await;
    let large = Bytes::from(vec![b' '; 10_000_000]);
    let message = "the request body is larger than 8000000 bytes, the limit of this server";
    let expected = json!({"errors": {"detail": "Request Entity Too Large", "message": message}});
    let reply = raw(&world, "/bundles", "application/json", large.clone()).await;
    assert_eq!(reply.expect(413), expected);
    // Without a declared length, too.
    let pieces = (0..10).map(move |n| Ok::<_, Infallible>(large.slice(n * 1_000_000..(n + 1) * 1_000_000)));
    let reply = raw(&world, "/bundles", "application/json", Body::from_stream(stream::iter(pieces))).await;
    assert_eq!(reply.expect(413), expected);
    let declared = request("POST", &world.home.path("/bundles")).header("content-length", "99999999999");
    world.send(declared.body(Body::empty()).unwrap()).await.expect(413);
}

#[tokio::test]
async fn nul_is_refused_wherever_it_hides() {
    let world = World::unlimited().await;
    let groups = world.home.path("/node-groups");
    let text = "a\0b";
    world.post(&groups, json!({"name": text})).await.expect_field("name", "is invalid");
    let rollout = json!({"bundle_id": "x", "target_selector": {"type": "labels", "labels": {text: "v"}}});
    let reply = world.post(&world.home.path("/rollouts"), rollout).await;
    reply.expect_field("target_selector", "is invalid");
    // Even in fields that nobody reads.
    world.post(&groups, json!({"name": "ok", "other": [[text]]})).await.expect_field("other", "is invalid");
    world.get(&world.home.path("/bundles?status=%00")).await.expect_field("status", "is invalid");
    world.get(&world.home.path("/nodes?labels[a]=%00")).await.expect_field("labels[a]", "is invalid");
    world.get(&world.home.path("/bundles?cursor=%00")).await.expect_field("cursor", "is invalid");
    world.get(&world.home.path("/nodes/%00")).await.expect_error(404, "Node not found");
    for path in ["/api/v1/projects/edge/nodes/%ff", "/api/v1/projects/%ff/nodes"] {
        assert_eq!(world.get(path).await.expect(404), json!({"errors": {"detail": "Not Found"}}));
    }
}

#[tokio::test]
async fn hostile_configurations_are_reported_and_take_nothing_down() {
    let world = World::unlimited().await;
    let validate = async |text: String| {
        let reply = world.post(&world.home.path("/bundles/validate"), json!({"config_source": text})).await;
        let body = reply.expect(200);
        assert_eq!(body["valid"], false);
        body["errors"][0].clone()
    };
    let braces = validate("a { ".repeat(100_000)).await;
    assert!(braces["code"].is_string() && braces["message"].is_string(), "{braces}");
    validate("/*".repeat(100_000)).await;
    validate("listeners { listener \"x\" {".to_owned()).await;
    validate("routes { route \"a\" { upstream \"missing\" } }".to_owned()).await;
    let large = json!({"config_source": "/".repeat(5_000_000)});
    let reply = world.post(&world.home.path("/bundles/validate"), large).await;
    assert!(reply.body["error"].get("config_source").is_some(), "{}", reply.text);
    reply.expect(422);
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let world = World::new().await;
    let body = json!({"name": "g", "surprise": {"deep": [1, 2, {"x": null}]}});
    world.post(&world.home.path("/node-groups"), body).await.expect(201);
}

#[tokio::test]
async fn a_revoked_key_of_a_deleted_project_is_no_way_in() {
    let world = World::new().await;
    for path in
        ["/api/v1", "/api/v1/", "/api/v1/projects/edge/", "/api/v1/projects//nodes", "/API/v1/projects"]
    {
        let reply = world.get(path).await;
        assert_eq!(reply.status.as_u16(), 404, "{path}: {}", reply.text);
    }
}
