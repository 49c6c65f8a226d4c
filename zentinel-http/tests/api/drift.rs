//! Drift over the API.

use crate::world::{KDL, Tenant, World, ids, request};
use axum::body::Body;
use serde_json::{Value, json};
use std::time::Duration;
use zentinel_core::entity::ApiScope;
use zentinel_core::id::{BundleId, NodeId};

struct Fleet {
    world: World,
    nodes: Vec<(NodeId, String)>,
    old: String,
    new: String,
}

async fn node_call(world: &World, node: &(NodeId, String), path: &str, body: Value) -> Value {
    let (id, key) = node;
    let request = request("POST", &format!("/api/v1/nodes/{id}{path}"))
        .header("x-zentinel-node-key", key)
        .header("content-type", "application/json");
    world.send(request.body(Body::from(body.to_string())).unwrap()).await.expect(200)
}

async fn beat(world: &World, node: &(NodeId, String), bundle: &str) {
    let body = json!({"active_bundle_id": bundle, "health": {"status": "healthy"}});
    let beat = node_call(world, node, "/heartbeat", body);
    let flush = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        world.services.fleet.flush().await.unwrap();
    };
    tokio::join!(beat, flush);
}

async fn compiled(world: &World, tenant: &Tenant, version: &str, kdl: &str) -> String {
    let body = json!({"version": version, "config_source": kdl});
    let reply = world.call("POST", &tenant.path("/bundles"), &tenant.key, Some(body)).await;
    let id = reply.expect(201)["id"].as_str().unwrap().to_owned();
    world.run_jobs().await;
    id
}

/// Nodes that were assigned a bundle and run it, for a while.
async fn fleet(names: &[&str]) -> Fleet {
    let world = World::unlimited().await;
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(world.node(&world.home, name, &[]).await);
    }
    let old = compiled(&world, &world.home, "1", &format!("{KDL}// one more line\n")).await;
    let new = compiled(&world, &world.home, "2", KDL).await;
    let given = json!({"node_ids": nodes.iter().map(|node| node.0).collect::<Vec<_>>()});
    world.post(&world.home.path(&format!("/bundles/{new}/assign")), given).await.expect(200);
    for node in &nodes {
        beat(&world, node, &new).await;
    }
    world.clock.advance(Duration::from_secs(90));
    for node in &nodes {
        beat(&world, node, &new).await;
    }
    world.run_jobs().await;
    Fleet { world, nodes, old, new }
}

async fn list(world: &World, query: &str) -> Value {
    world.get(&world.home.path(&format!("/drift{query}"))).await.expect(200)
}

#[tokio::test]
async fn drift_is_listed_counted_shown_and_closed() {
    let Fleet { world, nodes, old, new } = fleet(&["a", "b", "c"]).await;
    assert_eq!(list(&world, "").await["total"], 0);
    for node in &nodes[..2] {
        beat(&world, node, &old).await;
    }
    world.run_jobs().await;
    let all = list(&world, "?status=active").await;
    assert_eq!(all["total"], 2);
    let event =
        all["drift_events"].as_array().unwrap().iter().find(|event| event["node_name"] == "a").unwrap();
    assert_eq!((&event["kind"], &event["severity"]), (&json!("other_bundle"), &json!("low")));
    assert_eq!((&event["expected_bundle_id"], &event["actual_bundle_id"]), (&json!(new), &json!(old)));
    assert_eq!(
        (&event["diff_stats"]["additions"], &event["diff_stats"]["deletions"]),
        (&json!(1), &json!(0))
    );
    assert_eq!((&event["resolved_at"], &event["resolution"]), (&json!(null), &json!(null)));
    let of_a = list(&world, &format!("?node_id={}", nodes[0].0)).await;
    assert_eq!(of_a["total"], 1);

    let stats = list(&world, "/stats").await;
    let expected = json!({"total_managed": 3, "drifted": 2, "in_sync": 1, "unknown": 0, "active_events": 2, "resolved_today": 0});
    assert_eq!(stats, expected);
    let shown = world.get(&world.home.path("/nodes?name=a")).await.expect(200);
    assert_eq!(shown["nodes"][0]["drifted"], true);
    let metrics = world.send(request("GET", "/metrics").body(Body::empty()).unwrap()).await.text;
    assert!(metrics.contains("zentinel_cp_drift_events_active 2"), "{metrics}");

    let id = event["id"].as_str().unwrap();
    let path = world.home.path(&format!("/drift/{id}"));
    assert_eq!(world.get(&path).await.expect(200)["drift_event"]["id"], id);
    let closed = world.post(&format!("{path}/resolve"), json!({})).await.expect(200);
    assert_eq!(closed["drift_event"]["resolution"], "manual");
    world.post(&format!("{path}/resolve"), json!({})).await.expect_error(409, "Drift event already resolved");
    let unknown = world.home.path("/drift/7b0e6a52-3c1f-4c62-9f4e-0b6a0e9f1a11");
    world.get(&unknown).await.expect_error(404, "Drift event not found");
    world.get(&world.home.path("/drift/x")).await.expect_error(404, "Drift event not found");

    assert_eq!(ids(&list(&world, "?status=resolved").await, "drift_events"), [id]);
    let rest = world.post(&world.home.path("/drift/resolve-all"), json!({})).await.expect(200);
    assert_eq!(rest, json!({"resolved_count": 1}));
    let rest = world.post(&world.home.path("/drift/resolve-all"), json!({})).await.expect(200);
    assert_eq!(rest, json!({"resolved_count": 0}));
    assert_eq!(list(&world, "/stats").await["resolved_today"], 2);
    let audited = world.audited().await;
    let count = |action: &str| audited.iter().filter(|entry| *entry == action).count();
    assert_eq!((count("drift.resolved"), count("drift.bulk_resolved")), (1, 1));
    let stranger = world.stranger().await;
    let theirs = world.call("GET", &stranger.path(&format!("/drift/{id}")), &stranger.key, None).await;
    theirs.expect_error(404, "Drift event not found");
    let reader = world.key(&[ApiScope::NodesRead], true).await;
    let refused = world.call("POST", &format!("{path}/resolve"), &reader, Some(json!({}))).await;
    refused.expect_error(403, "Insufficient scope. Required: nodes:write");
}

#[tokio::test]
async fn exports_have_every_event_that_matches() {
    let Fleet { world, nodes, old, new } = fleet(&["a", "b"]).await;
    let begin = world.now();
    beat(&world, &nodes[0], &old).await;
    world.run_jobs().await;
    world.clock.advance(Duration::from_secs(60));
    beat(&world, &nodes[0], &new).await;
    beat(&world, &nodes[1], &old).await;
    world.run_jobs().await;
    let reply = world.get(&world.home.path("/drift/export")).await;
    let disposition = reply.headers["content-disposition"].to_str().unwrap().to_owned();
    let name = format!("attachment; filename=\"drift-events-edge-{}.json\"", begin.format("%Y-%m-%d"));
    assert_eq!(disposition, name);
    let body = reply.expect(200);
    assert_eq!((&body["total"], &body["project"]["slug"]), (&json!(2), &json!("edge")));
    assert_eq!(body["drift_events"][1]["duration_seconds"], 60);
    assert_eq!(body["drift_events"][1]["resolution"], "auto_corrected");
    for (query, count) in [
        ("status=active".to_owned(), 1),
        ("status=resolved".to_owned(), 1),
        (format!("since={}", (begin + Duration::from_secs(1)).format("%FT%TZ")), 1),
        (format!("until={}", (begin + Duration::from_secs(1)).format("%FT%TZ")), 1),
        (format!("until={}", begin.format("%FT%TZ")), 1),
        ("since=yesterday".to_owned(), 2),
    ] {
        let body = world.get(&world.home.path(&format!("/drift/export?{query}"))).await.expect(200);
        assert_eq!(body["drift_events"].as_array().unwrap().len(), count, "{query}");
        assert_eq!(body["total"], count, "{query}");
    }
    let csv = world.get(&world.home.path("/drift/export?format=csv")).await;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    let lines: Vec<&str> = csv.text.split("\r\n").collect();
    let header = "id,node_id,node_name,node_hostname,severity,expected_bundle_id,actual_bundle_id,detected_at,resolved_at,resolution,duration_seconds";
    assert_eq!((lines[0], lines.len()), (header, 4));
    assert!(lines[2].ends_with(",auto_corrected,60"), "{}", lines[2]);
}

#[tokio::test]
async fn a_configuration_that_is_not_the_bundles_is_drift() {
    let Fleet { world, nodes, .. } = fleet(&["a"]).await;
    let edited = json!({"config_kdl": format!("{KDL}// edited by hand\n")});
    let answer = node_call(&world, &nodes[0], "/config", edited).await;
    assert_eq!(answer["content_drift"], true);
    world.run_jobs().await;
    let event = &list(&world, "?status=active").await["drift_events"][0];
    assert_eq!((&event["kind"], &event["severity"]), (&json!("content"), &json!("low")));
    assert_eq!(event["diff_stats"]["additions"], 1);
    let answer = node_call(&world, &nodes[0], "/config", json!({"config_kdl": KDL})).await;
    assert_eq!(answer["content_drift"], false);
    world.run_jobs().await;
    assert_eq!(list(&world, "?status=active").await["total"], 0);
}

#[tokio::test]
async fn a_bundle_that_the_project_does_not_have_is_drift() {
    let Fleet { world, nodes, .. } = fleet(&["a"]).await;
    beat(&world, &nodes[0], &BundleId::random().to_string()).await;
    world.run_jobs().await;
    let event = &list(&world, "?status=active").await["drift_events"][0];
    assert_eq!((&event["kind"], &event["actual_bundle_id"]), (&json!("unknown_bundle"), &json!(null)));
}

#[tokio::test]
async fn what_a_project_wants_about_drift_is_checked() {
    let world = World::new().await;
    let path = world.home.path("");
    let settings = json!({"settings": {
        "drift_auto_remediation": true, "drift_check_interval": 60,
        "drift_alert_threshold": 20, "drift_alert_node_count": 5,
    }});
    let body = world.patch(&path, settings).await.expect(200);
    assert_eq!(body["project"]["settings"]["drift_alert_threshold"], 20);
    assert_eq!(body["project"]["settings"]["drift_check_interval"], 60);
    let body = world.patch(&path, json!({"settings": {"drift_alert_threshold": null}})).await.expect(200);
    assert_eq!(body["project"]["settings"]["drift_alert_threshold"], json!(null));
    assert_eq!(body["project"]["settings"]["drift_alert_node_count"], 5);
    for (field, value, message) in [
        ("drift_check_interval", 9, "must be greater than or equal to 10"),
        ("drift_alert_threshold", 0, "must be greater than or equal to 1"),
        ("drift_alert_threshold", 101, "must be less than or equal to 100"),
        ("drift_alert_node_count", 0, "must be greater than 0"),
    ] {
        let reply = world.patch(&path, json!({"settings": {field: value}})).await;
        reply.expect_field(&format!("settings.{field}"), message);
    }
}
