//! Holding nodes back: version bounds, cordon and drain.

use super::change::edit_and_show;
use crate::error::ApiResult;
use crate::extract::{Field, Input, PathId};
use crate::operator::auth::{InProject, NodesWrite};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, NodeOne};
use axum::extract::State;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use zentinel_core::entity::{Bundle, Node, NodeTraffic, Slot, VersionBounds};
use zentinel_core::error::Checks;
use zentinel_core::port::StoreExt;

/// Which versions of bundles a node may be given, both ends included.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct BoundsInput {
    /// The lowest; null or left out for none.
    #[schema(value_type = Option<String>, example = "1.2.0")]
    #[serde(default)]
    min: Field<String>,
    /// The highest; null or left out for none.
    #[schema(value_type = Option<String>, example = "1.9.9")]
    #[serde(default)]
    max: Field<String>,
}

/// Bound the versions of a node
///
/// Semantic versions, both ends included. A bundle whose version is no semantic one is then not given to the
/// node. What it runs stays; what it was told to run and may not any more is withheld.
#[utoipa::path(
    put, path = "/api/v1/projects/{project_slug}/nodes/{id}/version-bounds", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = BoundsInput,
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn version_bounds(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
    Input(input): Input<BoundsInput>,
) -> ApiResult<Json<NodeOne>> {
    let node = api.store.fetch::<Node>(&at.scope(), id.0).await?;
    let mut checks = Checks::new();
    let (min, max) = (input.min.optional("min", &mut checks), input.max.optional("max", &mut checks));
    checks.finish()?;
    let bounds = VersionBounds::new(min, max)?;
    let told = node.target.as_ref().map(|target| target.bundle_id);
    let told = match told {
        Some(told) => api.store.find::<Bundle>(&at.scope(), told).await?,
        None => None,
    };
    edit_and_show(&api, &at, id.0, "node.version_bounds_set", |node, _| {
        let target = node.target.as_ref().map(|target| target.bundle_id);
        let told = told.as_ref().filter(|told| Some(told.id) == target);
        node.bounds = bounds.clone().map(|bounds| {
            let barred = told.filter(|told| !bounds.admits(&told.version)).map(|told| told.id);
            Box::new(VersionBounds { barred, ..bounds })
        });
        let (min, max) =
            node.bounds.as_ref().map_or((None, None), |bounds| (bounds.min.clone(), bounds.max.clone()));
        Ok(json!({"min_bundle_version": min, "max_bundle_version": max}))
    })
    .await
}

/// Cordon a node
///
/// It is given no new bundle: rollouts leave it out, those under way too as long as they have not told it. What
/// brings it back to an earlier bundle still does.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/{id}/cordon", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn cordon(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
) -> ApiResult<Json<NodeOne>> {
    edit_and_show(&api, &at, id.0, "node.cordoned", |node, _| {
        node.cordoned = true;
        Ok(json!({"cordoned": true}))
    })
    .await
}

/// Uncordon a node
///
/// Rollouts may target it again. A drained node gets its full weight back.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/{id}/uncordon", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn uncordon(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
) -> ApiResult<Json<NodeOne>> {
    edit_and_show(&api, &at, id.0, "node.uncordoned", |node, _| {
        node.cordoned = false;
        // In a rollout the weight is the rollout's business.
        if node.rollout_id.is_none()
            && let Some(traffic) = &mut node.traffic
        {
            traffic.weight = FULL;
        }
        Ok(json!({"cordoned": false, "traffic_weight": node.traffic.map(|traffic| traffic.weight)}))
    })
    .await
}

/// The weight of a node that takes its share.
const FULL: u8 = 100;

/// Drain a node
///
/// Cordons it and tells it that its traffic weight is 0: whatever stands in front of it, and follows the weight
/// that the node is told, sends it nothing more. Nothing else takes traffic from a node.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/{id}/drain", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn drain(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
) -> ApiResult<Json<NodeOne>> {
    edit_and_show(&api, &at, id.0, "node.drained", |node, _| {
        let slot = node.traffic.map_or(Slot::Blue, |traffic| traffic.slot);
        node.cordoned = true;
        node.traffic = Some(NodeTraffic { slot, weight: 0 });
        Ok(json!({"cordoned": true, "traffic_weight": 0}))
    })
    .await
}
