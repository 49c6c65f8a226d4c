//! The operator API: projects, bundles, rollouts, nodes, keys and logs.
//!
//! One file per resource. Each handler reads, decides, and commits one unit of work that holds
//! its audit entry.

mod api_keys;
mod audit;
pub(crate) mod auth;
mod bundles;
mod credentials;
mod drift;
mod events;
mod governance;
mod health_checks;
mod listing;
mod node_groups;
mod nodes;
mod projects;
mod registration_tokens;
mod rollouts;
mod signing_key;

pub(crate) use credentials::Credentials;

use crate::error::ApiResult;
use crate::services::Api;
use std::future::Future;
use utoipa_axum::router::OpenApiRouter;
use zentinel_core::{Kind, Result};

/// Every route of the operator API.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(projects::routes())
        .merge(bundles::routes())
        .merge(rollouts::routes())
        .merge(governance::routes())
        .merge(health_checks::routes())
        .merge(nodes::routes())
        .merge(node_groups::routes())
        .merge(drift::routes())
        .merge(registration_tokens::routes())
        .merge(api_keys::routes())
        .merge(signing_key::routes())
        .merge(audit::routes())
        .merge(events::routes())
}

/// How often a lost race is run again before the caller hears of it.
const RACES: usize = 4;

/// Reads, decides and commits again when somebody else was faster: heartbeats and rollouts write
/// the same records as operators.
async fn retrying<T, F, Fut>(mut attempt: F) -> ApiResult<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    for _ in 1..RACES {
        match attempt().await {
            Err(error) if error.kind() == Kind::Stale => {}
            other => return Ok(other?),
        }
    }
    Ok(attempt().await?)
}
