//! The operator API over in-memory back ends, called without a socket.

mod bad_input;
mod bundles;
mod credentials;
mod document;
mod keys;
mod limits;
mod nodes;
mod observe;
mod projects;
mod rollouts;
mod tenancy;
mod world;
