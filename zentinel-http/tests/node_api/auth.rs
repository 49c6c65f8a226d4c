//! Every way in, and every way to fail.

use crate::world::{Member, World};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::{Node, SigningKey};
use zentinel_core::id::NodeId;
use zentinel_core::port::{Store, StoreExt};
use zentinel_core::{Changes, Scope};
use zentinel_http::{HttpOptions, RateLimits};

const MISSING: &str =
    "Missing authentication. Provide Authorization: Bearer <token> or X-Zentinel-Node-Key header.";

fn claims(world: &World, member: &Member) -> Value {
    let now = world.now().timestamp();
    json!({
        "sub": member.id, "prj": world.home.project.id, "org": world.home.organisation.id,
        "iat": now, "exp": now + 600,
    })
}

async fn try_claims(world: &World, member: &Member, change: impl FnOnce(&mut Value)) -> crate::world::Reply {
    let mut claims = claims(world, member);
    change(&mut claims);
    let header = json!({"alg": "EdDSA", "kid": null});
    let token = world.forge(world.home.organisation.id, header, &claims).await;
    world.bearer("POST", &member.path("/heartbeat"), &token).await
}

#[tokio::test]
async fn static_keys() {
    let world = World::new().await;
    let (one, two) = (world.member(&world.home, "one").await, world.member(&world.home, "two").await);
    world.node("POST", &one, "/heartbeat", None).await.expect(200);
    world.call("POST", &one.path("/heartbeat"), &[], None).await.expect_error(401, MISSING);
    let other_scheme = [("authorization", "Basic abc")];
    world.call("POST", &one.path("/heartbeat"), &other_scheme, None).await.expect_error(401, MISSING);
    let wrong = [("x-zentinel-node-key", "wrong")];
    world.call("POST", &one.path("/heartbeat"), &wrong, None).await.expect_error(401, "Invalid node key");

    let (mine, stranger) = (one.key.clone(), world.stranger().await);
    let foreign = world.member(&stranger, "foreign").await;
    for id in [two.id, foreign.id, NodeId::random()] {
        let as_one = Member { id, key: mine.clone() };
        for (method, rest) in [
            ("POST", "/heartbeat"),
            ("GET", "/bundles/latest"),
            ("POST", "/token"),
            ("POST", "/events"),
            ("POST", "/config"),
            ("POST", "/metrics"),
            ("POST", "/waf-events"),
            ("POST", "/key/rotate"),
            ("GET", "/signing-keys"),
        ] {
            world.node(method, &as_one, rest, None).await.expect_error(403, "Node id mismatch");
        }
    }
    let malformed = [("x-zentinel-node-key", mine.as_str())];
    let reply = world.call("POST", "/api/v1/nodes/not-an-id/heartbeat", &malformed, None).await;
    reply.expect_error(404, "Node not found");
}

#[tokio::test]
async fn a_bearer_token_takes_precedence() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let both = [("authorization", "Bearer nonsense"), ("x-zentinel-node-key", member.key.as_str())];
    let reply = world.call("POST", &member.path("/heartbeat"), &both, None).await;
    reply.expect_error(401, "Authentication failed");
    let token = world.jwt(&member).await;
    let bearer = format!("bearer {token}");
    let both = [("authorization", bearer.as_str()), ("x-zentinel-node-key", "wrong")];
    world.call("POST", &member.path("/heartbeat"), &both, None).await.expect(200);
}

#[tokio::test]
async fn tokens_end_and_are_checked_claim_by_claim() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let now = world.now().timestamp();
    try_claims(&world, &member, |_| {}).await.expect(200);
    try_claims(&world, &member, |claims| claims["exp"] = json!(now)).await.expect_error(401, "Token expired");
    for change in [
        (|claims: &mut Value, _| claims["exp"] = json!(null)) as fn(&mut Value, i64),
        |claims, now| claims["exp"] = json!((now + 60).to_string()),
        |claims, now| claims["exp"] = json!(now as f64 + 60.5),
        |claims, _| claims["sub"] = json!(null),
        |claims, _| claims["sub"] = json!(7),
        |claims, _| claims["prj"] = json!(null),
        |claims, _| claims["org"] = json!(null),
        |claims, _| claims["prj"] = json!(NodeId::random()),
        |claims, now| claims["iat"] = json!(now + 61),
        |claims, _| claims["iat"] = json!(null),
    ] {
        let reply = try_claims(&world, &member, |claims| change(claims, now)).await;
        reply.expect_error(401, "Authentication failed");
    }
    let unknown = try_claims(&world, &member, |claims| claims["sub"] = json!(NodeId::random())).await;
    unknown.expect_error(401, "Node not found");
    for token in ["", "a", "a.b", "a.b.c", "....", &"x".repeat(10_000)] {
        let reply = world.bearer("POST", &member.path("/heartbeat"), token).await;
        assert_eq!(reply.status.as_u16(), 401, "{token}");
    }
}

#[tokio::test]
async fn forged_tokens() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let home = world.home.organisation.id;
    let path = member.path("/heartbeat");
    let good = world.forge(home, json!({"alg": "EdDSA", "kid": null}), &claims(&world, &member)).await;
    let (input, _) = good.rsplit_once('.').unwrap();
    let spoilt = format!("{input}.{}", URL_SAFE_NO_PAD.encode([1_u8; 64]));
    world.bearer("POST", &path, &spoilt).await.expect_error(401, "Invalid token signature");
    let (header, rest) = good.split_once('.').unwrap();
    let mut other = claims(&world, &member);
    other["exp"] = json!(world.now().timestamp() + 9_999);
    let signature = rest.split_once('.').unwrap().1;
    let altered = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(other.to_string()));
    world.bearer("POST", &path, &altered).await.expect_error(401, "Invalid token signature");

    for alg in ["none", "HS256", "RS256", "ES256"] {
        let token = world.forge(home, json!({"alg": alg, "kid": null}), &claims(&world, &member)).await;
        world.bearer("POST", &path, &token).await.expect_error(401, "Authentication failed");
    }
    let kid = &world.services.signer.public_keys(&Scope::Organisation(home)).await.unwrap()[0].key_id;
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": kid}).to_string());
    let unsigned = format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims(&world, &member).to_string()));
    world.bearer("POST", &path, &unsigned).await.expect_error(401, "Authentication failed");
    let nameless = URL_SAFE_NO_PAD.encode(json!({"alg": "EdDSA"}).to_string());
    let nameless = format!("{nameless}.{rest}");
    world.bearer("POST", &path, &nameless).await.expect_error(401, "Authentication failed");
    let unknown = world.forge(home, json!({"alg": "EdDSA", "kid": "sk_x"}), &claims(&world, &member)).await;
    world.bearer("POST", &path, &unknown).await.expect_error(401, "Unknown signing key");
}

#[tokio::test]
async fn another_organisations_key_signs_nothing_here() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let stranger = world.stranger().await;
    world.member(&stranger, "theirs").await;
    let path = member.path("/heartbeat");
    let header = || json!({"alg": "EdDSA", "kid": null});
    // It claims to be of the node's organisation: no such key there.
    let token = world.forge(stranger.organisation.id, header(), &claims(&world, &member)).await;
    world.bearer("POST", &path, &token).await.expect_error(401, "Unknown signing key");
    // It is honest about its organisation: genuine, but not this node's.
    let mut honest = claims(&world, &member);
    honest["org"] = json!(stranger.organisation.id);
    let token = world.forge(stranger.organisation.id, header(), &honest).await;
    world.bearer("POST", &path, &token).await.expect_error(401, "Authentication failed");
}

async fn signing_key(world: &World) -> SigningKey {
    let scope = Scope::Organisation(world.home.organisation.id);
    let newest = world.services.signer.public_keys(&scope).await.unwrap().remove(0);
    world.store.find_by_key::<SigningKey>(&newest.key_id).await.unwrap().unwrap().value
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_key() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let token = world.jwt(&member).await;
    let path = member.path("/heartbeat");
    world.bearer("POST", &path, &token).await.expect(200);
    let key = signing_key(&world).await;
    world.change::<SigningKey>(key.id, |key| key.active = false).await;
    let refused = world.bearer("POST", &path, &token).await;
    refused.expect_error(401, "Signing key has been deactivated");
    // The static key gets a token of a new key.
    let token = world.jwt(&member).await;
    world.bearer("POST", &path, &token).await.expect(200);
    assert_ne!(signing_key(&world).await.key_id, key.key_id);
}

#[tokio::test]
async fn a_key_that_had_ended_issued_nothing() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let token = world.jwt(&member).await;
    let key = signing_key(&world).await;
    let ended = world.now() - std::time::Duration::from_secs(5);
    world.change::<SigningKey>(key.id, |key| key.expires_at = Some(ended)).await;
    let refused = world.bearer("POST", &member.path("/heartbeat"), &token).await;
    refused.expect_error(401, "Authentication failed");
    // One that ends later does not spoil what it signed before.
    let ends = world.now() + std::time::Duration::from_secs(5);
    world.change::<SigningKey>(key.id, |key| key.expires_at = Some(ends)).await;
    world.advance(10);
    world.bearer("POST", &member.path("/heartbeat"), &token).await.expect(200);
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_time_its_node_and_a_revocation() {
    let world = World::new().await;
    let (one, two) = (world.member(&world.home, "one").await, world.member(&world.home, "two").await);
    let token = world.jwt(&one).await;
    let path = one.path("/heartbeat");
    world.bearer("POST", &path, &token).await.expect(200);
    let two_path = two.path("/heartbeat");
    world.bearer("POST", &two_path, &token).await.expect_error(403, "Node id mismatch");
    let second = world.jwt(&two).await;

    world.advance(30);
    let now = world.now();
    world.change::<Node>(one.id, |node| node.tokens_valid_after = Some(now)).await;
    world.eventually(|| world.known(one.id).tokens_valid_after.is_some()).await;
    world.bearer("POST", &path, &token).await.expect_error(401, "Authentication failed");
    let renewed = world.jwt(&one).await;
    world.bearer("POST", &path, &renewed).await.expect(200);

    let read = world.read::<Node>(one.id).await;
    world.store.commit(Changes::new().delete(&read)).await.unwrap();
    world.eventually(|| world.services.fleet.node(one.id).is_none()).await;
    world.bearer("POST", &path, &renewed).await.expect_error(401, "Node not found");
    world.node("POST", &one, "/heartbeat", None).await.expect_error(401, "Invalid node key");

    world.bearer("POST", &two_path, &second).await.expect(200);
    world.advance(43_200);
    world.bearer("POST", &two_path, &second).await.expect_error(401, "Token expired");
}

#[tokio::test]
async fn a_node_of_another_replica_is_found_in_the_store() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    // As if this replica had not heard of the registration yet.
    world.services.fleet.forget(member.id);
    world.node("POST", &member, "/heartbeat", None).await.expect(200);
    let token = world.jwt(&member).await;
    world.services.fleet.forget(member.id);
    world.bearer("POST", &member.path("/heartbeat"), &token).await.expect(200);
}

/// Read singly, a returning fleet would keep the store from being read as a whole. Nobody is refused for
/// not being known yet, wherever a node's key counts.
#[tokio::test]
async fn nodes_that_return_together_wait_for_the_restore() {
    let mut world = World::new().await;
    let mut members = Vec::new();
    for number in 0..40 {
        members.push(world.member(&world.home, &format!("edge-{number}")).await);
    }
    let token = world.jwt(&members[0]).await;
    let (fleet, app) = world.restarted();
    world.app = app;
    let statuses = async |world: &World, path: &str| {
        let calls = members.iter().map(|member| {
            let path = if path.starts_with("/api") { path.to_owned() } else { member.path(path) };
            async move { world.call("GET", &path, &[("x-zentinel-node-key", &member.key)], None).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let mut served = 0;
        for reply in replies {
            match reply.status.as_u16() {
                200 => served += 1,
                503 => assert!((1..=3).contains(&reply.header("retry-after").parse::<u32>().unwrap())),
                other => panic!("{other}: {:?}", reply.bytes),
            }
        }
        served
    };
    let keys = format!("/api/v1/projects/{}/signing-key", world.home.project.slug);
    let before = world.store.reads.load(Ordering::SeqCst);
    assert_eq!(statuses(&world, "/bundles/latest").await, 4);
    let reads = world.store.reads.load(Ordering::SeqCst) - before;
    // A key, a node and its report each, and what the plane reads by itself.
    assert!(reads <= 4 * 4, "{reads}");
    assert!((8..40).contains(&statuses(&world, &keys).await), "who is known is served");
    let claims = format!("Bearer {token}");
    let path = members[0].path("/bundles/latest");
    world.call("GET", &path, &[("authorization", &claims)], None).await.expect(200);

    let stop = CancellationToken::new();
    let (running, until) = (fleet.clone(), stop.clone());
    let running = tokio::spawn(async move { running.run(until).await });
    world.eventually(|| fleet.is_restored()).await;
    assert_eq!(statuses(&world, "/bundles/latest").await, 40);
    assert_eq!(statuses(&world, &keys).await, 40);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_node_may_call_six_hundred_times_a_minute() {
    let world = World::with(|options: &mut HttpOptions| {
        options.rate_limits = RateLimits { registration: 1_000, ..RateLimits::default() };
    })
    .await;
    let (one, two) = (world.member(&world.home, "one").await, world.member(&world.home, "two").await);
    for _ in 0..600 {
        let reply = world.node("GET", &one, "/bundles/latest", None).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-ratelimit-limit")), (200, "600"));
    }
    let reply = world.node("POST", &one, "/heartbeat", None).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, "55"));
    world.node("POST", &two, "/heartbeat", None).await.expect(200);
    // Guessing is limited per address.
    let mut last = 0;
    for _ in 0..301 {
        let wrong = [("x-zentinel-node-key", "wrong")];
        last = world.call("POST", &two.path("/heartbeat"), &wrong, None).await.status.as_u16();
    }
    assert_eq!(last, 429);
    world.node("POST", &two, "/heartbeat", None).await.expect(200);
}

#[tokio::test]
async fn only_json_is_answered() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let request = Request::builder()
        .uri(member.path("/bundles/latest"))
        .header("x-zentinel-node-key", &member.key)
        .header("accept", "text/html");
    let reply = world.send(request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(reply.status.as_u16(), 406);
}
