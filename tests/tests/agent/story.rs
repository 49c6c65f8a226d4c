//! The whole story with two proxies: a good bundle, another by reload, one that needs a restart, two
//! that break the node they come to; and a stream of requests through both, every one of them counted.
//!
//! Both proxies run on this machine, so each has ports of its own and therefore bundles of its own; a
//! bad bundle goes to both nodes in one rollout, and its first batch must stop it.

use crate::poison::{ended, gated};
use std::collections::BTreeSet;
use zentinel_core::entity::{Activation, BundleStatus, HealthGates, RolloutState, StepState, TargetSelector};
use zentinel_http::client::{BundleView, NewBundle, NewRollout};
use zentinel_tests::node::{LIMIT, Node, ProxyConfig, compile, proxy_binary, which};
use zentinel_tests::plane::{Plane, free_port};
use zentinel_tests::traffic::{Count, Traffic, Upstream};

struct Site {
    plane: Plane,
    nodes: [Node; 2],
    traffic: Vec<Traffic>,
    /// The bundles that serve, of each node.
    serving: Vec<BundleView>,
    version: &'static str,
}

fn errors() -> HealthGates {
    HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() }
}

impl Site {
    async fn new(upstream: &Upstream) -> Self {
        let plane = Plane::embedded().await;
        let (a, b) = tokio::join!(
            Node::start(&plane, "a", upstream.address),
            Node::start(&plane, "b", upstream.address)
        );
        Self { plane, nodes: [a, b], traffic: Vec::new(), serving: Vec::new(), version: "none" }
    }

    /// Rolls a good version out to both nodes, and proves that they serve it.
    async fn good(&mut self, version: &'static str, needs: Activation, change: impl Fn(&mut ProxyConfig)) {
        let (mut bundles, mut rollouts) = (Vec::new(), Vec::new());
        for node in &mut self.nodes {
            change(&mut node.config);
            node.config.version = version.to_owned();
            let name = format!("{version}-{}", node.id);
            let bundle = compile(&self.plane, &name, &node.config.kdl()).await;
            let target = TargetSelector::NodeIds { node_ids: BTreeSet::from([node.id]) };
            let rollout = NewRollout {
                target_selector: Some(target),
                progress_deadline_seconds: Some(120),
                ..gated(&bundle, errors())
            };
            let client = self.plane.operator();
            rollouts.push(client.create_rollout(&self.plane.project, &rollout).await.expect("created").id);
            bundles.push(bundle);
        }
        for rollout in rollouts {
            let ended = ended(&self.plane, rollout).await;
            assert_eq!(ended.rollout.state, RolloutState::Completed, "{version}: {ended:?}");
        }
        if !self.serving.is_empty() {
            println!("{version}: a {needs:?} for both nodes");
        }
        (self.serving, self.version) = (bundles, version);
        self.all_serve().await;
    }

    async fn all_serve(&self) {
        for (node, bundle) in self.nodes.iter().zip(&self.serving) {
            node.runs(&self.plane, bundle.id, self.version).await;
        }
    }

    fn processes(&self) -> [Option<i64>; 2] {
        [self.nodes[0].proxy_pid(), self.nodes[1].proxy_pid()]
    }

    /// What became of the requests since the last time.
    fn counts(&self, what: &str) -> Vec<Count> {
        let counts: Vec<Count> = self.traffic.iter().map(Traffic::take).collect();
        for (count, node) in counts.iter().zip(["a", "b"]) {
            let (failed, gap) = (count.failed.len(), count.gap());
            println!("{what}: node {node}: {} requests sent, {failed} failed, within {gap:?}", count.sent);
        }
        counts
    }

    /// Rolls a bad bundle out to both nodes; the rollout must stop after its first batch and be
    /// undone, and the nodes serve what they served. Answers which node was asked.
    async fn bad(&self, config: &ProxyConfig) -> (usize, BundleView) {
        let bundle = compile(&self.plane, &config.version, &config.kdl()).await;
        let rollout = NewRollout { progress_deadline_seconds: Some(120), ..gated(&bundle, errors()) };
        let rollout = self.plane.operator().create_rollout(&self.plane.project, &rollout).await;
        let detail = ended(&self.plane, rollout.expect("created").id).await;
        assert_eq!(detail.rollout.state, RolloutState::Failed, "{}: {detail:?}", config.version);
        assert_eq!(detail.steps[1].state, StepState::Pending, "{}: {detail:?}", config.version);
        let undone = detail.rollout.rolled_back_by.expect("it rolls back by itself");
        assert_eq!(ended(&self.plane, undone).await.rollout.state, RolloutState::Completed);
        self.all_serve().await;
        let asked = detail.steps[0].node_ids[0];
        (self.nodes.iter().position(|node| node.id == asked).expect("one of them"), bundle)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_through_good_and_bad_bundles() {
    println!("the proxy is {}", proxy_binary().display());
    let upstream = Upstream::start().await;
    let mut site = Site::new(&upstream).await;
    site.good("v1", Activation::Restart, |_| {}).await;
    site.traffic =
        site.nodes.iter().map(|node| url(node.config.listen)).map(|url| Traffic::start(&url)).collect();

    let before = site.processes();
    site.good("v2", Activation::Reload, |_| {}).await;
    assert_eq!(site.processes(), before, "a reload starts no process");
    unharmed(&site.counts("a reload"));

    site.good("v3", Activation::Restart, |config| config.more_listeners.push(free_port())).await;
    assert!(site.processes().iter().zip(&before).all(|(now, then)| now != then), "a restart does");
    for node in &site.nodes {
        assert_eq!(which(node.config.more_listeners[0]).await.as_deref(), Some("v3"));
    }
    only_a_gap(&site.counts("a restart"));

    refused_when_compiled(&site).await;
    breaks_a_listener(&site).await;
    breaks_requests(&site).await;

    unharmed(&site.counts("afterwards"));
    for traffic in site.traffic {
        traffic.stop_unharmed().await;
    }
    assert!(site.plane.stop().await, "it stops in order");
}

/// An expression that the proxy's own test lets through, and that a reload silently ignores.
async fn refused_when_compiled(site: &Site) {
    let kdl = site.nodes[0].config.version("bad-regex").kdl();
    let kdl = kdl.replace("path-prefix \"/\"", "path-regex \"([\"");
    let request = NewBundle { version: "bad-regex".into(), config_source: kdl, ..NewBundle::default() };
    let client = site.plane.operator();
    let created = client.create_bundle(&site.plane.project, &request).await.expect("created");
    let bundle = client.wait_until_compiled(&site.plane.project, created.id, LIMIT).await.expect("an end");
    assert_eq!(bundle.status, BundleStatus::Failed, "{bundle:?}");
    unharmed(&site.counts("a bad expression"));
}

/// A listener whose certificate is not there: the proxy starts and stays up without it.
async fn breaks_a_listener(site: &Site) {
    let mut config = site.nodes[0].config.version("bad-listener");
    (config.listen, config.metrics, config.more_listeners) = (free_port(), free_port(), Vec::new());
    let tls = free_port();
    config.more = format!(
        r#"listeners {{
    listener "tls" {{
        address "127.0.0.1:{tls}"
        protocol "https"
        tls {{
            cert-file "/nonexistent/certificate.pem"
            key-file "/nonexistent/key.pem"
        }}
    }}
}}
"#
    );
    let (asked, bundle) = site.bad(&config).await;
    let (reason, message) = site.nodes[asked].refused(bundle.id).await;
    println!("a missing certificate: node {asked} restored itself: {reason}: {message}");
    assert_eq!(reason, "listener_missing");
    assert!(message.contains(&tls.to_string()), "{message} names the listener");
    assert!(site.nodes[1 - asked].status()["refused"].is_null(), "the other was left alone");
    let counts = site.counts("a missing certificate");
    unharmed(&counts[1 - asked..][..1]);
    only_a_gap(&counts[asked..][..1]);
}

/// An upstream that is not there: everything loads and is proven, and requests fail.
async fn breaks_requests(site: &Site) {
    // The bundle serves on the ports of a node, so it is for that node alone.
    let node = &site.nodes[0];
    let mut config = node.config.version("bad-upstream");
    config.upstream.set_port(free_port());
    let bundle = compile(&site.plane, "bad-upstream", &config.kdl()).await;
    let target = TargetSelector::NodeIds { node_ids: BTreeSet::from([node.id]) };
    let rollout = NewRollout {
        target_selector: Some(target),
        progress_deadline_seconds: Some(20),
        ..gated(&bundle, errors())
    };
    let rollout = site.plane.operator().create_rollout(&site.plane.project, &rollout).await;
    let detail = ended(&site.plane, rollout.expect("created").id).await;
    assert_eq!(detail.rollout.state, RolloutState::Failed, "{detail:?}");
    let undone = detail.rollout.rolled_back_by.expect("it rolls back by itself");
    assert_eq!(ended(&site.plane, undone).await.rollout.state, RolloutState::Completed);
    site.all_serve().await;
    let counts = site.counts("a missing upstream, until the gate saw it");
    assert!(!counts[0].failed.is_empty(), "it was broken");
    unharmed(&counts[1..]);
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}

fn unharmed(counts: &[Count]) {
    for count in counts {
        assert!(count.failed.is_empty(), "of {} requests failed: {:?}", count.sent, count.failed);
        assert!(count.sent > 0, "requests flow");
    }
}

/// Requests fail while no process listens, and only then.
fn only_a_gap(counts: &[Count]) {
    for count in counts {
        assert!(count.gap() < LIMIT, "{:?}", count.failed);
        assert!((count.failed.len() as u64) < count.sent, "requests flow before and after");
    }
}
