//! What operators of the control plane watch: `/health`, `/ready`, `/metrics`.

mod metrics;

pub(crate) use metrics::Metrics;

use crate::error::ApiResult;
use crate::operator::auth::bearer;
use crate::services::Api;
use crate::wire::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use std::future::Future;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::port::Queue;
use zentinel_core::{Error, Result, Secret};

/// How long a dependency may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a job may be overdue before nobody seems to be at work, in seconds.
const STALLED: i64 = 120;

/// The routes.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready)).routes(routes!(metrics))
}

/// Whether the control plane serves.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok` or `unavailable`.
    #[schema(example = "ok")]
    status: &'static str,
    /// What is away; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "database unavailable")]
    reason: Option<&'static str>,
}

/// Liveness
///
/// The process answers. Says nothing about its dependencies.
#[utoipa::path(get, path = "/health", tag = "Operations", responses((status = 200, body = Health)))]
async fn health() -> Json<Health> {
    Json(Health { status: "ok", reason: None })
}

/// Readiness
///
/// The database and the object store answer, and background jobs are being worked on.
#[utoipa::path(
    get, path = "/ready", tag = "Operations",
    responses(
        (status = 200, body = Health),
        (status = 503, description = "Something is away", body = Health),
    )
)]
async fn ready(State(api): State<Api>) -> Response {
    let database = answers(api.store.ping());
    let objects = answers(api.blobs.ping());
    let jobs = answers(jobs_move(&api));
    let (database, objects, jobs) = tokio::join!(database, objects, jobs);
    let reason = match (database, objects, jobs) {
        (false, _, _) => Some("database unavailable"),
        (_, false, _) => Some("object store unavailable"),
        (_, _, false) => Some("job runner unavailable"),
        _ => None,
    };
    let (code, status) = match reason {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    (code, Json(Health { status, reason })).into_response()
}

async fn answers(question: impl Future<Output = Result<()>>) -> bool {
    matches!(tokio::time::timeout(PATIENCE, question).await, Ok(Ok(())))
}

/// No queue has a job that has been due for long.
async fn jobs_move(api: &Api) -> Result<()> {
    let oldest = api.now() - TimeDelta::seconds(STALLED);
    for queue in Queue::ALL {
        let stats = api.scheduler.stats(queue, api.now()).await?;
        let next = api.scheduler.next_due(queue).await?;
        // Workers that are all busy are alive.
        if stats.running == 0 && next.is_some_and(|due| due < oldest) {
            return Err(Error::unavailable("jobs are not being worked on"));
        }
    }
    Ok(())
}

/// Metrics
///
/// In the Prometheus text format. Needs a bearer token where the instance sets one.
#[utoipa::path(
    get, path = "/metrics", tag = "Operations",
    responses(
        (status = 200, content_type = "text/plain; version=0.0.4", body = String),
        (status = 401, description = "A token is needed", body = crate::wire::Failure),
    )
)]
async fn metrics(State(api): State<Api>, headers: HeaderMap) -> ApiResult<Response> {
    if let Some(wanted) = &api.options.metrics_token {
        let given = bearer(&headers).map(Secret::new);
        if given.as_ref() != Some(wanted) {
            return Err(Error::unauthenticated("Missing or invalid metrics token").into());
        }
    }
    let text = api.metrics().render(&api).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
