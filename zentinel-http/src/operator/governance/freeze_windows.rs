//! Freeze windows of a project.

use super::{environment, require_admin};
use crate::error::ApiResult;
use crate::extract::{Field, Input, Params, PathId};
use crate::operator::auth::{InProject, RolloutsRead, RolloutsWrite};
use crate::operator::listing::{DEFAULT_LIMIT, slice};
use crate::operator::retrying;
use crate::services::Api;
use crate::wire::governance::{FreezeWindowBody, FreezeWindowList, FreezeWindowOne};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{AuditEntry, FreezeSpan, FreezeWindow, Recurrence, parse_instant};
use zentinel_core::error::Checks;
use zentinel_core::id::{EnvironmentId, FreezeWindowId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, RecordKind, Result, Timestamp};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// A freeze window to create or change: `starts_at` and `ends_at`, or `recurrence`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct FreezeWindowInput {
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "Black Friday", required = true)]
    #[serde(default)]
    name: Field<String>,
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    reason: Field<String>,
    /// Only this environment; null for all.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    environment_id: Field<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    starts_at: Field<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    ends_at: Field<String>,
    /// Again every week, by the wall clocks of a place.
    #[schema(value_type = Option<RecurrenceInput>)]
    #[serde(default)]
    recurrence: Field<RecurrenceInput>,
}

/// Wall-clock time of a place, again every week.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(example = json!({"weekdays": ["fri"], "from": "16:00", "to": "06:00", "time_zone": "Europe/Berlin"}))]
struct RecurrenceInput {
    /// The days on which it begins: `mon` to `sun`.
    #[serde(default)]
    weekdays: Vec<String>,
    /// `HH:MM`
    #[serde(default)]
    from: String,
    /// `HH:MM`; on the next day where this is not after `from`.
    #[serde(default)]
    to: String,
    /// A name of the IANA time zone database.
    #[serde(default)]
    time_zone: String,
}

impl FreezeWindowInput {
    /// When it holds, as far as the input says.
    fn span(&self, old: Option<&FreezeSpan>, checks: &mut Checks) -> Result<Option<FreezeSpan>> {
        let recurrence = self.recurrence.clone().optional("recurrence", checks);
        let mut instant = |name: &str, field: &Field<String>| -> Result<Option<Timestamp>> {
            let text = field.clone().optional(name, checks);
            Ok(checks.absorb(text.map(|text| parse_instant(name, &text)).transpose())?.flatten())
        };
        let (starts, ends) = (instant("starts_at", &self.starts_at)?, instant("ends_at", &self.ends_at)?);
        if let Some(given) = recurrence {
            let once = self.starts_at.is_given() || self.ends_at.is_given();
            checks.that("recurrence", !once, "cannot be combined with starts_at and ends_at");
            let parsed = Recurrence::parse(&given.weekdays, &given.from, &given.to, &given.time_zone);
            return Ok(checks.absorb(parsed)?.map(FreezeSpan::Weekly));
        }
        if !self.starts_at.is_given() && !self.ends_at.is_given() {
            let wanted = old.is_none() && !self.recurrence.is_given();
            checks.that("starts_at", !wanted, "can't be blank");
            checks.that("ends_at", !wanted, "can't be blank");
            return Ok(None);
        }
        let old = match old {
            Some(FreezeSpan::Once { starts_at, ends_at }) => (Some(*starts_at), Some(*ends_at)),
            _ => (None, None),
        };
        let missing = |field: &Field<String>, old: Option<Timestamp>| !field.is_given() && old.is_none();
        checks.that("starts_at", !missing(&self.starts_at, old.0), "can't be blank");
        checks.that("ends_at", !missing(&self.ends_at, old.1), "can't be blank");
        let (starts, ends) = (starts.or(old.0), ends.or(old.1));
        Ok(starts.zip(ends).map(|(starts_at, ends_at)| FreezeSpan::Once { starts_at, ends_at }))
    }

    /// Applies the input to a window, new or old.
    fn apply(
        &self,
        window: &mut FreezeWindow,
        environment: Option<Option<EnvironmentId>>,
        is_new: bool,
        mut checks: Checks,
    ) -> Result<()> {
        let name = if is_new {
            self.name.clone().required("name", &mut checks)
        } else {
            self.name.clone().optional("name", &mut checks)
        };
        let unnamed = name.is_none();
        if let Some(name) = name {
            window.name = name;
        }
        if let Some(reason) = super::description("reason", self.reason.clone(), &mut checks) {
            window.reason = reason;
        }
        if let Some(environment) = environment {
            window.environment_id = environment;
        }
        let old = (!is_new).then(|| window.span.clone());
        let span = self.span(old.as_ref(), &mut checks)?;
        let timeless = is_new && span.is_none();
        if let Some(span) = span {
            window.span = span;
        }
        if !(timeless || is_new && unnamed) {
            checks.absorb(window.check())?;
        }
        checks.finish()
    }
}

/// List freeze windows
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/freeze-windows", tag = "Freeze windows",
    params(
        ("project_slug" = String, Path),
        ("active" = Option<bool>, Query, description = "Only those that hold now"),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = FreezeWindowList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    params: Params,
) -> ApiResult<Json<FreezeWindowList>> {
    let (every, now) = (Query::all(RecordKind::FreezeWindow), api.now());
    let mut all = api.store.list_all::<FreezeWindow>(&at.scope(), every).await?;
    if params.flag("active") {
        all.retain(|window| window.until(now).is_some());
    }
    let page = slice(all, &params.page(DEFAULT_LIMIT))?;
    Ok(Json(FreezeWindowList {
        freeze_windows: page.items.iter().map(|window| FreezeWindowBody::of(&window.value, now)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a freeze window
///
/// No rollout starts while it holds, automatic rollbacks apart. Takes an organisation admin.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/freeze-windows", tag = "Freeze windows",
    params(("project_slug" = String, Path)), request_body = FreezeWindowInput,
    responses((status = 201, body = FreezeWindowOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    Input(input): Input<FreezeWindowInput>,
) -> ApiResult<(StatusCode, Json<FreezeWindowOne>)> {
    require_admin(&api, &at.caller).await?;
    let now = api.now();
    let (organisation_id, project_id) = at.ids();
    let mut checks = Checks::new();
    let environment = environment(&api, &at.scope(), input.environment_id.clone(), &mut checks).await?;
    let mut window = FreezeWindow {
        id: FreezeWindowId::random(),
        organisation_id,
        project_id,
        name: String::new(),
        reason: None,
        environment_id: None,
        span: FreezeSpan::Once { starts_at: now, ends_at: now },
        created_by: at.caller.person(),
        created_at: now,
        updated_at: now,
    };
    input.apply(&mut window, environment, true, checks)?;
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "freeze_window.created", window.id, now)
        .with_changes(changed(&window));
    api.store.commit(Changes::new().insert(&window)?.audit(entry)).await?;
    let freeze_window = FreezeWindowBody::of(&window, now);
    Ok((StatusCode::CREATED, Json(FreezeWindowOne { freeze_window })))
}

fn changed(window: &FreezeWindow) -> serde_json::Value {
    json!({
        "name": window.name, "reason": window.reason, "environment_id": window.environment_id, "span": window.span,
    })
}

/// Show a freeze window
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/freeze-windows/{id}", tag = "Freeze windows",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = FreezeWindowOne), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<FreezeWindow>,
) -> ApiResult<Json<FreezeWindowOne>> {
    let window = api.store.fetch::<FreezeWindow>(&at.scope(), id.0).await?;
    let freeze_window = FreezeWindowBody::of(&window, api.now());
    Ok(Json(FreezeWindowOne { freeze_window }))
}

/// Change a freeze window
///
/// Fields that are left out stay as they are. Takes an organisation admin.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/freeze-windows/{id}", tag = "Freeze windows",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = FreezeWindowInput,
    responses((status = 200, body = FreezeWindowOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<FreezeWindow>,
    Input(input): Input<FreezeWindowInput>,
) -> ApiResult<Json<FreezeWindowOne>> {
    require_admin(&api, &at.caller).await?;
    let (api, at, input, id) = (&api, &at, &input, id.0);
    let window = retrying(|| async move {
        let now = api.now();
        let read = api.store.fetch::<FreezeWindow>(&at.scope(), id).await?;
        let mut window = read.value.clone();
        let mut checks = Checks::new();
        let environment = environment(api, &at.scope(), input.environment_id.clone(), &mut checks).await?;
        input.apply(&mut window, environment, false, checks)?;
        window.updated_at = now;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "freeze_window.updated", window.id, now)
            .with_changes(changed(&window));
        api.store.commit(Changes::new().update(&read, &window)?.audit(entry)).await?;
        Ok(window)
    })
    .await?;
    let freeze_window = FreezeWindowBody::of(&window, api.now());
    Ok(Json(FreezeWindowOne { freeze_window }))
}

/// Delete a freeze window
///
/// What waits for its end starts within 30 seconds. Takes an organisation admin.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/freeze-windows/{id}", tag = "Freeze windows",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<FreezeWindow>,
) -> ApiResult<StatusCode> {
    require_admin(&api, &at.caller).await?;
    retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<FreezeWindow>(&at.scope(), id.0).await?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "freeze_window.deleted", read.id, now)
            .with_changes(json!({"name": read.name}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await.map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
