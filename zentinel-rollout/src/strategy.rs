//! Strategies: how the targets of a rollout are cut into steps, and what happens once a step's gates
//! pass. A strategy sees a read-only [`View`] and proposes; only the state machine changes state.
//!
#![doc = include_str!("../docs/writing_a_strategy.md")]

mod all_at_once;
mod blue_green;
mod canary;
mod rolling;
mod settings;

pub use all_at_once::AllAtOnce;
pub use blue_green::{BlueGreen, BlueGreenConfig};
pub use canary::{Canary, CanaryConfig, INCONCLUSIVE_FAIL, INCONCLUSIVE_PAUSE};
pub use rolling::Rolling;

use crate::observation::{NodeFacts, Observation};
use crate::transition::State;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use zentinel_core::entity::{Rollout, RolloutNode, RolloutSpec, RolloutStep};
use zentinel_core::error::Checks;
use zentinel_core::id::NodeId;
use zentinel_core::{Error, Result, Timestamp};

/// One step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlannedStep {
    /// Its nodes. A step either brings the bundle to nodes that no earlier step names, or is about nodes
    /// that earlier steps have already brought it to (a traffic step); never both. Not empty.
    pub nodes: Vec<NodeId>,
    /// Blue-green: the slot it is about.
    pub slot: Option<String>,
    /// Blue-green: the weight of that slot, 0 to 100.
    pub weight: Option<u8>,
}

impl PlannedStep {
    /// A step that brings the bundle to these nodes.
    #[must_use]
    pub fn deploy(nodes: impl Into<Vec<NodeId>>) -> Self {
        Self { nodes: nodes.into(), ..Self::default() }
    }
}

/// What a strategy proposes once the gates of the active step pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Proposal {
    /// The step is done; the next one starts.
    Complete,
    /// The gates go on being watched until then; then the strategy is asked again. Holding one step for more than
    /// [`MAX_HOLD`](crate::step::MAX_HOLD) pauses the rollout.
    Hold {
        /// When to ask again.
        until: Timestamp,
        /// For the operator.
        why: String,
    },
    /// Not yet: ask again at the next tick. Bounded by the step's deadline.
    Extend {
        /// For the operator.
        why: String,
    },
    /// An operator shall look; [`Command::Advance`](crate::Command::Advance) completes the step.
    Pause {
        /// For the operator.
        why: String,
    },
    /// The bundle is bad: the rollout fails and is rolled back, whether or not it has `auto_rollback`.
    RollBack {
        /// For the operator.
        why: String,
    },
    /// The step is done, and what has not begun is cut anew. The steps must contain exactly the nodes of
    /// the steps that have not begun.
    Recut {
        /// The steps that replace the ones not begun.
        steps: Vec<PlannedStep>,
    },
}

/// What a strategy says before a step begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Its nodes may be told.
    Now,
    /// Not before this instant, or, without one, not at this tick. The strategy is asked again.
    Later {
        /// When to ask again; at the next tick without it.
        until: Option<Timestamp>,
        /// For the operator.
        why: String,
    },
}

/// In which order a strategy is given the nodes of one failure domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetOrder {
    /// By name, then by id.
    #[default]
    ByName,
    /// As if drawn by lot, but the same for every rollout: by a hash of the id. What is found out about the first
    /// nodes then says something about the others.
    ByLot,
}

/// What a strategy remembers of a rollout from tick to tick. It is stored with the decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    value: Value,
    findings: Vec<Value>,
    changed: bool,
}

impl Memory {
    /// What was remembered before; null at first.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self { value, ..Self::default() }
    }

    /// What is remembered.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Remembers something else from now on.
    pub fn set(&mut self, value: Value) {
        self.changed |= self.value != value;
        self.value = value;
    }

    /// Adds an entry to the rollout's log, for people: what was found, with the figures. Only ever read by them.
    pub fn note(&mut self, finding: Value) {
        self.findings.push(finding);
    }

    /// Whether something else is remembered than before.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn into_parts(self) -> (Value, Vec<Value>) {
        (self.value, self.findings)
    }

    /// The entries that were added.
    #[must_use]
    pub fn findings(&self) -> &[Value] {
        &self.findings
    }
}

/// What a strategy may look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a State,
    observation: &'a Observation,
    step: &'a RolloutStep,
    now: Timestamp,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        state: &'a State,
        observation: &'a Observation,
        step: &'a RolloutStep,
        now: Timestamp,
    ) -> Self {
        Self { state, observation, step, now }
    }

    /// The rollout.
    #[must_use]
    pub fn rollout(&self) -> &'a Rollout {
        self.state.rollout()
    }

    /// The active step.
    #[must_use]
    pub fn step(&self) -> &'a RolloutStep {
        self.step
    }

    /// Every step, in order.
    #[must_use]
    pub fn steps(&self) -> &'a [RolloutStep] {
        self.state.steps()
    }

    /// A node's part in the rollout.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&'a RolloutNode> {
        self.state.nodes().get(&id)
    }

    /// Every node's part.
    #[must_use]
    pub fn nodes(&self) -> &'a BTreeMap<NodeId, RolloutNode> {
        self.state.nodes()
    }

    /// What is known of a node; `None` when it was not looked at.
    #[must_use]
    pub fn facts(&self, id: NodeId) -> Option<&'a NodeFacts> {
        self.observation.nodes.get(&id)
    }

    /// The instant of the tick.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// How long the active step has been in its current phase, pauses not counted.
    #[must_use]
    pub fn elapsed(&self) -> chrono::TimeDelta {
        crate::step::elapsed(self.step, self.now)
    }
}

/// How a rollout proceeds.
///
/// # Contract
/// Pure and deterministic: same input, same answer; no clock, no randomness, no I/O.
///
/// # Testing
/// `zentinel_rollout::sim::strategy_suite` (feature `sim`) drives any strategy over random fleets.
pub trait Strategy: Debug + Send + Sync + 'static {
    /// The stable snake-case name by which specifications ask for it.
    fn name(&self) -> &str;

    /// Complains about what it can't work with, for example in
    /// [`RolloutSpec::strategy_config`].
    fn check(&self, _spec: &RolloutSpec, _checks: &mut Checks) {}

    /// Cuts the targets, given in the order of the plan, into steps. Every target is in exactly one deploy step.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) when the specification does not fit the targets.
    fn plan(&self, spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>>;

    /// In which order [`Strategy::plan`] is given the nodes of each failure domain.
    fn order(&self) -> TargetOrder {
        TargetOrder::ByName
    }

    /// The nodes whose facts it wants in its [`View`] at the next tick, beside those of the active and of the next step.
    fn observes(&self, _state: &State) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    /// Asked before a step begins, [`View::step`], until the answer is [`Begin::Now`].
    fn before_step(&self, _view: &View<'_>, _memory: &mut Memory) -> Begin {
        Begin::Now
    }

    /// Asked when every gate of the active step passes, in `verifying` and again in `validating`.
    fn after_gates(&self, _view: &View<'_>, _memory: &mut Memory) -> Proposal {
        Proposal::Complete
    }
}

/// The strategies that an engine knows, by name.
#[derive(Clone, Debug)]
pub struct Strategies(BTreeMap<String, Arc<dyn Strategy>>);

impl Strategies {
    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// [`Rolling`], [`AllAtOnce`], [`Canary`] and [`BlueGreen`].
    #[must_use]
    pub fn standard() -> Self {
        Self::none()
            .register(Arc::new(Rolling))
            .register(Arc::new(AllAtOnce))
            .register(Arc::new(Canary))
            .register(Arc::new(BlueGreen))
    }

    /// Adds a strategy, or replaces the one with the same name.
    #[must_use]
    pub fn register(mut self, strategy: Arc<dyn Strategy>) -> Self {
        self.0.insert(strategy.name().to_owned(), strategy);
        self
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The strategy with this name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on `strategy`, naming the ones there are.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Strategy>> {
        self.0.get(name).ok_or_else(|| {
            let known = self.names().collect::<Vec<_>>().join(", ");
            Error::invalid_field("strategy", format!("is not a known strategy; known: {known}"))
        })
    }
}

impl Default for Strategies {
    fn default() -> Self {
        Self::standard()
    }
}
