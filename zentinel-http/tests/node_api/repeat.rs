//! A registration whose answer was lost is repeated.

use crate::world::{Member, Reply, Tenant, World};
use serde_json::{Value, json};
use zentinel_core::entity::{Node, Project, RegistrationToken};
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::Store;

const SECRET: &str = "Yk7r0mVbJ3nqTzq1xXgkQ2cUeW9d5LsHf8aPiN4oZtE";
const OTHER: &str = "9dLw2fQmEo6uRk1yTzVx8cNbGs5hJa3pXi7tKq0ZlYM";
const REQUIRED: &str = "Registration token required";

async fn register(world: &World, tenant: &Tenant, token: &str, secret: Option<&str>) -> Reply {
    let mut body = json!({"name": "edge-1"});
    if let Some(secret) = secret {
        body["registration_secret"] = json!(secret);
    }
    world.call("POST", &tenant.register_path(), &[("x-zentinel-join-token", token)], Some(body)).await
}

fn member(body: &Value) -> Member {
    Member {
        id: body["node_id"].as_str().unwrap().parse().unwrap(),
        key: body["node_key"].as_str().unwrap().to_owned(),
    }
}

/// Whether the key that an answer carried lets the node in.
async fn gets_in(world: &World, member: &Member) -> bool {
    world.node("GET", member, "/signing-keys", None).await.status.as_u16() == 200
}

async fn actions(world: &World) -> Vec<Value> {
    let log = world.store.read_log(&world.home.scope(), &LogQuery::newest(LogKind::Audit, 50)).await.unwrap();
    log.iter().map(|entry| entry.row.body["action"].clone()).collect()
}

#[tokio::test]
async fn the_same_secret_gets_the_same_node_without_another_use() {
    let world = World::new().await;
    let (token, raw) = world.token(&world.home, Some(1)).await;
    let first = register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect(201);
    assert_eq!(first["node_key"].as_str().unwrap().len(), 43);
    // The one use is gone; an hour later the token has ended as well.
    for _ in 0..2 {
        let again = register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect(200);
        assert_eq!(again, first, "as if it were the first answer");
        assert!(gets_in(&world, &member(&again)).await);
        world.advance(3_601);
    }
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 1);
    let stored = world.read::<Node>(member(&first).id).await;
    let stored = serde_json::to_string(&stored.value).unwrap();
    assert!(!stored.contains(SECRET) && !stored.contains(first["node_key"].as_str().unwrap()));
    let repeated = ["node.registration_repeated", "node.registration_repeated", "node.registered"];
    assert_eq!(actions(&world).await, repeated);
}

#[tokio::test]
async fn a_token_with_uses_left_keeps_them() {
    let world = World::new().await;
    let (token, raw) = world.token(&world.home, None).await;
    let first = register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect(201);
    let (second, other) = world.token(&world.home, Some(1)).await;
    for raw in [raw, other] {
        let again = register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect(200);
        assert_eq!(again, first);
    }
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 1);
    assert_eq!(world.read::<RegistrationToken>(second.id).await.uses.used, 0);
}

#[tokio::test]
async fn another_secret_or_none_finds_the_name_taken() {
    let world = World::new().await;
    let (_, raw) = world.token(&world.home, None).await;
    let (_, single) = world.token(&world.home, Some(1)).await;
    let first = register(&world, &world.home, single.expose(), Some(SECRET)).await.expect(201);
    for secret in [Some(OTHER), None] {
        register(&world, &world.home, raw.expose(), secret).await.expect_fields(&["name", "project_id"]);
        register(&world, &world.home, single.expose(), secret).await.expect_error(401, REQUIRED);
    }
    register(&world, &world.home, "nonsense", Some(SECRET)).await.expect_error(401, REQUIRED);
    // What is shown to operators does not make a key: the node's own is no secret to register with.
    let key = first["node_key"].as_str().unwrap();
    register(&world, &world.home, raw.expose(), Some(key)).await.expect_fields(&["name", "project_id"]);
    assert_eq!(actions(&world).await, ["node.registered"]);
}

#[tokio::test]
async fn a_node_that_registered_without_a_secret_is_never_repeated() {
    let world = World::new().await;
    let (_, raw) = world.token(&world.home, None).await;
    register(&world, &world.home, raw.expose(), None).await.expect(201);
    let taken = register(&world, &world.home, raw.expose(), Some(SECRET)).await;
    taken.expect_fields(&["name", "project_id"]);
}

#[tokio::test]
async fn neither_a_revoked_nor_a_rotated_key_comes_back() {
    for change in ["revoke-key", "rotate-key"] {
        let world = World::new().await;
        let (_, raw) = world.token(&world.home, None).await;
        let first = member(&register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect(201));
        let path = format!("/api/v1/projects/{}/nodes/{}/{change}", world.home.project.slug, first.id);
        let bearer = format!("Bearer {}", world.home.key);
        world.call("POST", &path, &[("authorization", &bearer)], None).await.expect(200);
        let taken = register(&world, &world.home, raw.expose(), Some(SECRET)).await;
        taken.expect_fields(&["name", "project_id"]);
    }
}

#[tokio::test]
async fn a_revoked_token_and_one_of_another_project_repeat_nothing() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let (token, raw) = world.token(&world.home, Some(1)).await;
    register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect(201);
    // Another project's token gets another node, under a key of its own.
    let (_, theirs) = world.token(&stranger, Some(1)).await;
    let other = register(&world, &stranger, theirs.expose(), Some(SECRET)).await.expect(201);
    assert_eq!(other["project_id"], json!(stranger.project.id));
    let now = world.now();
    world.change::<RegistrationToken>(token.id, |token| token.revoked_at = Some(now)).await;
    register(&world, &world.home, raw.expose(), Some(SECRET)).await.expect_error(401, REQUIRED);
}

#[tokio::test]
async fn an_api_key_and_an_open_door_repeat_as_well() {
    let world = World::new().await;
    world.change::<Project>(world.home.project.id, |project| project.settings.open_registration = true).await;
    let bearer = format!("Bearer {}", world.home.key);
    let path = world.home.register_path();
    for (name, headers) in [("by-key", vec![("authorization", bearer.as_str())]), ("walk-in", vec![])] {
        let body = |secret| Some(json!({"name": name, "registration_secret": secret}));
        let first = world.call("POST", &path, &headers, body(SECRET)).await.expect(201);
        let again = world.call("POST", &path, &headers, body(SECRET)).await.expect(200);
        assert_eq!(again, first);
        world.call("POST", &path, &headers, body(OTHER)).await.expect_fields(&["name", "project_id"]);
    }
}

#[tokio::test]
async fn tries_at_the_same_time_make_one_node_with_one_key() {
    let world = World::new().await;
    let (token, raw) = world.token(&world.home, Some(1)).await;
    let tries = (0..20).map(|_| register(&world, &world.home, raw.expose(), Some(SECRET)));
    let replies = futures_util::future::join_all(tries).await;
    let made = replies.iter().filter(|reply| reply.status.as_u16() == 201).count();
    assert_eq!(made, 1);
    for reply in &replies {
        assert!(reply.status.is_success(), "{reply:?}");
        assert_eq!(reply.body, replies[0].body);
    }
    assert!(gets_in(&world, &member(&replies[0].body)).await);
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 1);
    assert_eq!(actions(&world).await.len(), 20);
}

#[tokio::test]
async fn a_secret_that_could_be_guessed_is_refused() {
    let world = World::new().await;
    let (token, raw) = world.token(&world.home, Some(1)).await;
    for secret in [json!("short"), json!("x".repeat(256)), json!(7)] {
        let body = json!({"name": "edge-1", "registration_secret": secret});
        let headers = [("x-zentinel-join-token", raw.expose())];
        let reply = world.call("POST", &world.home.register_path(), &headers, Some(body)).await;
        reply.expect_fields(&["registration_secret"]);
    }
    assert_eq!(world.read::<RegistrationToken>(token.id).await.uses.used, 0);
}
