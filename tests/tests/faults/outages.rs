//! The database or S3 away under load: clear refusals in bounded time and memory, nodes that have
//! nothing new are served on, recovery without a person.
//!
//! `ZENTINEL_OUTAGE_SECONDS` sets how long (4).

use crate::kills::SETTINGS;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use zentinel_tests::faults::flood::Flood;
use zentinel_tests::faults::probe::{Probe, Seen, resident};
use zentinel_tests::faults::seed::{Seed, number};
use zentinel_tests::plane::Plane;
use zentinel_tests::wait_for;

/// No answer may take longer, on a busy machine: a heartbeat waits 10 s for its commit, a query 5 s
/// for a connection, a call of S3 15 s.
const LIMIT: Duration = Duration::from_secs(25);
/// How much memory an outage may cost in bytes.
const GROWTH: u64 = 96 << 20;

fn outage() -> Duration {
    Duration::from_secs(number("ZENTINEL_OUTAGE_SECONDS").unwrap_or(4))
}

/// A node that takes part in nothing.
struct Quiet {
    probe: Probe,
    bearer: String,
    id: String,
    key: String,
}

impl Quiet {
    async fn join(plane: &Plane) -> Self {
        let probe = Probe::new(&plane.url, &plane.project, false);
        let path = probe.in_project("nodes/register");
        let header = ("x-zentinel-join-token", plane.join_token.as_str());
        let body = json!({"name": "quiet", "labels": {"role": "quiet"}});
        let seen = probe.ask(Method::POST, &path, header, Some(&body)).await.expect("an answer");
        assert_eq!(seen.status, 201, "{seen:?}");
        let text = |field: &str| seen.body[field].as_str().expect("text").to_owned();
        let quiet = Self {
            id: text("node_id"),
            key: text("node_key"),
            bearer: format!("Bearer {}", plane.api_key),
            probe,
        };
        // The first one changes its health verdict.
        assert_eq!(quiet.beat("healthy").await.status, 200);
        quiet
    }

    async fn ask(&self, method: Method, rest: &str, body: Option<&Value>) -> Seen {
        let path = format!("/api/v1/nodes/{}/{rest}", self.id);
        let header = ("x-zentinel-node-key", self.key.as_str());
        self.probe.ask(method, &path, header, body).await.expect("an answer")
    }

    async fn beat(&self, status: &str) -> Seen {
        self.ask(Method::POST, "heartbeat", Some(&json!({"health": {"status": status}}))).await
    }

    async fn poll(&self) -> Seen {
        self.ask(Method::GET, "bundles/latest", None).await
    }

    async fn operator(&self, method: Method, path: &str, body: Option<&Value>) -> Seen {
        self.probe.ask(method, path, ("authorization", &self.bearer), body).await.expect("an answer")
    }

    /// What cannot be done without the database is refused, clearly and soon.
    async fn refused_without_database(&self) {
        let bundle = json!({"version": "refused", "config_source": "// nothing"});
        let key = json!({"name": "refused", "scopes": ["nodes:read"]});
        let event = json!({"event_type": "info", "message": "refused"});
        let (bundles, rollouts, nodes) = (
            self.probe.in_project("bundles"),
            self.probe.in_project("rollouts"),
            self.probe.in_project("nodes"),
        );
        let config = json!({"config_kdl": "// x"});
        let seen = tokio::join!(
            self.operator(Method::POST, &bundles, Some(&bundle)),
            self.operator(Method::POST, "/api/v1/api-keys", Some(&key)),
            self.operator(Method::GET, &rollouts, None),
            self.operator(Method::GET, &nodes, None),
            self.operator(Method::GET, "/api/v1/audit/logs", None),
            self.ask(Method::POST, "events", Some(&event)),
            self.ask(Method::POST, "config", Some(&config)),
            self.ask(Method::POST, "key/rotate", None),
        );
        for seen in <[Seen; 8]>::from(seen) {
            assert!(seen.is_clear_refusal(), "{seen:?}");
            assert!(seen.took < LIMIT, "{seen:?}");
        }
    }

    /// What needs nothing new is answered from memory.
    async fn served_from_memory(&self) {
        for seen in [self.poll().await, self.beat("healthy").await] {
            assert_eq!(seen.status, 200, "{seen:?}");
            assert!(seen.took < Duration::from_secs(5), "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn database_away() {
    let seed = Seed::announced("database_away");
    let mut plane = Plane::production_with(&SETTINGS).await;
    let quiet = Quiet::join(&plane).await;
    let flood = Flood::begin(&plane, &[], seed).await;
    flood.wire.ledger.book().doubtful_names.insert("quiet".to_owned());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let process = plane.process_id().expect("it runs");
    let before = resident(process);
    plane.database.as_mut().expect("PostgreSQL").go_away().await;
    let gone = Instant::now();
    while gone.elapsed() < outage() {
        quiet.served_from_memory().await;
        quiet.refused_without_database().await;
        let text =
            flood.wire.download(plane.url.join("/metrics").expect("URL").as_str()).await.expect("metrics");
        assert_eq!(text.0, 200, "the process tells about itself");
    }
    let changed = quiet.beat("unhealthy").await;
    assert!(changed.is_clear_refusal() && changed.took < LIMIT, "{changed:?}");
    let after = resident(process);
    println!(
        "database away for {:?}: {} MB resident before, {} MB after",
        gone.elapsed(),
        before >> 20,
        after >> 20
    );
    assert!(after < before + GROWTH, "{before} bytes became {after}");
    plane.database.as_mut().expect("PostgreSQL").come_back().await;
    wait_for("heartbeats that change something", Duration::from_secs(60), || async {
        (quiet.beat("unhealthy").await.status == 200).then_some(())
    })
    .await;
    flood.reckon("database away").await;
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_away() {
    let seed = Seed::announced("s3_away");
    let mut plane = Plane::production_with(&SETTINGS).await;
    let quiet = Quiet::join(&plane).await;
    let flood = Flood::begin(&plane, &[], seed).await;
    flood.wire.ledger.book().doubtful_names.insert("quiet".to_owned());
    let compiled = wait_for("a compiled bundle", Duration::from_secs(60), || async {
        let book = flood.wire.ledger.book();
        book.bundles.iter().find(|(_, bundle)| bundle.checksum.is_some()).map(|(id, _)| id.clone())
    })
    .await;
    let process = plane.process_id().expect("it runs");
    let before = resident(process);
    plane.s3.as_mut().expect("S3").go_away().await;
    let gone = Instant::now();
    while gone.elapsed() < outage() {
        quiet.served_from_memory().await;
        let verify = quiet.probe.in_project(&format!("bundles/{compiled}/verify"));
        let seen = quiet.operator(Method::GET, &verify, None).await;
        assert!(seen.is_clear_refusal() && seen.took < LIMIT, "{seen:?}");
        let ready = quiet.operator(Method::GET, "/ready", None).await;
        assert_eq!((ready.status, ready.body["reason"].as_str()), (503, Some("object store unavailable")));
        assert_eq!(quiet.beat("healthy").await.status, 200);
    }
    let after = resident(process);
    println!(
        "S3 away for {:?}: {} MB resident before, {} MB after",
        gone.elapsed(),
        before >> 20,
        after >> 20
    );
    assert!(after < before + GROWTH, "{before} bytes became {after}");
    plane.s3.as_mut().expect("S3").come_back().await;
    flood.reckon("S3 away").await;
    assert!(plane.stop().await, "it stops in order");
}
