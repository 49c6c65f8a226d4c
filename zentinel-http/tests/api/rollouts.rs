//! Rollouts.

use crate::world::{World, ids};
use serde_json::{Value, json};
use zentinel_core::id::BundleId;

async fn fleet(world: &World) -> Vec<String> {
    let mut nodes = Vec::new();
    for name in ["edge-1", "edge-2", "edge-3"] {
        nodes.push(world.node(&world.home, name, &[("region", "eu")]).await.0.to_string());
    }
    nodes
}

#[tokio::test]
async fn a_rollout_is_created_shown_and_steered() {
    let world = World::new().await;
    fleet(&world).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/rollouts");
    let body = json!({
        "bundle_id": bundle,
        "target_selector": {"type": "labels", "labels": {"region": "eu"}},
        "batch_size": 2,
        "health_gates": {"heartbeat_healthy": true, "max_error_rate": 5.0},
        "auto_start": false,
    });
    let created = world.post(&path, body).await.expect(201);
    assert_eq!((&created["state"], &created["bundle_id"]), (&json!("pending"), &json!(bundle)));
    assert_eq!(created["target_selector"], json!({"type": "labels", "labels": {"region": "eu"}}));
    assert_eq!(created["health_gates"], json!({"heartbeat_healthy": true, "max_error_rate": 5.0}));
    for absent in
        ["deployment_slot", "blue_green_config", "started_at", "completed_at", "error", "scheduled_at"]
    {
        assert_eq!(created.get(absent), Some(&json!(null)), "{absent}");
    }
    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    let steer = async |verb: &str| world.post(&format!("{one}/{verb}"), json!({})).await;
    steer("pause").await.expect_error(409, "Rollout cannot be paused in current state");
    steer("resume").await.expect_error(409, "Rollout cannot be resumed in current state");
    assert_eq!(steer("start").await.expect(200)["state"], "running");
    assert_eq!(steer("pause").await.expect(200)["state"], "paused");
    assert_eq!(steer("resume").await.expect(200)["state"], "running");

    let detail = world.get(&one).await.expect(200);
    assert_eq!(detail["rollout"]["state"], "running");
    let sizes: Vec<_> = detail["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["node_ids"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [2, 1]);
    assert_eq!(
        detail["progress"],
        json!({"total": 3, "pending": 3, "active": 0, "failed": 0, "taken_back": 0})
    );
    assert_eq!(detail["node_statuses"].as_array().unwrap().len(), 3);

    assert_eq!(steer("cancel").await.expect(200)["state"], "cancelled");
    steer("cancel").await.expect_error(409, "Rollout cannot be cancelled in current state");
    let audited = world.audited().await;
    let expected =
        ["created", "started", "paused", "resumed", "cancelled"].map(|verb| format!("rollout.{verb}"));
    let rollouts: Vec<_> = audited.into_iter().filter(|action| action.starts_with("rollout.")).collect();
    assert_eq!(rollouts, expected);
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_stores_nothing() {
    let world = World::new().await;
    let nodes = fleet(&world).await;
    let bundle = world.compiled(&world.home, "1").await;
    let other = world.compiled(&world.home, "0").await;
    let pin = world.home.path(&format!("/nodes/{}/pin", nodes[2]));
    world.put(&pin, json!({"bundle_id": other})).await.expect(200);
    let path = world.home.path("/rollouts");
    let plan = world.post(&format!("{path}?dry_run=true"), json!({"bundle_id": bundle})).await.expect(200);
    let preview = &plan["preview"];
    assert_eq!((preview["total"].as_u64(), preview["steps"].as_array().unwrap().len()), (Some(2), 2));
    assert_eq!(preview["steps"][1], json!({"step_index": 1, "node_ids": [nodes[1]]}));
    assert_eq!(preview["excluded"], json!([{"node_id": nodes[2], "reason": "pinned"}]));
    assert_eq!(world.get(&path).await.expect(200)["total"], 0);
}

#[tokio::test]
async fn wrong_rollouts_are_refused() {
    let world = World::unlimited().await;
    let path = world.home.path("/rollouts");
    let create = async |body: Value| world.post(&path, body).await;
    create(json!({})).await.expect_field("bundle_id", "can't be blank");
    create(json!({"bundle_id": "x"})).await.expect_field("bundle_id", "is invalid");
    create(json!({"bundle_id": BundleId::random()})).await.expect_error(404, "Bundle not found");
    let pending = json!({"version": "0", "config_source": "x"});
    let pending = world.post(&world.home.path("/bundles"), pending).await.expect(201)["id"].clone();
    create(json!({"bundle_id": pending})).await.expect_error(409, "Bundle must be compiled before rollout");
    let stranger = world.stranger().await;
    let theirs = world.compiled(&stranger, "1").await;
    create(json!({"bundle_id": theirs})).await.expect_error(404, "Bundle not found");

    let bundle = world.compiled(&world.home, "1").await;
    let reply = create(json!({"bundle_id": bundle})).await;
    reply.expect_error(422, "No target nodes matched the selector");
    fleet(&world).await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"bundle_id": bundle});
        body[field] = value;
        body
    };
    create(with("batch_size", json!(0))).await.expect_field("batch_size", "must be greater than 0");
    create(with("batch_size", json!("two"))).await.expect_field("batch_size", "is invalid");
    create(with("health_gates", json!({"foo": 1}))).await.expect_field("health_gates", "unknown keys: foo");
    let reply = create(with("strategy", json!("yolo"))).await;
    assert!(reply.body["error"].get("strategy").is_some(), "{}", reply.text);
    reply.expect(422);
    for selector in
        [json!({"type": "purple"}), json!({"type": "labels", "labels": {}}), json!("all"), json!([])]
    {
        let reply = create(with("target_selector", selector)).await;
        let message = reply.body["error"]["target_selector"][0].as_str().unwrap();
        assert!(message.starts_with("must be {type: all}"), "{message}");
        reply.expect(422);
    }
    let (node, _) = world.node(&stranger, "edge-9", &[]).await;
    let reply = create(with("target_selector", json!({"type": "node_ids", "node_ids": [node]}))).await;
    assert_eq!(reply.status.as_u16(), 422, "{}", reply.text);
    let early = json!("2020-01-01T00:00:00Z");
    create(with("scheduled_at", early)).await.expect_field("scheduled_at", "must be in the future");
    assert_eq!(world.get(&path).await.expect(200)["total"], 0);
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered() {
    let world = World::new().await;
    fleet(&world).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/rollouts");
    let first = world.post(&path, json!({"bundle_id": bundle, "auto_start": false})).await.expect(201);
    world.clock.advance(std::time::Duration::from_secs(1));
    let second = world.post(&path, json!({"bundle_id": bundle, "supersede": true})).await.expect(201);
    assert_eq!(second["state"], "running");
    let all = world.get(&path).await.expect(200);
    let id = |body: &Value| body["id"].as_str().unwrap().to_owned();
    assert_eq!((ids(&all, "rollouts"), all["total"].as_u64()), (vec![id(&second), id(&first)], Some(2)));
    let running = world.get(&format!("{path}?state=running")).await.expect(200);
    assert_eq!(ids(&running, "rollouts"), [id(&second)]);
    let page = world.get(&format!("{path}?limit=1")).await.expect(200);
    let next = page["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("{path}?limit=1&cursor={next}")).await.expect(200);
    assert_eq!(ids(&rest, "rollouts"), [id(&first)]);
}

#[tokio::test]
async fn unknown_rollouts_are_not_found() {
    let world = World::new().await;
    for id in ["nope".to_owned(), BundleId::random().to_string()] {
        let one = world.home.path(&format!("/rollouts/{id}"));
        world.get(&one).await.expect_error(404, "Rollout not found");
        for verb in ["start", "pause", "resume", "cancel", "rollback"] {
            let reply = world.post(&format!("{one}/{verb}"), json!({})).await;
            reply.expect_error(404, "Rollout not found");
        }
    }
}

#[tokio::test]
async fn a_rollout_says_why_it_stands_where_it_does() {
    let world = World::new().await;
    fleet(&world).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/rollouts");
    let bad =
        json!({"bundle_id": bundle, "strategy": "canary", "canary_analysis_config": {"steps": [5, 50]}});
    let refused = world.post(&path, bad).await.expect(422);
    assert!(
        refused["error"]["canary_analysis_config"][0].as_str().unwrap().contains("up to 100"),
        "{refused}"
    );
    let body = json!({"bundle_id": bundle, "strategy": "canary", "canary_analysis_config": {"confidence_level": 0.99}});
    let created = world.post(&path, body).await.expect(201);
    assert_eq!(created["canary_analysis_config"], json!({"confidence_level": 0.99}));
    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    let explained = world.get(&format!("{one}/explain")).await.expect(200);
    assert_eq!(explained["state"], "running");
    assert!(
        explained["sentences"][0].as_str().unwrap().starts_with("The rollout to 3 nodes is running"),
        "{explained}"
    );
    world.post(&format!("{one}/pause"), json!({})).await.expect(200);
    world.post(&format!("{one}/cancel"), json!({})).await.expect(200);
    let log = world.get(&format!("{one}/log?limit=2")).await.expect(200);
    assert_eq!(log["log"][0]["summary"], "The rollout was cancelled.");
    assert_eq!(log["log"][1]["summary"], "The rollout was paused by an operator.");
    let older = format!("{one}/log?cursor={}", log["next_cursor"].as_str().unwrap());
    assert_eq!(world.get(&older).await.expect(200)["log"][0]["summary"], "The rollout started.");
    let shown = world.get(&one).await.expect(200);
    assert_eq!(shown["rollout"]["canary_step_index"], 0);
    assert_eq!(shown["rollout"]["canary_analysis_results"], json!({"analyses": []}));
    let other = world.stranger().await;
    for rest in ["explain", "log"] {
        let path = other.path(&format!("/rollouts/{}/{rest}", created["id"].as_str().unwrap()));
        world.call("GET", &path, &other.key, None).await.expect_error(404, "Rollout not found");
    }
}
