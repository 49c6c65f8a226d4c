//! What happened in a project.

use super::auth::{AuditRead, InProject};
use super::listing::log_page;
use crate::error::ApiResult;
use crate::extract::Params;
use crate::services::Api;
use crate::wire::{EventBody, EventList, Json, Refusals};
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::Page;
use zentinel_core::log::LogKind;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Read the events of a project
///
/// Newest first: what notification channels and integrations are told.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/events", tag = "Events",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = EventList), Refusals), security(("api_key" = ["audit:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<AuditRead>,
    params: Params,
) -> ApiResult<Json<EventList>> {
    let page = log_page(&api, &at.scope(), LogKind::Event, None, &params).await?;
    let Page { items, total, next_cursor } = page.try_map(EventBody::try_from)?;
    Ok(Json(EventList { events: items, total, next_cursor }))
}
