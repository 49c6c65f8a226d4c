//! `kill -9` of the agent at every point of the registration, of an activation, and of the way back from
//! a bad one.

use crate::lifecycle::traffic;
use std::os::unix::process::ExitStatusExt as _;
use zentinel_http::client::NewRegistrationToken;
use zentinel_server::agent::CRASH_POINTS;
use zentinel_tests::node::{Node, NodeOptions, new_project, stand_in_binary, which};
use zentinel_tests::plane::Plane;
use zentinel_tests::traffic::Upstream;

/// Whether a point lies on the way back.
fn is_restoring(point: &str) -> bool {
    point.starts_with("restore") || matches!(point, "journal-restored" | "state-refused")
}

/// Whether a point belongs to the registration.
fn is_registering(point: &str) -> bool {
    point.starts_with("register")
}

/// The agent is killed at the point while it activates a bundle, and started again. Requests go on
/// all the time. Then the node must run the new bundle, or the old one and say that it refused the
/// new; and the next bundle must come through.
async fn killed_at(plane: &Plane, upstream: &Upstream, point: &str) {
    // A project of its own, so that its bundles are compared with its bundles.
    let project = Some(new_project(plane, &format!("at {point}")).await);
    let options = NodeOptions { proxy: Some(stand_in_binary()), project, ..NodeOptions::default() };
    let mut node = Node::start_with(plane, &format!("at-{point}"), upstream.address, options).await;
    let first = node.first(plane).await;
    let traffic = traffic(&node);
    assert!(node.stop_agent().await.success());
    node.start_agent(&[("ZENTINEL_CRASH_AT", point)]);
    let mut next = node.config.version("v2");
    if is_restoring(point) {
        next = next.special("ignore-reload");
    }
    let next = node.assign(plane, &next).await;
    let status = node.agent_ended().await;
    assert_eq!(status.signal(), Some(9), "{point}: the agent was killed there, not {status}");
    assert!(which(node.config.listen).await.is_some(), "{point}: the proxy serves without its agent");
    node.start_agent(&[]);
    if is_restoring(point) {
        let (reason, _) = node.refused(next.id).await;
        assert_eq!(reason, "reload_not_proven", "{point}");
        node.runs(plane, first.id, "v1").await;
    } else {
        node.runs(plane, next.id, "v2").await;
    }
    let count = traffic.stop().await;
    assert!(count.failed.is_empty(), "{point}: of {} requests failed: {:?}", count.sent, count.failed);
    assert!(count.sent > 0);
    let last = node.assign(plane, &node.config.version("v3")).await;
    node.runs(plane, last.id, "v3").await;
}

/// A few at a time: each is a server's worth of processes.
async fn killed_at_each(points: Vec<&'static str>) {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    assert!(points.len() > 3, "there are points: {points:?}");
    for few in points.chunks(4) {
        let all = few.iter().map(|point| killed_at(&plane, &upstream, point));
        futures_util::future::join_all(all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_there() {
    killed_at_each(
        CRASH_POINTS.iter().copied().filter(|point| !is_registering(point) && !is_restoring(point)).collect(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_back() {
    killed_at_each(CRASH_POINTS.iter().copied().filter(|point| is_restoring(point)).collect()).await;
}

/// The agent is killed while it registers with a token that lets in one node, and started again: it
/// must be that node, and take part.
#[tokio::test(flavor = "multi_thread")]
async fn while_it_registers() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let points: Vec<_> = CRASH_POINTS.iter().copied().filter(|point| is_registering(point)).collect();
    assert_eq!(points.len(), 3, "before the call, after it, and with its answer on disk");
    for point in points {
        let request = NewRegistrationToken { name: point.into(), max_uses: Some(1), ..Default::default() };
        let token = plane.operator().create_registration_token(&plane.project, &request).await;
        let project = Some((plane.project.clone(), token.expect("created").token.expose().to_owned()));
        let proxy = Some(stand_in_binary());
        let options = NodeOptions { proxy, project, crash_at: Some(point), ..NodeOptions::default() };
        let node = Node::start_with(&plane, point, upstream.address, options).await;
        node.first(&plane).await;
        assert_eq!(node.status()["node_id"], node.id.to_string(), "{point}");
        assert!(!node.directory.join("registration.json").exists(), "{point}: the secret is gone");
    }
}
