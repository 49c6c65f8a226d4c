use super::*;
use crate::command::Command;
use crate::fixture::{NEW, World};
use zentinel_core::entity::{HealthGates, RolloutSpec};

fn spec() -> RolloutSpec {
    let health_gates = HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() };
    RolloutSpec { batch_size: 4, health_gates, ..RolloutSpec::default() }
}

fn explained(world: &World) -> Explanation {
    explain(&world.state, &world.gates(), &world.observation, world.now)
}

#[test]
fn each_node_in_the_way_has_its_reason() {
    let mut world = World::running(6, spec());
    world.activate(1, NEW);
    world.activate(2, NEW);
    world.rejects(3);
    world.goes_offline(4);
    world.settle();
    for number in [1, 2] {
        world.facts(number).health.error_rate = Some(if number == 1 { 1.0 } else { 7.25 });
    }
    world.tick();
    let explanation = explained(&world);
    let sentences: Vec<&str> = explanation.nodes.iter().map(|node| node.sentence.as_str()).collect();
    assert_eq!(
        sentences,
        [
            "edge-2 runs the bundle, but max_error_rate is 7.25 (at most 5).",
            "edge-3 could not activate the bundle: no (invalid_config).",
            "edge-4 was told 10 s ago and is offline, last heard of 10 s ago.",
        ]
    );
    assert_eq!(explanation.nodes[0].gate.as_deref(), Some("max_error_rate"));
    assert!(explanation.sentences[1].contains("2 of 4 nodes run the bundle"), "{explanation:#?}");
    assert!(
        explanation.sentences.iter().any(|text| text == "Next: step 2 of 2, 2 nodes."),
        "{explanation:#?}"
    );
    let gate = explanation.gates.iter().find(|gate| gate.gate == "max_error_rate").unwrap();
    assert_eq!((gate.passing, gate.failing, gate.unknown), (1, 1, 0));
    assert!(gate.sentence.contains("the worst is edge-2 with 7.25, at most 5 passes"), "{}", gate.sentence);
}

#[test]
fn pauses_and_ends_say_why() {
    let mut world = World::new(2, spec());
    assert_eq!(explained(&world).sentences[0], "The rollout to 2 nodes has not started.");
    world.command(Command::Start).unwrap();
    world.pass(1);
    world.tick();
    world.pass(30);
    world.command(Command::Pause).unwrap();
    assert_eq!(explained(&world).sentences[0], "The rollout to 2 nodes was paused by an operator 0 s ago.");
    world.command(Command::Cancel).unwrap();
    assert!(explained(&world).sentences[0].starts_with("The rollout to 2 nodes was cancelled"));
    assert_eq!(explained(&world).nodes, []);
}

#[test]
fn every_decision_has_its_sentence() {
    let mut world = World::new(2, RolloutSpec { batch_size: 1, ..RolloutSpec::default() });
    let started = world.command(Command::Start).unwrap();
    assert_eq!(started.log()[0].summary, "The rollout started.");
    world.pass(1);
    assert_eq!(world.tick().log()[0].summary, "Step 1 of 2 begins with 1 node.");
    world.activate(1, NEW);
    world.settle();
    let done = world.tick().log();
    let summaries: Vec<&str> = done.iter().map(|entry| entry.summary.as_str()).collect();
    assert_eq!(summaries, ["Step 1 of 2 is done.", "Step 2 of 2 begins with 1 node."]);
    world.rejects(2);
    let failed = world.tick().log();
    assert!(
        failed
            .iter()
            .any(|entry| entry.kind == "state"
                && entry.summary.starts_with("The rollout failed: 1 of 1 nodes")),
        "{failed:#?}"
    );
}
