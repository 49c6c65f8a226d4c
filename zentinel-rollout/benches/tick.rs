//! What an idle tick costs: nothing was reported, nothing is due.
//!
//! `cargo bench -p zentinel-rollout --bench tick`

use chrono::{DateTime, TimeDelta};
use divan::{Bencher, black_box};
use uuid::Uuid;
use zentinel_core::entity::{NodeStatus, RolloutSpec};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId, TypedId};
use zentinel_core::{Actor, Percent, Timestamp};
use zentinel_rollout::plan::{NewRollout, Plan, Target};
use zentinel_rollout::{Command, Gates, NodeFacts, Observation, State, Strategies, apply, step};

fn main() {
    divan::main();
}

fn bundle(number: u128) -> BundleId {
    BundleId::from_uuid(Uuid::from_u128(number))
}

/// A running rollout whose first step waits for its nodes.
fn waiting(nodes: u128, spec: RolloutSpec, now: Timestamp) -> (State, Observation) {
    let strategies = Strategies::standard();
    let strategy = strategies.get(&spec.strategy).unwrap_or_else(|error| panic!("{error}"));
    let ids: Vec<NodeId> = (1..=nodes).map(|number| NodeId::from_uuid(Uuid::from_u128(number))).collect();
    let target = |node_id: &NodeId| Target {
        node_id: *node_id,
        bundle_id: bundle(2),
        previous_bundle_id: Some(bundle(1)),
    };
    let plan = Plan {
        steps: strategy.plan(&spec, &ids).unwrap_or_else(|error| panic!("{error}")),
        targets: ids.iter().map(target).collect(),
        excluded: Vec::new(),
    };
    let gates = Gates::of(&spec.health_gates);
    let new = NewRollout {
        id: RolloutId::from_uuid(Uuid::from_u128(7)),
        organisation_id: OrganisationId::from_uuid(Uuid::from_u128(8)),
        project_id: ProjectId::from_uuid(Uuid::from_u128(9)),
        bundle_id: bundle(2),
        spec,
        created_by: Actor::System,
    };
    let state = new.build(plan, now);
    let mut observation = Observation::new([bundle(1), bundle(2)]);
    let decision = apply(Command::Start, state, &observation, now).unwrap_or_else(|error| panic!("{error}"));
    let told = step(decision.state, strategy.as_ref(), &gates, &observation, now);
    for id in told.state.watched() {
        let facts = NodeFacts {
            exists: true,
            name: "edge".to_owned(),
            status: NodeStatus::Online,
            last_seen_at: Some(now),
            active_bundle_id: Some(bundle(1)),
            active_since: Some(now),
            ..NodeFacts::default()
        };
        observation.nodes.insert(id, facts);
    }
    (told.state, observation)
}

fn idle(bencher: Bencher<'_, '_>, nodes: u128, spec: RolloutSpec) {
    let now = DateTime::UNIX_EPOCH;
    let strategies = Strategies::standard();
    let strategy = strategies.get(&spec.strategy).unwrap_or_else(|error| panic!("{error}"));
    let gates = Gates::of(&spec.health_gates);
    let (state, observation) = waiting(nodes, spec, now);
    // The state goes round: what one tick returns is what the next one gets.
    let kept = std::cell::RefCell::new(Some(state));
    let later = now + TimeDelta::seconds(2);
    bencher.bench_local(|| {
        if let Some(state) = kept.take() {
            let decision = step(state, strategy.as_ref(), &gates, &observation, later);
            black_box(decision.next_wake);
            kept.replace(Some(decision.state));
        }
    });
}

/// One percent of the fleet is in the active step.
#[divan::bench(args = [1_000, 10_000, 100_000])]
fn rolling_one_percent(bencher: Bencher<'_, '_>, nodes: u128) {
    let spec = RolloutSpec { batch_percentage: Percent::new(1).ok(), ..RolloutSpec::default() };
    idle(bencher, nodes, spec);
}

/// The whole fleet is in the active step.
#[divan::bench(args = [1_000, 10_000, 100_000])]
fn all_at_once(bencher: Bencher<'_, '_>, nodes: u128) {
    let spec = RolloutSpec { strategy: "all_at_once".to_owned(), ..RolloutSpec::default() };
    idle(bencher, nodes, spec);
}

/// One whole simulated rollout over 1,000 nodes, faults included.
#[cfg(feature = "sim")]
#[divan::bench(sample_count = 20)]
fn simulated_rollout_of_1000_nodes() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    use zentinel_rollout::sim::{Options, Simulation};
    static SEED: AtomicU64 = AtomicU64::new(0);
    let options = Options { nodes: 1_000, ..Options::default() };
    let outcome = Simulation::run(SEED.fetch_add(1, Ordering::Relaxed), &options);
    assert!(outcome.failure().is_none());
    outcome.ticks
}
