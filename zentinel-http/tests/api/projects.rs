//! Projects, the audit log, events.

use crate::world::{World, ids};
use serde_json::json;
use zentinel_core::entity::ApiScope;

#[tokio::test]
async fn projects_are_created_listed_and_changed() {
    let world = World::new().await;
    let body =
        json!({"name": "Edge EU", "description": "europe", "settings": {"max_concurrent_rollouts": 2}});
    let created = world.post("/api/v1/projects", body).await.expect(201);
    let project = &created["project"];
    assert_eq!(project["slug"], "edge-eu");
    assert_eq!(project["inserted_at"], "2026-02-23T10:00:05Z");
    let settings = json!({
        "open_registration": false, "max_concurrent_rollouts": 2, "approval_required": false, "approvals_needed": 1,
        "drift_auto_remediation": false, "drift_check_interval": 30, "drift_alert_threshold": null,
        "drift_alert_node_count": null,
    });
    assert_eq!(project["settings"], settings);

    let shown = world.get("/api/v1/projects/edge-eu").await.expect(200);
    assert_eq!(shown, created);
    let listed = world.get("/api/v1/projects").await.expect(200);
    assert_eq!((listed["total"].as_u64(), &listed["next_cursor"]), (Some(2), &json!(null)));
    assert_eq!(listed["projects"][1], *project);

    let change = json!({"name": "Europe", "description": null, "settings": {"open_registration": true}});
    let changed = world.patch("/api/v1/projects/edge-eu", change).await.expect(200);
    let project = &changed["project"];
    assert_eq!((&project["name"], &project["slug"]), (&json!("Europe"), &json!("edge-eu")));
    assert_eq!(project["description"], json!(null));
    assert_eq!(project["settings"]["open_registration"], true);
    assert_eq!(project["settings"]["max_concurrent_rollouts"], 2, "what is left out stays");
    // The change is visible at once although projects are remembered.
    assert_eq!(world.get("/api/v1/projects/edge-eu").await.expect(200), changed);
    assert_eq!(world.audited().await, ["project.created", "project.updated"]);
}

#[tokio::test]
async fn wrong_projects_are_refused() {
    let world = World::new().await;
    let create = async |body| world.post("/api/v1/projects", body).await;
    create(json!({})).await.expect_field("name", "can't be blank");
    create(json!({"name": 5})).await.expect_field("name", "is invalid");
    create(json!({"name": "x".repeat(101)})).await.expect_field("name", "should be at most 100 character(s)");
    let taken = create(json!({"name": "EDGE"})).await;
    assert_eq!(taken.body["error"]["slug"], json!(["has already been taken"]));
    assert_eq!(taken.body["error"]["name"], json!(["has already been taken"]));
    taken.expect(422);
    let settings = json!({"name": "a", "settings": {"max_concurrent_rollouts": 0}});
    create(settings).await.expect_field("settings.max_concurrent_rollouts", "must be greater than 0");
    let bound = world.key(ApiScope::ALL, true).await;
    let reply = world.call("POST", "/api/v1/projects", &bound, Some(json!({"name": "b"}))).await;
    reply.expect_error(403, "A key that is bound to a project cannot create projects");
    assert!(world.audited().await.is_empty());
}

#[tokio::test]
async fn the_audit_log_is_paged_and_stays_within_the_tenant() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.post("/api/v1/projects", json!({"name": name})).await.expect(201);
    }
    let theirs = Some(json!({"name": "theirs"}));
    world.call("POST", "/api/v1/projects", &stranger.key, theirs).await.expect(201);

    let (mut cursor, mut seen) = (String::new(), Vec::new());
    for _ in 0..10 {
        let path = format!("/api/v1/audit/logs?limit=2&cursor={cursor}");
        let page = world.get(&path).await.expect(200);
        assert_eq!(page["total"], 5);
        seen.extend(ids(&page, "entries"));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 5);
    let entry = world.get("/api/v1/audit/logs?limit=1").await.expect(200)["entries"][0].clone();
    assert_eq!((&entry["action"], &entry["actor_type"]), (&json!("project.created"), &json!("api_key")));
    assert_eq!(entry["changes"]["name"], "e");
    assert_eq!(entry["org_id"], json!(world.home.organisation.id));
    // A bound key sees its project only.
    let bound = world.key(&[ApiScope::AuditRead], true).await;
    let body = world.call("GET", "/api/v1/audit/logs", &bound, None).await.expect(200);
    assert_eq!(body["total"], 0);
    for cursor in ["x", "!!", "LTE"] {
        let reply = world.get(&format!("/api/v1/audit/logs?cursor={cursor}")).await;
        reply.expect_field("cursor", "is invalid");
    }
}

#[tokio::test]
async fn events_of_a_project_are_listed() {
    let world = World::new().await;
    world.compiled(&world.home, "1").await;
    let body = world.get(&world.home.path("/events")).await.expect(200);
    let kinds: Vec<_> = body["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["bundle.compiled", "bundle.created"]);
    assert_eq!(body["total"], 2);
    assert_eq!(body["events"][0]["project_id"], json!(world.home.project.id));
}
