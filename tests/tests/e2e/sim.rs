//! The simulator against the server, binary against binary.

use crate::simulator::Simulator;
use crate::story::{compile, ended, rolling};
use serde_json::Value;
use std::time::Duration;
use zentinel_core::entity::RolloutState;
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

const NODES: usize = 200;
const LIMIT: Duration = Duration::from_secs(120);

async fn registered(plane: &Plane) {
    let client = plane.operator();
    wait_for("every node to be registered", LIMIT, || async {
        let nodes = client.nodes(&plane.project, None).await.ok()?;
        (nodes.total == NODES as u64).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_completes_and_one_that_nodes_reject_is_undone() {
    let plane = Plane::embedded().await;
    let quick = ["--heartbeat-interval", "1", "--poll-interval", "1", "--apply-delay", "0"];
    let more = ["--behaviour", "rejecting=50", "--changes", "0", "--duration", "0", "--connections", "40"];
    let simulator = Simulator::start(&plane, NODES, &[&quick[..], &more[..], &["--tokens"]].concat());
    registered(&plane).await;
    let (client, project) = (plane.operator(), plane.project.clone());

    let good = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    let first = client.create_rollout(&project, &rolling(&good, 100)).await.expect("created");
    let first = ended(&client, &project, first.id).await;
    assert_eq!(first.rollout.state, RolloutState::Completed, "{first:?}");
    assert_eq!((first.steps.len(), first.progress.active), (2, NODES as u64));

    // From the second bundle on, 100 of 200 nodes reject. By the time that 30 of a step's 100 nodes
    // have, others have activated: those are brought back.
    let bad = compile(&client, &project, "1.1.0", &example("edge-with-assets.kdl")).await;
    let second = client.create_rollout(&project, &rolling(&bad, 100)).await.expect("created");
    let second = ended(&client, &project, second.id).await;
    assert_eq!(second.rollout.state, RolloutState::Failed, "{second:?}");
    let rollback = second.rollout.rolled_back_by;
    let rollback = rollback.unwrap_or_else(|| panic!("it rolls back by itself: {second:?}"));
    let rollback = ended(&client, &project, rollback).await;
    assert_eq!(rollback.rollout.state, RolloutState::Completed, "{rollback:?}");
    wait_for("every node to run the first bundle", LIMIT, || async {
        let mut cursor = None;
        loop {
            let nodes = client.nodes(&project, cursor.as_deref()).await.ok()?;
            if nodes.items.iter().any(|node| node.active_bundle_id != Some(good.id)) {
                return None;
            }
            cursor = nodes.next_cursor;
            if cursor.is_none() {
                return Some(());
            }
        }
    })
    .await;

    let (content, summary) = tokio::task::spawn_blocking(|| simulator.stop()).await.expect("it stops");
    assert!(content, "{summary}");
    assert_eq!(summary["bundles"]["running"]["1.0.0"], NODES, "{summary}");
    assert_eq!(summary["behaviours"]["rejecting"], 100, "{summary}");
    assert!(summary["bundles"]["failures_reported"].as_u64() >= Some(30), "{summary}");
    assert_eq!(summary["errors"]["untrusted"], 0, "{summary}");
    assert_eq!(summary["latency_ms"]["token"]["count"], NODES, "{summary}");
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_used_again_and_a_storm_ends_when_all_are_back() {
    let mut plane = Plane::embedded().await;
    let directory = tempfile::tempdir().expect("directory");
    let identities = directory.path().join("nodes.jsonl").display().to_string();
    let kept = ["--identities", &identities];
    let load = ["--rate", "300", "--duration", "2"];
    let mut first = Simulator::start(&plane, NODES, &[&kept[..], &load[..]].concat());
    let (content, summary) = tokio::task::spawn_blocking(move || first.summary()).await.expect("it ends");
    assert!(content, "{summary}");
    assert_eq!(summary["registration"]["nodes"], NODES, "{summary}");
    assert!(summary["latency_ms"]["poll, unchanged (304)"]["count"].as_u64() > Some(0), "{summary}");

    plane.kill_and_restart().await;
    let storm = ["--storm", "1", "--duration", "60"];
    let mut second = Simulator::start(&plane, NODES, &[&kept[..], &storm[..]].concat());
    let (content, summary) = tokio::task::spawn_blocking(move || second.summary()).await.expect("it ends");
    assert!(content, "{summary}");
    assert_eq!(summary["registration"], Value::Null, "nobody registers twice");
    assert_eq!((&summary["storm"]["returned"], &summary["storm"]["of"]), (&NODES.into(), &NODES.into()));
    assert!(summary["seconds"].as_f64() < Some(60.0), "it ended by itself: {summary}");
    assert!(plane.stop().await, "it stops in order");
}
