//! Small fleets for unit tests: one rollout, its nodes, and what they report.

use crate::command::{Command, apply};
use crate::decision::Decision;
use crate::gate::Gates;
use crate::observation::{NodeFacts, Observation};
use crate::plan::{NewRollout, Plan, Target};
use crate::step::step;
use crate::strategy::{AllAtOnce, Rolling, Strategies, Strategy};
use crate::transition::State;
use chrono::TimeDelta;
use std::sync::Arc;
use uuid::Uuid;
use zentinel_core::entity::{BundleError, NodeStatus, RolloutSpec};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId, TypedId};
use zentinel_core::{Actor, Result, Timestamp};

pub(crate) const OLD: u128 = 0xA;
pub(crate) const NEW: u128 = 0xB;

pub(crate) fn bundle(number: u128) -> BundleId {
    BundleId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn node(number: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(number))
}

/// A rollout under test, with its world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) observation: Observation,
    pub(crate) now: Timestamp,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) last: Option<Decision>,
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    chrono::DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds)
}

impl World {
    /// `count` online nodes that run the old bundle, and a pending rollout of the new one.
    pub(crate) fn new(count: u128, spec: RolloutSpec) -> Self {
        let strategy: Arc<dyn Strategy> = match spec.strategy.as_str() {
            "all_at_once" => Arc::new(AllAtOnce),
            _ => Arc::new(Rolling),
        };
        Self::with_strategy(count, spec, strategy)
    }

    pub(crate) fn with_strategy(count: u128, spec: RolloutSpec, strategy: Arc<dyn Strategy>) -> Self {
        let targets: Vec<Target> = (1..=count)
            .map(|number| Target {
                node_id: node(number),
                bundle_id: bundle(NEW),
                previous_bundle_id: Some(bundle(OLD)),
            })
            .collect();
        let ids: Vec<NodeId> = targets.iter().map(|target| target.node_id).collect();
        let plan = Plan { steps: strategy.plan(&spec, &ids).unwrap(), targets, excluded: Vec::new() };
        let new = NewRollout {
            id: RolloutId::from_uuid(Uuid::from_u128(7)),
            organisation_id: OrganisationId::from_uuid(Uuid::from_u128(1)),
            project_id: ProjectId::from_uuid(Uuid::from_u128(2)),
            bundle_id: bundle(NEW),
            spec,
            created_by: Actor::System,
        };
        let mut observation = Observation::new([bundle(OLD), bundle(NEW)]);
        for number in 1..=count {
            let facts = NodeFacts {
                exists: true,
                name: format!("edge-{number}"),
                status: NodeStatus::Online,
                last_seen_at: Some(at(0)),
                active_bundle_id: Some(bundle(OLD)),
                active_since: Some(at(-1_000)),
                healthy_streak: 9,
                ..NodeFacts::default()
            };
            observation.nodes.insert(node(number), facts);
        }
        Self { state: new.build(plan, at(0)), observation, now: at(0), strategy, last: None }
    }

    /// Started, and looked at once.
    pub(crate) fn running(count: u128, spec: RolloutSpec) -> Self {
        let mut world = Self::new(count, spec);
        world.command(Command::Start).unwrap();
        world.pass(1);
        world.tick();
        world
    }

    pub(crate) fn facts(&mut self, number: u128) -> &mut NodeFacts {
        self.observation.nodes.get_mut(&node(number)).unwrap()
    }

    /// Lets time pass; nodes that are online keep reporting.
    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
        for facts in self.observation.nodes.values_mut().filter(|facts| facts.is_available()) {
            facts.last_seen_at = Some(self.now);
        }
    }

    /// A node activates a bundle and says so; it is healthy.
    pub(crate) fn activate(&mut self, number: u128, of: u128) {
        let now = self.now;
        let facts = self.facts(number);
        facts.active_bundle_id = Some(bundle(of));
        facts.active_since = Some(now);
        facts.last_seen_at = Some(now);
        facts.health.status = Some("healthy".to_owned());
        facts.healthy_streak = 1;
    }

    /// A healthy heartbeat follows, ten seconds later.
    pub(crate) fn settle(&mut self) {
        self.pass(10);
        for facts in self.observation.nodes.values_mut().filter(|facts| facts.is_available()) {
            facts.healthy_streak += 1;
        }
    }

    pub(crate) fn goes_offline(&mut self, number: u128) {
        self.facts(number).status = NodeStatus::Offline;
    }

    pub(crate) fn rejects(&mut self, number: u128) {
        let now = self.now;
        let facts = self.facts(number);
        facts.bundle_error_at = Some(now);
        facts.bundle_error = Some(BundleError {
            bundle_id: bundle(NEW),
            reason: "invalid_config".to_owned(),
            message: "no".to_owned(),
            sequence: None,
        });
    }

    pub(crate) fn gates(&self) -> Gates {
        Gates::of(&self.state.rollout().spec.health_gates)
    }

    fn take(&mut self, decision: Decision) -> Decision {
        assert_eq!(crate::check(&decision.state), []);
        self.state = decision.state.clone();
        self.last = Some(decision.clone());
        decision
    }

    pub(crate) fn tick(&mut self) -> Decision {
        let gates = self.gates();
        let decision = step(self.state.clone(), self.strategy.as_ref(), &gates, &self.observation, self.now);
        let again = step(decision.state.clone(), self.strategy.as_ref(), &gates, &self.observation, self.now);
        assert!(again.is_idle(), "a repeated step must decide nothing: {again:#?}");
        self.take(decision)
    }

    pub(crate) fn command(&mut self, command: Command) -> Result<Decision> {
        let decision = apply(command, self.state.clone(), &self.observation, self.now)?;
        Ok(self.take(decision))
    }

    /// The started rollback rollout of the last decision, in the same world.
    pub(crate) fn rollback(&self) -> Self {
        let last = self.last.as_ref().unwrap();
        let rollback = last
            .effects
            .iter()
            .find_map(|effect| match effect {
                crate::Effect::RollBack(rollback) => Some(rollback),
                _ => None,
            })
            .unwrap();
        let state =
            State::rollback(self.state.rollout(), rollback, &Strategies::standard(), Actor::System, self.now);
        let mut world = self.clone();
        world.state = state.unwrap();
        world.strategy = Arc::new(AllAtOnce);
        world.command(Command::Start).unwrap();
        world
    }
}
