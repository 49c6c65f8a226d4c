//! The rollouts of a project.

mod input;

use super::auth::{InProject, RolloutsCreate, RolloutsRead, RolloutsWrite};
use super::listing::{DEFAULT_LIMIT, page_of};
use crate::error::ApiResult;
use crate::extract::{Input, Params, PathId};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, PreviewOne, Refusals, RolloutBody, RolloutDetailBody, RolloutList};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use input::RolloutInput;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::RecordKind;
use zentinel_core::entity::{Rollout, RolloutNode};
use zentinel_core::id::RolloutId;
use zentinel_core::port::Query;
use zentinel_rollout::NodeFacts;
use zentinel_rollout::engine::Command;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(rollback))
}

/// List rollouts
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollouts", tag = "Rollouts",
    params(
        ("project_slug" = String, Path),
        ("state" = Option<String>, Query, description = "Only rollouts in this state"),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = RolloutList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    params: Params,
) -> ApiResult<Json<RolloutList>> {
    let mut query = Query::all(RecordKind::Rollout).page(params.page(DEFAULT_LIMIT));
    if let Some(state) = params.get("state").filter(|state| !state.is_empty()) {
        query = query.in_states(&[state]);
    }
    let page = page_of::<Rollout>(&api, &at.scope(), query).await?;
    Ok(Json(RolloutList {
        rollouts: page.items.iter().map(|rollout| RolloutBody::from(&rollout.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a rollout
///
/// It starts at once unless `auto_start` is false. With `?dry_run=true` nothing is stored and the
/// answer is the plan.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollouts", tag = "Rollouts",
    params(
        ("project_slug" = String, Path),
        ("dry_run" = Option<bool>, Query, description = "Only say what would happen"),
    ),
    request_body = RolloutInput,
    responses(
        (status = 200, description = "The plan of a dry run", body = PreviewOne),
        (status = 201, body = RolloutBody),
        ChangeRefusals,
    ),
    security(("api_key" = ["rollouts:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<RolloutsCreate>,
    params: Params,
    Input(input): Input<RolloutInput>,
) -> ApiResult<Response> {
    let new = input.check()?;
    if params.flag("dry_run") {
        let preview = api.engine.preview(&at.scope(), &new).await?;
        return Ok(Json(PreviewOne::from(&preview)).into_response());
    }
    let rollout = api.engine.create(&at.scope(), at.caller.actor(), new).await?;
    Ok((StatusCode::CREATED, Json(RolloutBody::from(&rollout))).into_response())
}

/// Show a rollout
///
/// With its steps, the state of each node, what it waits for, and which nodes took the bundle back after
/// they were done.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollouts/{id}", tag = "Rollouts",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = RolloutDetailBody), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<Rollout>,
) -> ApiResult<Json<RolloutDetailBody>> {
    let detail = api.engine.detail(&at.scope(), id.0).await?;
    Ok(Json(RolloutDetailBody::new(&detail, |node| taken_back(&api, node))))
}

/// Why a node took the bundle back, going by what it says now.
fn taken_back(api: &Api, node: &RolloutNode) -> Option<String> {
    let known = api.fleet.snapshot(node.node_id)?;
    known.report.bundle_error.as_ref()?;
    let facts = NodeFacts::of(&known.node, &known.report);
    facts.took_back(node).map(|error| format!("{}: {}", error.reason, error.message))
}

async fn steer(
    api: &Api,
    at: &InProject<RolloutsWrite>,
    id: RolloutId,
    command: Command,
) -> ApiResult<Json<RolloutBody>> {
    let rollout = api.engine.command(&at.scope(), at.caller.actor(), id, command).await?;
    Ok(Json(RolloutBody::from(&rollout)))
}

macro_rules! steering {
    ($($(#[$doc:meta])* $name:ident, $path:literal, $command:ident;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "Rollouts",
            params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
            responses((status = 200, body = RolloutBody), ChangeRefusals),
            security(("api_key" = ["rollouts:write"])),
        )]
        async fn $name(
            State(api): State<Api>,
            at: InProject<RolloutsWrite>,
            id: PathId<Rollout>,
        ) -> ApiResult<Json<RolloutBody>> {
            steer(&api, &at, id.0, Command::$command).await
        }
    )*};
}

steering! {
    /// Start a pending rollout
    start, "/api/v1/projects/{project_slug}/rollouts/{id}/start", Start;
    /// Hold a running rollout
    ///
    /// Nodes that were told to activate still do.
    pause, "/api/v1/projects/{project_slug}/rollouts/{id}/pause", Pause;
    /// Go on with a held rollout
    resume, "/api/v1/projects/{project_slug}/rollouts/{id}/resume", Resume;
    /// End a rollout
    ///
    /// Nodes keep what they run.
    cancel, "/api/v1/projects/{project_slug}/rollouts/{id}/cancel", Cancel;
    /// Roll back
    ///
    /// Every node that was touched gets back the bundle it ran before.
    rollback, "/api/v1/projects/{project_slug}/rollouts/{id}/rollback", Rollback;
}
