//! What the fault tests share: a flood of requests, and a ledger of everything that was acknowledged.
//!
//! A request that got no answer may or may not have been carried out; the ledger holds it as doubtful
//! and allows both. What was acknowledged must be there ever after, exactly once.

pub mod flood;
pub mod ledger;
mod operators;
pub mod probe;
pub mod seed;
mod traffic;
mod verify;
pub mod wire;
