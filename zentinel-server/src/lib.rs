//! The reference server: it parses settings, picks back ends and composes the libraries.
//!
//! * [`settings`]: every setting, from file, environment and flags.
//! * [`compose`]: settings in, running server out.
//! * [`agent`]: the pull loop that makes a proxy a node.
//! * [`demo`]: the whole story in one process, over real HTTP.
//! * [`sim`]: simulated nodes, and the load generator.
//! * [`bootstrap`]: the first organisation, project, administrator and API key.
//! * [`cli`]: the command line of the server.
//! * [`ctl`]: the command line of operators.

pub mod agent;
pub mod backoff;
pub mod bootstrap;
pub mod cli;
pub mod compose;
pub mod ctl;
pub mod demo;
pub mod settings;
pub mod sim;

/// The examples of the README are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
