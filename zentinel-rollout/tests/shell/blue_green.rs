//! Blue-green over a store: weights reach node records, polls and an external load balancer.

use crate::world::{World, spec};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::Actor;
use zentinel_core::entity::{NodeTraffic, RolloutSpec, RolloutState, Slot, TrafficSplit};
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::port::{Clock, JobOutcome, Queue, Scheduler as _, ShiftFailure, Signer};
use zentinel_rollout::engine::{Engine, EngineOptions, SHIFT};
use zentinel_rollout::{Command, Strategies};
use zentinel_store::RecordingShifter;

fn blue_green(config: Value) -> RolloutSpec {
    RolloutSpec {
        strategy: "blue_green".to_owned(),
        strategy_config: config,
        auto_rollback: true,
        batch_size: 1,
        ..spec()
    }
}

fn with_shifter(world: &World, shifter: &Arc<RecordingShifter>) -> Arc<Engine> {
    let engine = Engine::new(
        Arc::clone(&world.store),
        Arc::clone(&world.signer) as Arc<dyn Signer>,
        Arc::clone(&world.clock) as Arc<dyn Clock>,
        Strategies::standard(),
        EngineOptions::default(),
    );
    Arc::new(engine.with_shifter(Arc::clone(shifter) as _))
}

/// What each node is told by the fleet, in the order of the plan.
async fn weights(world: &World) -> Vec<Option<(Slot, u8)>> {
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    world.fleet.refresh(&ids).await.unwrap();
    let pair = |traffic: NodeTraffic| (traffic.slot, traffic.weight);
    ids.iter().map(|id| world.fleet.offer(*id).unwrap().traffic.map(pair)).collect()
}

fn both(green: u8, blue: u8) -> Vec<Option<(Slot, u8)>> {
    vec![
        Some((Slot::Green, green)),
        Some((Slot::Green, green)),
        Some((Slot::Blue, blue)),
        Some((Slot::Blue, blue)),
    ]
}

/// Goes on until the rollout is in this state.
async fn until(world: &mut World, id: RolloutId, state: RolloutState) {
    for _ in 0..200 {
        if world.detail(id).await.rollout.state == state {
            return;
        }
        world.turn().await;
        run_shifts(world).await;
    }
    panic!("never {state:?}: {:?}", world.detail(id).await.rollout);
}

/// Runs the due jobs that ask the load balancer.
async fn run_shifts(world: &World) {
    let now = world.clock.now();
    for job in world.memory.claim(Queue::Default, "worker", 10, Duration::from_secs(60), now).await.unwrap() {
        assert_eq!(job.job.kind, SHIFT);
        let handlers = world.engine.handlers();
        let handler = handlers.iter().find(|handler| handler.kind() == SHIFT).unwrap();
        match handler.run(&job).await.unwrap() {
            JobOutcome::Done => world.memory.complete(&job, now).await.unwrap(),
            JobOutcome::Again(at) => world.memory.defer(&job, at, now).await.unwrap(),
        }
    }
}

async fn steer(world: &World, id: RolloutId, command: Command) -> zentinel_core::Result<RolloutState> {
    let rollout = world.engine.command(&world.scope(), Actor::System, id, command).await?;
    Ok(rollout.state)
}

#[tokio::test]
async fn every_weight_reaches_the_nodes_and_an_advance_moves_one() {
    let mut world = World::new(4).await;
    let first = world.deploy("1").await;
    assert_eq!(weights(&world).await, vec![None; 4]);
    let bundle = world.bundle("2").await;
    let id = world.create(bundle, blue_green(json!({"validation_period_seconds": 60}))).await.unwrap().id;
    world.turn().await;
    assert_eq!(weights(&world).await, both(0, 100));
    let mut etags = Vec::new();
    for weight in [10, 50, 100] {
        until(&mut world, id, RolloutState::Paused).await;
        assert_eq!(weights(&world).await, both(weight, 100 - weight));
        etags.push(world.fleet.offer(world.nodes[0].id).unwrap().etag);
        // Whatever was in memory is gone: the rollout goes on from what is stored.
        world.restart().await;
        assert_eq!(weights(&world).await, both(weight, 100 - weight));
        steer(&world, id, Command::Advance).await.unwrap();
    }
    assert!(etags.windows(2).all(|pair| pair[0] != pair[1]) && !etags.contains(&0));
    assert!(world.nodes[2..].iter().all(|node| node.active == Some(first)));
    assert_eq!(world.finish(id).await.rollout.state, RolloutState::Completed);
    assert_eq!(weights(&world).await, both(100, 100));
    assert!(world.nodes.iter().all(|node| node.active == Some(bundle)));
    let advanced =
        world.actions().await.iter().filter(|action| *action == "rollout.traffic_advanced").count();
    assert_eq!(advanced, 3);
}

#[tokio::test]
async fn a_long_poll_hears_of_a_weight() {
    let mut world = World::new(4).await;
    let bundle = world.bundle("1").await;
    let id = world.create(bundle, blue_green(json!({"validation_period_seconds": 60}))).await.unwrap().id;
    until(&mut world, id, RolloutState::Paused).await;
    let node = world.nodes[0].id;
    let offer = world.fleet.offer(node).unwrap();
    assert_eq!((offer.target, offer.etag), (None, offer.etag));
    // Who has seen it, and who asks for the first time, waits: there is nothing new.
    let wait = Duration::from_millis(50);
    let same = world.fleet.wait_for_offer(node, Some(offer.etag), wait).await.unwrap();
    assert_eq!(same, world.fleet.wait_for_offer(node, None, wait).await.unwrap());
    let (fleet, etag) = (Arc::clone(&world.fleet), offer.etag);
    let waiting =
        tokio::spawn(async move { fleet.wait_for_offer(node, Some(etag), Duration::from_secs(20)).await });
    steer(&world, id, Command::SwapSlot).await.unwrap();
    let news = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(news.traffic, Some(NodeTraffic { slot: Slot::Green, weight: 0 }));
}

#[tokio::test]
async fn a_rollback_drains_before_it_restores() {
    let mut world = World::new(4).await;
    let first = world.deploy("1").await;
    let bundle = world.bundle("2").await;
    let id = world.create(bundle, blue_green(json!({"validation_period_seconds": 60}))).await.unwrap().id;
    until(&mut world, id, RolloutState::Paused).await;
    assert_eq!(weights(&world).await, both(10, 90));
    steer(&world, id, Command::Rollback).await.unwrap();
    assert_eq!(weights(&world).await, both(0, 100), "before any node has activated anything");
    assert!(world.nodes[..2].iter().all(|node| node.active == Some(bundle)));
    let back = world.detail(id).await.rollout.rolled_back_by.unwrap();
    world.finish(back).await;
    assert!(world.nodes.iter().all(|node| node.active == Some(first)));
    assert_eq!(weights(&world).await, both(0, 100));
}

#[tokio::test]
async fn a_load_balancer_is_asked_until_it_acknowledges() {
    let mut world = World::new(4).await;
    world.deploy("1").await;
    let bundle = world.bundle("2").await;
    let config = json!({"validation_period_seconds": 60, "traffic_steps": [10, 100], "auto_advance": true,
        "shift_traffic": true});
    let refused = world.create(bundle, blue_green(config.clone())).await.unwrap_err();
    assert!(refused.fields()["blue_green_config"][0].contains("traffic_shifter.url"), "{refused}");
    let shifter = Arc::new(RecordingShifter::new());
    world.engine = with_shifter(&world, &shifter);
    shifter.withhold(Some(ShiftFailure::retry("busy")));
    let id = world.create(bundle, blue_green(config)).await.unwrap().id;
    for _ in 0..6 {
        world.turn().await;
        run_shifts(&world).await;
    }
    assert!(world.nodes[..2].iter().all(|node| node.active != Some(bundle)), "nobody changes under traffic");
    assert!(shifter.calls().len() > 2);
    let waiting = world.detail(id).await.rollout.waiting.summary;
    assert!(waiting.contains("acknowledge") && waiting.contains("busy"), "{waiting}");
    // Another engine goes on where this one was killed.
    world.restart().await;
    world.engine = with_shifter(&world, &shifter);
    shifter.withhold(None);
    for _ in 0..30 {
        world.turn().await;
        run_shifts(&world).await;
        if shifter.in_force(id).is_some_and(|(_, split)| split.green == 10) {
            break;
        }
    }
    shifter.withhold(Some(ShiftFailure::retry("busy")));
    for _ in 0..60 {
        world.turn().await;
        run_shifts(&world).await;
    }
    let split = |green| TrafficSplit { green, blue: 100 - green };
    assert_eq!(shifter.in_force(id), Some((2, split(10))), "100 was asked for and not acknowledged");
    let detail = world.detail(id).await;
    let states: Vec<_> = detail.steps.iter().map(|step| step.state.as_str()).collect();
    assert_eq!(states, ["completed", "completed", "validating", "pending"]);
    assert!(detail.steps[1].shifted_at.is_some() && detail.steps[2].shifted_at.is_none());
    steer(&world, id, Command::Rollback).await.unwrap();
    shifter.withhold(None);
    for _ in 0..30 {
        world.turn().await;
        run_shifts(&world).await;
    }
    assert_eq!(shifter.in_force(id), Some((4, split(0))));
    let calls = shifter.calls();
    assert!(calls.iter().all(|call| call.id == format!("{id}:{}", call.number) && call.nodes.len() == 4));
    assert!(calls.windows(2).all(|pair| pair[0].number <= pair[1].number));
    let shifted = world.actions().await.iter().filter(|action| *action == "rollout.traffic_shifted").count();
    assert_eq!(shifted, 3);
}
