//! A bundle that passes validation and breaks the proxies: the first batch stops it, nobody else gets
//! it, the rollback restores who got it.

use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::{HealthGates, RolloutState};
use zentinel_http::client::{BundleView, NewBundle, NewRollout, RolloutDetailView};
use zentinel_tests::faults::probe::{Probe, Seen};
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

const LIMIT: Duration = Duration::from_secs(120);

/// What the poison does to a node that activates it.
#[derive(Clone, Copy, Debug)]
enum Poison {
    /// It activates, falls back and says why.
    FallsBack,
    /// It activates and is not heard of again until somebody repairs it.
    GoesSilent,
    /// It serves errors.
    Breaks,
}

/// A node that does what it is told, and notes what that was.
struct Node {
    probe: Probe,
    id: String,
    key: String,
    poison: Poison,
    /// The poisonous bundle.
    bad: String,
    /// Ends the silence.
    repaired: CancellationToken,
}

/// What a node went through.
#[derive(Debug, Default)]
struct Fate {
    active: Option<String>,
    was_told: Vec<String>,
}

impl Node {
    async fn join(plane: &Plane, number: usize) -> Self {
        let probe = Probe::new(&plane.url, &plane.project, false);
        let path = probe.in_project("nodes/register");
        let body = json!({"name": format!("node-{number}")});
        let header = ("x-zentinel-join-token", plane.join_token.as_str());
        let seen = probe.ask(Method::POST, &path, header, Some(&body)).await.expect("an answer");
        let text = |field: &str| seen.body[field].as_str().expect("text").to_owned();
        let (id, key) = (text("node_id"), text("node_key"));
        let (bad, repaired) = (String::new(), CancellationToken::new());
        Self { probe, id, key, poison: Poison::FallsBack, bad, repaired }
    }

    async fn ask(&self, method: Method, rest: &str, body: Option<&Value>) -> Seen {
        let path = format!("/api/v1/nodes/{}/{rest}", self.id);
        self.probe.ask(method, &path, ("x-zentinel-node-key", &self.key), body).await.expect("an answer")
    }

    async fn run(self, end: CancellationToken) -> Fate {
        let mut fate = Fate::default();
        let mut failure = Value::Null;
        while !end.is_cancelled() {
            let offer = self.ask(Method::GET, "bundles/latest", None).await.body;
            if let Some(bundle) = offer["bundle_id"].as_str()
                && fate.was_told.last().is_none_or(|last| last != bundle)
            {
                fate.was_told.push(bundle.to_owned());
                let before = fate.active.replace(bundle.to_owned());
                failure = Value::Null;
                if bundle == self.bad {
                    match self.poison {
                        Poison::FallsBack => {
                            self.beat(fate.active.as_deref(), 0.1, &failure).await;
                            failure =
                                json!({"bundle_id": bundle, "reason": "proxy_died", "message": "it died"});
                            fate.active = before;
                        }
                        Poison::GoesSilent => {
                            self.beat(fate.active.as_deref(), 0.1, &failure).await;
                            self.repaired.cancelled().await;
                        }
                        Poison::Breaks => {}
                    }
                }
            }
            let broken = fate.active.as_ref() == Some(&self.bad);
            self.beat(fate.active.as_deref(), if broken { 60.0 } else { 0.1 }, &failure).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        fate
    }

    async fn beat(&self, active: Option<&str>, error_rate: f64, failure: &Value) {
        let body = json!({
            "health": {"status": "healthy"}, "metrics": {"error_rate": error_rate},
            "active_bundle_id": active, "bundle_error": failure,
        });
        let seen = self.ask(Method::POST, "heartbeat", Some(&body)).await;
        assert_eq!(seen.status, 200, "{seen:?}");
    }
}

async fn compile(plane: &Plane, version: &str) -> BundleView {
    let client = plane.operator();
    let source = format!("// {version}\n{}", example("edge.kdl"));
    let new = NewBundle { version: version.into(), config_source: source, ..NewBundle::default() };
    let created = client.create_bundle(&plane.project, &new).await.expect("created");
    client.wait_until_compiled(&plane.project, created.id, LIMIT).await.expect("compiled")
}

async fn roll_out(plane: &Plane, bundle: &BundleView) -> RolloutDetailView {
    let client = plane.operator();
    let new = NewRollout {
        batch_size: Some(2),
        progress_deadline_seconds: Some(6),
        health_gates: Some(HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() }),
        auto_rollback: Some(true),
        rollback_threshold: Some(50),
        ..NewRollout::of(bundle.id)
    };
    let rollout = client.create_rollout(&plane.project, &new).await.expect("created");
    wait_for("the rollout to end", LIMIT, || async {
        let detail = client.rollout(&plane.project, rollout.id).await.ok()?;
        (!detail.rollout.state.is_open()).then_some(detail)
    })
    .await
}

async fn is_stopped_by_the_first_batch(poison: Poison) {
    let plane = Plane::in_memory().await;
    let good = compile(&plane, "1.0.0").await;
    let bad = compile(&plane, "1.1.0").await;
    let (end, repaired) = (CancellationToken::new(), CancellationToken::new());
    let mut nodes = JoinSet::new();
    for number in 0..6 {
        let mut node = Node::join(&plane, number).await;
        (node.bad, node.poison, node.repaired) = (bad.id.to_string(), poison, repaired.clone());
        nodes.spawn(node.run(end.clone()));
    }
    let first = roll_out(&plane, &good).await;
    assert_eq!(first.rollout.state, RolloutState::Completed, "{first:?}");

    let second = roll_out(&plane, &bad).await;
    assert_eq!(second.rollout.state, RolloutState::Failed, "{second:?}");
    repaired.cancel();
    let rollback = second.rollout.rolled_back_by.expect("it rolled back by itself");
    let client = plane.operator();
    let rollback = wait_for("the rollback to end", LIMIT, || async {
        let detail = client.rollout(&plane.project, rollback).await.ok()?;
        (!detail.rollout.state.is_open()).then_some(detail)
    })
    .await;
    assert_eq!(rollback.rollout.state, RolloutState::Completed, "{rollback:?}");
    wait_for("every node to run the good bundle", LIMIT, || async {
        let nodes = client.nodes(&plane.project, None).await.ok()?;
        nodes.items.iter().all(|node| node.active_bundle_id == Some(good.id) && !node.drifted).then_some(())
    })
    .await;
    end.cancel();
    let (good, bad) = (good.id.to_string(), bad.id.to_string());
    let fates = nodes.join_all().await;
    let told = fates.iter().filter(|fate| fate.was_told.contains(&bad)).count();
    assert!((1..=2).contains(&told), "one batch at most: {fates:?}");
    assert!(fates.iter().all(|fate| fate.active.as_ref() == Some(&good)), "{fates:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_fall_back() {
    is_stopped_by_the_first_batch(Poison::FallsBack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_go_silent() {
    is_stopped_by_the_first_batch(Poison::GoesSilent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_serve_errors() {
    is_stopped_by_the_first_batch(Poison::Breaks).await;
}
