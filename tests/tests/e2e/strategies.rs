//! The five-minute stories of docs/strategies.md, through the binaries.

use crate::simulator::Simulator;
use crate::story::{compile, ended};
use serde_json::{Value, json};
use std::time::Duration;
use zentinel_core::entity::RolloutState;
use zentinel_http::client::{NewRollout, OperatorClient, RolloutLogView};
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

const NODES: usize = 120;
const LIMIT: Duration = Duration::from_secs(120);

/// Every node reports once a second what it serves; from their third bundle on all of them fail three times as often.
fn fleet(plane: &Plane) -> Simulator {
    let quick = ["--heartbeat-interval", "1", "--poll-interval", "1", "--apply-delay", "0"];
    let traffic = ["--traffic", "100", "--behaviour", "worse=100", "--misbehave-from", "3"];
    let more = ["--changes", "0", "--duration", "0", "--connections", "40"];
    Simulator::start(plane, NODES, &[&quick[..], &traffic[..], &more[..]].concat())
}

async fn log(client: &OperatorClient, project: &str, rollout: &NewRolloutEnded) -> Vec<RolloutLogView> {
    client.rollout_log(project, rollout.id, None).await.expect("its log").items
}

struct NewRolloutEnded {
    id: zentinel_core::id::RolloutId,
    state: RolloutState,
    rolled_back_by: Option<zentinel_core::id::RolloutId>,
}

/// A canary of a fifth of the fleet, watched for 12 seconds per step.
async fn canary(
    client: &OperatorClient,
    project: &str,
    bundle: zentinel_core::id::BundleId,
) -> NewRolloutEnded {
    let config = json!({"steps": [20, 100], "analysis_window_minutes": 0.2, "confidence_level": 0.99});
    let new = NewRollout {
        strategy: Some("canary".to_owned()),
        canary_analysis_config: Some(config),
        ..NewRollout::of(bundle)
    };
    let rollout = client.create_rollout(project, &new).await.expect("created");
    let explained = client.explain_rollout(project, rollout.id).await.expect("explained");
    assert!(explained.sentences[0].contains("120 nodes"), "{explained:?}");
    let detail = ended(client, project, rollout.id).await;
    let rollout = detail.rollout;
    NewRolloutEnded { id: rollout.id, state: rollout.state, rolled_back_by: rollout.rolled_back_by }
}

fn analyses(log: &[RolloutLogView]) -> Vec<&Value> {
    // Newest first.
    log.iter().rev().filter(|entry| entry.kind == "analysis").map(|entry| &entry.details).collect()
}

async fn story(plane: Plane) {
    let simulator = fleet(&plane);
    let (client, project) = (plane.operator(), plane.project.clone());
    wait_for("every node to be registered", LIMIT, || async {
        let nodes = client.nodes(&project, None).await.ok()?;
        (nodes.total == NODES as u64).then_some(())
    })
    .await;
    let first = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    let at_once = NewRollout { strategy: Some("all_at_once".to_owned()), ..NewRollout::of(first.id) };
    let rollout = client.create_rollout(&project, &at_once).await.expect("created");
    assert_eq!(ended(&client, &project, rollout.id).await.rollout.state, RolloutState::Completed);

    // The second bundle is as good as the first.
    let second = compile(&client, &project, "1.1.0", &example("edge-with-assets.kdl")).await;
    let good = canary(&client, &project, second.id).await;
    let entries = log(&client, &project, &good).await;
    assert_eq!(good.state, RolloutState::Completed, "{entries:#?}");
    let found = analyses(&entries);
    assert!(
        found.iter().any(|analysis| analysis["decision"] == "promote" && analysis["baseline"]["nodes"] == 96),
        "{found:#?}"
    );

    // The third makes every node that runs it fail three times as often: no gate sees that.
    let third = compile(&client, &project, "1.2.0", &example("edge.kdl")).await;
    let bad = canary(&client, &project, third.id).await;
    let entries = log(&client, &project, &bad).await;
    assert_eq!(bad.state, RolloutState::Failed, "{entries:#?}");
    let found = analyses(&entries);
    let verdict = found.last().expect("an analysis");
    assert_eq!(
        (&verdict["decision"], &verdict["canary"]["nodes"]),
        (&json!("rollback"), &json!(24)),
        "{verdict:#}"
    );
    let rollback = ended(&client, &project, bad.rolled_back_by.expect("undone")).await;
    assert_eq!((rollback.rollout.state, rollback.progress.total), (RolloutState::Completed, 24));

    // Straight back to the very first bundle, without a canary.
    let reverted =
        client.revert_to_bundle(&project, first.id, None, "a customer complains").await.expect("created");
    assert_eq!(ended(&client, &project, reverted.id).await.rollout.state, RolloutState::Completed);
    let (content, summary) = tokio::task::spawn_blocking(|| simulator.stop()).await.expect("it stops");
    assert!(content, "{summary}");
    assert_eq!(summary["bundles"]["running"]["1.0.0"], NODES, "{summary}");
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_finds_what_no_gate_sees_on_the_embedded_default() {
    story(Plane::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_finds_what_no_gate_sees_on_postgres_and_s3() {
    story(Plane::production().await).await;
}
