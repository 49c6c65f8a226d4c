//! Rollouts out of earlier ones.

use super::input::target;
use crate::error::ApiResult;
use crate::extract::{Field, Input, PathId};
use crate::operator::auth::{InProject, RolloutsCreate};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, RolloutBody};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use zentinel_core::entity::{Bundle, Rollout, TargetSelector};
use zentinel_core::error::Checks;
use zentinel_rollout::engine::{Revert, Terms};

/// Retry the nodes that failed
///
/// A rollout of the same bundle with the same settings, for those nodes alone that the ended one did not bring it to.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollouts/{id}/retry", tag = "Rollouts",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 201, body = RolloutBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
pub(super) async fn retry(
    State(api): State<Api>,
    at: InProject<RolloutsCreate>,
    id: PathId<Rollout>,
) -> ApiResult<Response> {
    let terms = Terms { requested_by: Some(at.caller.person()), ..Terms::default() };
    let rollout = api.engine.retry_failed(&at.scope(), at.caller.actor(), id.0, terms).await?;
    Ok((StatusCode::CREATED, Json(RolloutBody::from(&rollout))).into_response())
}

/// An emergency.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RevertInput {
    /// Which nodes; all by default. As in a rollout.
    #[schema(value_type = Option<Object>, example = json!({"type": "all"}))]
    #[serde(default)]
    target_selector: Field<Value>,
    /// Why, for the audit log.
    #[schema(value_type = String, required = true, max_length = 500)]
    #[serde(default)]
    reason: Field<String>,
}

/// Go straight back to a bundle
///
/// Brings nodes back to a bundle that a rollout was completed with in the last 30 days: all at once, in place of
/// whatever else is under way on them, without waiting for approvals or freeze windows.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/bundles/{id}/revert", tag = "Rollouts",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = RevertInput,
    responses((status = 201, body = RolloutBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
pub(super) async fn revert(
    State(api): State<Api>,
    at: InProject<RolloutsCreate>,
    id: PathId<Bundle>,
    Input(input): Input<RevertInput>,
) -> ApiResult<Response> {
    let mut checks = Checks::new();
    let reason = input.reason.required("reason", &mut checks).unwrap_or_default();
    let selector = input.target_selector.optional("target_selector", &mut checks);
    let target_selector = selector.map_or(TargetSelector::All, |value| target(&value, &mut checks));
    checks.finish()?;
    let requested_by = Some(at.caller.person());
    let revert = Revert { bundle_id: id.0, target_selector, reason, requested_by };
    let rollout = api.engine.revert(&at.scope(), at.caller.actor(), revert).await?;
    Ok((StatusCode::CREATED, Json(RolloutBody::from(&rollout))).into_response())
}
