//! The whole story with two proxies: a good bundle, another by reload, one that needs a restart, three
//! that a node sees through, two that break the node they come to; and a stream of requests through both, every one of them counted.
//!
//! Both proxies run on this machine, so each has ports of its own and therefore bundles of its own; a
//! bad bundle goes to both nodes in one rollout, and its first batch must stop it.

use crate::poison::{ended, gated, never_began};
use std::collections::BTreeSet;
use std::path::Path;
use zentinel_core::entity::{HealthGates, RolloutState, TargetSelector};
use zentinel_http::client::{BundleView, NewBundle, NewRollout};
use zentinel_tests::node::{
    LIMIT, Node, ProxyConfig, certificate, compile, file, proxy_binary, tls_listener, which,
};
use zentinel_tests::plane::{Plane, free_port};
use zentinel_tests::traffic::{Count, Traffic, Upstream};
use zentinel_tests::wait_for;

struct Site {
    plane: Plane,
    nodes: [Node; 2],
    traffic: Vec<Traffic>,
    /// Which node serves which bundle.
    serving: Vec<(usize, BundleView)>,
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
        Self { plane, nodes: [a, b], traffic: Vec::new(), serving: Vec::new() }
    }

    /// Rolls a good version out to one node, and proves that it serves it.
    async fn good(&mut self, index: usize, version: &'static str) {
        let node = &mut self.nodes[index];
        node.config.version = version.to_owned();
        let bundle = compile(&self.plane, &format!("{version}-{}", node.id), &node.config.kdl()).await;
        let rollout = NewRollout {
            target_selector: Some(TargetSelector::NodeIds { node_ids: BTreeSet::from([node.id]) }),
            progress_deadline_seconds: Some(120),
            ..gated(&bundle, errors())
        };
        let rollout = self.plane.operator().create_rollout(&self.plane.project, &rollout).await;
        let ended = ended(&self.plane, rollout.expect("created").id).await;
        assert_eq!(ended.rollout.state, RolloutState::Completed, "{version}: {ended:?}");
        node.runs(&self.plane, bundle.id, version).await;
        self.serving.retain(|(serves, _)| *serves != index);
        self.serving.push((index, bundle));
    }

    async fn all_serve(&self) {
        for (index, bundle) in &self.serving {
            let node = &self.nodes[*index];
            node.runs(&self.plane, bundle.id, &node.config.version).await;
        }
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

    /// Rolls a bad bundle out to both nodes; the rollout must stop after its first batch,
    /// and the nodes serve what they served. Answers which node was asked.
    async fn bad(&self, config: &ProxyConfig) -> (usize, BundleView) {
        let bundle = compile(&self.plane, &config.version, &config.kdl()).await;
        let rollout = NewRollout { progress_deadline_seconds: Some(120), ..gated(&bundle, errors()) };
        let rollout = self.plane.operator().create_rollout(&self.plane.project, &rollout).await;
        let detail = ended(&self.plane, rollout.expect("created").id).await;
        assert_eq!(detail.rollout.state, RolloutState::Failed, "{}: {detail:?}", config.version);
        never_began(&detail);
        assert_eq!(detail.rollout.rolled_back_by, None, "the node restored itself: nobody runs the bundle");
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
    // One node after the other: a bundle is compared with the one before it in the project.
    for index in 0..2 {
        site.good(index, "v1").await;
        site.traffic.push(Traffic::start(&url(site.nodes[index].config.listen)));
        let process = site.nodes[index].proxy_pid();
        site.good(index, "v2").await;
        assert_eq!(site.nodes[index].proxy_pid(), process, "a reload starts no process");
        unharmed(&site.counts("a reload"));
        let wider = free_port();
        site.nodes[index].config.more_listeners.push(wider);
        site.good(index, "v3").await;
        assert_ne!(site.nodes[index].proxy_pid(), process, "a restart does");
        assert_eq!(which(wider).await.as_deref(), Some("v3"));
        let counts = site.counts("a restart");
        unharmed(&counts[..index]);
        only_a_gap(&counts[index..]);
    }

    refused_when_compiled(&site).await;
    found_before_the_switch(&site).await;
    breaks_a_listener(&site).await;
    breaks_requests(&site).await;

    wait_for("requests afterwards", LIMIT, || async {
        site.traffic.iter().all(|traffic| traffic.so_far().sent > 50).then_some(())
    })
    .await;
    unharmed(&site.counts("afterwards"));
    for traffic in site.traffic {
        assert!(traffic.stop().await.failed.is_empty());
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
    let compiled = client.wait_until_compiled(&site.plane.project, created.id, LIMIT).await;
    let error = compiled.expect_err("it does not compile").to_string();
    assert!(error.contains("invalid-regex"), "{error}");
    unharmed(&site.counts("a bad expression"));
}

/// What the proxy starts without, or waits for, and its own test does not see: a certificate that is
/// not there, one that is none, and an address that somebody else has. The node finds all of them while
/// the proxy serves.
async fn found_before_the_switch(site: &Site) {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("an address").port();
    let mut occupied = elsewhere(site, "bad-address");
    occupied.more_listeners.push(taken);
    let (absent, none) = (Path::new("/nonexistent/certificate.pem"), file("neither certificate nor key\n"));
    let with = |version: &str, pem: &Path| ProxyConfig {
        more: tls_listener(free_port(), pem, None),
        ..elsewhere(site, version)
    };
    for (config, expected, named) in [
        (with("bad-file", absent), "missing_file", absent.display().to_string()),
        (with("bad-certificate", none.path()), "bad_certificate", none.path().display().to_string()),
        (occupied, "address_in_use", taken.to_string()),
    ] {
        let processes = [0, 1].map(|index| site.nodes[index].proxy_pid());
        let (asked, bundle) = site.bad(&config).await;
        let (reason, message) = site.nodes[asked].refused(bundle.id).await;
        println!("{}: node {asked} refused it: {reason}: {message}", config.version);
        assert_eq!(reason, expected);
        assert!(message.contains(&named), "{message}");
        assert_eq!([0, 1].map(|index| site.nodes[index].proxy_pid()), processes, "both serve on");
        unharmed(&site.counts(&config.version));
    }
}

/// A configuration that no other node's ports are in.
fn elsewhere(site: &Site, version: &str) -> ProxyConfig {
    ProxyConfig {
        listen: free_port(),
        metrics: free_port(),
        more_listeners: Vec::new(),
        ..site.nodes[0].config.version(version)
    }
}

/// A listener for clients whose authority is none: the proxy starts and stays up without it.
async fn breaks_a_listener(site: &Site) {
    let (tls, pem, none) = (free_port(), certificate(), file("no authority\n"));
    let more = tls_listener(tls, pem.path(), Some(none.path()));
    let config = ProxyConfig { more, ..elsewhere(site, "bad-listener") };
    let (asked, bundle) = site.bad(&config).await;
    let (reason, message) = site.nodes[asked].refused(bundle.id).await;
    println!("a broken listener: node {asked} restored itself: {reason}: {message}");
    assert_eq!(reason, "listener_missing");
    assert!(message.contains(&tls.to_string()), "{message} names the listener");
    let other = site.nodes[1 - asked].status();
    assert_ne!(other["refused"]["bundle_id"], bundle.id.to_string(), "the other was left alone");
    let counts = site.counts("a broken listener");
    unharmed(&counts[1 - asked..][..1]);
    only_a_gap(&counts[asked..][..1]);
}

/// An upstream that answers 500: everything loads and is proven, and requests fail.
async fn breaks_requests(site: &Site) {
    // The bundle serves on the ports of a node, so it is for that node alone.
    let node = &site.nodes[0];
    let mut config = node.config.version("bad-upstream");
    let broken = Upstream::broken().await;
    config.upstream = broken.address;
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
    let counts = site.counts("a broken upstream, until the gate saw it");
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
