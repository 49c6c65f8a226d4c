//! What a node said over time.

use crate::error::ApiResult;
use crate::extract::{Params, PathId};
use crate::operator::auth::{InProject, NodesRead};
use crate::operator::listing::log_page;
use crate::services::Api;
use crate::wire::{HeartbeatList, Json, NodeEventList, Refusals, ReportedBody};
use axum::extract::State;
use zentinel_core::Page;
use zentinel_core::entity::Node;
use zentinel_core::id::{NodeId, TypedId};
use zentinel_core::log::LogKind;
use zentinel_core::port::StoreExt;

async fn page(
    api: &Api,
    at: &InProject<NodesRead>,
    node: NodeId,
    kind: LogKind,
    params: &Params,
) -> ApiResult<Page<ReportedBody>> {
    let scope = at.scope();
    api.store.fetch::<Node>(&scope, node).await?;
    let page = log_page(api, &scope, kind, Some(node.uuid()), params).await?;
    Ok(Page {
        items: page.items.into_iter().map(ReportedBody::from).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    })
}

/// Read what a node reported
///
/// Newest first; the newest 500 are kept.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/nodes/{id}/events", tag = "Nodes",
    params(
        ("project_slug" = String, Path), ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = NodeEventList), Refusals), security(("api_key" = ["nodes:read"])),
)]
pub(super) async fn events(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<Node>,
    params: Params,
) -> ApiResult<Json<NodeEventList>> {
    let page = page(&api, &at, id.0, LogKind::NodeEvent, &params).await?;
    Ok(Json(NodeEventList { events: page.items, total: page.total, next_cursor: page.next_cursor }))
}

/// Read a node's heartbeats
///
/// Newest first; the newest 1,000 are kept.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/nodes/{id}/heartbeats", tag = "Nodes",
    params(
        ("project_slug" = String, Path), ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = HeartbeatList), Refusals), security(("api_key" = ["nodes:read"])),
)]
pub(super) async fn heartbeats(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<Node>,
    params: Params,
) -> ApiResult<Json<HeartbeatList>> {
    let page = page(&api, &at, id.0, LogKind::Heartbeat, &params).await?;
    Ok(Json(HeartbeatList { heartbeats: page.items, total: page.total, next_cursor: page.next_cursor }))
}
