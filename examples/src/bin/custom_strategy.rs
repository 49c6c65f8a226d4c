//! A strategy written outside the crate: each step is twice as large as the one before, and every
//! step is watched for a while before the next one starts.
//!
//! Run it: `cargo run -p zentinel-examples --bin custom_strategy`

use std::sync::Arc;
use zentinel_core::Result;
use zentinel_core::entity::{RolloutSpec, StepState};
use zentinel_core::error::Checks;
use zentinel_core::id::NodeId;
use zentinel_rollout::strategy::{Memory, PlannedStep, Proposal, Strategies, Strategy, View};

/// 1, 2, 4, 8, ... nodes; `strategy_config.soak_seconds` (default 30) between them.
#[derive(Debug)]
struct Doubling;

fn soak_seconds(spec: &RolloutSpec) -> i64 {
    spec.strategy_config["soak_seconds"].as_i64().unwrap_or(30)
}

impl Strategy for Doubling {
    fn name(&self) -> &str {
        "doubling"
    }

    fn check(&self, spec: &RolloutSpec, checks: &mut Checks) {
        checks.that(
            "strategy_config",
            (0..=3_600).contains(&soak_seconds(spec)),
            "soak_seconds must be from 0 to 3600",
        );
    }

    fn plan(&self, spec: &RolloutSpec, mut targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        let mut size = spec.batch_size.max(1) as usize;
        let mut steps = Vec::new();
        while !targets.is_empty() {
            let (step, rest) = targets.split_at(size.min(targets.len()));
            steps.push(PlannedStep::deploy(step));
            targets = rest;
            size *= 2;
        }
        Ok(steps)
    }

    fn after_gates(&self, view: &View<'_>, _memory: &mut Memory) -> Proposal {
        let soak = chrono::TimeDelta::seconds(soak_seconds(&view.rollout().spec));
        let left = match view.step().state {
            StepState::Validating => soak - view.elapsed(),
            _ => soak, // the gates have just passed for the first time
        };
        if left <= chrono::TimeDelta::zero() {
            return Proposal::Complete;
        }
        Proposal::Hold { until: view.now() + left, why: format!("soaking for {} s", left.num_seconds()) }
    }
}

fn main() -> Result<()> {
    // An engine takes the registry: `Engine::new(store, signer, clock, strategies, options)`.
    let strategies = Strategies::standard().register(Arc::new(Doubling));
    println!("known strategies: {}", strategies.names().collect::<Vec<_>>().join(", "));
    let nodes: Vec<NodeId> = (0..20).map(|_| NodeId::random()).collect();
    let spec = RolloutSpec { strategy: "doubling".to_owned(), ..RolloutSpec::default() };
    for (index, step) in strategies.get("doubling")?.plan(&spec, &nodes)?.iter().enumerate() {
        println!("step {index}: {} nodes", step.nodes.len());
    }
    Ok(())
}
