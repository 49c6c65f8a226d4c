//! Blue-green rollouts through the API: weights on polls and heartbeats, advance, swap and rollback.

use crate::world::{World, request};
use axum::body::Body;
use serde_json::{Value, json};
use std::time::Duration;

/// Four nodes that do what they are told.
struct Fleet {
    world: World,
    nodes: Vec<(String, String)>,
    active: Vec<Value>,
}

impl Fleet {
    async fn new() -> Self {
        let world = World::unlimited().await;
        let mut nodes = Vec::new();
        for name in ["edge-1", "edge-2", "edge-3", "edge-4"] {
            let (id, key) = world.node(&world.home, name, &[]).await;
            nodes.push((id.to_string(), key));
        }
        let active = vec![Value::Null; nodes.len()];
        Self { world, nodes, active }
    }

    async fn call(&self, node: usize, method: &str, rest: &str, body: Option<Value>) -> Value {
        let (id, key) = &self.nodes[node];
        let mut request =
            request(method, &format!("/api/v1/nodes/{id}{rest}")).header("x-zentinel-node-key", key);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.world.send(request.body(body).unwrap()).await.expect(200)
    }

    async fn poll(&self, node: usize) -> Value {
        self.call(node, "GET", "/bundles/latest", None).await
    }

    /// Every node polls, activates what it is offered and reports; five seconds pass. Returns what heartbeats answered.
    async fn turn(&mut self) -> Vec<Value> {
        self.world.clock.advance(Duration::from_secs(5));
        self.world.run_jobs().await;
        let ids: Vec<_> = self.nodes.iter().map(|(id, _)| id.parse().unwrap()).collect();
        self.world.services.fleet.refresh(&ids).await.unwrap();
        let mut answers = Vec::new();
        for node in 0..self.nodes.len() {
            let answer = self.poll(node).await;
            if let Some(bundle) = answer.get("bundle_id") {
                self.active[node] = bundle.clone();
            }
            let beat = json!({"health": {"status": "healthy"}, "active_bundle_id": self.active[node]});
            // The store's writes are grouped; somebody has to write them.
            let (beat, flush) = tokio::join!(self.call(node, "POST", "/heartbeat", Some(beat)), async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.world.services.fleet.flush().await
            });
            flush.unwrap();
            answers.push(beat);
        }
        self.world.run_jobs().await;
        answers
    }

    async fn until(&mut self, path: &str, state: &str) -> Value {
        for _ in 0..100 {
            let shown = self.world.get(path).await.expect(200);
            if shown["rollout"]["state"] == state {
                return shown;
            }
            self.turn().await;
        }
        panic!("never {state}: {}", self.world.get(path).await.text);
    }

    async fn weights(&self) -> Vec<(Value, Value)> {
        let ids: Vec<_> = self.nodes.iter().map(|(id, _)| id.parse().unwrap()).collect();
        self.world.services.fleet.refresh(&ids).await.unwrap();
        let mut weights = Vec::new();
        for node in 0..self.nodes.len() {
            let answer = self.poll(node).await;
            weights.push((answer["slot"].clone(), answer["traffic_weight"].clone()));
        }
        weights
    }
}

fn both(green: u8, blue: u8) -> Vec<(Value, Value)> {
    [("green", green), ("green", green), ("blue", blue), ("blue", blue)]
        .map(|(slot, weight)| (json!(slot), json!(weight)))
        .to_vec()
}

#[tokio::test]
async fn each_advance_moves_one_weight_that_nodes_are_told() {
    let mut fleet = Fleet::new().await;
    let bundle = fleet.world.compiled(&fleet.world.home, "1").await;
    let path = fleet.world.home.path("/rollouts");
    assert_eq!(fleet.poll(0).await.get("traffic_weight"), None, "no word of it where there is none");
    let body = json!({"bundle_id": bundle, "strategy": "blue_green", "validation_period_seconds": 30,
        "blue_green_config": {"traffic_steps": [10, 50, 100], "advance_delay_seconds": 20}});
    let created = fleet.world.post(&path, body).await.expect(201);
    assert_eq!((&created["deployment_slot"], &created["traffic_step_index"]), (&json!("blue"), &json!(0)));
    assert_eq!((&created["traffic"], &created["validation_period_seconds"]), (&json!(null), &json!(30)));
    let wanted = json!({"traffic_steps": [10, 50, 100], "auto_advance": false, "advance_delay_seconds": 20,
        "validation_period_seconds": 30, "green_percentage": 50, "shift_traffic": false});
    assert_eq!(created["blue_green_config"], wanted);
    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    let advance = format!("{one}/advance-traffic");
    let early = fleet.world.post(&advance, json!({})).await;
    early.expect_error(409, "Rollout must be paused to advance traffic");
    for (index, weight) in [10, 50, 100].into_iter().enumerate() {
        let shown = fleet.until(&one, "paused").await;
        let rollout = &shown["rollout"];
        assert_eq!(rollout["traffic"], json!({"green": weight, "blue": 100 - weight}));
        assert_eq!(
            (&rollout["deployment_slot"], &rollout["traffic_step_index"]),
            (&json!("blue"), &json!(index))
        );
        assert_eq!(rollout["error"]["reason"], "validation_hold");
        assert_eq!(fleet.weights().await, both(weight, 100 - weight));
        let beat = &fleet.turn().await[0];
        assert_eq!((&beat["slot"], &beat["traffic_weight"]), (&json!("green"), &json!(weight)));
        let advanced = fleet.world.post(&advance, json!({})).await.expect(200);
        assert_eq!(
            (&advanced["state"], &advanced["traffic_step_index"]),
            (&json!("running"), &json!(index + 1))
        );
    }
    let done = fleet.until(&one, "completed").await;
    let steps: Vec<_> = done["steps"].as_array().unwrap().iter().collect();
    let cut: Vec<_> =
        steps.iter().map(|step| json!([step["deployment_slot"], step["traffic_weight"]])).collect();
    assert_eq!(
        json!(cut),
        json!([["green", 0], ["green", 10], ["green", 50], ["green", 100], ["blue", 100]])
    );
    assert_eq!(done["rollout"]["deployment_slot"], "green");
    assert_eq!(
        (fleet.weights().await, done["rollout"]["traffic"]["blue"].clone()),
        (both(100, 100), json!(100))
    );
    let listed = fleet.world.get(&path).await.expect(200);
    assert_eq!(listed["rollouts"][0]["traffic_step_index"], 3);
    let audited = fleet.world.audited().await;
    assert_eq!(audited.iter().filter(|action| *action == "rollout.traffic_advanced").count(), 3);
}

#[tokio::test]
async fn a_swap_and_a_rollback_take_the_traffic_back_at_once() {
    let mut fleet = Fleet::new().await;
    let old = fleet.world.compiled(&fleet.world.home, "1").await;
    let path = fleet.world.home.path("/rollouts");
    let all = fleet.world.post(&path, json!({"bundle_id": old, "strategy": "all_at_once"})).await.expect(201);
    let all = format!("{path}/{}", all["id"].as_str().unwrap());
    fleet.until(&all, "completed").await;
    let reply = fleet.world.post(&format!("{all}/swap-slot"), json!({})).await;
    reply.expect_error(409, "Not a blue-green rollout");
    let reply = fleet.world.post(&format!("{all}/advance-traffic"), json!({})).await;
    reply.expect_error(409, "Not a blue-green rollout");

    let bundle = fleet.world.compiled(&fleet.world.home, "2").await;
    let body = json!({"bundle_id": bundle, "strategy": "blue_green", "validation_period_seconds": 30,
        "blue_green_config": {"traffic_steps": [10, 100]}});
    let created = fleet.world.post(&path, body).await.expect(201);
    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    fleet.until(&one, "paused").await;
    let swapped = fleet.world.post(&format!("{one}/swap-slot"), json!({})).await.expect(200);
    assert_eq!((&swapped["state"], &swapped["deployment_slot"]), (&json!("paused"), &json!("green")));
    assert_eq!(swapped["traffic"], json!({"green": 0, "blue": 100}));
    assert_eq!(fleet.weights().await, both(0, 100));
    assert_eq!(fleet.world.get(&one).await.expect(200)["steps"][1]["traffic_weight"], 0);
    fleet.world.post(&format!("{one}/resume"), json!({})).await.expect(200);
    let again = fleet.until(&one, "paused").await;
    assert_eq!(again["rollout"]["traffic"], json!({"green": 10, "blue": 90}));
    let back = fleet.world.post(&format!("{one}/rollback"), json!({})).await.expect(200);
    assert_eq!((&back["state"], &back["traffic"]), (&json!("cancelled"), &json!({"green": 0, "blue": 100})));
    assert_eq!(fleet.weights().await, both(0, 100), "although no node has activated anything yet");
    assert_eq!(fleet.active[0], json!(bundle));
    let undone = format!("{path}/{}", back["rolled_back_by"].as_str().unwrap());
    fleet.until(&undone, "completed").await;
    assert_eq!(fleet.active, vec![json!(old); 4]);
    fleet
        .world
        .post(&format!("{one}/swap-slot"), json!({}))
        .await
        .expect_error(409, "Rollout cannot swap slot in current state");
}

#[tokio::test]
async fn wrong_settings_are_refused_by_field() {
    let fleet = Fleet::new().await;
    let bundle = fleet.world.compiled(&fleet.world.home, "1").await;
    let path = fleet.world.home.path("/rollouts");
    let create = async |body: Value| fleet.world.post(&path, body).await.expect(422)["error"].clone();
    let with =
        |config: Value| json!({"bundle_id": bundle, "strategy": "blue_green", "blue_green_config": config});
    for config in [
        json!({"traffic_steps": [50, 10, 100]}),
        json!({"traffic_steps": [10]}),
        json!({"weights": [100]}),
        json!({"auto_advance": 1}),
    ] {
        let error = create(with(config.clone())).await;
        assert!(error["blue_green_config"][0].is_string(), "{config}: {error}");
    }
    let error = create(with(json!({"shift_traffic": true}))).await;
    assert!(error["blue_green_config"][0].as_str().unwrap().contains("traffic_shifter.url"), "{error}");
    let error = create(json!({"bundle_id": bundle, "validation_period_seconds": 5})).await;
    assert!(error["validation_period_seconds"][0].is_string(), "{error}");
}
