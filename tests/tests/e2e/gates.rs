//! Health check endpoints, gates over the fleet, and the queue, through the binaries.

use crate::simulator::Simulator;
use crate::story::{compile, ended};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use zentinel_core::entity::{AggregateGates, RolloutState};
use zentinel_core::id::HealthCheckId;
use zentinel_http::client::NewRollout;
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

const NODES: usize = 6;
const LIMIT: Duration = Duration::from_secs(60);
/// The endpoint of the test is on the loopback network.
const SETTINGS: [(&str, &str); 1] = [("ZENTINEL__ROLLOUTS__EGRESS_ALLOW", "127.0.0.0/8")];

/// An endpoint that can be made well, and how often it was asked.
async fn endpoint() -> (String, Arc<AtomicBool>, Arc<AtomicU64>) {
    let (well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (state, count) = (Arc::clone(&well), Arc::clone(&asked));
    let answer = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let well = state.load(Ordering::Relaxed);
        async move { if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Router::new().route("/ready/{node}", get(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), well, asked)
}

async fn call(plane: &Plane, path: &str, body: &Value) -> Value {
    let url = plane.url.join(&format!("/api/v1/projects/{}/{path}", plane.project)).expect("a URL");
    let request = reqwest::Client::new().post(url).bearer_auth(&plane.api_key).json(body);
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
    answer.json().await.expect("JSON")
}

async fn story(plane: Plane) {
    let quick = ["--heartbeat-interval", "1", "--poll-interval", "1", "--apply-delay", "0"];
    let more = ["--traffic", "50", "--changes", "0", "--duration", "0", "--connections", "6"];
    let simulator = Simulator::start(&plane, NODES, &[&quick[..], &more[..]].concat());
    let (client, project) = (plane.operator(), plane.project.clone());
    wait_for("every node to be registered", LIMIT, || async {
        (client.nodes(&project, None).await.ok()?.total == NODES as u64).then_some(())
    })
    .await;
    let (base, well, asked) = endpoint().await;
    let body = json!({"name": "ready", "url": format!("{base}/ready/{{node_name}}")});
    let made = call(&plane, "health-checks", &body).await;
    let check: HealthCheckId =
        made["health_check"]["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let node = client.nodes(&project, None).await.expect("nodes").items.remove(0).id;
    let tried = call(&plane, &format!("health-checks/{check}/test"), &json!({"node_id": node})).await;
    assert_eq!((&tried["result"], &tried["status"]), (&json!("fail"), &json!(503)), "{tried}");

    let first = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    let gates = AggregateGates {
        max_error_rate: Some(50.0),
        min_healthy_percent: Some(100.0),
        min_requests: Some(20),
        ..AggregateGates::default()
    };
    let new = NewRollout {
        batch_size: Some(3),
        custom_health_checks: Some([check].into()),
        aggregate_gates: Some(gates),
        ..NewRollout::of(first.id)
    };
    let rollout = client.create_rollout(&project, &new).await.expect("created");
    wait_for("the endpoint to be in the way", LIMIT, || async {
        let explained = client.explain_rollout(&project, rollout.id).await.ok()?;
        let sentence = "0 nodes pass, 3 fail, 0 unknown";
        explained
            .gates
            .iter()
            .find(|gate| gate.sentence.contains(sentence) && gate.sentence.contains("503"))?;
        explained.gates.iter().find(|gate| gate.sentence.contains("requests failed"))?;
        Some(())
    })
    .await;
    let shown = client.rollout(&project, rollout.id).await.expect("shown").rollout;
    assert_eq!(shown.state, RolloutState::Running);
    assert!(shown.waiting.summary.contains("ready"), "{}", shown.waiting.summary);

    // The second one waits for the first.
    let second = compile(&client, &project, "1.1.0", &example("edge-with-assets.kdl")).await;
    let wanted = NewRollout { batch_size: Some(6), ..NewRollout::of(second.id) };
    let refused = client.create_rollout(&project, &wanted).await.expect_err("in the way");
    assert_eq!(refused.details().expect("details")["rollouts"][0]["id"], json!(rollout.id));
    let wanted = NewRollout { queue: Some(true), ..wanted };
    let queued = client.create_rollout(&project, &wanted).await.expect("queued");
    let expected = format!("Waits for rollout {} (bundle 1.0.0) on 6 nodes.", rollout.id);
    assert_eq!((queued.state, queued.waiting.summary.as_str()), (RolloutState::Pending, expected.as_str()));

    well.store(true, Ordering::Relaxed);
    assert_eq!(ended(&client, &project, rollout.id).await.rollout.state, RolloutState::Completed);
    assert_eq!(ended(&client, &project, queued.id).await.rollout.state, RolloutState::Completed);
    // Nobody asks any more once nothing is being verified.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = asked.load(Ordering::Relaxed);
    assert!(count >= 7, "{count}");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(asked.load(Ordering::Relaxed), count);
    let (_, summary) = tokio::task::spawn_blocking(|| simulator.stop()).await.expect("it stops");
    assert_eq!(summary["bundles"]["running"]["1.1.0"], NODES, "{summary}");
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_aggregates_and_the_queue_on_the_embedded_default() {
    story(Plane::embedded_with(&SETTINGS).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_aggregates_and_the_queue_on_postgres_and_s3() {
    story(Plane::production_with(&SETTINGS).await).await;
}
