//! Rollouts of bundles over fleets of nodes: a pure core, and the shell that drives it.

pub mod check;
pub mod command;
pub mod decision;
pub mod engine;
pub mod fleet;
pub mod gate;
pub mod observation;
pub mod plan;
pub mod step;
pub mod strategy;
pub mod transition;

pub use check::{Finding, check};
pub use command::{Command, apply};
pub use decision::{Decision, Effect, Restore, Rollback, RolloutEvent, Unrestorable, UnrestorableReason};
pub use gate::{Gate, Gates};
pub use observation::{NodeFacts, Observation};
pub use step::step;
pub use strategy::{Proposal, Strategies, Strategy};
pub use transition::State;
