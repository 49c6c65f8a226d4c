//! Who may register a node, and what that does.

use crate::world::World;
use serde_json::json;
use std::collections::BTreeSet;
use zentinel_core::entity::{ApiKey, ApiScope, Node, NodeStatus, Project, RegistrationToken};
use zentinel_core::id::NodeId;
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::Store;
use zentinel_http::{HttpOptions, RateLimits};

const REQUIRED: &str = "Registration token required";

#[tokio::test]
async fn a_token_lets_a_node_in_from_each_of_its_places() {
    let world = World::new().await;
    let path = world.home.register_path();
    let (token, raw) = world.token(&world.home, Some(3)).await;
    let raw = raw.expose();
    let bearer = format!("Bearer {raw}");
    let calls = [
        (
            vec![("authorization", bearer.as_str())],
            json!({"name": "a", "labels": {"rack": "1", "zone": "x"}}),
        ),
        (vec![("x-zentinel-join-token", raw)], json!({"name": "b"})),
        (vec![], json!({"name": "c", "registration_token": raw})),
    ];
    for (headers, body) in calls {
        let reply = world.call("POST", &path, &headers, Some(body)).await;
        let body = reply.expect(201);
        assert_eq!(body["poll_interval_s"], 30);
        assert_eq!(body["node_key"].as_str().unwrap().len(), 43);
        assert_eq!(body["project_id"], json!(world.home.project.id));
        assert_eq!(body["signing_keys"][0]["algorithm"], "ed25519");
        let id: NodeId = body["node_id"].as_str().unwrap().parse().unwrap();
        let report = world.services.fleet.report(id).unwrap();
        assert_eq!(report.status, NodeStatus::Online);
        assert_eq!(report.ip.as_deref(), Some("198.51.100.7"));
        // The token's labels win.
        assert_eq!(world.read::<Node>(id).await.labels["rack"], "12");
    }
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 3);
    let fourth =
        world.call("POST", &path, &[("x-zentinel-join-token", raw)], Some(json!({"name": "d"}))).await;
    fourth.expect_error(401, REQUIRED);
    let scope = world.home.scope();
    let audit = world.store.read_log(&scope, &LogQuery::newest(LogKind::Audit, 10)).await.unwrap();
    let registered: Vec<_> =
        audit.iter().filter(|entry| entry.row.body["action"] == "node.registered").collect();
    assert_eq!(registered.len(), 3);
    assert_eq!(registered[0].row.body["metadata"]["name"], "c");
    assert_eq!(registered[0].row.body["metadata"]["registration_token_id"], json!(token.id));
}

#[tokio::test]
async fn nothing_usable_is_401() {
    let world = World::new().await;
    let path = world.home.register_path();
    let body = || Some(json!({"name": "edge"}));
    world.call("POST", &path, &[], body()).await.expect_error(401, REQUIRED);
    for headers in [("authorization", "Bearer nonsense"), ("x-zentinel-join-token", "nonsense")] {
        world.call("POST", &path, &[headers], body()).await.expect_error(401, REQUIRED);
    }
    // Nobody learns which projects exist.
    let unknown = "/api/v1/projects/nowhere/nodes/register";
    world.call("POST", unknown, &[], body()).await.expect_error(401, REQUIRED);

    let (token, raw) = world.token(&world.home, None).await;
    let headers = [("x-zentinel-join-token", raw.expose())];
    let now = world.now();
    world.change::<RegistrationToken>(token.id, |token| token.revoked_at = Some(now)).await;
    world.call("POST", &path, &headers, body()).await.expect_error(401, REQUIRED);
    let (_, raw) = world.token(&world.home, None).await;
    world.advance(3_601);
    let headers = [("x-zentinel-join-token", raw.expose())];
    world.call("POST", &path, &headers, body()).await.expect_error(401, REQUIRED);
}

#[tokio::test]
async fn a_token_is_bound_to_its_project() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let mut other = Project::new(world.home.organisation.id, "Other", world.now()).unwrap();
    other.description = None;
    world.insert(&other).await;
    // Two organisations have a project `edge`: the token's own decides.
    let (_, raw) = world.token(&stranger, Some(1)).await;
    let headers = [("x-zentinel-join-token", raw.expose())];
    let wrong = world
        .call("POST", "/api/v1/projects/other/nodes/register", &headers, Some(json!({"name": "n"})))
        .await;
    wrong.expect_error(404, "Project not found");
    let body = world
        .call("POST", &world.home.register_path(), &headers, Some(json!({"name": "n"})))
        .await
        .expect(201);
    assert_eq!(body["project_id"], json!(stranger.project.id));
}

#[tokio::test]
async fn an_api_key_needs_its_scope_and_project() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let path = world.home.register_path();
    let send = |key: String, name: &'static str| {
        let (world, path) = (&world, path.clone());
        async move {
            let bearer = format!("Bearer {key}");
            world.call("POST", &path, &[("authorization", &bearer)], Some(json!({"name": name}))).await
        }
    };
    let body = send(world.home.key.clone(), "mine").await.expect(201);
    assert_eq!(body["project_id"], json!(world.home.project.id));
    let body = send(stranger.key.clone(), "theirs").await.expect(201);
    assert_eq!(body["project_id"], json!(stranger.project.id));
    let scopes = BTreeSet::from([ApiScope::NodesRead]);
    let organisation = world.home.organisation.id;
    let (key, raw) = ApiKey::issue(organisation, None, None, "reader", scopes, None, world.now()).unwrap();
    world.insert(&key).await;
    let refused = send(raw.expose().to_owned(), "n").await;
    refused.expect_error(403, "Insufficient scope. Required: nodes:write");
}

#[tokio::test]
async fn an_open_project_lets_nodes_wait_for_approval() {
    let world = World::new().await;
    world.change::<Project>(world.home.project.id, |project| project.settings.open_registration = true).await;
    let path = world.home.register_path();
    let body = world.call("POST", &path, &[], Some(json!({"name": "walk-in"}))).await.expect(201);
    let id: NodeId = body["node_id"].as_str().unwrap().parse().unwrap();
    assert!(!world.known(id).approved);
    assert_eq!(world.services.fleet.report(id).unwrap().status, NodeStatus::Unknown);
    // A wrong token is not made good by the open door.
    let wrong =
        world.call("POST", &path, &[("x-zentinel-join-token", "x")], Some(json!({"name": "n"}))).await;
    wrong.expect_error(401, REQUIRED);

    let stranger = world.stranger().await;
    world.call("POST", &path, &[], Some(json!({"name": "again"}))).await.expect(201);
    world.change::<Project>(stranger.project.id, |project| project.settings.open_registration = true).await;
    let ambiguous = world.call("POST", &path, &[], Some(json!({"name": "n"}))).await;
    ambiguous.expect_error(409, "Ambiguous project slug");
}

#[tokio::test]
async fn wrong_fields_are_named_and_cost_no_use() {
    let world = World::new().await;
    let path = world.home.register_path();
    let (token, raw) = world.token(&world.home, Some(1)).await;
    let headers = [("x-zentinel-join-token", raw.expose())];
    let post = |body| world.call("POST", &path, &headers, Some(body));
    post(json!({})).await.expect_fields(&["name"]);
    post(json!({"name": "-x"})).await.expect_fields(&["name"]);
    post(json!({"name": 7, "labels": {"a": 1}, "capabilities": "x", "metadata": []})).await.expect_fields(&[
        "capabilities",
        "labels",
        "metadata",
        "name",
    ]);
    post(json!({"name": "n", "metadata": {"a": "\u{0}"}})).await.expect_fields(&["metadata"]);
    let many: serde_json::Map<_, _> = (0..10_000).map(|n| (n.to_string(), json!("v"))).collect();
    post(json!({"name": "n", "labels": many})).await.expect_fields(&["labels"]);
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 0);
    post(json!({"name": "edge-1"})).await.expect(201);

    let (second, raw) = world.token(&world.home, Some(1)).await;
    let headers = [("x-zentinel-join-token", raw.expose())];
    let taken = world.call("POST", &path, &headers, Some(json!({"name": "edge-1"}))).await;
    taken.expect_fields(&["name", "project_id"]);
    assert_eq!(world.read::<RegistrationToken>(second.id).await.uses.used, 0);
}

#[tokio::test]
async fn a_token_for_five_nodes_lets_in_five_of_twenty() {
    let world = World::new().await;
    let (token, raw) = world.token(&world.home, Some(5)).await;
    let calls = (0..20).map(|n| {
        let (world, raw) = (&world, raw.expose().to_owned());
        async move {
            let body = Some(json!({"name": format!("node-{n}")}));
            let headers = [("x-zentinel-join-token", raw.as_str())];
            world.call("POST", &world.home.register_path(), &headers, body).await.status.as_u16()
        }
    });
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 15, "{statuses:?}");
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 5);
}

#[tokio::test]
async fn of_many_at_once_only_the_taken_names_are_refused() {
    let world = World::new().await;
    let (token, raw) = world.token(&world.home, None).await;
    let calls = (0..60).map(|n| {
        let (world, raw) = (&world, raw.expose().to_owned());
        async move {
            // Every tenth wants a name that another one has.
            let name = if n % 10 == 9 { "node-0".to_owned() } else { format!("node-{n}") };
            let headers = [("x-zentinel-join-token", raw.as_str())];
            world.call("POST", &world.home.register_path(), &headers, Some(json!({"name": name}))).await
        }
    });
    let replies = futures_util::future::join_all(calls).await;
    let let_in: Vec<_> = replies.iter().filter(|reply| reply.status.as_u16() == 201).collect();
    let keys: BTreeSet<_> = let_in.iter().map(|reply| reply.body["node_key"].to_string()).collect();
    assert_eq!((let_in.len(), keys.len()), (54, 54));
    for refused in replies.iter().filter(|reply| reply.status.as_u16() != 201) {
        assert_eq!(refused.status.as_u16(), 422);
        assert_eq!(refused.body["error"]["name"], json!(["has already been taken"]));
    }
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 54);
    assert_eq!(world.services.fleet.counts(None)[&NodeStatus::Online], 54);
}

#[tokio::test]
async fn an_address_may_register_ten_times_a_minute() {
    let world = World::with(|options: &mut HttpOptions| {
        options.rate_limits = RateLimits::default();
    })
    .await;
    let path = world.home.register_path();
    for left in (0..10).rev() {
        let reply = world.call("POST", &path, &[], Some(json!({"name": "n"}))).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("x-ratelimit-remaining")),
            (401, left.to_string().as_str())
        );
    }
    let reply = world.call("POST", &path, &[], Some(json!({"name": "n"}))).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, "55"));
    assert_eq!(reply.body["error"], "rate_limit_exceeded");
    world.advance(60);
    world.call("POST", &path, &[], Some(json!({"name": "n"}))).await.expect_error(401, REQUIRED);
    assert!(world.services.fleet.counts(None).is_empty());
}
