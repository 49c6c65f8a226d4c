//! What comes over the wire is wrong, old or does not come at all; the clock is off.

use crate::lifecycle::traffic;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zentinel_tests::meddler::Meddler;
use zentinel_tests::node::{LIMIT, Node, NodeOptions, which};
use zentinel_tests::plane::{Plane, free_port};
use zentinel_tests::traffic::Upstream;
use zentinel_tests::wait_for;

/// A control plane that its nodes reach through a door, for downloads too.
async fn behind_a_door() -> (Plane, Meddler) {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let door = Meddler::open(listen).await;
    let address = listen.to_string();
    let settings = [("ZENTINEL_LISTEN", address.as_str()), ("ZENTINEL_PUBLIC_URL", door.url.as_str())];
    (Plane::embedded_with(&settings).await, door)
}

async fn node(
    plane: &Plane,
    door: &Meddler,
    upstream: &Upstream,
    environment: &[(&'static str, &str)],
) -> Node {
    let options = NodeOptions {
        server: Some(door.url.clone()),
        environment: environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        ..NodeOptions::default()
    };
    Node::start_with(plane, "edge", upstream.address, options).await
}

/// A counter that a change of answers moves.
fn counter() -> (Arc<Mutex<u32>>, impl Fn() -> u32 + Send + 'static) {
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let step = move || {
        let mut count = counted.lock().unwrap();
        *count += 1;
        *count
    };
    (count, step)
}

async fn reached(what: &str, count: &Mutex<u32>, wanted: u32) {
    wait_for(what, LIMIT, || async { (*count.lock().unwrap() >= wanted).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_download_is_not_used_and_tried_again() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[]).await;
    node.first(&plane).await;
    let traffic = traffic(&node);
    let (count, step) = counter();
    door.meddle(move |passing| {
        if passing.is_download() {
            step();
            let mut bytes = passing.body.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            passing.body = Bytes::from(bytes);
        }
    });
    let next = node.assign(&plane, &node.config.version("v2")).await;
    reached("a second corrupt download", &count, 2).await;
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    door.behave();
    node.runs(&plane, next.id, "v2").await;
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_is_taken_up_again() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[]).await;
    node.first(&plane).await;
    let traffic = traffic(&node);
    let lengths = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lengths);
    door.meddle(move |passing| {
        if passing.is_download() {
            let mut lengths = seen.lock().unwrap();
            lengths.push(passing.body.len());
            if lengths.len() < 4 {
                passing.cut_at = Some(passing.body.len() / 2);
            }
        }
    });
    let next = node.assign(&plane, &node.config.version("v2")).await;
    node.runs(&plane, next.id, "v2").await;
    let lengths = lengths.lock().unwrap().clone();
    assert!(
        lengths.len() >= 4 && lengths[3] < lengths[0] / 4,
        "only what is missing is asked for: {lengths:?}"
    );
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_archive_that_calls_itself_whole_is_not_used() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[]).await;
    node.first(&plane).await;
    let (count, step) = counter();
    door.meddle(move |passing| {
        if passing.is_download() {
            step();
            passing.body = passing.body.slice(..passing.body.len() * 2 / 3);
        }
    });
    let next = node.assign(&plane, &node.config.version("v2")).await;
    reached("a short download", &count, 1).await;
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    door.behave();
    node.runs(&plane, next.id, "v2").await;
}

/// Changes the statement of an offer.
fn edit(body: &mut Bytes, change: impl FnOnce(&mut Value)) {
    let mut offer: Value = serde_json::from_slice(body).unwrap();
    change(&mut offer);
    *body = Bytes::from(serde_json::to_vec(&offer).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_signature_is_refused() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[]).await;
    // The signature of the first statement, put under the second.
    let first_signature = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&first_signature);
    door.meddle(move |passing| {
        if passing.is_offer() {
            let offer: Value = serde_json::from_slice(&passing.body).unwrap();
            *seen.lock().unwrap() = Some(offer["statement"]["signatures"].clone());
        }
    });
    let first = node.first(&plane).await;
    let stolen = first_signature.lock().unwrap().clone().expect("an offer was seen");
    assert!(stolen[0]["sig"].is_string(), "{stolen}");
    let traffic = traffic(&node);
    door.meddle(move |passing| {
        if passing.is_offer() {
            edit(&mut passing.body, |offer| offer["statement"]["signatures"] = stolen.clone());
        }
    });
    let next = node.assign(&plane, &node.config.version("v2")).await;
    let (reason, message) = node.refused(next.id).await;
    assert_eq!(reason, "bad_statement", "{message}");
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    assert_eq!(node.status()["active_bundle_id"], first.id.to_string());
    // The statement itself was good: it is accepted once it comes as it is.
    door.behave();
    node.runs(&plane, next.id, "v2").await;
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_statement_is_refused() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[]).await;
    node.first(&plane).await;
    door.meddle(|passing| {
        if passing.is_offer() {
            edit(&mut passing.body, |offer| {
                let payload =
                    BASE64_STANDARD.decode(offer["statement"]["payload"].as_str().unwrap()).unwrap();
                let mut payload: Value = serde_json::from_slice(&payload).unwrap();
                payload["sequence"] = 1_000_000.into();
                offer["statement"]["payload"] =
                    BASE64_STANDARD.encode(serde_json::to_vec(&payload).unwrap()).into();
            });
        }
    });
    let next = node.assign(&plane, &node.config.version("v2")).await;
    let (reason, message) = node.refused(next.id).await;
    assert_eq!(reason, "bad_statement", "{message}");
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    door.behave();
    node.runs(&plane, next.id, "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_older_bundle_is_refused() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[]).await;
    let recorded = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&recorded);
    door.meddle(move |passing| {
        if passing.is_offer() {
            *seen.lock().unwrap() = Some(passing.body.clone());
        }
    });
    let first = node.first(&plane).await;
    let old = recorded.lock().unwrap().clone().expect("an offer was seen");
    let second = node.assign(&plane, &node.config.version("v2")).await;
    node.runs(&plane, second.id, "v2").await;
    let traffic = traffic(&node);
    door.meddle(move |passing| {
        if passing.path.ends_with("/bundles/latest") {
            passing.status = hyper::StatusCode::OK;
            passing.body = old.clone();
        }
    });
    let (reason, message) = node.refused(first.id).await;
    assert_eq!(reason, "bad_statement", "{message}");
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v2"));
    door.behave();
    let third = node.assign(&plane, &node.config.version("v3")).await;
    node.runs(&plane, third.id, "v3").await;
    traffic.stop_unharmed().await;
}

async fn with_the_clock_off_by(seconds: &str) {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[("ZENTINEL_CLOCK_OFFSET_SECONDS", seconds)]).await;
    node.first(&plane).await;
    let traffic = traffic(&node);
    let next = node.assign(&plane, &node.config.version("v2")).await;
    node.runs(&plane, next.id, "v2").await;
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_ten_minutes_slow_does_no_harm() {
    with_the_clock_off_by("-600").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_ten_minutes_fast_does_no_harm() {
    with_the_clock_off_by("600").await;
}

/// Proves that the two above move the clock: one that is off by a day is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_a_day_slow_refuses_what_seems_to_come_from_the_future() {
    let ((plane, door), upstream) = (behind_a_door().await, Upstream::start().await);
    let node = node(&plane, &door, &upstream, &[("ZENTINEL_CLOCK_OFFSET_SECONDS", "-86400")]).await;
    let bundle = node.assign(&plane, &node.config).await;
    let (reason, message) = node.refused(bundle.id).await;
    assert_eq!(reason, "bad_statement", "{message}");
}

/// An hour at a heartbeat every ten seconds is 360 missed ones; here they come twenty times faster.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_control_plane_is_waited_for() {
    let ((plane, mut door), upstream) = (behind_a_door().await, Upstream::start().await);
    let mut node =
        node(&plane, &door, &upstream, &[("ZENTINEL_AGENT_HEARTBEAT_INTERVAL_SECONDS", "0.05")]).await;
    let first = node.first(&plane).await;
    let traffic = traffic(&node);
    let heard = node.view(&plane).await.last_seen_at.expect("it was heard from");
    door.shut().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    // The agent may be started anew while nobody is there.
    node.kill_agent();
    node.start_agent(&[]);
    wait_for("the agent to know its bundle", LIMIT, || async {
        (node.status()["active_bundle_id"] == first.id.to_string()).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    door.reopen().await;
    wait_for("the node to be heard from", LIMIT, || async {
        let now = node.view(&plane).await.last_seen_at?;
        (now > heard + chrono::TimeDelta::seconds(4)).then_some(())
    })
    .await;
    let next = node.assign(&plane, &node.config.version("v2")).await;
    node.runs(&plane, next.id, "v2").await;
    traffic.stop_unharmed().await;
}
