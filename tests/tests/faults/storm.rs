//! A reconnect storm: every node comes back within ten seconds of a restart, over a new connection.
//!
//! `ZENTINEL_STORM_NODES` sets how many (2,000). Percentiles are printed, not asserted.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zentinel_core::Timestamp;
use zentinel_core::port::{Clock as _, SystemClock};
use zentinel_tests::faults::probe::Probe;
use zentinel_tests::faults::seed::{Seed, number};
use zentinel_tests::plane::Plane;
use zentinel_tests::wait_for;

/// Over how long the nodes come back.
const STORM_MILLIS: u64 = 10_000;
/// When all of them must be back, on a busy machine.
const BOUND: Duration = Duration::from_secs(120);

struct Member {
    id: String,
    key: String,
}

/// What one node met on its way back.
#[derive(Default)]
struct Story {
    took: Vec<Duration>,
    refused: u64,
    hints: BTreeSet<u64>,
    unanswered: u64,
}

async fn enrol(plane: &Plane, count: u64) -> Vec<Member> {
    let probe = Probe::new(&plane.url, &plane.project, false);
    let places = Arc::new(Semaphore::new(64));
    let mut joining = JoinSet::new();
    for number in 0..count {
        let (probe, places, token) = (probe.clone(), Arc::clone(&places), plane.join_token.clone());
        joining.spawn(async move {
            let _place = places.acquire_owned().await.expect("open");
            let path = probe.in_project("nodes/register");
            let body = json!({"name": format!("node-{number}")});
            let header = ("x-zentinel-join-token", token.as_str());
            let seen = probe.ask(Method::POST, &path, header, Some(&body)).await.expect("an answer");
            assert_eq!(seen.status, 201, "{seen:?}");
            let text = |field: &str| seen.body[field].as_str().expect("text").to_owned();
            Member { id: text("node_id"), key: text("node_key") }
        });
    }
    joining.join_all().await
}

/// Heartbeats and polls until both are answered; a refusal is followed by the pause that it asks for.
async fn come_back(probe: Probe, member: Member, wait: Duration) -> Story {
    tokio::time::sleep(wait).await;
    let mut story = Story::default();
    let beat = json!({"health": {"status": "healthy"}, "hostname": "back"});
    for (method, rest, body) in
        [(Method::POST, "heartbeat", Some(&beat)), (Method::GET, "bundles/latest", None)]
    {
        let path = format!("/api/v1/nodes/{}/{rest}", member.id);
        loop {
            let header = ("x-zentinel-node-key", member.key.as_str());
            let Ok(seen) = probe.ask(method.clone(), &path, header, body).await else {
                // The listen queue overflowed: as a refused connection, nothing was admitted.
                story.unanswered += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            };
            if seen.status == 200 {
                story.took.push(seen.took);
                story.hints.extend(seen.poll_after);
                break;
            }
            assert!(matches!(seen.status, 429 | 503), "{seen:?}");
            let pause = seen.retry_after.expect("a refusal says when to come back");
            story.refused += 1;
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_storm() {
    let seed = Seed::announced("reconnect_storm");
    let count = number("ZENTINEL_STORM_NODES").unwrap_or(2_000);
    let settings = [("ZENTINEL__NODES__POLL_INTERVAL_SECONDS", "30"), ("ZENTINEL_LOG", "error")];
    let mut plane = Plane::embedded_with(&settings).await;
    let members = enrol(&plane, count).await;
    plane.kill().await;
    // What a node was last heard is told in whole seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = (Instant::now(), SystemClock.now() - TimeDelta::seconds(1));
    plane.start_again().await;
    println!("{count} nodes: started again in {:?}", begun.0.elapsed());

    let probe = Probe::new(&plane.url, &plane.project, true);
    let mut chance = seed.stream("storm");
    let mut storm = JoinSet::new();
    for member in members {
        storm.spawn(come_back(probe.clone(), member, chance.millis(0, STORM_MILLIS)));
    }
    let stories = tokio::time::timeout(BOUND, storm.join_all()).await.expect("all are back within the bound");
    let mut took: Vec<Duration> = stories.iter().flat_map(|story| story.took.iter().copied()).collect();
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 1_000];
    let refused: u64 = stories.iter().map(|story| story.refused).sum();
    let unanswered: u64 = stories.iter().map(|story| story.unanswered).sum();
    println!(
        "{count} nodes back after {:?}: p50 {:?}, p99 {:?}, p99.9 {:?}; {refused} refused, {unanswered} not admitted",
        begun.0.elapsed(),
        at(500),
        at(990),
        at(999),
    );
    let hints: BTreeSet<u64> = stories.iter().flat_map(|story| story.hints.iter().copied()).collect();
    assert!(hints.len() > 3, "nodes that came together are told different times: {hints:?}");
    all_are_online(&plane, count, begun.1).await;
    assert!(plane.stop().await, "it stops in order");
}

async fn all_are_online(plane: &Plane, count: u64, since: Timestamp) {
    let client = plane.operator();
    wait_for("every node to be online", Duration::from_secs(60), || async {
        let mut back = 0;
        let mut cursor: Option<String> = None;
        loop {
            let page = client.nodes(&plane.project, cursor.as_deref()).await.ok()?;
            back +=
                page.items.iter().filter(|node| node.last_seen_at.is_some_and(|seen| seen >= since)).count();
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return (back as u64 == count).then_some(()),
            }
        }
    })
    .await;
}
