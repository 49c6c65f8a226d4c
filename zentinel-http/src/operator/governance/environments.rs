//! Environments of a project.

use super::require_admin;
use crate::error::{ApiResult, taken_also_on};
use crate::extract::{Field, Input, Params, PathId};
use crate::operator::auth::{InProject, RolloutsRead, RolloutsWrite};
use crate::operator::listing::{DEFAULT_LIMIT, slice_by};
use crate::operator::retrying;
use crate::services::Api;
use crate::wire::governance::{EnvironmentBody, EnvironmentList, EnvironmentOne};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeSet;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{
    AuditEntry, Environment, EnvironmentSettings, FreezeWindow, Node, PromotionRule, Rollout, is_color,
};
use zentinel_core::error::Checks;
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, Error, RecordKind, Result, Scope, Stored, Timestamp};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(defaults))
        .routes(routes!(show, update, delete))
}

/// An environment to create or change.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct EnvironmentInput {
    #[schema(value_type = String, min_length = 1, max_length = 50, example = "Production", required = true)]
    #[serde(default)]
    name: Field<String>,
    /// Made from the name when left out; fixed at creation.
    #[schema(value_type = Option<String>, max_length = 30, example = "prod")]
    #[serde(default)]
    slug: Field<String>,
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    description: Field<String>,
    /// `#rrggbb`
    #[schema(value_type = Option<String>, example = "#ef4444")]
    #[serde(default)]
    color: Field<String>,
    /// Its place in the order of promotion, low first; 0 by default.
    #[schema(value_type = Option<i32>)]
    #[serde(default)]
    ordinal: Field<i32>,
    #[schema(value_type = Option<EnvironmentSettingsInput>)]
    #[serde(default)]
    settings: Field<EnvironmentSettingsInput>,
}

/// What holds for rollouts to an environment.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct EnvironmentSettingsInput {
    /// Whether people must agree before a rollout starts; false by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    approval_required: Field<bool>,
    /// How many; 1 by default. The larger of this and the project's figure holds.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    approvals_needed: Field<u32>,
    /// Whether rollouts may ask to be rolled back by themselves; true by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    auto_rollback_enabled: Field<bool>,
}

impl EnvironmentInput {
    /// Applies everything but name, slug and colour.
    fn apply(&self, environment: &mut Environment, checks: &mut Checks) {
        if let Some(description) = super::description("description", self.description.clone(), checks) {
            environment.description = description;
        }
        if let Some(ordinal) = self.ordinal.clone().optional("ordinal", checks) {
            environment.ordinal = ordinal;
        }
        let Some(given) = self.settings.clone().optional("settings", checks) else {
            return;
        };
        let EnvironmentSettings { approval_required, approvals_needed, auto_rollback_enabled } =
            &mut environment.settings;
        if let Some(required) = given.approval_required.optional("settings.approval_required", checks) {
            *approval_required = required;
        }
        if let Some(needed) = given.approvals_needed.optional("settings.approvals_needed", checks) {
            checks.that("settings.approvals_needed", needed > 0, "must be greater than 0");
            *approvals_needed = needed;
        }
        if let Some(enabled) = given.auto_rollback_enabled.optional("settings.auto_rollback_enabled", checks)
        {
            *auto_rollback_enabled = enabled;
        }
    }
}

fn changed(environment: &Environment) -> serde_json::Value {
    json!({
        "name": environment.name,
        "slug": environment.slug,
        "description": environment.description,
        "color": environment.color,
        "ordinal": environment.ordinal,
        "settings": environment.settings,
    })
}

/// List environments
///
/// In the order of promotion.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/environments", tag = "Environments",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = EnvironmentList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    params: Params,
) -> ApiResult<Json<EnvironmentList>> {
    let every = Query::all(RecordKind::Environment);
    let all = api.store.list_all::<Environment>(&at.scope(), every).await?;
    let page = slice_by(all, &params.page(DEFAULT_LIMIT), |environment| {
        let (ordinal, slug) = environment.place();
        // Shifted, so that the texts are in the order of the numbers.
        format!("{:010} {slug}", i64::from(ordinal) - i64::from(i32::MIN))
    })?;
    Ok(Json(EnvironmentList {
        environments: page.items.iter().map(|one| EnvironmentBody::from(&one.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create an environment
///
/// Takes an organisation admin.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/environments", tag = "Environments",
    params(("project_slug" = String, Path)), request_body = EnvironmentInput,
    responses((status = 201, body = EnvironmentOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    Input(input): Input<EnvironmentInput>,
) -> ApiResult<(StatusCode, Json<EnvironmentOne>)> {
    require_admin(&api, &at.caller).await?;
    let now = api.now();
    let mut checks = Checks::new();
    let name = input.name.clone().required("name", &mut checks);
    let slug = input.slug.clone().optional("slug", &mut checks);
    let color = input.color.clone().optional("color", &mut checks);
    let name = name.as_deref().unwrap_or("draft");
    let made = Environment::new(at.ids(), name, slug.as_deref(), color.as_deref(), now);
    let mut environment = match checks.absorb(made)? {
        Some(environment) => environment,
        // Only to check the other fields as well.
        None => Environment::new(at.ids(), "draft", None, None, now)?,
    };
    input.apply(&mut environment, &mut checks);
    checks.finish()?;
    let changes = inserted(&at, &environment, now)?;
    let committed = api.store.commit(changes).await;
    committed.map_err(|error| taken_also_on(error, "project_id"))?;
    let environment = EnvironmentBody::from(&environment);
    Ok((StatusCode::CREATED, Json(EnvironmentOne { environment })))
}

fn inserted(at: &InProject<RolloutsWrite>, environment: &Environment, now: Timestamp) -> Result<Changes> {
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "environment.created", environment.id, now)
        .with_changes(changed(environment));
    Ok(Changes::new().insert(environment)?.audit(entry))
}

/// Create the usual environments
///
/// Development, staging and production, as far as they are missing; production takes one approval. Takes an
/// organisation admin. Answers every environment that there is now.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/environments/defaults", tag = "Environments",
    params(("project_slug" = String, Path)),
    responses((status = 201, body = EnvironmentList), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn defaults(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
) -> ApiResult<(StatusCode, Json<EnvironmentList>)> {
    require_admin(&api, &at.caller).await?;
    let (api, at) = (&api, &at);
    let all = retrying(|| async move {
        let now = api.now();
        let every = Query::all(RecordKind::Environment);
        let there = api.store.list_all::<Environment>(&at.scope(), every).await?;
        let mut all: Vec<Environment> = there.into_iter().map(|one| one.value).collect();
        let mut changes = Changes::new();
        for environment in Environment::defaults(at.ids(), now)? {
            if all.iter().all(|one| one.slug != environment.slug) {
                changes = changes.and(inserted(at, &environment, now)?);
                all.push(environment);
            }
        }
        if !changes.is_empty() {
            // Somebody else may create one of them at the same time.
            let committed = api.store.commit(changes).await;
            committed.map_err(|error| {
                if error.fields().is_empty() { error } else { Error::stale("the environments") }
            })?;
        }
        all.sort_by(|a, b| a.place().cmp(&b.place()));
        Ok(all)
    })
    .await?;
    let body = EnvironmentList {
        environments: all.iter().map(EnvironmentBody::from).collect(),
        total: all.len() as u64,
        next_cursor: None,
    };
    Ok((StatusCode::CREATED, Json(body)))
}

/// Show an environment
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/environments/{id}", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = EnvironmentOne), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<Environment>,
) -> ApiResult<Json<EnvironmentOne>> {
    let environment = api.store.fetch::<Environment>(&at.scope(), id.0).await?;
    let environment = EnvironmentBody::from(&environment.value);
    Ok(Json(EnvironmentOne { environment }))
}

/// Change an environment
///
/// Fields that are left out stay as they are; the slug stays in any case. Takes an organisation admin.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/environments/{id}", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = EnvironmentInput,
    responses((status = 200, body = EnvironmentOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<Environment>,
    Input(input): Input<EnvironmentInput>,
) -> ApiResult<Json<EnvironmentOne>> {
    require_admin(&api, &at.caller).await?;
    let (api, at, input, id) = (&api, &at, &input, id.0);
    let environment = retrying(|| async move {
        let now = api.now();
        let read = api.store.fetch::<Environment>(&at.scope(), id).await?;
        let mut environment = read.value.clone();
        let mut checks = Checks::new();
        if let Some(name) = input.name.clone().optional("name", &mut checks) {
            checks.text("name", &name, 50);
            environment.name = name;
        }
        if let Some(color) = input.color.clone().optional("color", &mut checks) {
            checks.that("color", is_color(&color), "is invalid");
            environment.color = color;
        }
        input.apply(&mut environment, &mut checks);
        checks.finish()?;
        environment.updated_at = now;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "environment.updated", id, now)
            .with_changes(changed(&environment));
        api.store.commit(Changes::new().update(&read, &environment)?.audit(entry)).await?;
        Ok(environment)
    })
    .await?;
    let environment = EnvironmentBody::from(&environment);
    Ok(Json(EnvironmentOne { environment }))
}

/// Delete an environment
///
/// Refused while nodes, promotion rules, freeze windows or open rollouts belong to it. Takes an organisation admin.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/environments/{id}", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<Environment>,
) -> ApiResult<StatusCode> {
    require_admin(&api, &at.caller).await?;
    retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<Environment>(&at.scope(), id.0).await?;
        require_unused(&api, &at.scope(), &read).await?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "environment.deleted", read.id, now)
            .with_changes(json!({"name": read.name, "slug": read.slug}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await.map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn require_unused(api: &Api, scope: &Scope, environment: &Stored<Environment>) -> Result<()> {
    let (store, id) = (&api.store, environment.id);
    let nodes = store.list_all::<Node>(scope, Query::all(RecordKind::Node)).await?;
    let nodes = nodes.iter().filter(|node| node.environment_id == Some(id)).count();
    let rules = store.list_all::<PromotionRule>(scope, Query::all(RecordKind::PromotionRule)).await?;
    let rules = rules
        .iter()
        .filter(|rule| BTreeSet::from([rule.source_environment_id, rule.target_environment_id]).contains(&id))
        .count();
    let windows = store.list_all::<FreezeWindow>(scope, Query::all(RecordKind::FreezeWindow)).await?;
    let windows = windows.iter().filter(|window| window.environment_id == Some(id)).count();
    let open = Query::all(RecordKind::Rollout).in_states(&["pending", "running", "paused"]);
    let open = store.list_all::<Rollout>(scope, open).await?;
    let open = open.iter().filter(|rollout| rollout.environment_id == Some(id)).count();
    if nodes + rules + windows + open == 0 {
        return Ok(());
    }
    let details =
        json!({"nodes": nodes, "promotion_rules": rules, "freeze_windows": windows, "open_rollouts": open});
    Err(Error::conflict("Environment is in use")
        .with_details(details)
        .with_hint("take it from what belongs to it first"))
}
