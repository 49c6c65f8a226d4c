//! Drift events of a project.

mod export;

use super::auth::{InProject, NodesRead, NodesWrite};
use super::listing::{DEFAULT_LIMIT, page_of};
use crate::error::ApiResult;
use crate::extract::{Params, PathId, parse_id};
use crate::services::Api;
use crate::wire::drift::{BulkResolved, DriftBody, DriftList, DriftOne, DriftStats};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use std::collections::BTreeSet;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{DRIFT_ACTIVE, DRIFT_RESOLVED, DriftEvent};
use zentinel_core::id::NodeId;
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{PageRequest, RecordKind, Result, Scope};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(stats))
        .routes(routes!(export::export))
        .routes(routes!(resolve_all))
        .routes(routes!(show))
        .routes(routes!(resolve))
}

/// The events that a `status` means; anything unknown means all.
fn with_status(params: &Params) -> Query {
    let query = Query::all(RecordKind::DriftEvent);
    match params.get("status") {
        Some("active") => query.in_states(&[DRIFT_ACTIVE]),
        Some("resolved") => query.in_states(&[DRIFT_RESOLVED]),
        _ => query,
    }
}

/// The nodes of a project with an open event.
pub(super) async fn drifted(api: &Api, scope: &Scope) -> Result<BTreeSet<NodeId>> {
    let query = Query::all(RecordKind::DriftEvent).in_states(&[DRIFT_ACTIVE]);
    let open = api.store.list_all::<DriftEvent>(scope, query).await?;
    Ok(open.into_iter().map(|event| event.node_id).collect())
}

/// List drift events
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/drift", tag = "Drift",
    params(
        ("project_slug" = String, Path),
        ("status" = Option<String>, Query, description = "`active` or `resolved`; all otherwise"),
        ("node_id" = Option<uuid::Uuid>, Query, description = "Only events of this node"),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = DriftList), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    params: Params,
) -> ApiResult<Json<DriftList>> {
    let mut query = with_status(&params).page(params.page(DEFAULT_LIMIT));
    if let Some(node) = params.get("node_id").and_then(parse_id::<NodeId>) {
        query = query.labelled(vec![("node_id".to_owned(), node.to_string())]);
    }
    let page = page_of::<DriftEvent>(&api, &at.scope(), query).await?;
    Ok(Json(DriftList {
        drift_events: page.items.iter().map(|event| DriftBody::from(&event.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Count drifted nodes
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/drift/stats", tag = "Drift",
    params(("project_slug" = String, Path)),
    responses((status = 200, body = DriftStats), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn stats(State(api): State<Api>, at: InProject<NodesRead>) -> ApiResult<Json<DriftStats>> {
    let scope = at.scope();
    let open = drifted(&api, &scope).await?;
    let survey = api.fleet.survey(Some(at.project.id)).remove(&at.project.id).unwrap_or_default();
    let online = |id: &&NodeId| {
        let known = api.fleet.node(**id);
        known.is_some_and(|known| known.is_managed()) && api.fleet.is_online(**id)
    };
    let drifted = open.iter().filter(online).count() as u64;
    let today = api.now().format("%Y-%m-%d").to_string();
    let resolved = Query::all(RecordKind::DriftEvent)
        .in_states(&[DRIFT_RESOLVED])
        .labelled(vec![("resolved_on".to_owned(), today)])
        .page(PageRequest { limit: 1, cursor: None });
    let resolved_today = api.store.query(&scope, &resolved).await?.total;
    Ok(Json(DriftStats {
        total_managed: survey.managed,
        drifted,
        in_sync: survey.managed.saturating_sub(survey.unknown + drifted),
        unknown: survey.unknown,
        active_events: open.len() as u64,
        resolved_today,
    }))
}

/// Show a drift event
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/drift/{id}", tag = "Drift",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = DriftOne), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<DriftEvent>,
) -> ApiResult<Json<DriftOne>> {
    let event = api.store.fetch::<DriftEvent>(&at.scope(), id.0).await?;
    let drift_event = DriftBody::from(&event.value);
    Ok(Json(DriftOne { drift_event }))
}

/// Close a drift event
///
/// Changes nothing on the node: one that still differs gets a new event at the next look.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/drift/{id}/resolve", tag = "Drift",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = DriftOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn resolve(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<DriftEvent>,
) -> ApiResult<Json<DriftOne>> {
    let event = api.engine.resolve_drift(&at.scope(), at.caller.actor(), id.0).await?;
    let drift_event = DriftBody::from(&event);
    Ok(Json(DriftOne { drift_event }))
}

/// Close every open drift event
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/drift/resolve-all", tag = "Drift",
    params(("project_slug" = String, Path)),
    responses((status = 200, body = BulkResolved), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn resolve_all(State(api): State<Api>, at: InProject<NodesWrite>) -> ApiResult<Json<BulkResolved>> {
    let resolved_count = api.engine.resolve_all_drift(&at.scope(), at.caller.actor(), at.project.id).await?;
    Ok(Json(BulkResolved { resolved_count }))
}
