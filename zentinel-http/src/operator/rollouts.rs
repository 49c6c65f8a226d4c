//! The rollouts of a project.

mod again;
mod explain;
pub(super) mod input;

use super::auth::{InProject, RolloutsCreate, RolloutsRead, RolloutsWrite};
use super::governance::{freeze_override, with_template};
use super::listing::{DEFAULT_LIMIT, page_of};
use crate::error::{ApiError, ApiResult};
use crate::extract::{Field, Input, Params, PathId};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, PreviewOne, Refusals, RolloutBody, RolloutDetailBody, RolloutList};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use input::{Asked, RolloutInput, override_reason};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{Rollout, RolloutNode, RolloutStep};
use zentinel_core::error::Checks;
use zentinel_core::id::RolloutId;
use zentinel_core::port::{Order, Query, StoreExt as _};
use zentinel_core::{Error, RecordKind};
use zentinel_rollout::command::NOT_BLUE_GREEN;
use zentinel_rollout::engine::Command;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(again::retry))
        .routes(routes!(again::revert))
        .routes(routes!(explain::explain))
        .routes(routes!(explain::log))
        .routes(routes!(start))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(rollback))
        .routes(routes!(swap_slot))
        .routes(routes!(advance_traffic))
        .routes(routes!(advance))
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
    let mut rollouts = Vec::with_capacity(page.items.len());
    for rollout in &page.items {
        rollouts.push(shown(&api, rollout).await?);
    }
    Ok(Json(RolloutList { rollouts, total: page.total, next_cursor: page.next_cursor }))
}

/// Create a rollout
///
/// It starts by itself unless `auto_start` is false: at once, or as soon as approvals, `scheduled_at` and freeze
/// windows let it. With `?dry_run=true` nothing is stored and the answer is the plan.
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
    Input(body): Input<Map<String, Value>>,
) -> ApiResult<Response> {
    let (body, template) = with_template(&api, &at.scope(), body).await?;
    let input: RolloutInput = serde_json::from_value(Value::Object(body))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let Asked { mut new, override_reason } = input.check()?;
    new.terms.template_id = template;
    new.terms.requested_by = Some(at.caller.person());
    new.terms.override_freeze = freeze_override(&api, &at.caller, override_reason).await?;
    if params.flag("dry_run") {
        let preview = api.engine.preview(&at.scope(), &new).await?;
        return Ok(Json(PreviewOne::from(&preview)).into_response());
    }
    let rollout = api.engine.create(&at.scope(), at.caller.actor(), new).await?;
    Ok((StatusCode::CREATED, Json(shown(&api, &rollout).await?)).into_response())
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
    let scope = at.scope();
    let detail = api.engine.detail(&scope, id.0).await?;
    let body = RolloutDetailBody::new(&detail, |node| taken_back(&api, node));
    if detail.rollout.spec.strategy != "canary" {
        return Ok(Json(body));
    }
    Ok(Json(body.analysed(&explain::analyses(&api, &scope, id.0).await?)))
}

/// Why a node took the bundle back, going by what it says now.
fn taken_back(api: &Api, node: &RolloutNode) -> Option<String> {
    let facts = api.fleet.failure(node.node_id)?;
    facts.took_back(node).map(|error| format!("{}: {}", error.reason, error.message))
}

async fn steer(
    api: &Api,
    at: &InProject<RolloutsWrite>,
    id: RolloutId,
    command: Command,
) -> ApiResult<Json<RolloutBody>> {
    let rollout = api.engine.command(&at.scope(), at.caller.actor(), id, command).await?;
    Ok(Json(shown(api, &rollout).await?))
}

/// A rollout as it is shown. Where its traffic follows from its steps, these are read.
async fn shown(api: &Api, rollout: &Rollout) -> ApiResult<RolloutBody> {
    if rollout.spec.strategy != BLUE_GREEN && rollout.traffic.is_none() {
        return Ok(RolloutBody::from(rollout));
    }
    let steps = Query::all(RecordKind::RolloutStep).owned_by(rollout.id).ordered(Order::Name);
    let steps = api.store.list_all::<RolloutStep>(&rollout.scope(), steps).await?;
    let steps: Vec<RolloutStep> = steps.into_iter().map(|step| step.value).collect();
    Ok(RolloutBody::with_steps(rollout, &steps))
}

/// The strategy whose rollouts have slots.
const BLUE_GREEN: &str = "blue_green";

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

/// How to start.
#[derive(Debug, Deserialize, ToSchema)]
struct StartInput {
    /// Start in spite of freeze windows; takes an admin and `override_reason`.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    override_freeze: Field<bool>,
    /// Why, for the audit log.
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    override_reason: Field<String>,
}

/// Start a pending rollout
///
/// Now, whatever its schedule says. Approvals, freeze windows and promotions hold as at its creation; its targets
/// are planned anew.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollouts/{id}/start", tag = "Rollouts",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = Option<StartInput>,
    responses((status = 200, body = RolloutBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn start(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<Rollout>,
    Input(input): Input<StartInput>,
) -> ApiResult<Json<RolloutBody>> {
    let mut checks = Checks::new();
    let reason = override_reason(input.override_freeze, input.override_reason, &mut checks);
    checks.finish()?;
    let decision = freeze_override(&api, &at.caller, reason).await?;
    let rollout = api.engine.start(&at.scope(), at.caller.actor(), id.0, decision).await?;
    Ok(Json(shown(&api, &rollout).await?))
}

steering! {
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
    /// Take the traffic of the step under way back (blue-green)
    ///
    /// The blue slot gets everything at once, and the rollout is paused. A resume gives the green slot its weight
    /// again, once its gates pass.
    swap_slot, "/api/v1/projects/{project_slug}/rollouts/{id}/swap-slot", SwapSlot;
    /// Complete the step that is held, and go on
    ///
    /// For a paused rollout whose strategy wants an operator to look.
    advance, "/api/v1/projects/{project_slug}/rollouts/{id}/advance", Advance;
}

/// Move on to the next weight (blue-green)
///
/// Completes the held step; the next one starts.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollouts/{id}/advance-traffic", tag = "Rollouts",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = RolloutBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn advance_traffic(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<Rollout>,
) -> ApiResult<Json<RolloutBody>> {
    let rollout = api.store.fetch::<Rollout>(&at.scope(), id.0).await?;
    if rollout.spec.strategy != BLUE_GREEN {
        return Err(Error::conflict(NOT_BLUE_GREEN).into());
    }
    steer(&api, &at, id.0, Command::Advance).await
}
