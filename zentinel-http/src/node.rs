//! The node API: what reverse proxies call.
//!
//! It is the hot path. Credentials are verified once and remembered, heartbeats and polls are
//! answered from the fleet's memory, and a poll with nothing new touches no store.

pub(crate) mod auth;
mod batch;
mod config;
mod credentials;
mod enrol;
mod events;
mod heartbeat;
mod item;
mod joining;
mod memory;
mod metrics;
mod offers;
mod poll;
mod register;
mod repeat;
mod waf;
pub(crate) mod wire;

use crate::services::Api;
use axum::Extension;
use memory::Memory;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Every route of the node API.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(register::register))
        .routes(routes!(heartbeat::heartbeat))
        .routes(routes!(poll::latest))
        .routes(routes!(credentials::token))
        .routes(routes!(credentials::rotate))
        .routes(routes!(credentials::signing_keys))
        .routes(routes!(events::report))
        .routes(routes!(config::report))
        .routes(routes!(metrics::report))
        .routes(routes!(waf::report))
        .layer(Extension(Arc::new(Memory::default())))
}
