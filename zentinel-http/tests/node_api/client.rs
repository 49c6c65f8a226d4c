//! The typed client against a server on loopback.

use crate::world::World;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use url::Url;
use zentinel_core::entity::{BundleStatus, NodeStatus, RolloutState};
use zentinel_core::id::NodeId;
use zentinel_core::{Kind, Secret, Sha256Digest};
use zentinel_http::RateLimits;
use zentinel_http::client::{
    HeartbeatRequest, MetricsRequest, NewBundle, NewRegistrationToken, NewRollout, NodeClient, NodeEvent,
    OperatorClient, Poll, RegisterRequest, retry_after,
};

fn operator(world: &World) -> OperatorClient {
    OperatorClient::new(world.url.clone(), Secret::new(world.home.key.clone())).unwrap()
}

#[tokio::test]
async fn a_nodes_life() {
    let world = World::new().await;
    let slug = world.home.project.slug.as_str();
    let new = NewRegistrationToken {
        name: "rack".to_owned(),
        max_uses: Some(1),
        ..NewRegistrationToken::default()
    };
    let token = operator(&world).create_registration_token(slug, &new).await.unwrap().token;
    let client = NodeClient::new(world.url.clone()).unwrap();
    let request = RegisterRequest {
        name: "edge-1".to_owned(),
        version: Some("26.2.0".to_owned()),
        ..RegisterRequest::default()
    };
    let me = client.register(slug, Some(&token), &request).await.unwrap();
    assert!(!format!("{me:?}").contains(me.node_key.expose()));
    assert_eq!((me.project_id, me.poll_interval_s), (world.home.project.id, 30));
    let again = client.register(slug, Some(&token), &request).await.unwrap_err();
    assert_eq!((again.kind(), again.message()), (Kind::Unauthenticated, "Registration token required"));

    let client = client.with_credentials(me.node_id, me.node_key);
    let beat = HeartbeatRequest::with_status("healthy").measuring("error_rate", 0.5);
    let ack = client.heartbeat(&beat).await.unwrap();
    assert_eq!((ack.node_id, ack.last_seen_at), (me.node_id, world.now()));
    let jwt = client.token().await.unwrap();
    client.use_token(Some(jwt.token));
    client.heartbeat(&beat.running(None)).await.unwrap();
    assert_eq!(client.rotate_key().await.unwrap_err().kind(), Kind::Forbidden);
    client.use_token(None);
    client.rotate_key().await.unwrap();
    assert_eq!(client.signing_keys().await.unwrap(), me.signing_keys);
    let event = NodeEvent {
        event_type: "startup".to_owned(),
        severity: None,
        message: "up".to_owned(),
        metadata: serde_json::Map::new(),
        occurred_at: None,
        event_id: Some("1".to_owned()),
    };
    assert_eq!(client.events(vec![event]).await.unwrap().count, 1);
    assert_eq!(client.config("a").await.unwrap().config_hash, Sha256Digest::of(b"a"));
    let ack =
        client.metrics(&MetricsRequest { metrics: vec![json!(1)], request_logs: vec![] }).await.unwrap();
    assert_eq!((ack.metrics_ingested, ack.rejected.len()), (0, 1));
    let waf = client.waf_events(vec![json!({"rule_type": "xss", "action": "logged"})]).await.unwrap();
    assert_eq!(waf.events_ingested, 1);
    let nodes = operator(&world).nodes(slug, None).await.unwrap();
    assert_eq!((nodes.total, nodes.items[0].status), (1, NodeStatus::Online));
}

#[tokio::test]
async fn from_the_bundle_to_its_bytes() {
    let world = World::new().await;
    let slug = world.home.project.slug.as_str();
    let member = world.member(&world.home, "edge").await;
    let client = world.client(&member);
    let Poll::NoUpdate { etag, poll_after, .. } = client.poll(None, None).await.unwrap() else { panic!() };
    assert!((27..=33).contains(&poll_after.as_secs()));
    let same = client.poll(None, etag.as_deref()).await.unwrap();
    assert!(matches!(same, Poll::NotModified { .. }) && same.etag().is_none());

    let bundle = world.compiled(&world.home, "1.0.0").await;
    let compiled =
        operator(&world).wait_until_compiled(slug, bundle.id, Duration::from_secs(5)).await.unwrap();
    assert_eq!((compiled.status, compiled.checksum), (BundleStatus::Compiled, bundle.checksum));
    let waiting = client.poll(Some(Duration::from_secs(20)), etag.as_deref());
    let (answer, ()) = tokio::join!(waiting, world.assign(&world.home, bundle.id, member.id));
    let Poll::Update(offer) = answer.unwrap() else { panic!() };
    assert_eq!((offer.bundle_id, Some(offer.checksum)), (bundle.id, bundle.checksum));
    assert!(offer.statement.is_some() && offer.etag.is_some());

    let size = offer.size_bytes;
    let whole = client.download(&offer.download_url, 0, size).await.unwrap();
    assert_eq!(Sha256Digest::of(&whole), offer.checksum);
    let from = size / 3;
    let rest = client.download(&offer.download_url, from, size).await.unwrap();
    assert_eq!(rest, whole.slice(usize::try_from(from).unwrap()..));
    assert!(client.download(&offer.download_url, size, size).await.unwrap().is_empty());
    for from in [0, from] {
        let error = client.download(&offer.download_url, from, size - 1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge);
    }
    let mut seen = 0;
    let sent = client.download_to(&offer.download_url, 0, size, |chunk| {
        seen += chunk.len() as u64;
        Ok(())
    });
    assert_eq!(sent.await.unwrap(), size);
    assert_eq!(seen, size);
    world.advance(3_601);
    let error = client.download(&offer.download_url, 0, size).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Forbidden, "Download URL has expired"));
    world.blobs.away.store(true, Ordering::SeqCst);
    let error = client.poll(None, None).await.unwrap_err();
    assert_eq!((error.kind(), retry_after(&error)), (Kind::Unavailable, Some(Duration::from_secs(5))));
}

#[tokio::test]
async fn an_operators_errand() {
    let world = World::new().await;
    let operator = operator(&world);
    let slug = world.home.project.slug.as_str();
    let projects = operator.projects(None).await.unwrap();
    assert_eq!((projects.total, projects.items[0].slug.as_str()), (1, slug));
    let other = operator.create_project("Second").await.unwrap();
    assert_eq!(other.slug, "second");
    let new = NewBundle {
        version: "9".to_owned(),
        config_source: "listeners { }".to_owned(),
        ..NewBundle::default()
    };
    let created = operator.create_bundle(slug, &new).await.unwrap();
    assert_eq!(created.status, BundleStatus::Pending);
    let taken = operator.create_bundle(slug, &new).await.unwrap_err();
    assert_eq!(taken.fields()["version"], ["has already been taken"]);
    let early = operator.create_rollout(slug, &NewRollout::of(created.id)).await.unwrap_err();
    assert_eq!((early.kind(), early.message()), (Kind::Conflict, "Bundle must be compiled before rollout"));
    let slow = operator.wait_until_compiled(slug, created.id, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(slow.kind(), Kind::Timeout);

    let member = world.member(&world.home, "edge").await;
    let bundle = world.compiled(&world.home, "1.0.0").await;
    let rollout = operator.create_rollout(slug, &NewRollout::of(bundle.id)).await.unwrap();
    assert_eq!(rollout.state, RolloutState::Running);
    let detail = operator.rollout(slug, rollout.id).await.unwrap();
    assert_eq!((detail.rollout.id, detail.progress.total, detail.steps.len()), (rollout.id, 1, 1));
    let held = operator.steer_rollout(slug, rollout.id, "pause").await.unwrap();
    assert_eq!(held.state, RolloutState::Paused);
    assert_eq!(operator.rollouts(slug, None).await.unwrap().total, 1);
    assert_eq!(operator.node(slug, member.id).await.unwrap().name, "edge");
    assert_eq!(operator.bundles(slug, None).await.unwrap().items.len(), 2);
    operator.steer_rollout(slug, rollout.id, "cancel").await.unwrap();
    assert_eq!(operator.assign_bundle(slug, bundle.id, &[member.id]).await.unwrap(), 1);
    assert_eq!(operator.revoke_bundle(slug, bundle.id).await.unwrap().status, BundleStatus::Revoked);
    operator.delete_node(slug, member.id).await.unwrap();
    let gone = operator.node(slug, NodeId::random()).await.unwrap_err();
    assert_eq!((gone.kind(), gone.message()), (Kind::NotFound, "Node not found"));
}

#[tokio::test]
async fn a_server_that_refuses_or_is_not_there() {
    let world = World::with(|options| options.rate_limits = RateLimits::uniform(1)).await;
    let client = NodeClient::new(world.url.clone()).unwrap();
    let request = RegisterRequest::default();
    assert_eq!(
        client.heartbeat(&HeartbeatRequest::default()).await.unwrap_err().kind(),
        Kind::Unauthenticated
    );
    let first = client.register("edge", None, &request).await.unwrap_err();
    assert_eq!(first.kind(), Kind::Unauthenticated);
    let second = client.register("edge", None, &request).await.unwrap_err();
    assert_eq!((second.kind(), retry_after(&second)), (Kind::RateLimited, Some(Duration::from_secs(55))));

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = Url::parse(&format!("http://{nobody}/blobs/x?signature=secret")).unwrap();
    let away = NodeClient::new(url.clone()).unwrap();
    let error = away.register("edge", None, &request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let error = away.download(&url, 0, 1).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}
