//! API keys. A caller sees the keys of its own owner: its user's, or those that belong to the
//! organisation itself; a key that is bound to a project only those of that project.

use super::auth::{Caller, KeysAdmin, Operator};
use super::listing::{DEFAULT_LIMIT, slice};
use crate::error::ApiResult;
use crate::extract::{Field, Input, Params, PathId, parse_id};
use crate::services::Api;
use crate::wire::{ApiKeyBody, ApiKeyCreated, ApiKeyList, ApiKeyOne, ChangeRefusals, Json, Refusals};
use axum::extract::State;
use chrono::DateTime;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{ApiKey, ApiScope, AuditEntry, Project};
use zentinel_core::error::Checks;
use zentinel_core::id::{ApiKeyId, ProjectId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, Error, RecordKind, Result, Scope, Stored, Timestamp};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete)).routes(routes!(revoke))
}

/// A key to issue.
#[derive(Debug, Deserialize, ToSchema)]
struct ApiKeyInput {
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "ci", required = true)]
    #[serde(default)]
    name: Field<String>,
    /// At least one; none that the caller does not hold.
    #[schema(value_type = Vec<String>, min_items = 1, example = json!(["bundles:read"]), required = true)]
    #[serde(default)]
    scopes: Field<Vec<String>>,
    /// The only project it may address.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    project_id: Field<String>,
    /// RFC 3339, in the future.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    expires_at: Field<String>,
}

/// The record that the audit log and the list are about.
fn visible(caller: &Caller, key: &ApiKey) -> bool {
    let mine = caller.key();
    key.user_id == mine.user_id && (mine.project_id.is_none() || key.project_id == mine.project_id)
}

async fn find(api: &Api, caller: &Caller, id: ApiKeyId) -> Result<Stored<ApiKey>> {
    let key = api.store.fetch::<ApiKey>(&caller.scope(), id).await?;
    if visible(caller, &key) { Ok(key) } else { Err(Error::not_found("API key not found")) }
}

fn audit_scope(key: &ApiKey) -> Scope {
    match key.project_id {
        Some(project) => Scope::Project(key.organisation_id, project),
        None => Scope::Organisation(key.organisation_id),
    }
}

/// List API keys
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/api-keys", tag = "API keys",
    params(("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = ApiKeyList), Refusals), security(("api_key" = ["api_keys:admin"])),
)]
async fn list(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<KeysAdmin>,
    params: Params,
) -> ApiResult<Json<ApiKeyList>> {
    let every = Query::all(RecordKind::ApiKey);
    let mut all = api.store.list_all::<ApiKey>(&caller.scope(), every).await?;
    all.retain(|key| visible(&caller, key));
    let page = slice(all, &params.page(DEFAULT_LIMIT))?;
    Ok(Json(ApiKeyList {
        api_keys: page.items.iter().map(|key| ApiKeyBody::from(&key.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Issue an API key
///
/// The key itself is in this answer only.
#[utoipa::path(
    post, path = "/api/v1/api-keys", tag = "API keys", request_body = ApiKeyInput,
    responses((status = 201, body = ApiKeyCreated), ChangeRefusals), security(("api_key" = ["api_keys:admin"])),
)]
async fn create(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<KeysAdmin>,
    Input(input): Input<ApiKeyInput>,
) -> ApiResult<(StatusCode, Json<ApiKeyCreated>)> {
    let now = api.now();
    let mut checks = Checks::new();
    let name = input.name.required("name", &mut checks).unwrap_or_default();
    let names = input.scopes.required("scopes", &mut checks);
    let scopes = names.map(|names| scopes(&names, &mut checks)).unwrap_or_default();
    let expires_at = expiry(input.expires_at, &mut checks);
    let project_id = project(&api, &caller, input.project_id, &mut checks).await?;
    checks.finish()?;
    for scope in &scopes {
        caller.require(*scope)?;
    }
    let mine = caller.key();
    let (key, raw) =
        ApiKey::issue(mine.organisation_id, project_id, mine.user_id, &name, scopes, expires_at, now)?;
    let body = ApiKeyCreated::new(&key, &raw);
    let entry = AuditEntry::new(&audit_scope(&key), caller.actor(), "api_key.created", key.id, now)
        .with_changes(json!({
            "name": key.name,
            "scopes": key.scopes,
            "project_id": key.project_id,
            "expires_at": key.expires_at,
        }));
    api.store.commit(Changes::new().insert(&key)?.audit(entry)).await?;
    Ok((StatusCode::CREATED, Json(body)))
}

fn scopes(names: &[String], checks: &mut Checks) -> BTreeSet<ApiScope> {
    checks.that("scopes", !names.is_empty(), "can't be blank");
    let known: Vec<ApiScope> = names.iter().filter_map(|name| name.parse().ok()).collect();
    checks.that("scopes", known.len() == names.len(), "has an invalid entry");
    known.into_iter().collect()
}

fn expiry(field: Field<String>, checks: &mut Checks) -> Option<Timestamp> {
    let text = field.optional("expires_at", checks)?;
    let parsed = DateTime::parse_from_rfc3339(&text).ok();
    checks.that("expires_at", parsed.is_some(), "is invalid");
    parsed.map(|at| at.to_utc())
}

/// The project that the new key is bound to: one of the caller's organisation, and the caller's
/// own if it is bound itself.
async fn project(
    api: &Api,
    caller: &Caller,
    field: Field<String>,
    checks: &mut Checks,
) -> Result<Option<ProjectId>> {
    let mine = caller.key().project_id;
    let Some(text) = field.optional("project_id", checks) else {
        return Ok(mine);
    };
    let Some(wanted) = parse_id::<ProjectId>(&text) else {
        checks.that("project_id", false, "is invalid");
        return Ok(mine);
    };
    let found = api.store.find::<Project>(&caller.scope(), wanted).await?;
    checks.that("project_id", found.is_some(), "does not exist");
    Ok(Some(wanted))
}

/// Show an API key
#[utoipa::path(
    get, path = "/api/v1/api-keys/{id}", tag = "API keys", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = ApiKeyOne), Refusals), security(("api_key" = ["api_keys:admin"])),
)]
async fn show(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<KeysAdmin>,
    id: PathId<ApiKey>,
) -> ApiResult<Json<ApiKeyOne>> {
    let key = find(&api, &caller, id.0).await?;
    let api_key = ApiKeyBody::from(&key.value);
    Ok(Json(ApiKeyOne { api_key }))
}

/// Revoke an API key
///
/// At once and for good. Revoking it again changes nothing.
#[utoipa::path(
    post, path = "/api/v1/api-keys/{id}/revoke", tag = "API keys", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = ApiKeyOne), ChangeRefusals), security(("api_key" = ["api_keys:admin"])),
)]
async fn revoke(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<KeysAdmin>,
    id: PathId<ApiKey>,
) -> ApiResult<Json<ApiKeyOne>> {
    let key = super::retrying(|| async {
        let now = api.now();
        let read = find(&api, &caller, id.0).await?;
        if read.revoked_at.is_some() {
            return Ok(read.value);
        }
        let mut key = read.value.clone();
        key.revoked_at = Some(now);
        let entry = AuditEntry::new(&audit_scope(&key), caller.actor(), "api_key.revoked", key.id, now);
        let changes = Changes::new().update(&read, &key)?.audit(entry);
        api.store.commit(changes).await?;
        Ok(key)
    })
    .await?;
    let api_key = ApiKeyBody::from(&key);
    Ok(Json(ApiKeyOne { api_key }))
}

/// Delete an API key
#[utoipa::path(
    delete, path = "/api/v1/api-keys/{id}", tag = "API keys", params(("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["api_keys:admin"])),
)]
async fn delete(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<KeysAdmin>,
    id: PathId<ApiKey>,
) -> ApiResult<StatusCode> {
    super::retrying(|| async {
        let now = api.now();
        let read = find(&api, &caller, id.0).await?;
        let entry = AuditEntry::new(&audit_scope(&read), caller.actor(), "api_key.deleted", read.id, now)
            .with_changes(json!({"name": read.name}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
