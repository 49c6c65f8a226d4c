//! Rollouts of configuration bundles over fleets of nodes: a functional core, and the shell that drives it.
//!
//! # The idea in one screen
//!
//! ```text
//!            RolloutSpec + nodes                 what the nodes report
//!                    |                                    |
//!                 plan()                            Observation
//!                    v                                    v
//!   State { rollout, steps, nodes } --> step(state, strategy, gates, observation, now)
//!        ^                              apply(command, state, observation, now)
//!        |                                                |
//!        |                                             Decision
//!        +------------ the next state ----------- effects, events, report, next wake
//! ```
//!
//! * The core is pure: no clock, no store, no async, no randomness. Same input, same [`Decision`].
//! * It is level-triggered: [`step()`] may be called at any time, as often as you like; with nothing new it decides
//!   nothing. The path after a crash is the normal path.
//! * A node is only known by what it reports, and what is not known never opens a gate.
//! * An [`Effect`] names an absolute outcome for a set of nodes; carrying it out twice changes nothing. The shell commits
//!   effects and state in one transaction; when it loses a race it reads again.
//! * [`Strategy`] and [`Gate`] are public traits. They propose and judge; only the state machine, in one table of
//!   transitions ([`transition`]), changes state.
//! * [`check()`](check::check) lists violated invariants of any state. The `sim` module (feature `sim`) runs whole rollouts over virtual
//!   fleets that crash, lie, flap and fall silent, from one seed.
//!
//! The shell of the control plane is [`engine`] (commits decisions through the store's port, runs as jobs)
//! and [`fleet`] (the live state of the nodes). Nothing in the core needs them:
//!
//! ```
//! use chrono::{DateTime, TimeDelta};
//! use zentinel_core::entity::{NodeStatus, RolloutSpec, RolloutState};
//! use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId};
//! use zentinel_core::Actor;
//! use zentinel_rollout::plan::{NewRollout, Plan, Target};
//! use zentinel_rollout::{apply, step, Command, Effect, Gates, NodeFacts, Observation, Strategies};
//!
//! # fn main() -> zentinel_core::Result<()> {
//! let (old, new, node) = (BundleId::random(), BundleId::random(), NodeId::random());
//! let strategies = Strategies::standard();
//! let rolling = strategies.get("rolling")?;
//! let mut now = DateTime::UNIX_EPOCH;
//!
//! // One node that runs the old bundle, and a rollout of the new one.
//! let spec = RolloutSpec::default();
//! let gates = Gates::of(&spec.health_gates);
//! let target = Target { node_id: node, bundle_id: new, previous_bundle_id: Some(old) };
//! let plan = Plan { steps: rolling.plan(&spec, &[node])?, targets: vec![target], excluded: vec![] };
//! let state = NewRollout {
//!     id: RolloutId::random(),
//!     organisation_id: OrganisationId::random(),
//!     project_id: ProjectId::random(),
//!     bundle_id: new,
//!     spec,
//!     created_by: Actor::System,
//! }
//! .build(plan, now);
//! let mut facts = NodeFacts {
//!     exists: true,
//!     status: NodeStatus::Online,
//!     last_seen_at: Some(now),
//!     active_bundle_id: Some(old),
//!     ..NodeFacts::default()
//! };
//! let observe = |facts: &NodeFacts| Observation::new([old, new]).with(node, facts.clone());
//!
//! // Started, the first look tells the node.
//! let state = apply(Command::Start, state, &observe(&facts), now)?.state;
//! let decision = step(state, rolling.as_ref(), &gates, &observe(&facts), now);
//! assert_eq!(decision.effects, [Effect::Stage { nodes: vec![node] }]);
//!
//! // It activates the bundle and reports twice that it is healthy: done.
//! facts.active_bundle_id = Some(new);
//! facts.active_since = Some(now);
//! now += TimeDelta::seconds(30);
//! facts.last_seen_at = Some(now);
//! facts.health.status = Some("healthy".to_owned());
//! facts.healthy_streak = 2;
//! let decision = step(decision.state, rolling.as_ref(), &gates, &observe(&facts), now);
//! assert_eq!(decision.effects[0], Effect::Expect { nodes: vec![node] });
//! assert_eq!(decision.state.rollout().state, RolloutState::Completed);
//! # Ok(())
//! # }
//! ```

pub mod analysis;
pub mod approval;
pub mod check;
pub mod command;
pub mod decision;
pub mod drift;
pub mod engine;
pub mod explain;
pub mod fleet;
pub mod gate;
pub mod guard;
pub mod observation;
pub mod plan;
pub mod promotion;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod step;
pub mod strategy;
pub mod traffic;
pub mod transition;

#[cfg(test)]
mod fixture;

pub use check::{Finding, check};
pub use command::{Command, apply};
pub use decision::{
    Decision, Effect, LogEntry, Outlook, Restore, Rollback, RolloutEvent, Unrestorable, UnrestorableReason,
};
pub use gate::{Gate, Gates};
pub use observation::{NodeFacts, Observation};
pub use step::step;
pub use strategy::{Begin, Memory, Proposal, Strategies, Strategy};
pub use transition::State;
