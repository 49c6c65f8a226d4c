//! Why a rollout stands where it does, and how it came there.

use crate::error::ApiResult;
use crate::extract::{Params, PathId};
use crate::operator::auth::{InProject, RolloutsRead};
use crate::operator::listing::log_page;
use crate::services::Api;
use crate::wire::{ExplanationBody, Json, Refusals, RolloutLogBody, RolloutLogList};
use axum::extract::State;
use serde_json::Value;
use zentinel_core::entity::Rollout;
use zentinel_core::id::{RolloutId, TypedId};
use zentinel_core::log::{LogKind, LogQuery};
use zentinel_core::port::StoreExt;
use zentinel_core::{Page, Result, Scope};

/// Explain a rollout
///
/// In plain sentences: where it stands, what it waits for and until when, gate by gate and node by node, and what comes next.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollouts/{id}/explain", tag = "Rollouts",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = ExplanationBody), Refusals), security(("api_key" = ["rollouts:read"])),
)]
pub(super) async fn explain(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<Rollout>,
) -> ApiResult<Json<ExplanationBody>> {
    let (rollout, explanation) = api.engine.explain(&at.scope(), id.0).await?;
    Ok(Json(ExplanationBody::new(&rollout, &explanation)))
}

/// Read a rollout's log
///
/// Newest first: every decision in a sentence with its figures, and every analysis with its evidence.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollouts/{id}/log", tag = "Rollouts",
    params(
        ("project_slug" = String, Path), ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = RolloutLogList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
pub(super) async fn log(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<Rollout>,
    params: Params,
) -> ApiResult<Json<RolloutLogList>> {
    let scope = at.scope();
    api.store.fetch::<Rollout>(&scope, id.0).await?;
    let page = log_page(&api, &scope, LogKind::RolloutLog, Some(id.0.uuid()), &params).await?;
    let Page { items, total, next_cursor } = page;
    Ok(Json(RolloutLogList {
        log: items.into_iter().map(RolloutLogBody::from).collect(),
        total,
        next_cursor,
    }))
}

/// Most analyses that are shown with a rollout.
const ANALYSES: usize = 200;

/// The last analyses of a canary rollout, oldest first.
pub(super) async fn analyses(api: &Api, scope: &Scope, id: RolloutId) -> Result<Vec<Value>> {
    let mut query = LogQuery::newest(LogKind::RolloutLog, 500).about(id.uuid());
    let mut found = Vec::new();
    loop {
        let entries = api.store.read_log(scope, &query).await?;
        query.beyond = entries.last().map(|last| last.seq);
        let full = entries.len() == query.limit as usize;
        let analyses = entries.into_iter().filter(|entry| entry.row.body["kind"] == "analysis");
        found.extend(analyses.map(|mut entry| {
            let mut analysis = entry.row.body["details"].take();
            analysis["summary"] = entry.row.body["summary"].take();
            analysis
        }));
        if !full || found.len() >= ANALYSES {
            found.truncate(ANALYSES);
            found.reverse();
            return Ok(found);
        }
    }
}
