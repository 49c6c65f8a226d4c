//! The audit log.

use super::auth::{AuditRead, Operator};
use super::listing::log_page;
use crate::error::ApiResult;
use crate::extract::Params;
use crate::services::Api;
use crate::wire::{AuditBody, AuditList, Json, Refusals};
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::Page;
use zentinel_core::log::LogKind;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Read the audit log
///
/// Newest first: what happened in the key's organisation, or in the project it is bound to.
#[utoipa::path(
    get, path = "/api/v1/audit/logs", tag = "Audit",
    params(("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = AuditList), Refusals), security(("api_key" = ["audit:read"])),
)]
async fn list(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<AuditRead>,
    params: Params,
) -> ApiResult<Json<AuditList>> {
    let page = log_page(&api, &caller.scope(), LogKind::Audit, None, &params).await?;
    let Page { items, total, next_cursor } = page.try_map(AuditBody::try_from)?;
    Ok(Json(AuditList { entries: items, total, next_cursor }))
}
