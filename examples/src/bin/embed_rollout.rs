//! Only the rollout engine's core, over a "store" of one's own: here a map in memory.
//!
//! Run it: `cargo run -p zentinel-examples --bin embed_rollout`

use std::collections::BTreeMap;
use zentinel_core::entity::{Health, NodeStatus, RolloutSpec};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId};
use zentinel_core::{Actor, Result, Timestamp};
use zentinel_rollout::plan::{NewRollout, Plan, Target};
use zentinel_rollout::strategy::{Rolling, Strategy as _};
use zentinel_rollout::{Command, Effect, Gates, NodeFacts, Observation, apply, step};

fn main() -> Result<()> {
    let (bundle, before) = (BundleId::random(), BundleId::random());
    let mut now = chrono::DateTime::UNIX_EPOCH;
    // Our "store": what each server runs, and since when.
    let mut servers: BTreeMap<NodeId, _> = (0..5).map(|_| (NodeId::random(), (before, now))).collect();
    let spec = RolloutSpec { batch_size: 2, ..RolloutSpec::default() };
    let (strategy, gates) = (Rolling, Gates::of(&spec.health_gates));
    let ids: Vec<NodeId> = servers.keys().copied().collect();
    let target =
        |node_id: &NodeId| Target { node_id: *node_id, bundle_id: bundle, previous_bundle_id: Some(before) };
    let targets = ids.iter().map(target).collect();
    let plan = Plan { steps: strategy.plan(&spec, &ids)?, targets, excluded: vec![] };
    let new = NewRollout {
        id: RolloutId::random(),
        organisation_id: OrganisationId::random(),
        project_id: ProjectId::random(),
        bundle_id: bundle,
        spec,
        created_by: Actor::System,
    };
    let mut decision = apply(Command::Start, new.build(plan, now), &Observation::new([bundle]), now)?;
    while decision.state.rollout().state.is_open() {
        for effect in &decision.effects {
            if let Effect::Stage { nodes } = effect {
                println!("{:>3} s: {} servers get the bundle", now.timestamp(), nodes.len());
                servers.extend(nodes.iter().map(|node| (*node, (bundle, now))));
            }
        }
        now += chrono::TimeDelta::seconds(5);
        let facts = |(active, since): (BundleId, Timestamp)| NodeFacts {
            exists: true,
            status: NodeStatus::Online,
            last_seen_at: Some(now),
            active_bundle_id: Some(active),
            active_since: Some(since),
            healthy_streak: 2,
            health: Health { status: Some("healthy".to_owned()), ..Health::default() },
            ..NodeFacts::default()
        };
        let seen = servers
            .iter()
            .fold(Observation::new([bundle]), |seen, (id, active)| seen.with(*id, facts(*active)));
        decision = step(decision.state, &strategy, &gates, &seen, now);
        println!("{:>3} s: {}", now.timestamp(), decision.report().summary);
    }
    Ok(())
}
