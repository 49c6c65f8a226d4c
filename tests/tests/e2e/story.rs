//! A KDL file becomes a signed bundle that a fleet runs; a bundle that nodes reject is undone.

use std::time::{Duration, Instant};
use zentinel_core::Secret;
use zentinel_core::entity::{BundleStatus, HealthGates, RolloutState};
use zentinel_core::id::RolloutId;
use zentinel_http::client::{
    BundleView, NewBundle, NewRollout, NodeClient, OperatorClient, Poll, RegisterRequest, RolloutDetailView,
};
use zentinel_tests::plane::{Plane, TestNode, example};
use zentinel_tests::wait_for;

const LIMIT: Duration = Duration::from_secs(90);

pub(crate) async fn compile(client: &OperatorClient, project: &str, version: &str, kdl: &str) -> BundleView {
    let request = NewBundle { version: version.into(), config_source: kdl.into(), ..NewBundle::default() };
    let created = client.create_bundle(project, &request).await.expect("created");
    client.wait_until_compiled(project, created.id, LIMIT).await.expect("compiled or failed")
}

pub(crate) async fn ended(client: &OperatorClient, project: &str, id: RolloutId) -> RolloutDetailView {
    wait_for("the rollout to end", LIMIT, || async {
        let detail = client.rollout(project, id).await.ok()?;
        (!detail.rollout.state.is_open()).then_some(detail)
    })
    .await
}

pub(crate) fn rolling(bundle: &BundleView, batch_size: u32) -> NewRollout {
    NewRollout {
        batch_size: Some(batch_size),
        health_gates: Some(HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() }),
        auto_rollback: Some(true),
        rollback_threshold: Some(30),
        ..NewRollout::of(bundle.id)
    }
}

/// The same story everywhere.
async fn whole_story(plane: Plane) {
    let (client, project) = (plane.operator(), plane.project.clone());
    let nodes = plane.nodes(5).await;
    for node in &nodes[..3] {
        node.with_directory("/srv/zentinel/assets");
    }

    let good = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    assert_eq!(good.status, BundleStatus::Compiled, "{good:?}");
    let first = client.create_rollout(&project, &rolling(&good, 2)).await.expect("created");
    let first = ended(&client, &project, first.id).await;
    assert_eq!(first.rollout.state, RolloutState::Completed, "{first:?}");
    assert_eq!(first.steps.len(), 3, "two, two and one");
    assert_eq!((first.progress.total, first.progress.active, first.progress.failed), (5, 5, 0));
    assert!(nodes.iter().all(|node| node.active() == Some(good.id)));

    let rejected = compile(&client, &project, "1.1.0", &example("edge-with-assets.kdl")).await;
    let second = client.create_rollout(&project, &rolling(&rejected, 2)).await.expect("created");
    let second = ended(&client, &project, second.id).await;
    assert_eq!(second.rollout.state, RolloutState::Failed, "{second:?}");
    let rollback = second.rollout.rolled_back_by.expect("it rolled back by itself");
    let rollback = ended(&client, &project, rollback).await;
    assert_eq!(rollback.rollout.state, RolloutState::Completed, "{rollback:?}");
    // A node that was at it when the bundle was withdrawn is brought back as soon as it says so.
    wait_for("every node to run the first bundle", LIMIT, || async {
        nodes.iter().all(|node| node.active() == Some(good.id)).then_some(())
    })
    .await;
    left_alone(&nodes[4]);
    known_by_the_control_plane(&client, &project, &good).await;
    drop(nodes);
    assert!(plane.stop().await, "it stops in order");
}

/// The last node's step never began, so nobody asked anything of it.
fn left_alone(node: &TestNode) {
    assert_eq!(node.agent.refused(), None);
}

async fn known_by_the_control_plane(client: &OperatorClient, project: &str, bundle: &BundleView) {
    wait_for("every node's record to show the bundle", LIMIT, || async {
        let nodes = client.nodes(project, None).await.ok()?;
        nodes.items.iter().all(|node| node.active_bundle_id == Some(bundle.id)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_memory() {
    whole_story(Plane::in_memory().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_and_a_directory() {
    whole_story(Plane::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_and_s3() {
    whole_story(Plane::production().await).await;
}

/// A long poll is silent for longer than a download may be.
#[tokio::test(flavor = "multi_thread")]
async fn long_polls_last_as_long_as_asked_for() {
    let plane = Plane::in_memory().await;
    let client = NodeClient::new(plane.url.clone()).expect("client");
    let request = RegisterRequest { name: "patient".to_owned(), ..RegisterRequest::default() };
    let token = Secret::new(plane.join_token.clone());
    let node = client.register(&plane.project, Some(&token), &request).await.expect("registered");
    let client = client.with_credentials(node.node_id, node.node_key);
    let asked = Instant::now();
    let answer = client.poll(Some(Duration::from_secs(33)), None).await.expect("held until the end");
    assert!(matches!(answer, Poll::NoUpdate { .. }), "{answer:?}");
    assert!(asked.elapsed() >= Duration::from_secs(32), "it was held");
    assert!(plane.stop().await);
}
