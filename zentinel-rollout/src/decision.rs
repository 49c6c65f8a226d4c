//! What a tick or a command decides: the next state, and what the shell carries out.

mod narrate;

pub use narrate::LogEntry;

use crate::transition::State;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use zentinel_core::Timestamp;
use zentinel_core::entity::{
    Event, Rollout, RolloutNode, RolloutSpec, RolloutState, RolloutStep, Slot, StepState, Waiting,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId, StepId};

/// A node and the bundle it gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Restore {
    /// The node.
    pub node_id: NodeId,
    /// The bundle that it ran before the rollout.
    pub bundle_id: BundleId,
}

/// A node that a rollback can't bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unrestorable {
    /// The node; it keeps what it runs.
    pub node_id: NodeId,
    /// Why.
    pub reason: UnrestorableReason,
}

/// Why a node can't be brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnrestorableReason {
    /// It ran nothing that is known before.
    NoPreviousBundle,
    /// What it ran before may not be given to nodes any more.
    PreviousBundleRevoked,
}

impl UnrestorableReason {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPreviousBundle => "no_previous_bundle",
            Self::PreviousBundleRevoked => "previous_bundle_revoked",
        }
    }
}

/// A rollback to create: the content of [`Effect::RollBack`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rollback {
    /// The id of the rollback rollout, derived from the id of the rollout that it undoes: creating
    /// it a second time hits the same id.
    pub rollout_id: RolloutId,
    /// The nodes with what each ran before; never empty.
    pub nodes: Vec<Restore>,
    /// The nodes that keep what they run.
    pub unrestorable: Vec<Unrestorable>,
    /// Stable word: why, for example `step_deadline_exceeded` or `operator`.
    pub reason: String,
    /// What the rollback rollout runs with: all at once, never rolling back itself.
    pub spec: RolloutSpec,
}

/// What the shell carries out, in order, in the commit that stores the decision.
///
/// Every effect names an absolute outcome for a set of nodes of this rollout, so carrying it out a
/// second time changes nothing. Match it without a catch-all arm.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The rollout claims these nodes: `node.rollout_id` := this rollout. Key: (rollout, node). A node that
    /// another open rollout holds makes the commit fail.
    Claim {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Tell these nodes to run their [`RolloutNode::bundle_id`]: `node.target` := a new target of this
    /// rollout, `node.previous_bundle_id` := [`RolloutNode::previous_bundle_id`]. Key: (rollout, node,
    /// bundle): a node whose target already is this rollout's and this bundle keeps it.
    Stage {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Withdraw the bundle from these nodes: `node.target` := none where the target is this rollout's. A
    /// node that has activated it meanwhile keeps what it runs. Of a node that ran something else already when its
    /// rollout was rolled back (`moved_on`) and that nobody has decided about since,
    /// `node.expected_bundle_id` := [`RolloutNode::previous_bundle_id`]. Key: (rollout, node).
    Unstage {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// These nodes are done: `node.expected_bundle_id` := their [`RolloutNode::bundle_id`] (and the target,
    /// now fulfilled, is this bundle). Skip nodes that another rollout has claimed since. Key: (rollout, node).
    Expect {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// The rollout has ended and no longer claims these nodes: `node.rollout_id` := none where it is this
    /// rollout. Targets stay as they are, so that lagging nodes converge later. Key: (rollout, node).
    Release {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Create and start the linked rollback rollout (see [`State::rollback`](crate::State::rollback)),
    /// and at once set `node.expected_bundle_id` of its nodes to what they get back. Not held up by freeze windows or
    /// approvals. Key: the derived id of the rollback rollout.
    RollBack(Box<Rollback>),
    /// These nodes activated the bundle after it was withdrawn and rolled back: tell each to run what it
    /// ran before (`node.target` with reason `rollback`, and `node.expected_bundle_id`). Skip nodes that somebody has
    /// decided about since: another rollout has claimed it or brought it a bundle, its target is not of this rollout or
    /// its rollback, or it is expected to run the bundle again. Key: (rollout, node, bundle).
    Restore {
        /// The nodes with what each ran before.
        nodes: Vec<Restore>,
    },
    /// Blue-green: these nodes belong to this slot and shall get this weight: `node.traffic` := both. Skip
    /// nodes that another rollout has claimed since. Key: (rollout, node, slot, weight).
    Traffic {
        /// The slot.
        slot: Slot,
        /// The weight, 0 to 100.
        weight: u8,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Blue-green: ask the external load balancer for the split in `rollout.traffic.shift`, until it acknowledges it
    /// (see [`acknowledge`](crate::command::acknowledge)). A later number replaces an earlier one. Key: (rollout, number).
    Shift {
        /// [`ShiftRequest::number`](zentinel_core::entity::ShiftRequest::number).
        number: u32,
    },
}

/// Something to tell the outside: an event `rollout.*` of the wire contract.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutEvent {
    /// For example `rollout.completed`.
    pub kind: &'static str,
    /// `rollout_id`, `bundle_id`, `strategy`, `old_state`, `new_state`.
    pub payload: Value,
}

impl RolloutEvent {
    pub(crate) fn transition(rollout: &Rollout, from: RolloutState) -> Self {
        let kind = match (from, rollout.state) {
            (RolloutState::Paused, RolloutState::Running) => "rollout.resumed",
            (_, RolloutState::Running) => "rollout.started",
            (_, RolloutState::Paused) => "rollout.paused",
            (_, RolloutState::Completed) => "rollout.completed",
            (_, RolloutState::Cancelled) => "rollout.cancelled",
            (_, RolloutState::Failed) => "rollout.failed",
            (_, RolloutState::Pending) => "rollout.state_changed",
        };
        let mut payload = json!({
            "rollout_id": rollout.id,
            "bundle_id": rollout.bundle_id,
            "strategy": rollout.spec.strategy,
            "old_state": from.as_str(),
            "new_state": rollout.state.as_str(),
            "summary": narrate::transition(rollout, from),
        });
        if let (Some(error), Value::Object(payload)) = (&rollout.error, &mut payload) {
            payload.insert("reason".to_owned(), error.reason.clone().into());
            payload.insert("message".to_owned(), error.message.clone().into());
        }
        Self { kind, payload }
    }

    /// The event for the outbox.
    #[must_use]
    pub fn to_event(&self, rollout: &Rollout, now: Timestamp) -> Event {
        Event::new(&rollout.scope(), self.kind, self.payload.clone(), now)
    }
}

/// What the next looks at a rollout can decide, as far as can be told without the facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outlook {
    /// Anything: each must look at every fact.
    #[default]
    Open,
    /// Given the same facts, nothing but when to look next: [`rest`](crate::step::rest) decides
    /// the same as [`step`](crate::step::step).
    Rests {
        /// The last instant at which that holds.
        until: Timestamp,
        /// How many nodes' facts must change, at least, before a gate is asked about a node whose
        /// facts did not; until then what they measured last does not matter. 0: gates are asked.
        gates_after: usize,
    },
}

/// The outcome of a tick or a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The next state.
    pub state: State,
    /// What to carry out, in order.
    pub effects: Vec<Effect>,
    /// What to tell the outside.
    pub events: Vec<RolloutEvent>,
    /// When to look again, at the latest; `None` when only a command or a report of a node can change
    /// anything. May be set on a rollout that has ended, while stragglers are watched.
    pub next_wake: Option<Timestamp>,
    /// For how long this decision stands, unless something is reported or an operator interferes.
    pub outlook: Outlook,
    /// Whether the rollout's record differs from what was passed in.
    pub rollout_changed: bool,
    /// Steps that existed before and differ, by place in [`State::steps`].
    pub changed_steps: BTreeSet<usize>,
    /// Steps that did not exist before, by place.
    pub added_steps: BTreeSet<usize>,
    /// The steps that began (`running`), were done or failed on the way, in order, by place. Not those that failed
    /// without having begun.
    pub step_transitions: Vec<(usize, StepState)>,
    /// Steps that exist no more.
    pub removed_steps: BTreeSet<StepId>,
    /// Nodes whose part differs.
    pub changed_nodes: BTreeSet<NodeId>,
    /// Whether the strategy remembers something else, see [`State::memory`].
    pub memory_changed: bool,
    /// What the strategy found, for the rollout's log.
    pub findings: Vec<Value>,
}

impl Decision {
    /// What the rollout does next and what it waits for.
    #[must_use]
    pub fn report(&self) -> &Waiting {
        &self.state.rollout().waiting
    }

    /// Whether nothing is left to store or to carry out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.effects.is_empty()
            && self.events.is_empty()
            && !self.rollout_changed
            && self.changed_steps.is_empty()
            && self.added_steps.is_empty()
            && self.removed_steps.is_empty()
            && self.changed_nodes.is_empty()
            && !self.memory_changed
            && self.findings.is_empty()
    }

    /// The changed steps.
    pub fn steps_to_update(&self) -> impl Iterator<Item = &RolloutStep> {
        self.changed_steps.iter().filter_map(|&place| self.state.steps().get(place))
    }

    /// The new steps.
    pub fn steps_to_insert(&self) -> impl Iterator<Item = &RolloutStep> {
        self.added_steps.iter().filter_map(|&place| self.state.steps().get(place))
    }

    /// The changed parts of nodes.
    pub fn nodes_to_update(&self) -> impl Iterator<Item = &RolloutNode> {
        self.changed_nodes.iter().filter_map(|id| self.state.nodes().get(id))
    }
}
