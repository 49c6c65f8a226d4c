//! Gates on what the agent scrapes from the proxy, with real requests.

use crate::lifecycle::traffic;
use crate::poison::{ended, gated};
use zentinel_core::entity::{HealthGates, RolloutState};
use zentinel_http::client::RolloutDetailView;
use zentinel_tests::node::{Node, NodeOptions, ProxyConfig, compile, stand_in_binary};
use zentinel_tests::plane::{Plane, free_port};
use zentinel_tests::traffic::Upstream;

/// Rolls a version out under gates while requests flow; what became of it, and whether the node
/// went back.
async fn rolled_out(
    gates: HealthGates,
    change: impl FnOnce(ProxyConfig) -> ProxyConfig,
) -> RolloutDetailView {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let options = NodeOptions { proxy: Some(stand_in_binary()), ..NodeOptions::default() };
    let node = Node::start_with(&plane, "edge", upstream.address, options).await;
    let first = node.first(&plane).await;
    let traffic = traffic(&node);
    let next = compile(&plane, "next", &change(node.config.version("v2")).kdl()).await;
    let rollout = gated(&next, gates);
    let rollout = plane.operator().create_rollout(&plane.project, &rollout).await.expect("created");
    let ended_ = ended(&plane, rollout.id).await;
    if ended_.rollout.state == RolloutState::Completed {
        node.runs(&plane, next.id, "v2").await;
    } else {
        let undone = ended_.rollout.rolled_back_by.expect("it rolls back by itself");
        assert_eq!(ended(&plane, undone).await.rollout.state, RolloutState::Completed);
        node.runs(&plane, first.id, "v1").await;
    }
    assert!(traffic.stop().await.sent > 0, "requests flowed");
    ended_
}

fn errors() -> HealthGates {
    HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() }
}

fn latency() -> HealthGates {
    HealthGates { max_latency_ms: Some(300.0), ..HealthGates::heartbeat() }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_hold_a_rollout_up() {
    let detail = rolled_out(errors(), |config| config.special("errors 30%")).await;
    assert_eq!(detail.rollout.state, RolloutState::Failed, "{detail:?}");
}

/// The proxy gives such an upstream up, and counts what it answers then as errors of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_there_holds_a_rollout_up() {
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let detail = rolled_out(errors(), |config| ProxyConfig { upstream: nobody, ..config }).await;
    assert_eq!(detail.rollout.state, RolloutState::Failed, "{detail:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_holds_a_rollout_up() {
    let detail = rolled_out(latency(), |config| config.special("latency 400ms")).await;
    assert_eq!(detail.rollout.state, RolloutState::Failed, "{detail:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_does_without_them() {
    let gates = HealthGates { max_latency_ms: Some(5_000.0), ..errors() };
    let detail = rolled_out(gates, |config| config).await;
    assert_eq!(detail.rollout.state, RolloutState::Completed, "{detail:?}");
}
