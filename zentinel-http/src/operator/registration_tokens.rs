//! Tokens that let nodes register.

use super::auth::{InProject, NodesRead, NodesWrite};
use super::listing::{DEFAULT_LIMIT, page_of};
use crate::error::ApiResult;
use crate::extract::{Field, Input, Params, PathId};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, Refusals, TokenBody, TokenCreated, TokenList, TokenOne};
use axum::extract::State;
use chrono::{DateTime, TimeDelta};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{AuditEntry, RegistrationToken};
use zentinel_core::error::Checks;
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, RecordKind, Timestamp};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete)).routes(routes!(revoke))
}

/// How long a token is valid when the caller does not say, in hours.
const DEFAULT_HOURS: i64 = 24;

/// The longest that a token may be valid, in days.
const LONGEST_DAYS: i64 = 366;

/// A token to issue.
#[derive(Debug, Deserialize, ToSchema)]
struct TokenInput {
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "rack 12", required = true)]
    #[serde(default)]
    name: Field<String>,
    /// Labels that every node registered with it gets.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    #[serde(default)]
    labels: Field<BTreeMap<String, String>>,
    /// How often it may be used; once by default, null for any number of times.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    max_uses: Field<u32>,
    /// RFC 3339, in the future, at most a year ahead; 24 hours from now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    expires_at: Field<String>,
}

fn expiry(field: Field<String>, now: Timestamp, checks: &mut Checks) -> Timestamp {
    let default = now + TimeDelta::hours(DEFAULT_HOURS);
    let Some(text) = field.optional("expires_at", checks) else {
        return default;
    };
    let Ok(at) = DateTime::parse_from_rfc3339(&text) else {
        checks.that("expires_at", false, "is invalid");
        return default;
    };
    let latest = now + TimeDelta::days(LONGEST_DAYS);
    checks.that("expires_at", at.to_utc() <= latest, "must be within a year");
    at.to_utc()
}

/// Issue a registration token
///
/// The token itself is in this answer only.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/registration-tokens", tag = "Registration tokens",
    params(("project_slug" = String, Path)), request_body = TokenInput,
    responses((status = 201, body = TokenCreated), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    Input(input): Input<TokenInput>,
) -> ApiResult<(StatusCode, Json<TokenCreated>)> {
    let now = api.now();
    let mut checks = Checks::new();
    let name = input.name.required("name", &mut checks).unwrap_or_default();
    let labels = input.labels.optional("labels", &mut checks).unwrap_or_default();
    let max_uses = input.max_uses.change("max_uses", &mut checks).unwrap_or(Some(1));
    let expires_at = expiry(input.expires_at, now, &mut checks);
    checks.finish()?;
    let (token, raw) = RegistrationToken::issue(at.ids(), &name, labels, max_uses, expires_at, now)?;
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "registration_token.created", token.id, now)
        .with_changes(json!({
            "name": token.name,
            "labels": token.labels,
            "max_uses": token.uses.max,
            "expires_at": token.expires_at,
        }));
    api.store.commit(Changes::new().insert(&token)?.audit(entry)).await?;
    Ok((StatusCode::CREATED, Json(TokenCreated::new(&token, &raw, now))))
}

/// List registration tokens
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/registration-tokens", tag = "Registration tokens",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = TokenList), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    params: Params,
) -> ApiResult<Json<TokenList>> {
    let query = Query::all(RecordKind::RegistrationToken).page(params.page(DEFAULT_LIMIT));
    let page = page_of::<RegistrationToken>(&api, &at.scope(), query).await?;
    let now = api.now();
    Ok(Json(TokenList {
        registration_tokens: page.items.iter().map(|token| TokenBody::new(token, now)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Show a registration token
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/registration-tokens/{id}", tag = "Registration tokens",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TokenOne), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<RegistrationToken>,
) -> ApiResult<Json<TokenOne>> {
    let token = api.store.fetch::<RegistrationToken>(&at.scope(), id.0).await?;
    let registration_token = TokenBody::new(&token, api.now());
    Ok(Json(TokenOne { registration_token }))
}

/// Revoke a registration token
///
/// Nodes that used it stay. Revoking it again changes nothing.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/registration-tokens/{id}/revoke", tag = "Registration tokens",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TokenOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn revoke(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<RegistrationToken>,
) -> ApiResult<Json<TokenOne>> {
    let token = super::retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<RegistrationToken>(&at.scope(), id.0).await?;
        if read.revoked_at.is_some() {
            return Ok(read.value);
        }
        let mut token = read.value.clone();
        token.revoked_at = Some(now);
        let entry =
            AuditEntry::new(&at.scope(), at.caller.actor(), "registration_token.revoked", token.id, now);
        let changes = Changes::new().update(&read, &token)?.audit(entry);
        api.store.commit(changes).await?;
        Ok(token)
    })
    .await?;
    let registration_token = TokenBody::new(&token, api.now());
    Ok(Json(TokenOne { registration_token }))
}

/// Delete a registration token
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/registration-tokens/{id}", tag = "Registration tokens",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<RegistrationToken>,
) -> ApiResult<StatusCode> {
    super::retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<RegistrationToken>(&at.scope(), id.0).await?;
        let entry =
            AuditEntry::new(&at.scope(), at.caller.actor(), "registration_token.deleted", read.id, now)
                .with_changes(json!({"name": read.name}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
