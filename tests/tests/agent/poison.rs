//! Bundles that pass every check and break the proxy: the node restores itself and says why.

use crate::lifecycle::traffic;
use std::path::Path;
use zentinel_core::entity::{HealthGates, RolloutState, StepState};
use zentinel_http::client::{BundleView, NewRollout, RolloutDetailView};
use zentinel_tests::node::{
    LIMIT, Node, NodeOptions, ProxyConfig, compile, file, stand_in_binary, tls_listener, which,
};
use zentinel_tests::plane::{Plane, free_port};
use zentinel_tests::traffic::Upstream;
use zentinel_tests::wait_for;

async fn node(plane: &Plane, name: &str, upstream: &Upstream) -> Node {
    let options = NodeOptions { proxy: Some(stand_in_binary()), ..NodeOptions::default() };
    Node::start_with(plane, name, upstream.address, options).await
}

/// The node still runs its first bundle; its record says so too, and why it does not run the other.
async fn restored(plane: &Plane, node: &Node, first: &BundleView, bad: &BundleView, reasons: &[&str]) {
    let (reason, message) = node.refused(bad.id).await;
    assert!(reasons.contains(&reason.as_str()), "{reason}: {message}");
    assert!(message.len() > 10, "{message:?} says something");
    node.runs(plane, first.id, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_its_own_test_refuses_never_reaches_the_proxy() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let (traffic, pid) = (traffic(&node), node.proxy_pid());
    let bad = node.assign(&plane, &node.config.version("bad").special("refuse-test")).await;
    restored(&plane, &node, &first, &bad, &["proxy_test_failed"]).await;
    assert_eq!(node.proxy_pid(), pid);
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_a_reload_ignores_is_noticed() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let (traffic, pid) = (traffic(&node), node.proxy_pid());
    let bad = node.assign(&plane, &node.config.version("bad").special("ignore-reload")).await;
    restored(&plane, &node, &first, &bad, &["reload_not_proven"]).await;
    // The statement compares with the refused bundle, the node with what it serves: a reload is enough.
    let good = node.assign(&plane, &node.config.version("v3")).await;
    node.runs(&plane, good.id, "v3").await;
    assert_eq!(node.proxy_pid(), pid);
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_kills_the_proxy_while_it_loads() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let bad = node.assign(&plane, &node.config.version("bad").special("die-on-load")).await;
    restored(&plane, &node, &first, &bad, &["proxy_died"]).await;
    // The proxy serves the bundle before, and the next one.
    let good = node.assign(&plane, &node.config.version("v3")).await;
    node.runs(&plane, good.id, "v3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_kills_a_new_process_while_it_starts() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let mut bad = node.config.version("bad").special("die-on-load");
    bad.more_listeners.push(free_port());
    let bad = node.assign(&plane, &bad).await;
    restored(&plane, &node, &first, &bad, &["proxy_died"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_kills_a_first_proxy_leaves_the_node_without_a_bundle() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let bad = node.assign(&plane, &node.config.version("bad").special("die-on-load")).await;
    let (reason, _) = node.refused(bad.id).await;
    assert_eq!(reason, "proxy_died");
    wait_for("the proxy to be gone", LIMIT, || async { node.proxy_pid().is_none().then_some(()) }).await;
    node.first(&plane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_load_never_ends() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let hanging = node.proxy_pid();
    let bad = node.assign(&plane, &node.config.version("bad").special("hang-on-load")).await;
    restored(&plane, &node, &first, &bad, &["reload_not_proven"]).await;
    // The proxy that hangs in its reload takes no other, although it serves the old routes.
    let anew = node.proxy_pid();
    assert_ne!(anew, hanging, "only a new process is restored");
    let good = node.assign(&plane, &node.config.version("v3")).await;
    node.runs(&plane, good.id, "v3").await;
    assert_eq!(node.proxy_pid(), anew, "and takes the next one by a signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_start_never_ends() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let mut bad = node.config.version("bad").special("hang-on-load");
    bad.more_listeners.push(free_port());
    let bad = node.assign(&plane, &bad).await;
    restored(&plane, &node, &first, &bad, &["restart_not_proven"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_kills_the_proxy_after_it_was_proven() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    // Dies after the settling time of half a second, again and again.
    let bad = node.assign(&plane, &node.config.version("bad").special("die-after 1s")).await;
    restored(&plane, &node, &first, &bad, &["proxy_crashed", "proxy_died"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_an_address_that_somebody_else_holds_never_reaches_the_proxy() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let (traffic, pid) = (traffic(&node), node.proxy_pid());
    let mut bad = node.config.version("bad");
    // Something accepts connections there, but it is not the proxy, which would serve nowhere then.
    bad.more_listeners.push(upstream.address.port());
    let bad = node.assign(&plane, &bad).await;
    restored(&plane, &node, &first, &bad, &["address_in_use"]).await;
    let (_, message) = node.refused(bad.id).await;
    assert!(message.contains(&format!("\"on-{}\"", upstream.address.port())), "{message}");
    assert_eq!(node.proxy_pid(), pid);
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_certificate_is_missing_or_none_never_reaches_the_proxy() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let first = node.first(&plane).await;
    let (traffic, pid) = (traffic(&node), node.proxy_pid());
    let none = file("neither a certificate nor a key\n");
    for (version, pem, reason) in [
        ("missing", Path::new("/nonexistent/certificate.pem"), "missing_file"),
        ("empty", none.path(), "bad_certificate"),
    ] {
        let more = tls_listener(free_port(), pem, None);
        let bad = node.assign(&plane, &ProxyConfig { more, ..node.config.version(version) }).await;
        restored(&plane, &node, &first, &bad, &[reason]).await;
        let (_, message) = node.refused(bad.id).await;
        assert!(message.contains(&pem.display().to_string()), "{message}");
        assert_eq!(node.proxy_pid(), pid);
    }
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_first_start_finds_an_address_taken() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = node(&plane, "edge", &upstream).await;
    let mut bad = node.config.version("bad");
    bad.more_listeners.push(upstream.address.port());
    let bad = node.assign(&plane, &bad).await;
    // Nothing serves that could be spared: the proxy shows it.
    assert_eq!(node.refused(bad.id).await.0, "restart_not_proven");
    node.first(&plane).await;
}

pub(crate) fn gated(bundle: &BundleView, gates: HealthGates) -> NewRollout {
    NewRollout {
        batch_size: Some(1),
        health_gates: Some(gates),
        auto_rollback: Some(true),
        rollback_threshold: Some(50),
        progress_deadline_seconds: Some(30),
        ..NewRollout::of(bundle.id)
    }
}

/// The second batch was given up before anybody was told of it.
pub(crate) fn never_began(detail: &RolloutDetailView) {
    let second = &detail.steps[1];
    assert_eq!(second.state, StepState::Failed, "{detail:?}");
    let reason = second.error.as_ref().and_then(|error| error["reason"].as_str());
    assert_eq!(reason, Some("cancelled"), "{detail:?}");
}

pub(crate) async fn ended(plane: &Plane, id: zentinel_core::id::RolloutId) -> RolloutDetailView {
    wait_for("the rollout to end", 2 * LIMIT, || async {
        let detail = plane.operator().rollout(&plane.project, id).await.ok()?;
        (!detail.rollout.state.is_open()).then_some(detail)
    })
    .await
}

/// Two nodes with bundles of their own; the rollout goes over both, one after the other. Both run
/// on this machine, so no bundle can serve on both: the ports of the bad one are nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_batch_stops_a_rollout() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    // The bundle must live as long as the poison takes before it counts as active.
    let patient = || NodeOptions {
        proxy: Some(stand_in_binary()),
        environment: vec![("ZENTINEL_AGENT_SETTLE_SECONDS", "3".to_owned())],
        ..NodeOptions::default()
    };
    let (a, b) = tokio::join!(
        Node::start_with(&plane, "a", upstream.address, patient()),
        Node::start_with(&plane, "b", upstream.address, patient())
    );
    let (first_a, first_b) = tokio::join!(a.first(&plane), b.first(&plane));
    let bad = ProxyConfig { listen: free_port(), metrics: free_port(), ..a.config.version("bad") };
    let bad = compile(&plane, "bad", &bad.special("die-after 1s").kdl()).await;
    let rollout = gated(&bad, HealthGates::heartbeat());
    let rollout = plane.operator().create_rollout(&plane.project, &rollout).await.expect("created");
    let ended_ = ended(&plane, rollout.id).await;
    assert_eq!(ended_.rollout.state, RolloutState::Failed, "{ended_:?}");
    never_began(&ended_);
    assert_eq!(ended_.rollout.rolled_back_by, None, "the node restored itself: nobody runs the bundle");
    a.runs(&plane, first_a.id, "v1").await;
    b.runs(&plane, first_b.id, "v1").await;
    let asked = if ended_.steps[0].node_ids == [a.id] { (&a, &b) } else { (&b, &a) };
    let untouched = asked.1.status();
    assert!(untouched["refused"].is_null(), "the other was left alone: {untouched}");
    assert_eq!(which(asked.1.config.listen).await.as_deref(), Some("v1"));
}
