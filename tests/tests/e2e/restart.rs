//! `kill -9` in the middle: nothing acknowledged is lost, everything goes on by itself.

use crate::story::{compile, ended, rolling};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use zentinel_core::entity::{BundleStatus, RolloutState, StepState};
use zentinel_tests::plane::{Plane, TestNode, example};
use zentinel_tests::wait_for;

async fn survives_kills(mut plane: Plane) {
    let (client, project) = (plane.operator(), plane.project.clone());
    let nodes = plane.nodes(4).await;
    let bundle = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    let rollout = client.create_rollout(&project, &rolling(&bundle, 1)).await.expect("created");
    for step in 0..3 {
        wait_for("the next step to begin", Duration::from_secs(60), || async {
            let detail = client.rollout(&project, rollout.id).await.ok()?;
            let begun = detail.steps.iter().filter(|step| step.state != StepState::Pending).count();
            (begun > step).then_some(())
        })
        .await;
        plane.kill_and_restart().await;
        let kept = client.rollout(&project, rollout.id).await.expect("the rollout is still there");
        assert!(
            kept.steps.iter().filter(|step| step.state != StepState::Pending).count() > step,
            "a begun step stays begun"
        );
    }
    let ended = ended(&client, &project, rollout.id).await;
    assert_eq!(ended.rollout.state, RolloutState::Completed, "{ended:?}");
    assert!(nodes.iter().all(|node| node.active() == Some(bundle.id)));

    // A compile that is killed half-way is taken up again.
    let created = zentinel_http::client::NewBundle {
        version: "1.0.1".into(),
        config_source: example("edge.kdl"),
        ..Default::default()
    };
    let created = client.create_bundle(&project, &created).await.expect("acknowledged");
    plane.kill_and_restart().await;
    let compiled =
        client.wait_until_compiled(&project, created.id, Duration::from_secs(120)).await.expect("compiled");
    assert_eq!(compiled.status, BundleStatus::Compiled);
    assert_eq!(compiled.checksum, bundle.checksum, "the same source makes the same bytes");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_nobody_without_a_request() {
    let plane = Plane::embedded().await;
    let node = TestNode::start(&plane, "polls").await;
    let address = plane.url.socket_addrs(|| None).expect("an address")[0];
    let mut half_open = tokio::net::TcpStream::connect(address).await.expect("connects");
    half_open.write_all(b"POST / HTT").await.expect("sends half a head");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = std::time::Instant::now();
    assert!(plane.stop().await, "it stops in order");
    assert!(begun.elapsed() < Duration::from_secs(10), "neither a long poll nor half a request holds it up");
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_and_a_directory() {
    survives_kills(Plane::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_and_s3() {
    survives_kills(Plane::production().await).await;
}
