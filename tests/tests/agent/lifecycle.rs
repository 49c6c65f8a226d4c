//! Bundles that serve: by reload, by restart; agents that end, and others that take over.

use zentinel_tests::node::{LIMIT, Node, NodeOptions, which};
use zentinel_tests::plane::{Plane, free_port};
use zentinel_tests::traffic::{Traffic, Upstream};
use zentinel_tests::wait_for;

pub(crate) fn traffic(node: &Node) -> Traffic {
    Traffic::start(&format!("http://127.0.0.1:{}/", node.config.listen))
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_follow_one_another_by_reload_without_a_failed_request() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = Node::start(&plane, "edge", upstream.address).await;
    node.first(&plane).await;
    let pid = node.proxy_pid().expect("a proxy runs");
    let traffic = traffic(&node);
    for version in ["v2", "v3", "v4"] {
        let bundle = node.assign(&plane, &node.config.version(version)).await;
        node.runs(&plane, bundle.id, version).await;
    }
    traffic.stop_unharmed().await;
    assert_eq!(node.proxy_pid(), Some(pid), "no reload starts a new process");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_listener_takes_a_restart() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = Node::start(&plane, "edge", upstream.address).await;
    node.first(&plane).await;
    let pid = node.proxy_pid().expect("a proxy runs");
    let traffic = traffic(&node);
    let mut wider = node.config.version("v2");
    wider.more_listeners.push(free_port());
    let bundle = node.assign(&plane, &wider).await;
    node.runs(&plane, bundle.id, "v2").await;
    assert_eq!(which(wider.more_listeners[0]).await.as_deref(), Some("v2"));
    assert_ne!(node.proxy_pid(), Some(pid), "only a new process has other listeners");
    // What a restart costs is the time without a listener, and nothing after it.
    let during = traffic.take();
    assert!(during.gap() < LIMIT / 4, "{:?}", during.failed);
    wait_for("requests after it", LIMIT, || async { (traffic.so_far().sent > 20).then_some(()) }).await;
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_outlives_its_agent_and_the_next_one_adopts_it() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let mut node = Node::start(&plane, "edge", upstream.address).await;
    let first = node.first(&plane).await;
    let pid = node.proxy_pid();
    let traffic = traffic(&node);
    assert!(node.stop_agent().await.success(), "it ends in order");
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    node.start_agent(&[]);
    node.runs(&plane, first.id, "v1").await;
    node.kill_agent();
    node.start_agent(&[]);
    let second = node.assign(&plane, &node.config.version("v2")).await;
    node.runs(&plane, second.id, "v2").await;
    assert_eq!(node.proxy_pid(), pid, "the same process all the time");
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_identity_is_told_of_before_the_proxy_is_looked_at() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let mut node = Node::start(&plane, "edge", upstream.address).await;
    let first = node.first(&plane).await;
    let traffic = traffic(&node);
    assert!(node.stop_agent().await.success(), "it ends in order");
    let file = node.directory.join("node.json");
    let identity = std::fs::read(&file).unwrap();
    for damaged in ["", "{\"node_id\""] {
        std::fs::write(&file, damaged).unwrap();
        let before = node.log().len();
        node.start_agent(&[]);
        assert_eq!(node.agent_ended().await.code(), Some(65), "settings, not a defect");
        let said = node.log().split_off(before);
        assert!(said.contains("node.json is damaged") && said.contains("hint"), "{said}");
        assert!(!said.contains("taking over"), "{said}");
    }
    std::fs::write(&file, identity).unwrap();
    node.start_agent(&[]);
    node.runs(&plane, first.id, "v1").await;
    traffic.stop_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_to_end_with_its_agent_does() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let environment = vec![("ZENTINEL_AGENT_STOP_WITH_AGENT", "true".to_owned())];
    let options = NodeOptions { environment, ..NodeOptions::default() };
    let mut node = Node::start_with(&plane, "edge", upstream.address, options).await;
    let first = node.first(&plane).await;
    assert!(node.stop_agent().await.success(), "it ends in order");
    wait_for("the proxy to end", LIMIT, || async { node.proxy_pid().is_none().then_some(()) }).await;
    node.start_agent(&[]);
    node.runs(&plane, first.id, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_comes_back_with_the_same_bundle() {
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let node = Node::start(&plane, "edge", upstream.address).await;
    let first = node.first(&plane).await;
    let pid = node.proxy_pid().expect("a proxy runs");
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    wait_for("another process", LIMIT, || async { node.proxy_pid().filter(|now| *now != pid).map(drop) })
        .await;
    node.runs(&plane, first.id, "v1").await;
}
