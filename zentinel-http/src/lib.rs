//! The HTTP interface of the Zentinel control plane as one [`axum::Router`], and a typed client.
//!
//! [`router`] takes [`Services`] and returns a router that an integrator serves as it is or nests
//! in a service of its own. It keeps no state outside the services but caches and counters, and
//! needs no socket: `tower::ServiceExt::oneshot` works.
//!
//! ```no_run
//! # async fn serve(services: std::sync::Arc<zentinel_http::Services>) -> std::io::Result<()> {
//! use std::net::SocketAddr;
//! let app = axum::Router::new().nest("/fleet", zentinel_http::router(services));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:4000").await?;
//! // The address of the peer is what limits per address count by.
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
//! # }
//! ```
//!
//! * `/api/v1/projects/…`, `/api/v1/api-keys`, `/api/v1/audit`: operators, with API keys.
//! * `/api/v1/nodes/…`: nodes, with their key or token.
//! * `/blobs/…`: signed downloads, where the blob store cannot presign itself.
//! * `/health`, `/ready`, `/metrics`, `/api/openapi.json`.
//!
//! The OpenAPI document describes all of them but itself and `/blobs/…`: those URLs are handed out
//! ready to use, and a client never makes one.

mod admission;
mod blob;
pub mod client;
pub mod egress;
mod error;
mod extract;
mod limits;
mod middleware;
mod node;
mod observe;
mod openapi;
mod operator;
mod probe;
mod services;
mod shifter;
mod token;
mod wire;

pub use admission::Pressure;
pub use extract::Network;
pub use openapi::router;
pub use probe::HttpProbe;
pub use services::{HttpOptions, RateLimits, Services};
pub use shifter::HttpShifter;
