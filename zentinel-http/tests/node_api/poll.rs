//! What nodes are told to run.

use crate::world::{Member, Reply, World};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use zentinel_core::Actor;
use zentinel_core::entity::{Activation, Bundle, BundleStatement, BundleStatus, Node};
use zentinel_core::id::BundleId;
use zentinel_core::statement::{Envelope, Expectation};

async fn poll(world: &World, member: &Member, query: &str, etag: Option<&str>) -> Reply {
    let mut headers = vec![("x-zentinel-node-key", member.key.as_str())];
    headers.extend(etag.map(|etag| ("if-none-match", etag)));
    let path = member.path(&format!("/bundles/latest{query}"));
    world.call("GET", &path, &headers, None).await
}

async fn assigned(world: &World) -> (Member, Bundle) {
    let member = world.member(&world.home, "edge").await;
    let bundle = world.compiled(&world.home, "1.0.0").await;
    world.assign(&world.home, bundle.id, member.id).await;
    (member, bundle)
}

#[tokio::test]
async fn nothing_to_do_is_said_with_jitter_and_confirmed_with_304() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let mut hints = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let reply = poll(&world, &member, "", None).await;
        let hint = reply.header("x-zentinel-poll-after").to_owned();
        let body = reply.expect(200);
        let expected = json!({"no_update": true, "poll_after_s": hint.parse::<u64>().unwrap()});
        assert_eq!(body, expected);
        hints.insert(body["poll_after_s"].as_u64().unwrap());
    }
    assert!(hints.len() > 1 && hints.iter().all(|hint| (27..=33).contains(hint)), "{hints:?}");
    let etag = poll(&world, &member, "", None).await.header("etag").to_owned();
    let same = poll(&world, &member, "", Some(&etag)).await;
    assert_eq!((same.status.as_u16(), same.bytes.len(), same.header("etag")), (304, 0, etag.as_str()));
    assert!((27..=33).contains(&same.header("x-zentinel-poll-after").parse::<u64>().unwrap()));
    poll(&world, &member, "", Some("\"ffff\"")).await.expect(200);
    poll(&world, &member, "?wait=x", None).await.expect_fields(&["wait"]);
}

#[tokio::test]
async fn an_update_carries_everything_a_node_checks() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    let reply = poll(&world, &member, "", None).await;
    let etag = reply.header("etag").to_owned();
    let body = reply.expect(200);
    assert_eq!(body["bundle_id"], json!(bundle.id));
    assert_eq!(body["version"], "1.0.0");
    assert_eq!(body["checksum"], json!(bundle.checksum));
    assert_eq!(body["size_bytes"], json!(bundle.size_bytes));
    assert_eq!(body["signature"], json!(bundle.signature));
    assert_eq!(body["signing_key_id"], json!(bundle.signing_key_id));
    assert_eq!(body["signature_alg"], "ed25519");
    assert_eq!(body["activation"], json!(bundle.activation));
    for null in ["traffic_weight", "reason"] {
        assert_eq!(body[null], json!(null));
        assert!(body.as_object().unwrap().contains_key(null));
    }
    let envelope: Envelope = serde_json::from_value(body["statement"].clone()).unwrap();
    let scope = world.home.scope();
    let pinned = world.services.signer.public_keys(&scope).await.unwrap();
    let expectation = Expectation {
        project_id: world.home.project.id,
        last_sequence: 0,
        now: world.now(),
        clock_skew_seconds: 0,
    };
    let statement = envelope.verify(&pinned, &expectation).unwrap();
    assert_eq!((statement.bundle_id, Some(statement.archive_sha256)), (bundle.id, bundle.checksum));
    let url = body["download_url"].as_str().unwrap();
    let archive = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    assert_eq!(zentinel_core::Sha256Digest::of(&archive), statement.archive_sha256);

    // Known: 304. Active: nothing to do.
    assert_eq!(poll(&world, &member, "", Some(&etag)).await.status.as_u16(), 304);
    let beat = json!({"health": {"status": "healthy"}, "active_bundle_id": bundle.id});
    world.node("POST", &member, "/heartbeat", Some(beat)).await.expect(200);
    let done = poll(&world, &member, "", Some(&etag)).await.expect(200);
    assert_eq!(done["no_update"], true);
}

#[tokio::test]
async fn a_revoked_bundle_is_not_handed_out() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    assert_eq!(poll(&world, &member, "", None).await.expect(200)["bundle_id"], json!(bundle.id));
    // Only the bundle changes, as if the node's record had not been written yet.
    world.change::<Bundle>(bundle.id, |bundle| bundle.status = BundleStatus::Revoked).await;
    let refused = poll(&world, &member, "", None).await;
    let etag = refused.header("etag").to_owned();
    assert_eq!(refused.expect(200)["no_update"], true);
    // Who is told so waits, and hears of the bundle when it is handed out after all.
    let begun = Instant::now();
    assert_eq!(poll(&world, &member, "?wait=1", Some(&etag)).await.status.as_u16(), 304);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    world.change::<Bundle>(bundle.id, |bundle| bundle.status = BundleStatus::Superseded).await;
    assert_eq!(poll(&world, &member, "", Some(&etag)).await.expect(200)["bundle_id"], json!(bundle.id));
    world.services.engine.revoke(&world.home.scope(), Actor::System, bundle.id).await.unwrap();
    world.eventually(|| world.known(member.id).target().is_none()).await;
    assert_eq!(poll(&world, &member, "", None).await.expect(200)["no_update"], true);
}

#[tokio::test]
async fn a_node_that_may_not_have_it_gets_nothing() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    world.change::<Node>(member.id, |node| node.pinned_bundle_id = Some(BundleId::random())).await;
    world.eventually(|| world.known(member.id).pinned_bundle_id().is_some()).await;
    let refused = poll(&world, &member, "", None).await;
    let etag = refused.header("etag").to_owned();
    assert_eq!(refused.expect(200)["no_update"], true);
    world.change::<Node>(member.id, |node| node.pinned_bundle_id = Some(bundle.id)).await;
    world.eventually(|| world.known(member.id).pinned_bundle_id() == Some(bundle.id)).await;
    assert_eq!(poll(&world, &member, "", Some(&etag)).await.expect(200)["bundle_id"], json!(bundle.id));
    // A waiting node hears of its pin.
    let etag = poll(&world, &member, "", None).await.header("etag").to_owned();
    let pin = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.change::<Node>(member.id, |node| node.pinned_bundle_id = Some(BundleId::random())).await;
    };
    let (told, ()) = tokio::join!(poll(&world, &member, "?wait=30", Some(&etag)), pin);
    assert_eq!(told.expect(200)["no_update"], true);
    // Who forces it beats the pin.
    let forced = world.compiled(&world.home, "1.0.1").await;
    world.hand(&world.home, forced.id, member.id, true).await;
    assert_eq!(poll(&world, &member, "", None).await.expect(200)["bundle_id"], json!(forced.id));
    world.change::<Node>(member.id, |node| node.approved = false).await;
    world.eventually(|| !world.known(member.id).approved).await;
    assert_eq!(poll(&world, &member, "", None).await.expect(200)["no_update"], true);
}

#[tokio::test]
async fn a_rollback_says_so() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    world
        .change::<Node>(member.id, |node| {
            if let Some(target) = &mut node.target {
                target.reason = Some("rollback".to_owned());
            }
        })
        .await;
    let has_reason = || world.known(member.id).target().is_some_and(|target| target.reason.is_some());
    world.eventually(has_reason).await;
    let body = poll(&world, &member, "", None).await.expect(200);
    assert_eq!((&body["bundle_id"], &body["reason"]), (&json!(bundle.id), &json!("rollback")));
}

#[tokio::test]
async fn a_long_poll_wakes_up_when_there_is_news() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let bundle = world.compiled(&world.home, "1.0.0").await;
    let etag = poll(&world, &member, "", None).await.header("etag").to_owned();
    for known in [None, Some(etag.as_str())] {
        let begun = Instant::now();
        let assign = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            world.assign(&world.home, bundle.id, member.id).await;
        };
        let (reply, ()) = tokio::join!(poll(&world, &member, "?wait=30", known), assign);
        assert_eq!(reply.expect(200)["bundle_id"], json!(bundle.id));
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(150) && took < Duration::from_secs(10), "{took:?}");
        world.change::<Node>(member.id, |node| node.target = None).await;
        world.eventually(|| world.known(member.id).target().is_none()).await;
    }
}

#[tokio::test]
async fn a_long_poll_ends_and_is_capped() {
    let world = World::with(|options| options.max_long_poll = Duration::from_millis(300)).await;
    let member = world.member(&world.home, "edge").await;
    let begun = Instant::now();
    let reply = poll(&world, &member, "?wait=3600", None).await;
    let etag = reply.header("etag").to_owned();
    assert_eq!(reply.expect(200)["no_update"], true);
    let same = poll(&world, &member, "?wait=3600", Some(&etag)).await;
    assert_eq!(same.status.as_u16(), 304);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(10), "{took:?}");
    // What the caller does not know yet is not held back.
    let begun = Instant::now();
    poll(&world, &member, "?wait=3600", Some("\"abc\"")).await.expect(200);
    assert!(begun.elapsed() < Duration::from_millis(250));
}

#[tokio::test]
async fn a_node_that_is_deleted_while_it_waits_is_told() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let forget = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.services.fleet.forget(member.id);
    };
    let (reply, ()) = tokio::join!(poll(&world, &member, "?wait=30", None), forget);
    reply.expect_error(401, "Node not found");
}

#[tokio::test]
async fn two_nodes_get_two_urls_for_one_archive() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    let other = world.member(&world.home, "other").await;
    world.assign(&world.home, bundle.id, other.id).await;
    let first = poll(&world, &member, "", None).await.expect(200);
    let second = poll(&world, &other, "", None).await.expect(200);
    assert_eq!(first["checksum"], second["checksum"]);
    assert_ne!(first["statement"], second["statement"]);
    let key = bundle.storage_key.unwrap();
    assert!(world.services.blobs.head(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn polls_and_heartbeats_read_nothing_from_the_store() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    let idle = world.member(&world.home, "idle").await;
    let token = world.jwt(&idle).await;
    let beat = json!({"health": {"status": "healthy"}, "metrics": {"error_rate": 0.1}, "version": "1"});
    // The first of each fills the memory.
    for round in 0..5 {
        let before = world.store.reads.load(Ordering::SeqCst);
        assert_eq!(poll(&world, &member, "", None).await.expect(200)["bundle_id"], json!(bundle.id));
        assert_eq!(poll(&world, &idle, "", None).await.expect(200)["no_update"], true);
        world.bearer("GET", &idle.path("/bundles/latest"), &token).await.expect(200);
        world.node("POST", &idle, "/heartbeat", Some(beat.clone())).await.expect(200);
        let reads = world.store.reads.load(Ordering::SeqCst) - before;
        assert_eq!(reads > 0, round == 0, "round {round}: {reads} reads");
    }
}

#[tokio::test]
async fn a_fleet_that_wakes_up_together_asks_the_store_once() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    let before = world.store.reads.load(Ordering::SeqCst);
    let polls = (0..50).map(|_| poll(&world, &member, "", None));
    for reply in futures_util::future::join_all(polls).await {
        assert_eq!(reply.expect(200)["bundle_id"], json!(bundle.id));
    }
    assert_eq!(world.store.reads.load(Ordering::SeqCst) - before, 2);
}

#[tokio::test]
async fn an_absent_object_store_is_503_and_passes() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    world.blobs.away.store(true, Ordering::SeqCst);
    let reply = poll(&world, &member, "", None).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "5"));
    world.blobs.away.store(false, Ordering::SeqCst);
    assert_eq!(poll(&world, &member, "", None).await.expect(200)["bundle_id"], json!(bundle.id));
}

#[tokio::test]
async fn activation_is_what_the_statement_says() {
    let world = World::new().await;
    let (member, bundle) = assigned(&world).await;
    let other = match bundle.activation {
        Activation::Reload => Activation::Restart,
        Activation::Restart => Activation::Reload,
    };
    world.change::<Bundle>(bundle.id, |bundle| bundle.activation = other).await;
    let body = poll(&world, &member, "", None).await.expect(200);
    assert_eq!(body["activation"], json!(bundle.activation));
    assert_eq!(body["compare"], true, "nobody knows what the node runs");
    let target = world.known(member.id).target().cloned().unwrap();
    let spoil = |statement: &mut BundleStatement| statement.envelope.payload = "e30=".to_owned();
    world.change::<BundleStatement>(target.statement_id, spoil).await;
    assert_eq!(poll(&world, &member, "", None).await.expect(200)["no_update"], true);
}
