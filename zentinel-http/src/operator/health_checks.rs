//! Endpoints that rollouts may ask before a step is done.

use super::auth::{InProject, RolloutsRead, RolloutsWrite};
use super::listing::{DEFAULT_LIMIT, slice_by};
use super::retrying;
use crate::error::ApiResult;
use crate::extract::{Field, Input, Params, PathId, parse_id};
use crate::services::Api;
use crate::wire::health_check::{HealthCheckBody, HealthCheckList, HealthCheckOne, REDACTED, TestedBody};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{AuditEntry, HealthCheck, ProbeHeaders, ProbeMethod};
use zentinel_core::error::Checks;
use zentinel_core::id::{HealthCheckId, NodeId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, RecordKind, Result};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(test))
}

/// An endpoint to create or change.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct HealthCheckInput {
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "checkout works", required = true)]
    #[serde(default)]
    name: Field<String>,
    /// http or https. With `{node_ip}` or `{node_name}` in it each node of the step is asked.
    #[schema(value_type = String, example = "https://{node_ip}/ready", required = true)]
    #[serde(default)]
    url: Field<String>,
    /// `GET` by default, `POST` with an empty JSON object, or `HEAD`.
    #[schema(value_type = Option<String>, example = "GET")]
    #[serde(default)]
    method: Field<String>,
    /// 5000 by default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 60000)]
    #[serde(default)]
    timeout_ms: Field<i64>,
    /// 200 by default.
    #[schema(value_type = Option<u16>, minimum = 100, maximum = 599)]
    #[serde(default)]
    expected_status: Field<i64>,
    /// What the first 64 KiB of the answer must contain.
    #[schema(value_type = Option<String>, max_length = 1000)]
    #[serde(default)]
    expected_body_contains: Field<String>,
    /// What the request carries. Values are never shown again; one that is given as `[redacted]` stays as it is.
    #[schema(value_type = Option<Object>, example = json!({"Authorization": "Bearer …"}))]
    #[serde(default)]
    headers: Field<BTreeMap<String, String>>,
    /// True by default. A rollout that names a disabled one does not pass its gates.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    enabled: Field<bool>,
}

/// A number of the type that is stored; one that does not fit is outside every bound.
fn number<T: TryFrom<i64> + Default>(field: Field<i64>, name: &str, checks: &mut Checks) -> Option<T> {
    field.optional(name, checks).map(|number| T::try_from(number).unwrap_or_default())
}

impl HealthCheckInput {
    fn apply(&self, check: &mut HealthCheck, is_new: bool) -> Result<()> {
        let mut checks = Checks::new();
        let mut text = |name: &str, field: &Field<String>| {
            let field = field.clone();
            if is_new { field.required(name, &mut checks) } else { field.optional(name, &mut checks) }
        };
        let (name, url) = (text("name", &self.name), text("url", &self.url));
        let incomplete = is_new && (name.is_none() || url.is_none());
        name.into_iter().for_each(|name| check.name = name);
        url.into_iter().for_each(|url| check.url = url);
        if let Some(method) = self.method.clone().optional("method", &mut checks) {
            let known = ProbeMethod::parse(&method);
            checks.that("method", known.is_some(), "must be GET, POST or HEAD");
            check.method = known.unwrap_or_default();
        }
        if let Some(timeout) = number(self.timeout_ms.clone(), "timeout_ms", &mut checks) {
            check.timeout_ms = timeout;
        }
        if let Some(status) = number(self.expected_status.clone(), "expected_status", &mut checks) {
            check.expected_status = status;
        }
        let text = self.expected_body_contains.clone().change("expected_body_contains", &mut checks);
        text.into_iter().for_each(|text| check.expected_body_contains = text);
        if let Some(headers) = self.headers.clone().change("headers", &mut checks) {
            check.headers = merged(headers.unwrap_or_default(), &check.headers);
        }
        if let Some(enabled) = self.enabled.clone().optional("enabled", &mut checks) {
            check.enabled = enabled;
        }
        if !incomplete {
            checks.absorb(check.check())?;
        }
        checks.finish()
    }
}

/// The headers that were given, with the old values of those whose value was only shown.
fn merged(given: BTreeMap<String, String>, old: &ProbeHeaders) -> ProbeHeaders {
    let kept = |(name, value): (String, String)| {
        let value = match old.0.get(&name) {
            Some(old) if value == REDACTED => old.clone(),
            _ => value,
        };
        (name, value)
    };
    ProbeHeaders(given.into_iter().map(kept).collect())
}

/// For the audit log: never the values of headers.
fn changed(check: &HealthCheck) -> Value {
    json!({
        "name": check.name,
        "url": check.url,
        "method": check.method,
        "timeout_ms": check.timeout_ms,
        "expected_status": check.expected_status,
        "expected_body_contains": check.expected_body_contains,
        "headers": check.headers.0.keys().collect::<Vec<_>>(),
        "enabled": check.enabled,
    })
}

/// List health checks
///
/// By name.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/health-checks", tag = "Health checks",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = HealthCheckList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    params: Params,
) -> ApiResult<Json<HealthCheckList>> {
    let all = api.store.list_all::<HealthCheck>(&at.scope(), Query::all(RecordKind::HealthCheck)).await?;
    let page = slice_by(all, &params.page(DEFAULT_LIMIT), |check| check.name.clone())?;
    Ok(Json(HealthCheckList {
        health_checks: page.items.iter().map(|check| HealthCheckBody::from(&check.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a health check
///
/// Rollouts name it in `custom_health_checks`. Only public addresses are called, unless the server's settings allow
/// others; redirects are not followed.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/health-checks", tag = "Health checks",
    params(("project_slug" = String, Path)), request_body = HealthCheckInput,
    responses((status = 201, body = HealthCheckOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    Input(input): Input<HealthCheckInput>,
) -> ApiResult<(StatusCode, Json<HealthCheckOne>)> {
    let now = api.now();
    let (organisation_id, project_id) = at.ids();
    let mut check = HealthCheck {
        id: HealthCheckId::random(),
        organisation_id,
        project_id,
        name: String::new(),
        url: String::new(),
        method: ProbeMethod::Get,
        timeout_ms: 5_000,
        expected_status: 200,
        expected_body_contains: None,
        headers: ProbeHeaders::default(),
        enabled: true,
        created_at: now,
        updated_at: now,
    };
    input.apply(&mut check, true)?;
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "health_check.created", check.id, now)
        .with_changes(changed(&check));
    api.store.commit(Changes::new().insert(&check)?.audit(entry)).await?;
    let health_check = HealthCheckBody::from(&check);
    Ok((StatusCode::CREATED, Json(HealthCheckOne { health_check })))
}

/// Show a health check
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/health-checks/{id}", tag = "Health checks",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = HealthCheckOne), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<HealthCheck>,
) -> ApiResult<Json<HealthCheckOne>> {
    let check = api.store.fetch::<HealthCheck>(&at.scope(), id.0).await?;
    Ok(Json(HealthCheckOne { health_check: HealthCheckBody::from(&check.value) }))
}

/// Change a health check
///
/// Fields that are left out stay as they are. Rollouts under way ask it as it is from then on.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/health-checks/{id}", tag = "Health checks",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = HealthCheckInput,
    responses((status = 200, body = HealthCheckOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<HealthCheck>,
    Input(input): Input<HealthCheckInput>,
) -> ApiResult<Json<HealthCheckOne>> {
    let (api, at, input, id) = (&api, &at, &input, id.0);
    let check = retrying(|| async move {
        let now = api.now();
        let read = api.store.fetch::<HealthCheck>(&at.scope(), id).await?;
        let mut check = read.value.clone();
        input.apply(&mut check, false)?;
        check.updated_at = now;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "health_check.updated", id, now)
            .with_changes(changed(&check));
        api.store.commit(Changes::new().update(&read, &check)?.audit(entry)).await?;
        Ok(check)
    })
    .await?;
    Ok(Json(HealthCheckOne { health_check: HealthCheckBody::from(&check) }))
}

/// Delete a health check
///
/// Rollouts under way that name it fail their gates from then on.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/health-checks/{id}", tag = "Health checks",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<HealthCheck>,
) -> ApiResult<StatusCode> {
    retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<HealthCheck>(&at.scope(), id.0).await?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "health_check.deleted", read.id, now)
            .with_changes(json!({"name": read.name}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await.map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What to try.
#[derive(Debug, Deserialize, ToSchema)]
struct TestInput {
    /// The node to ask it for, where the URL has placeholders.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    node_id: Field<String>,
}

/// Try a health check
///
/// Calls the endpoint now, even a disabled one, and says what was seen. Nothing of the answer is shown but its status.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/health-checks/{id}/test", tag = "Health checks",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = Option<TestInput>,
    responses((status = 200, body = TestedBody), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn test(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<HealthCheck>,
    Input(input): Input<TestInput>,
) -> ApiResult<Json<TestedBody>> {
    let check = api.store.fetch::<HealthCheck>(&at.scope(), id.0).await?;
    let mut checks = Checks::new();
    let node = input.node_id.optional("node_id", &mut checks).and_then(|text| {
        let node = parse_id::<NodeId>(&text);
        checks.that("node_id", node.is_some(), "is invalid");
        node
    });
    checks.finish()?;
    let result = api.engine.try_endpoint(&at.scope(), &check, node).await?;
    Ok(Json(TestedBody::from(&result)))
}
