//! The operator API over in-memory back ends, called without a socket.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod bad_input;
mod blue_green;
mod bundles;
mod credentials;
mod document;
mod drift;
mod fleet;
mod governance;
mod health_checks;
mod keys;
mod limits;
mod nodes;
mod observe;
mod outages;
mod projects;
mod rollouts;
mod tenancy;
mod world;
