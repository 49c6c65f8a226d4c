//! A fleet of simulated nodes in one process, over real HTTP: a way to see rollouts meet nodes that
//! are slow, sick, silent or stubborn, and the load generator of the benchmarks.
//!
//! ```text
//! wheel (what is due, to the millisecond) ─> engine ─> few keep-alive connections ─> server
//!                 ^                            │
//!                 └── node: state machine <── answers ─> fetch: archive, digest
//! ```
//!
//! Nodes register with a token, prove themselves by key or token, poll with etags, check statements
//! and archives, activate, report and send what gates read: the server needs to know nothing of it.
//! See `zentinel-sim --help`.

mod behaviour;
mod cli;
mod codec;
mod engine;
mod fetch;
mod identity;
mod node;
mod process;
mod register;
mod report;
mod run;
mod stats;
mod traffic;
mod wheel;

pub use cli::main;
