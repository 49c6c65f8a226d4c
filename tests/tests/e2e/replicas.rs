//! Two replicas share the work on one PostgreSQL and one S3; either is killed at any instant.
//!
//! `ZENTINEL_REPLICA_KILLS` sets how often at least (4), `ZENTINEL_FAULT_SEED` plays the chances of a run again.

use crate::simulator::Simulator;
use crate::story::compile;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use zentinel_core::entity::RolloutState;
use zentinel_core::id::BundleId;
use zentinel_http::client::{NewRollout, OperatorClient, RolloutView};
use zentinel_tests::faults::seed::{Seed, number};
use zentinel_tests::plane::{Plane, Replica, example};
use zentinel_tests::wait_for;

const NODES: usize = 60;
/// A replica that is killed in the middle of a tick holds the job until its lease of 60 s has ended.
const LIMIT: Duration = Duration::from_secs(600);

/// Kills one of the two `enough` times, or until it is told to stop; both run afterwards.
async fn kill_either(
    (mut plane, mut replica): (Plane, Replica),
    seed: Seed,
    stop: Arc<AtomicBool>,
    kills: Arc<AtomicU64>,
    enough: u64,
) -> (Plane, Replica) {
    let mut chance = seed.stream("killer");
    while !stop.load(Ordering::Relaxed) && kills.load(Ordering::Relaxed) < enough {
        tokio::time::sleep(chance.millis(500, 8_000)).await;
        let away = chance.millis(0, 800);
        if chance.percent(50) {
            plane.kill().await;
            tokio::time::sleep(away).await;
            plane.start_again().await;
        } else {
            replica.kill().await;
            tokio::time::sleep(away).await;
            replica.start_again().await;
        }
        kills.fetch_add(1, Ordering::Relaxed);
    }
    (plane, replica)
}

async fn all(client: &OperatorClient, project: &str) -> Option<Vec<RolloutView>> {
    Some(client.rollouts(project, None).await.ok()?.items)
}

/// The rollout of a bundle, created if it is not there: the answer to an earlier try may have been lost.
async fn created(client: &OperatorClient, project: &str, new: &NewRollout) -> RolloutView {
    let of = |rollout: &RolloutView, bundle: BundleId| {
        rollout.bundle_id == bundle && rollout.rollback_of.is_none()
    };
    wait_for("the rollout to be created", LIMIT, || async {
        let known = all(client, project).await?;
        if let Some(rollout) = known.into_iter().find(|rollout| of(rollout, new.bundle_id)) {
            return Some(rollout);
        }
        client.create_rollout(project, new).await.ok()
    })
    .await
}

async fn ended(client: &OperatorClient, project: &str, rollout: &RolloutView) -> RolloutView {
    wait_for("the rollout to end", LIMIT, || async {
        let shown = client.rollout(project, rollout.id).await.ok()?.rollout;
        (!shown.state.is_open()).then_some(shown)
    })
    .await
}

/// Every entry of the audit log.
async fn audit(plane: &Plane) -> Vec<Value> {
    let http = reqwest::Client::new();
    let get = async |path: String| -> Value {
        let url = plane.url.join(&path).expect("a URL");
        let answer = http.get(url).bearer_auth(&plane.api_key).send().await.expect("an answer");
        answer.json().await.expect("JSON")
    };
    let (mut entries, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(format!("/api/v1/audit/logs?limit=500&cursor={cursor}")).await;
        entries.extend(page["entries"].as_array().expect("entries").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return entries,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_roll_out_and_back_while_either_is_killed() {
    let seed = Seed::announced("two_replicas_roll_out_and_back_while_either_is_killed");
    let plane = Plane::production().await;
    let replica = plane.replica().await;
    let quick =
        ["--heartbeat-interval", "1", "--poll-interval", "1", "--apply-delay", "0", "--traffic", "20"];
    let more = ["--behaviour", "worse=100", "--misbehave-from", "3", "--changes", "0", "--duration", "0"];
    let simulator = Simulator::start(&plane, NODES, &[&quick[..], &more[..]].concat());
    let (client, project) = (plane.operator(), plane.project.clone());
    wait_for("every node to be registered", LIMIT, || async {
        (client.nodes(&project, None).await.ok()?.total == NODES as u64).then_some(())
    })
    .await;
    let first = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    let second = compile(&client, &project, "1.1.0", &example("edge-with-assets.kdl")).await;
    let third = compile(&client, &project, "1.2.0", &example("edge.kdl")).await;
    let at_once = NewRollout { strategy: Some("all_at_once".to_owned()), ..NewRollout::of(first.id) };
    let rollout = created(&client, &project, &at_once).await;
    assert_eq!(ended(&client, &project, &rollout).await.state, RolloutState::Completed);

    let enough = number("ZENTINEL_REPLICA_KILLS").unwrap_or(4);
    let (stop, kills) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let killer =
        tokio::spawn(kill_either((plane, replica), seed, Arc::clone(&stop), Arc::clone(&kills), enough));
    let rolling = NewRollout { batch_size: Some(20), ..NewRollout::of(second.id) };
    let good = created(&client, &project, &rolling).await;
    let good = ended(&client, &project, &good).await;
    assert_eq!(good.state, RolloutState::Completed, "{good:?}");
    let config = json!({"steps": [30, 100], "analysis_window_minutes": 0.3, "confidence_level": 0.99});
    let canary = NewRollout {
        strategy: Some("canary".to_owned()),
        canary_analysis_config: Some(config),
        ..NewRollout::of(third.id)
    };
    let bad = created(&client, &project, &canary).await;
    let bad = ended(&client, &project, &bad).await;
    assert_eq!(bad.state, RolloutState::Failed, "{bad:?}");
    wait_for("enough kills", Duration::from_secs(60 + 15 * enough), || async {
        (kills.load(Ordering::Relaxed) >= enough).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let (plane, replica) = killer.await.expect("the killer ends");
    let undone = bad.rolled_back_by.expect("it is undone");
    let undone = wait_for("the rollback to end", LIMIT, || async {
        let shown = client.rollout(&project, undone).await.ok()?.rollout;
        (!shown.state.is_open()).then_some(shown)
    })
    .await;
    assert_eq!(undone.state, RolloutState::Completed, "{undone:?}");

    let rollouts = all(&client, &project).await.expect("rollouts");
    assert_eq!(rollouts.len(), 4, "{rollouts:#?}");
    assert_eq!(rollouts.iter().filter(|rollout| rollout.rollback_of == Some(bad.id)).count(), 1);
    let entries = audit(&plane).await;
    let mut places: Vec<u64> =
        entries.iter().map(|entry| entry["sequence"].as_u64().expect("a place")).collect();
    places.sort_unstable();
    assert!(
        places.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "the audit log has a gap or an entry twice"
    );
    let mut once: BTreeMap<(String, String, String), u32> = BTreeMap::new();
    for entry in &entries {
        let action = entry["action"].as_str().expect("an action");
        let step =
            matches!(action, "rollout.step_started" | "rollout.step_completed" | "rollout.step_failed");
        let whole = matches!(action, "rollout.created" | "rollout.completed" | "rollout.rolled_back");
        if step || whole {
            let key = (
                action.to_owned(),
                entry["resource_id"].to_string(),
                entry["metadata"]["step_index"].to_string(),
            );
            *once.entry(key).or_default() += 1;
        }
    }
    assert!(once.keys().filter(|(action, ..)| action == "rollout.step_started").count() >= 6, "{once:#?}");
    assert!(once.values().all(|count| *count == 1), "done twice: {once:#?}");
    println!("{} kills, {} audit entries", kills.load(Ordering::Relaxed), entries.len());
    let (_, summary) = tokio::task::spawn_blocking(|| simulator.stop()).await.expect("it stops");
    assert_eq!(summary["bundles"]["running"]["1.1.0"], NODES, "{summary}");
    drop(replica);
    assert!(plane.stop().await, "it stops in order");
}
