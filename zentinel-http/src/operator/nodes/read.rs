//! Looking at nodes.

use crate::error::ApiResult;
use crate::extract::{Params, PathId};
use crate::operator::auth::{InProject, NodesRead};
use crate::operator::listing::{DEFAULT_LIMIT, page_of};
use crate::services::Api;
use crate::wire::{Json, NodeList, NodeOne, NodeStats, Refusals};
use axum::extract::State;
use zentinel_core::entity::{Node, NodeReport};
use zentinel_core::port::{Order, Query, StoreExt};
use zentinel_core::{PageRequest, RecordKind};

/// List nodes
///
/// By name.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/nodes", tag = "Nodes",
    params(
        ("project_slug" = String, Path),
        ("name" = Option<String>, Query, description = "The one node of that name"),
        ("status" = Option<String>, Query, description = "`online`, `offline` or `unknown`; anything else is ignored"),
        ("labels" = Option<std::collections::BTreeMap<String, String>>, Query, style = DeepObject, explode,
            description = "`labels[region]=eu`; every given label must match"),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = NodeList), Refusals), security(("api_key" = ["nodes:read"])),
)]
pub(super) async fn list(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    params: Params,
) -> ApiResult<Json<NodeList>> {
    let scope = at.scope();
    let mut query = Query::all(RecordKind::Node)
        .labelled(params.map("labels"))
        .ordered(Order::Name)
        .page(params.page(DEFAULT_LIMIT));
    if let Some(name) = params.get("name") {
        query = query.named(name);
    }
    if let Some(status @ ("online" | "offline" | "unknown")) = params.get("status") {
        let reported = Query::all(RecordKind::NodeReport).in_states(&[status]).page(PageRequest::default());
        let reported = api.store.list_all::<NodeReport>(&scope, reported).await?;
        query = query.with_ids(reported.iter().map(|report| report.node_id));
    }
    let page = page_of::<Node>(&api, &scope, query).await?;
    Ok(Json(NodeList {
        nodes: super::bodies(&api, &scope, &page.items).await?,
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Count nodes
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/nodes/stats", tag = "Nodes",
    params(("project_slug" = String, Path)),
    responses((status = 200, body = NodeStats), Refusals), security(("api_key" = ["nodes:read"])),
)]
pub(super) async fn stats(State(api): State<Api>, at: InProject<NodesRead>) -> Json<NodeStats> {
    let counts = api.fleet.counts(Some(at.project.id));
    Json(NodeStats {
        total: counts.values().sum(),
        by_status: counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(status, count)| (status.as_str(), count))
            .collect(),
    })
}

/// Show a node
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/nodes/{id}", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = NodeOne), Refusals), security(("api_key" = ["nodes:read"])),
)]
pub(super) async fn show(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<Node>,
) -> ApiResult<Json<NodeOne>> {
    let node = super::body(&api, &at.scope(), id.0).await?;
    Ok(Json(NodeOne { node }))
}
