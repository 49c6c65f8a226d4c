//! Canary rollouts through the engine: what the strategy remembers survives, what it finds can be read.

use super::world::{World, spec};
use serde_json::{Value, json};
use zentinel_core::Scope;
use zentinel_core::entity::{RolloutMemory, RolloutSpec, RolloutState};
use zentinel_core::id::{RolloutId, TypedId as _};
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::{Store as _, StoreExt as _};

fn canary() -> RolloutSpec {
    let config = json!({"steps": [20, 100], "analysis_window_minutes": 1, "confidence_level": 0.99});
    RolloutSpec { strategy: "canary".to_owned(), strategy_config: config, ..spec() }
}

/// The log, oldest entry first.
async fn log(world: &World, rollout: RolloutId) -> Vec<Value> {
    let query = LogQuery::after(LogKind::RolloutLog, 0, 500).about(rollout.uuid());
    let entries = world.memory.read_log(&Scope::Instance, &query).await.unwrap();
    entries.into_iter().map(|entry| entry.row.body).collect()
}

/// Turns until the end, with another engine at each.
async fn finish(world: &mut World, rollout: RolloutId) -> RolloutState {
    for _ in 0..300 {
        world.turn().await;
        world.restart().await;
        let state = world.detail(rollout).await.rollout.state;
        if state != RolloutState::Running {
            return state;
        }
    }
    panic!("the rollout never ended: {:?}", world.detail(rollout).await.rollout.waiting);
}

#[tokio::test]
async fn a_worse_bundle_is_found_out_across_restarts_and_undone() {
    let mut world = World::new(50).await;
    for node in &mut world.nodes {
        node.serves = Some(Box::default());
    }
    let first = world.deploy("1").await;
    let second = world.bundle("2").await;
    world.worse = Some(second);
    let rollout = world.create(second, canary()).await.unwrap();
    assert_eq!(finish(&mut world, rollout.id).await, RolloutState::Failed);
    let detail = world.detail(rollout.id).await;
    let undone = detail.rollout.rolled_back_by.unwrap();
    assert_eq!(finish(&mut world, undone).await, RolloutState::Completed);
    assert!(world.nodes.iter().all(|node| node.active == Some(first)));
    let log = log(&world, rollout.id).await;
    let kinds: Vec<&str> = log.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("state", "rollback"), "{kinds:?}");
    let verdict = log.iter().rfind(|entry| entry["kind"] == "analysis").unwrap();
    assert_eq!(verdict["details"]["decision"], "rollback");
    assert_eq!(verdict["details"]["canary"]["nodes"], 10);
    assert_eq!(verdict["details"]["baseline"]["nodes"], 40);
    assert!(verdict["summary"].as_str().unwrap().contains("times"), "{verdict}");
    let actions = world.actions().await;
    assert_eq!(actions.iter().filter(|action| *action == "rollout.rolled_back").count(), 1);
}

#[tokio::test]
async fn a_healthy_bundle_goes_all_the_way_and_the_explanation_follows() {
    let mut world = World::new(20).await;
    for node in &mut world.nodes {
        node.serves = Some(Box::default());
    }
    world.deploy("1").await;
    let second = world.bundle("2").await;
    let rollout = world.create(second, canary()).await.unwrap();
    let mut said = Vec::new();
    for _ in 0..6 {
        world.clock.advance(std::time::Duration::from_secs(2));
        world.run_jobs().await;
        world.nodes_act().await;
        said.extend(world.engine.explain(&world.scope(), rollout.id).await.unwrap().1.sentences);
    }
    assert!(said.iter().any(|text| text.contains("Step 1 of 2")), "{said:#?}");
    assert!(said.iter().any(|text| text.contains("comparison with the baseline")), "{said:#?}");
    assert!(said.iter().any(|text| text == "Next: step 2 of 2, 16 nodes."), "{said:#?}");
    let remembered = world.memory.find::<RolloutMemory>(&Scope::Instance, rollout.id).await.unwrap().unwrap();
    assert!(remembered.value.value["trial"]["members"].as_array().is_some_and(|members| members.len() == 20));
    assert_eq!(finish(&mut world, rollout.id).await, RolloutState::Completed);
    let (_, explanation) = world.engine.explain(&world.scope(), rollout.id).await.unwrap();
    assert!(explanation.sentences[0].starts_with("The rollout to 20 nodes was completed"), "{explanation:?}");
}
