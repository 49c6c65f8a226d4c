//! Approving and rejecting rollouts.

use crate::error::ApiResult;
use crate::extract::{Field, Input, PathId};
use crate::operator::auth::{InProject, RolloutsRead, RolloutsWrite};
use crate::services::Api;
use crate::wire::governance::ApprovalList;
use crate::wire::{ChangeRefusals, Json, Refusals, RolloutBody};
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::Rollout;
use zentinel_core::error::Checks;
use zentinel_core::port::StoreExt;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(approve)).routes(routes!(reject))
}

/// What somebody says.
#[derive(Debug, Deserialize, ToSchema)]
struct VerdictInput {
    /// Why; a rejection needs it.
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    comment: Field<String>,
}

impl VerdictInput {
    fn comment(self) -> zentinel_core::Result<Option<String>> {
        let mut checks = Checks::new();
        let comment = super::description("comment", self.comment, &mut checks).flatten();
        checks.finish()?;
        Ok(comment.filter(|text| !text.trim().is_empty()))
    }
}

/// List the approvals of a rollout
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollouts/{id}/approvals", tag = "Approvals",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = ApprovalList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<Rollout>,
) -> ApiResult<Json<ApprovalList>> {
    let rollout = api.store.fetch::<Rollout>(&at.scope(), id.0).await?;
    Ok(Json(ApprovalList::from(&rollout.approval)))
}

/// Approve a rollout
///
/// Counts once per person, and not for who created the rollout; the author of the bundle cannot be the only
/// one. The person is the owner of the key (who must be an operator of the organisation), or the key itself
/// where it has none. With the last approval the rollout starts, unless it was created with `auto_start` false
/// or its time has not come.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollouts/{id}/approve", tag = "Approvals",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = Option<VerdictInput>,
    responses((status = 200, body = RolloutBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn approve(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<Rollout>,
    Input(input): Input<VerdictInput>,
) -> ApiResult<Json<RolloutBody>> {
    let (actor, person) = (at.caller.actor(), at.caller.person());
    let rollout = api.engine.approve(&at.scope(), actor, person, id.0, input.comment()?).await?;
    Ok(Json(RolloutBody::from(&rollout)))
}

/// Reject a rollout
///
/// For good: it can only be cancelled then. Takes a `comment`.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollouts/{id}/reject", tag = "Approvals",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = VerdictInput,
    responses((status = 200, body = RolloutBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn reject(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<Rollout>,
    Input(input): Input<VerdictInput>,
) -> ApiResult<Json<RolloutBody>> {
    let (actor, person) = (at.caller.actor(), at.caller.person());
    let comment = input.comment()?.unwrap_or_default();
    let rollout = api.engine.reject(&at.scope(), actor, person, id.0, comment).await?;
    Ok(Json(RolloutBody::from(&rollout)))
}
