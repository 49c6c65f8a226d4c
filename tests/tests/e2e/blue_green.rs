//! The five-minute story of a blue-green rollout: weights in files on the nodes, a load balancer that takes its time,
//! a control plane that is killed in between, and a rollback that is instant.

use crate::story::{compile, ended};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zentinel_core::Secret;
use zentinel_core::entity::{RolloutState, StepState};
use zentinel_core::id::RolloutId;
use zentinel_http::client::{NewRollout, OperatorClient, RolloutDetailView};
use zentinel_http::egress::signature;
use zentinel_tests::plane::{Plane, TestNode, example};
use zentinel_tests::wait_for;

const LIMIT: Duration = Duration::from_secs(90);
const SECRET: &str = "a secret of the load balancer";

/// A load balancer: what it was asked for, and what is in force.
#[derive(Debug, Default)]
struct Balancer {
    withholds: bool,
    asked: VecDeque<Value>,
    in_force: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
struct LoadBalancer {
    url: String,
    state: Arc<Mutex<Balancer>>,
}

impl LoadBalancer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/weights", listener.local_addr().expect("its address"));
        let state = Arc::new(Mutex::new(Balancer::default()));
        let this = Self { url, state };
        let serving = this.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                serving.answer(socket).await;
            }
        });
        this
    }

    async fn answer(&self, mut socket: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).expect("text");
        let header = |name: &str| {
            let of = |line: &str| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            };
            head.lines().find_map(of).expect("the header is there")
        };
        let mut body = vec![0; header("content-length").parse().expect("a length")];
        if socket.read_exact(&mut body).await.is_err() {
            return;
        }
        let at = header("x-zentinel-timestamp").parse().expect("seconds");
        let at = chrono::DateTime::from_timestamp(at, 0).expect("an instant");
        let wanted = signature(&Secret::new(SECRET), at, &body).expect("a signature");
        assert_eq!(header("x-zentinel-signature"), wanted);
        let shift: Value = serde_json::from_slice(&body).expect("JSON");
        let status = self.take(shift);
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        drop(socket.write_all(answer.as_bytes()).await);
    }

    fn take(&self, shift: Value) -> &'static str {
        let mut state = self.state.lock().expect("not poisoned");
        let weights = (shift["green"].as_u64().expect("green"), shift["blue"].as_u64().expect("blue"));
        state.asked.push_back(shift);
        if state.withholds {
            return "503 Busy";
        }
        state.in_force = Some(weights);
        "204 Done"
    }

    fn withhold(&self, withholds: bool) {
        let mut state = self.state.lock().expect("not poisoned");
        state.withholds = withholds;
        state.asked.clear();
    }

    fn in_force(&self) -> Option<(u64, u64)> {
        self.state.lock().expect("not poisoned").in_force
    }

    /// Waits until it has been asked for this weight in vain.
    async fn is_asked_for(&self, green: u64) {
        wait_for("the load balancer to be asked", LIMIT, || async {
            let state = self.state.lock().expect("not poisoned");
            state.asked.iter().any(|shift| shift["green"] == green).then_some(())
        })
        .await;
    }
}

struct Story {
    plane: Plane,
    client: OperatorClient,
    project: String,
    nodes: Vec<TestNode>,
    balancer: LoadBalancer,
}

impl Story {
    async fn begin(plane: Plane, balancer: LoadBalancer) -> Self {
        let (client, project) = (plane.operator(), plane.project.clone());
        let nodes = plane.nodes(4).await;
        Self { plane, client, project, nodes, balancer }
    }

    fn spec(bundle: zentinel_core::id::BundleId, auto_advance: bool) -> NewRollout {
        let config = json!({"traffic_steps": [10, 50, 100], "auto_advance": auto_advance,
            "validation_period_seconds": 2, "advance_delay_seconds": 1, "shift_traffic": true});
        NewRollout {
            strategy: Some("blue_green".to_owned()),
            blue_green_config: Some(config),
            auto_rollback: Some(true),
            ..NewRollout::of(bundle)
        }
    }

    async fn show(&self, id: RolloutId) -> RolloutDetailView {
        self.client.rollout(&self.project, id).await.expect("shown")
    }

    /// The weights on the nodes: in their files, and as the hook was told last.
    async fn nodes_have(&self, wanted: [&str; 4]) {
        let what = format!("the nodes to have {wanted:?}");
        wait_for(&what, LIMIT, || async {
            let has = |(node, wanted): (&TestNode, &str)| {
                let traffic = node.file_root.with_file_name("traffic");
                let read = |name: &str| std::fs::read_to_string(traffic.join(name)).unwrap_or_default();
                let hook = read("hook.log");
                read("weight").trim() == wanted && hook.lines().last() == Some(wanted)
            };
            self.nodes.iter().zip(wanted).all(has).then_some(())
        })
        .await;
    }

    async fn held_at(&self, id: RolloutId, green: u8) {
        wait_for("the weight to be held", LIMIT, || async {
            let rollout = self.client.rollout(&self.project, id).await.ok()?.rollout;
            let held = rollout.state == RolloutState::Paused
                && rollout.traffic.is_some_and(|now| now.green == green);
            assert!(rollout.state.is_open(), "{rollout:?}");
            held.then_some(())
        })
        .await;
    }

    async fn steer(&self, id: RolloutId, command: &str) {
        self.client.steer_rollout(&self.project, id, command).await.expect(command);
    }

    async fn tell(mut self) {
        let (client, project) = (self.client.clone(), self.project.clone());
        let first = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
        let at_once = NewRollout { strategy: Some("all_at_once".to_owned()), ..NewRollout::of(first.id) };
        let rollout = client.create_rollout(&project, &at_once).await.expect("created");
        assert_eq!(ended(&client, &project, rollout.id).await.rollout.state, RolloutState::Completed);
        let kdl = format!("// another one\n{}", example("edge.kdl"));
        let second = compile(&client, &project, "1.1.0", &kdl).await;

        // Nobody changes before the load balancer has drained the green slot.
        self.balancer.withhold(true);
        let id = client.create_rollout(&project, &Self::spec(second.id, false)).await.expect("created").id;
        self.balancer.is_asked_for(0).await;
        let shown = self.show(id).await;
        assert_eq!(shown.steps[0].state, StepState::Running, "{shown:?}");
        assert!(self.nodes.iter().all(|node| node.active() == Some(first.id)));
        self.balancer.withhold(false);
        self.held_at(id, 10).await;
        self.nodes_have(["10", "10", "90", "90"]).await;
        assert_eq!(self.balancer.in_force(), Some((10, 90)));

        // The next weight is asked for in vain; who asks is killed, and asks again.
        self.balancer.withhold(true);
        self.steer(id, "advance").await;
        self.balancer.is_asked_for(50).await;
        self.plane.kill_and_restart().await;
        self.balancer.withhold(true);
        self.balancer.is_asked_for(50).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let shown = self.show(id).await;
        assert_eq!((shown.steps[2].state, shown.steps[2].shifted_at), (StepState::Validating, None));
        assert_eq!((shown.rollout.state, self.balancer.in_force()), (RolloutState::Running, Some((10, 90))));
        self.balancer.withhold(false);
        self.held_at(id, 50).await;
        self.steer(id, "advance").await;
        self.held_at(id, 100).await;
        self.nodes_have(["100", "100", "0", "0"]).await;

        // All traffic is back before any node has changed anything.
        self.steer(id, "rollback").await;
        let shown = self.show(id).await;
        let traffic = shown.rollout.traffic.expect("it has slots");
        assert_eq!((traffic.green, traffic.blue), (0, 100));
        self.nodes_have(["0", "0", "100", "100"]).await;
        wait_for("the load balancer to drain", LIMIT, || async {
            (self.balancer.in_force() == Some((0, 100))).then_some(())
        })
        .await;
        let back = shown.rollout.rolled_back_by.expect("a rollback");
        assert_eq!(ended(&client, &project, back).await.rollout.state, RolloutState::Completed);
        assert!(self.nodes.iter().all(|node| node.active() == Some(first.id)));

        // And once more, to the end, by itself.
        let rollout = client.create_rollout(&project, &Self::spec(second.id, true)).await.expect("created");
        let done = ended(&client, &project, rollout.id).await.rollout;
        assert_eq!(done.state, RolloutState::Completed, "{done:?}");
        assert_eq!(
            (done.traffic_step_index, done.deployment_slot.map(|slot| slot.as_str())),
            (3, Some("green"))
        );
        self.nodes_have(["100"; 4]).await;
        assert!(self.nodes.iter().all(|node| node.active() == Some(second.id)));
    }
}

fn settings(balancer: &LoadBalancer) -> [(&str, &str); 3] {
    [
        ("ZENTINEL__TRAFFIC_SHIFTER__URL", balancer.url.as_str()),
        ("ZENTINEL__TRAFFIC_SHIFTER__SECRET", SECRET),
        ("ZENTINEL__TRAFFIC_SHIFTER__ALLOW_PRIVATE", "true"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_and_a_directory() {
    let balancer = LoadBalancer::start().await;
    let plane = Plane::embedded_with(&settings(&balancer)).await;
    Story::begin(plane, balancer).await.tell().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_and_s3() {
    let balancer = LoadBalancer::start().await;
    let plane = Plane::production_with(&settings(&balancer)).await;
    Story::begin(plane, balancer).await.tell().await;
}
