//! The node API, the signed downloads and the client, over in-memory back ends.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "test helpers too")]

#[path = "node_api/auth.rs"]
mod auth;
#[path = "node_api/blobs.rs"]
mod blobs;
#[path = "node_api/client.rs"]
mod client;
#[path = "node_api/poll.rs"]
mod poll;
#[path = "node_api/register.rs"]
mod register;
#[path = "node_api/repeat.rs"]
mod repeat;
#[path = "node_api/reports.rs"]
mod reports;
#[path = "node_api/tokens.rs"]
mod tokens;
#[path = "node_api/world.rs"]
mod world;
#[path = "node_api/wrappers.rs"]
mod wrappers;
