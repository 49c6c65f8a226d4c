//! Releasing bundles to environments.

use super::named;
use crate::error::ApiResult;
use crate::extract::{Field, Input, Params, PathId};
use crate::operator::auth::{BundlesRead, BundlesWrite, InProject};
use crate::operator::listing::{DEFAULT_LIMIT, slice};
use crate::services::Api;
use crate::wire::governance::{PromotionBody, PromotionList, PromotionOne};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::RecordKind;
use zentinel_core::entity::{Bundle, BundlePromotion};
use zentinel_core::error::Checks;
use zentinel_core::port::{Query, StoreExt};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(promote)).routes(routes!(list))
}

/// Where a bundle goes.
#[derive(Debug, Deserialize, ToSchema)]
struct PromoteInput {
    /// The environment; when left out, the one after the last that the bundle was promoted to.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    environment_id: Field<String>,
}

/// Promote a bundle
///
/// Lets rollouts bring it to an environment. Where promotion rules lead into that environment, one of them must let
/// the bundle through; otherwise the bundle must have been promoted to the environment before. The first environment
/// is open to every bundle.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/bundles/{id}/promote", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = PromoteInput,
    responses((status = 201, body = PromotionOne), ChangeRefusals), security(("api_key" = ["bundles:write"])),
)]
async fn promote(
    State(api): State<Api>,
    at: InProject<BundlesWrite>,
    id: PathId<Bundle>,
    Input(input): Input<PromoteInput>,
) -> ApiResult<(StatusCode, Json<PromotionOne>)> {
    // An unknown bundle is reported before the environment is looked at.
    api.store.fetch::<Bundle>(&at.scope(), id.0).await?;
    let mut checks = Checks::new();
    let environment = match input.environment_id.optional("environment_id", &mut checks) {
        Some(text) => named("environment_id", &api, &at.scope(), &text, &mut checks).await?,
        None => None,
    };
    checks.finish()?;
    let who = (at.caller.actor(), at.caller.person());
    let promotion = api.engine.promote(&at.scope(), who, id.0, environment).await?;
    let promotion = PromotionBody::from(&promotion);
    Ok((StatusCode::CREATED, Json(PromotionOne { promotion })))
}

/// List where a bundle was promoted to
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}/promotions", tag = "Environments",
    params(
        ("project_slug" = String, Path), ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = PromotionList), Refusals), security(("api_key" = ["bundles:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: PathId<Bundle>,
    params: Params,
) -> ApiResult<Json<PromotionList>> {
    api.store.fetch::<Bundle>(&at.scope(), id.0).await?;
    let query = Query::all(RecordKind::BundlePromotion).owned_by(id.0);
    let all = api.store.list_all::<BundlePromotion>(&at.scope(), query).await?;
    let page = slice(all, &params.page(DEFAULT_LIMIT))?;
    Ok(Json(PromotionList {
        promotions: page.items.iter().map(|promotion| PromotionBody::from(&promotion.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}
