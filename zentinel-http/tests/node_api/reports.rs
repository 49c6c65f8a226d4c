//! What nodes report: heartbeats, events, configuration, measurements and firewall events.

use crate::world::{Member, Tenant, World};
use serde_json::{Value, json};
use uuid::Uuid;
use zentinel_core::Actor;
use zentinel_core::entity::{Node, NodeConfig, NodeReport, RolloutSpec};
use zentinel_core::id::{BundleId, TypedId};
use zentinel_core::log::{LogEntry, LogKind, LogQuery};
use zentinel_core::port::Store;
use zentinel_rollout::engine::NewRollout;

async fn log(world: &World, tenant: &Tenant, kind: LogKind) -> Vec<LogEntry> {
    world.store.read_log(&tenant.scope(), &LogQuery::after(kind, 0, 500)).await.unwrap()
}

async fn edge(world: &World) -> Member {
    world.member(&world.home, "edge").await
}

#[tokio::test]
async fn a_heartbeat_is_kept_and_erases_nothing() {
    let world = World::new().await;
    let member = edge(&world).await;
    let bundle = world.compiled(&world.home, "1.0.0").await;
    let full = json!({
        "version": "26.2.0", "hostname": "edge-1", "metadata": {"site": "x"},
        "health": {"status": "healthy", "uptime_s": 5, "cpu_percent": 31.5},
        "metrics": {"error_rate": 0.4, "circuit_breakers": [{"upstream_group_id": "u", "state": "open"}]},
        "active_bundle_id": bundle.id,
        "bundle_error": {"bundle_id": bundle.id, "reason": "x", "message": "y"},
        "capabilities": ["http3"],
    });
    let ack = world.node("POST", &member, "/heartbeat", Some(full)).await.expect(200);
    assert_eq!(ack, json!({"status": "ok", "node_id": member.id, "last_seen_at": "2026-02-23T10:00:05Z"}));
    world.advance(30);
    let ack = world.node("POST", &member, "/heartbeat", None).await.expect(200);
    assert_eq!(ack["last_seen_at"], "2026-02-23T10:00:35Z");
    let report = world.services.fleet.report(member.id).unwrap();
    assert_eq!(report.version.as_deref(), Some("26.2.0"));
    assert_eq!(report.hostname.as_deref(), Some("edge-1"));
    assert_eq!(report.metadata["site"], "x");
    assert_eq!(report.active_bundle_id, Some(bundle.id));
    let stored = world.read::<NodeReport>(member.id).await;
    assert_eq!(stored.active_bundle_id, Some(bundle.id));
}

#[tokio::test]
async fn a_bundle_that_the_project_does_not_have_is_unknown() {
    let world = World::new().await;
    let member = edge(&world).await;
    let stranger = world.stranger().await;
    let theirs = world.compiled(&stranger, "1.0.0").await;
    for id in [theirs.id, BundleId::random()] {
        let beat = json!({"active_bundle_id": id});
        world.node("POST", &member, "/heartbeat", Some(beat)).await.expect(200);
        let report = world.services.fleet.report(member.id).unwrap();
        assert_eq!((report.active_bundle_id, report.reported_unknown_bundle), (None, Some(id.uuid())));
    }
}

#[tokio::test]
async fn a_heartbeat_names_its_wrong_fields() {
    let world = World::new().await;
    let member = edge(&world).await;
    let post = |body| world.node("POST", &member, "/heartbeat", Some(body));
    post(json!({"health": 1, "active_bundle_id": "x", "version": 2})).await.expect_fields(&[
        "active_bundle_id",
        "health",
        "version",
    ]);
    post(json!({"metadata": {"a": ["\u{0}"]}})).await.expect_fields(&["metadata"]);
    let huge = post(json!({"metrics": {"a": "x".repeat(300_000)}})).await;
    assert_eq!(huge.status.as_u16(), 413);
    assert_eq!(post(json!([])).await.status.as_u16(), 400);
    let deep = format!("{{\"health\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let request = http::Request::post(member.path("/heartbeat")).header("x-zentinel-node-key", &member.key);
    let reply = world.send(request.body(deep.into()).unwrap()).await;
    assert_eq!((reply.status.as_u16(), &reply.body["errors"]["detail"]), (400, &json!("Bad Request")));
}

#[tokio::test]
async fn events_are_stored_once_all_or_none() {
    let world = World::new().await;
    let member = edge(&world).await;
    let post = |body| world.node("POST", &member, "/events", Some(body));
    let single = json!({"event_type": "startup", "message": "up", "event_id": "e1",
        "occurred_at": "2026-02-23T09:59:59.123456Z"});
    for _ in 0..2 {
        assert_eq!(post(single.clone()).await.expect(201), json!({"status": "ok", "count": 1}));
    }
    let two = json!({"events": [{"event_type": "info", "message": "a"},
        {"event_type": "error", "severity": "error", "message": "b", "metadata": {"k": 1}}]});
    assert_eq!(post(two).await.expect(201)["count"], 2);
    assert_eq!(post(json!({"events": []})).await.expect(201)["count"], 0);
    let log_ = log(&world, &world.home, LogKind::NodeEvent).await;
    assert_eq!(log_.len(), 3);
    assert_eq!(log_[0].row.body["occurred_at"], "2026-02-23T09:59:59.123456Z");
    assert_eq!(
        (&log_[1].row.body["severity"], &log_[2].row.body["severity"]),
        (&json!("info"), &json!("error"))
    );
    assert!(log_.iter().all(|entry| entry.row.owner == member.id.uuid()));

    let good = json!({"event_type": "info", "message": "m"});
    post(json!({"events": [good, {"event_type": "other"}]})).await.expect_fields(&["event_type", "message"]);
    post(json!({"events": [good, 7]})).await.expect_fields(&["events"]);
    post(json!({"events": "x"})).await.expect_fields(&["events"]);
    let bad = json!({"event_type": "info", "message": "m", "occurred_at": "yesterday", "metadata": 1});
    post(bad).await.expect_fields(&["metadata", "occurred_at"]);
    assert_eq!(post(json!({"message": "m"})).await.status.as_u16(), 400);
    let many: Vec<_> = (0..1_001).map(|_| good.clone()).collect();
    assert_eq!(post(json!({"events": many})).await.status.as_u16(), 413);
    assert_eq!(log(&world, &world.home, LogKind::NodeEvent).await.len(), 3);
}

#[tokio::test]
async fn a_configuration_is_compared_with_the_expected_one() {
    let world = World::new().await;
    let member = edge(&world).await;
    let post = |body| world.node("POST", &member, "/config", Some(body));
    let body = post(json!({"config_kdl": "a"})).await.expect(200);
    let digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    assert_eq!(body, json!({"status": "ok", "config_hash": digest, "content_drift": null}));
    let bundle = world.compiled(&world.home, "1.0.0").await;
    world.change::<Node>(member.id, |node| node.expected_bundle_id = Some(bundle.id)).await;
    world.eventually(|| world.known(member.id).expected_bundle_id.is_some()).await;
    assert_eq!(post(json!({"config_kdl": "a"})).await.expect(200)["content_drift"], true);
    let source = include_str!("../../../examples/configs/edge.kdl");
    assert_eq!(post(json!({"config_kdl": source})).await.expect(200)["content_drift"], false);
    assert_eq!(world.read::<NodeConfig>(member.id).await.config_kdl, source);

    assert_eq!(post(json!({})).await.status.as_u16(), 400);
    for wrong in [json!(""), json!("  "), json!(7), json!(null), json!("a\u{0}")] {
        post(json!({"config_kdl": wrong})).await.expect_fields(&["config_kdl"]);
    }
    let largest = "x".repeat(4 << 20);
    post(json!({"config_kdl": largest})).await.expect(200);
    assert_eq!(post(json!({"config_kdl": format!("{largest}x")})).await.status.as_u16(), 413);
    assert_eq!(post(json!({"config_kdl": "x".repeat(10_000_000)})).await.status.as_u16(), 413);
}

#[tokio::test]
async fn measurements_are_stored_once_and_item_by_item() {
    let world = World::new().await;
    let member = edge(&world).await;
    let stranger = world.stranger().await;
    let service = Uuid::new_v4();
    let start = "2026-02-23T10:00:00Z";
    let rollup = json!({"service_id": service, "period_start": start, "request_count": 10, "status_2xx": 9});
    let mine = json!({"service_id": service, "period_start": "2026-02-23T10:01:00Z",
        "project_id": world.home.project.id, "latency_p99_ms": 7, "top_paths": {"/": 1}});
    let request = json!({"service_id": service, "timestamp": "2026-02-23T10:00:00.000001Z", "path": "/", "status": 200});
    let report = json!({
        "metrics": [
            rollup, mine,
            {"service_id": service, "period_start": start, "project_id": stranger.project.id},
            {"service_id": "x", "period_start": null},
            {"service_id": service, "period_start": start, "request_count": -1, "error_count": "3"},
            7,
            {"service_id": service, "period_start": start, "top_paths": {"\u{0}": 1}},
        ],
        "request_logs": [request, {"service_id": service}, {"timestamp": start, "service_id": service, "status": 1.5}],
    });
    for _ in 0..2 {
        let body = world.node("POST", &member, "/metrics", Some(report.clone())).await.expect(200);
        assert_eq!((&body["metrics_ingested"], &body["logs_ingested"]), (&json!(2), &json!(1)));
        let rejected: Vec<_> = body["rejected"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                (
                    one["list"].as_str().unwrap(),
                    one["index"].as_u64().unwrap(),
                    one["error"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            rejected,
            [
                ("metrics", 2, "project_id does not exist"),
                ("metrics", 3, "period_start can't be blank; service_id is invalid"),
                ("metrics", 4, "error_count is invalid; request_count must be greater than or equal to 0"),
                ("metrics", 5, "item must be an object"),
                ("metrics", 6, "item must not hold U+0000"),
                ("request_logs", 1, "timestamp can't be blank"),
                ("request_logs", 2, "status is invalid"),
            ]
        );
    }
    let metrics = log(&world, &world.home, LogKind::Metric).await;
    assert_eq!(metrics.len(), 2);
    assert_eq!(metrics[0].row.body["project_id"], json!(world.home.project.id));
    assert_eq!(metrics[0].row.body["node_id"], json!(member.id));
    assert_eq!(
        (&metrics[0].row.body["period_seconds"], &metrics[0].row.body["error_count"]),
        (&json!(60), &json!(0))
    );
    assert_eq!(log(&world, &world.home, LogKind::RequestLog).await.len(), 1);
    assert!(log(&world, &stranger, LogKind::Metric).await.is_empty());

    let empty = world.node("POST", &member, "/metrics", None).await.expect(200);
    assert_eq!(empty["metrics_ingested"], 0);
    let wrong = world.node("POST", &member, "/metrics", Some(json!({"metrics": {}}))).await;
    wrong.expect_fields(&["metrics"]);
    let many: Vec<_> = (0..1_001).map(|_| rollup.clone()).collect();
    let reply = world.node("POST", &member, "/metrics", Some(json!({"metrics": many}))).await;
    assert_eq!(reply.status.as_u16(), 413);
}

#[tokio::test]
async fn firewall_events_are_checked_redacted_and_told_once_a_minute() {
    let world = World::new().await;
    let member = edge(&world).await;
    let post = |body| world.node("POST", &member, "/waf-events", Some(body));
    let at = "2026-02-23T10:00:00.000001Z";
    let blocked = json!({"timestamp": at, "rule_type": "sqli", "action": "blocked", "severity": "high",
        "request_headers": {"Cookie": "s=1"}});
    let body = post(
        json!({"events": [blocked, blocked, {"rule_type": "crs", "action": "logged", "severity": "warn"},
        {"rule_type": "sqli", "action": "deny"}, {"rule_type": "x", "action": "blocked"}, null]}),
    )
    .await
    .expect(200);
    assert_eq!(body["events_ingested"], 3);
    let rejected: Vec<_> =
        body["rejected"].as_array().unwrap().iter().map(|one| one["index"].clone()).collect();
    assert_eq!(rejected, [3, 4, 5]);
    let stored = log(&world, &world.home, LogKind::WafEvent).await;
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[0].row.body["request_headers"]["Cookie"], "[REDACTED]");
    assert_eq!(
        (&stored[1].row.body["rule_type"], &stored[1].row.body["severity"]),
        (&json!("custom"), &json!("medium"))
    );
    assert_eq!(stored[1].row.at, world.now());

    post(json!({"events": [{"rule_type": "xss", "action": "blocked"}]})).await.expect(200);
    let told = |entries: Vec<LogEntry>| -> Vec<Value> {
        let told = entries.into_iter().filter(|entry| entry.row.body["type"] == "security.waf_blocked");
        told.map(|entry| entry.row.body["payload"].clone()).collect()
    };
    assert_eq!(told(log(&world, &world.home, LogKind::Event).await), [json!({"count": 2})]);
    world.advance(60);
    post(json!({"events": [{"rule_type": "xss", "action": "blocked"}]})).await.expect(200);
    assert_eq!(
        told(log(&world, &world.home, LogKind::Event).await),
        [json!({"count": 2}), json!({"count": 2})]
    );

    let expected = "Expected 'events' list in request body";
    post(json!({})).await.expect_error(400, expected);
    post(json!({"events": {}})).await.expect_error(400, expected);
    let many: Vec<_> = (0..1_001).map(|_| blocked.clone()).collect();
    assert_eq!(post(json!({"events": many})).await.status.as_u16(), 413);
}

/// A rollout that has completed is over, but who looks at it is told what became of its nodes.
#[tokio::test]
async fn a_bundle_that_is_taken_back_after_its_rollout_is_told_with_it() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let (old, new) = (world.compiled(&world.home, "0").await, world.compiled(&world.home, "1").await);
    let asked = NewRollout {
        bundle_id: new.id,
        spec: RolloutSpec::default(),
        auto_start: true,
        supersede: false,
        terms: zentinel_rollout::engine::Terms::default(),
    };
    let engine = &world.services.engine;
    let rollout = engine.create(&world.home.scope(), Actor::System, asked).await.unwrap().id;
    let beat = async |body: Value| {
        world.advance(10);
        world.node("POST", &member, "/heartbeat", Some(body)).await.expect(200);
        world.services.fleet.flush().await.unwrap();
        engine.tick(rollout).await.unwrap();
    };
    for active in [&old, &new, &new, &new] {
        beat(json!({"health": {"status": "healthy"}, "active_bundle_id": active.id})).await;
    }
    let path = format!("/api/v1/projects/{}/rollouts/{rollout}", world.home.project.slug);
    let shown = async || world.bearer("GET", &path, &world.home.key).await.expect(200);
    let detail = shown().await;
    assert_eq!(
        (&detail["rollout"]["state"], &detail["progress"]["taken_back"]),
        (&json!("completed"), &json!(0))
    );

    let error = json!({"bundle_id": new.id, "reason": "proxy_crashed", "message": "exited"});
    beat(json!({"health": {"status": "healthy"}, "active_bundle_id": old.id, "bundle_error": error})).await;
    let detail = shown().await;
    assert_eq!(detail["progress"]["taken_back"], 1, "{detail}");
    assert_eq!(detail["node_statuses"][0]["taken_back"], "proxy_crashed: exited");
    assert_eq!(detail["rollout"]["state"], "completed");
}
