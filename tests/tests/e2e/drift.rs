//! A node that is changed behind the control plane's back, through the binaries.

use crate::ctl::Ctl;
use serde_json::json;
use std::time::{Duration, Instant};
use zentinel_core::Secret;
use zentinel_core::id::BundleId;
use zentinel_http::client::{HeartbeatRequest, NodeClient, Poll, RegisterRequest};
use zentinel_tests::node::compile;
use zentinel_tests::plane::{Plane, example};

const LIMIT: Duration = Duration::from_secs(60);

/// A node of which the test decides what it runs.
struct Puppet {
    client: NodeClient,
    active: Option<BundleId>,
}

impl Puppet {
    async fn register(plane: &Plane) -> Self {
        let client = NodeClient::new(plane.url.clone()).unwrap();
        let request = RegisterRequest { name: "edge-1".to_owned(), ..Default::default() };
        let token = Secret::new(plane.join_token.clone());
        let me = client.register(&plane.project, Some(&token), &request).await.unwrap();
        Self { client: client.with_credentials(me.node_id, me.node_key), active: None }
    }

    async fn beat(&self) {
        let mut beat = HeartbeatRequest::with_status("healthy");
        beat.active_bundle_id = self.active;
        self.client.heartbeat(&beat).await.unwrap();
    }

    /// Does what it is told.
    async fn act(&mut self) {
        if let Poll::Update(offer) = self.client.poll(None, None).await.unwrap() {
            self.active = Some(offer.bundle_id);
        }
        self.beat().await;
    }
}

async fn a_node_is_changed_behind_our_back(plane: Plane) {
    let ctl = Ctl::new(&plane);
    let kdl = example("edge.kdl");
    let old = compile(&plane, "1.0.0", &format!("{kdl}// one more line\n")).await;
    let new = compile(&plane, "2.0.0", &kdl).await;
    let mut node = Puppet::register(&plane).await;
    node.beat().await;
    let operator = plane.operator();
    let view = operator.nodes(&plane.project, None).await.unwrap().items.remove(0);
    operator.assign_bundle(&plane.project, new.id, &[view.id]).await.unwrap();
    let begun = Instant::now();
    while node.active != Some(new.id) {
        assert!(begun.elapsed() < LIMIT, "it is told what to run");
        node.act().await;
    }
    let settings = json!({"settings": {"drift_auto_remediation": true, "drift_check_interval": 10}});
    let client = reqwest::Client::new();
    let url = plane.url.join(&format!("api/v1/projects/{}", plane.project)).unwrap();
    let answer = client.patch(url).bearer_auth(&plane.api_key).json(&settings).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());

    node.active = Some(old.id);
    let changed = Instant::now();
    node.beat().await;
    let open = loop {
        assert!(changed.elapsed() < LIMIT, "the drift is found");
        node.beat().await;
        let found = ctl.json(&["drift", "list"]).await;
        if let Some(event) = found["drift_events"].as_array().and_then(|events| events.first()) {
            break event.clone();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(changed.elapsed() < Duration::from_secs(30), "found after {:?}", changed.elapsed());
    assert_eq!((&open["kind"], &open["severity"]), (&json!("other_bundle"), &json!("low")), "{open}");

    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LIMIT * 2, "it is brought back");
        node.act().await;
        let stats = ctl.json(&["drift", "stats"]).await;
        if stats["active_events"] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(node.active, Some(new.id));
    let all = ctl.json(&["drift", "list", "--all"]).await;
    assert_eq!(all["drift_events"][0]["resolution"], "rollout_started", "{all}");
    let csv = ctl.text(&["drift", "export", "--format", "csv"]).await;
    assert!(csv.lines().count() == 2 && csv.contains(",edge-1,"), "{csv}");
    let story = ctl.text(&["node", "events", "edge-1"]).await;
    assert!(story.contains("drifted") && story.contains("being brought back"), "{story}");
    plane.stop().await;
}

#[tokio::test]
async fn a_changed_node_is_found_and_brought_back_on_the_embedded_default() {
    a_node_is_changed_behind_our_back(Plane::embedded().await).await;
}
