//! Rollout templates, and how a new rollout uses one.

use crate::error::{ApiError, ApiResult, taken_also_on};
use crate::extract::{Field, Input, Params, PathId, parse_id};
use crate::operator::auth::{InProject, RolloutsRead, RolloutsWrite};
use crate::operator::listing::{DEFAULT_LIMIT, slice_by};
use crate::operator::retrying;
use crate::operator::rollouts::input::RolloutInput;
use crate::services::Api;
use crate::wire::governance::{TemplateBody, TemplateList, TemplateOne};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{AuditEntry, RolloutTemplate};
use zentinel_core::error::Checks;
use zentinel_core::id::{BundleId, TemplateId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, Error, Kind, RecordKind, Result, Scope, Stored};
use zentinel_rollout::plan::check_spec;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// The fields of a rollout that a template may give.
const SETTINGS: [&str; 19] = [
    "target_selector",
    "strategy",
    "batch_size",
    "batch_percentage",
    "max_unavailable",
    "progress_deadline_seconds",
    "health_gates",
    "auto_rollback",
    "rollback_threshold",
    "batch_doubling",
    "max_batch_size",
    "nodes_per_minute",
    "safe_mode",
    "validation_period_seconds",
    "canary_analysis_config",
    "blue_green_config",
    "strategy_config",
    "custom_health_checks",
    "aggregate_gates",
];

/// What one strategy needs and another one does not understand.
const OF_STRATEGY: [&str; 4] =
    ["canary_analysis_config", "blue_green_config", "validation_period_seconds", "strategy_config"];

/// A request for a rollout with the fields that a template gives it, and that template. Fields that the request
/// gives win.
pub(in crate::operator) async fn with_template(
    api: &Api,
    scope: &Scope,
    mut body: Map<String, Value>,
) -> ApiResult<(Map<String, Value>, Option<TemplateId>)> {
    let template = match body.get("template_id") {
        Some(Value::Null) => None,
        Some(Value::String(text)) => {
            let id = parse_id::<TemplateId>(text);
            let id = id.ok_or_else(|| Error::invalid_field("template_id", "is invalid"))?;
            let found = api.store.find::<RolloutTemplate>(scope, id).await?;
            Some(found.ok_or_else(|| Error::invalid_field("template_id", "does not exist"))?)
        }
        Some(_) => return Err(Error::invalid_field("template_id", "is invalid").into()),
        // Whoever gives settings of his own does not expect others.
        None if SETTINGS.iter().any(|name| *name != "target_selector" && body.contains_key(*name)) => None,
        None => default_of(api, scope).await?,
    };
    let Some(template) = template else {
        return Ok((body, None));
    };
    merge(&mut body, &template.settings);
    Ok((body, Some(template.id)))
}

/// Adds what is left out.
fn merge(body: &mut Map<String, Value>, settings: &Map<String, Value>) {
    let other_strategy =
        body.get("strategy").is_some_and(|own| settings.get("strategy").unwrap_or(&json!("rolling")) != own);
    let sized = body.contains_key("batch_size") || body.contains_key("batch_percentage");
    for (name, value) in settings {
        let unfit = (other_strategy && OF_STRATEGY.contains(&name.as_str()))
            || (sized && matches!(name.as_str(), "batch_size" | "batch_percentage"));
        if !unfit && !body.contains_key(name) {
            body.insert(name.clone(), value.clone());
        }
    }
}

async fn default_of(api: &Api, scope: &Scope) -> Result<Option<Stored<RolloutTemplate>>> {
    let Some(project) = scope.project() else {
        return Ok(None);
    };
    api.store.find_by_key::<RolloutTemplate>(&RolloutTemplate::default_key(project)).await
}

/// The settings that an input gives, checked like those of a rollout.
async fn settings(
    api: &Api,
    scope: &Scope,
    old: Option<&RolloutTemplate>,
    body: &Map<String, Value>,
) -> ApiResult<Map<String, Value>> {
    let mut settings = old.map(|template| template.settings.clone()).unwrap_or_default();
    for name in SETTINGS {
        match body.get(name) {
            Some(Value::Null) => {
                settings.remove(name);
            }
            Some(value) => {
                settings.insert(name.to_owned(), value.clone());
            }
            None => {}
        }
    }
    let mut as_rollout = settings.clone();
    as_rollout.insert("bundle_id".to_owned(), json!(BundleId::random()));
    let input: RolloutInput = serde_json::from_value(Value::Object(as_rollout))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let spec = input.check()?.new.spec;
    check_spec(&spec, api.engine.strategies())?;
    api.engine.check_endpoints(scope, &spec.custom_health_checks).await?;
    Ok(settings)
}

/// What an input says of everything but the settings.
fn apply(template: &mut RolloutTemplate, body: &Map<String, Value>, is_new: bool) -> Result<()> {
    let mut checks = Checks::new();
    let text = |name: &str| -> Field<String> {
        match body.get(name) {
            None => Field::Absent,
            Some(Value::Null) => Field::Null,
            Some(Value::String(text)) => Field::Given(text.clone()),
            Some(_) => Field::Wrong,
        }
    };
    let name = if is_new {
        text("name").required("name", &mut checks)
    } else {
        text("name").optional("name", &mut checks)
    };
    let unnamed = is_new && name.is_none();
    if let Some(name) = name {
        template.name = name;
    }
    if let Some(description) = text("description").change("description", &mut checks) {
        template.description = description;
    }
    match body.get("is_default") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(wanted)) => template.is_default = *wanted,
        Some(_) => checks.that("is_default", false, "is invalid"),
    }
    if !unnamed {
        checks.absorb(template.check())?;
    }
    checks.finish()
}

/// Commits a template; one that becomes the default takes over from the one before in the same commit.
async fn save(
    api: &Api,
    at: &InProject<RolloutsWrite>,
    read: Option<&Stored<RolloutTemplate>>,
    template: &RolloutTemplate,
) -> Result<()> {
    let (scope, actor, now) = (at.scope(), at.caller.actor(), api.now());
    let mut changes = Changes::new();
    if template.is_default
        && let Some(before) = default_of(api, &scope).await?.filter(|before| before.id != template.id)
    {
        let mut demoted = before.value.clone();
        (demoted.is_default, demoted.updated_at) = (false, now);
        changes = changes.update(&before, &demoted)?;
    }
    let (changes, action) = match read {
        Some(read) => (changes.update(read, template)?, "rollout_template.updated"),
        None => (changes.insert(template)?, "rollout_template.created"),
    };
    let entry = AuditEntry::new(&scope, actor, action, template.id, now).with_changes(json!({
        "name": template.name,
        "description": template.description,
        "is_default": template.is_default,
        "settings": template.settings,
    }));
    match api.store.commit(changes.audit(entry)).await {
        Ok(_) => Ok(()),
        // Somebody else made another one the default meanwhile.
        Err(error)
            if error.kind() == Kind::Invalid
                && template.is_default
                && !taken(api, &scope, template).await? =>
        {
            Err(Error::stale("the default template"))
        }
        Err(error) => Err(taken_also_on(error, "project_id")),
    }
}

/// Whether another template has the name.
async fn taken(api: &Api, scope: &Scope, template: &RolloutTemplate) -> Result<bool> {
    let query = Query::all(RecordKind::RolloutTemplate).owned_by(template.project_id).named(&template.name);
    let found = api.store.list::<RolloutTemplate>(scope, query).await?;
    Ok(found.items.iter().any(|other| other.id != template.id))
}

/// List rollout templates
///
/// The default first, then by name.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollout-templates", tag = "Rollout templates",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = TemplateList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    params: Params,
) -> ApiResult<Json<TemplateList>> {
    let every = Query::all(RecordKind::RolloutTemplate);
    let all = api.store.list_all::<RolloutTemplate>(&at.scope(), every).await?;
    let page = slice_by(all, &params.page(DEFAULT_LIMIT), |template| {
        format!("{} {}", u8::from(!template.is_default), template.name)
    })?;
    Ok(Json(TemplateList {
        rollout_templates: page.items.iter().map(|template| TemplateBody::from(&template.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a rollout template
///
/// `name`, `description`, `is_default`, and any of the settings of a rollout to create.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/rollout-templates", tag = "Rollout templates",
    params(("project_slug" = String, Path)), request_body = crate::wire::governance::TemplateInput,
    responses((status = 201, body = TemplateOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    Input(body): Input<Map<String, Value>>,
) -> ApiResult<(StatusCode, Json<TemplateOne>)> {
    let now = api.now();
    let (organisation_id, project_id) = at.ids();
    let mut template = RolloutTemplate {
        id: TemplateId::random(),
        organisation_id,
        project_id,
        name: String::new(),
        description: None,
        is_default: false,
        settings: Map::new(),
        created_at: now,
        updated_at: now,
    };
    apply(&mut template, &body, true)?;
    template.settings = settings(&api, &at.scope(), None, &body).await?;
    retrying(|| save(&api, &at, None, &template)).await?;
    let rollout_template = TemplateBody::from(&template);
    Ok((StatusCode::CREATED, Json(TemplateOne { rollout_template })))
}

/// Show a rollout template
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/rollout-templates/{id}", tag = "Rollout templates",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TemplateOne), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<RolloutTemplate>,
) -> ApiResult<Json<TemplateOne>> {
    let template = api.store.fetch::<RolloutTemplate>(&at.scope(), id.0).await?;
    let rollout_template = TemplateBody::from(&template.value);
    Ok(Json(TemplateOne { rollout_template }))
}

/// Change a rollout template
///
/// Fields that are left out stay as they are, null takes one away. Making it the default takes that from the one
/// before. Rollouts that were created from it stay as they are.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/rollout-templates/{id}", tag = "Rollout templates",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    request_body = crate::wire::governance::TemplateInput,
    responses((status = 200, body = TemplateOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<RolloutTemplate>,
    Input(body): Input<Map<String, Value>>,
) -> ApiResult<Json<TemplateOne>> {
    let known = api.store.fetch::<RolloutTemplate>(&at.scope(), id.0).await?;
    settings(&api, &at.scope(), Some(&known.value), &body).await?;
    let (api, at, body, id) = (&api, &at, &body, id.0);
    let template = retrying(|| async move {
        let read = api.store.fetch::<RolloutTemplate>(&at.scope(), id).await?;
        let mut template = read.value.clone();
        apply(&mut template, body, false)?;
        template.settings = match settings(api, &at.scope(), Some(&read.value), body).await {
            Ok(settings) => settings,
            Err(ApiError::Domain(error)) => return Err(error),
            Err(_) => return Err(Error::malformed("the settings cannot be read")),
        };
        template.updated_at = api.now();
        save(api, at, Some(&read), &template).await?;
        Ok(template)
    })
    .await?;
    let rollout_template = TemplateBody::from(&template);
    Ok(Json(TemplateOne { rollout_template }))
}

/// Delete a rollout template
///
/// Rollouts that were created from it stay as they are.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/rollout-templates/{id}", tag = "Rollout templates",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<RolloutTemplate>,
) -> ApiResult<StatusCode> {
    retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<RolloutTemplate>(&at.scope(), id.0).await?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "rollout_template.deleted", read.id, now)
            .with_changes(json!({"name": read.name}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await.map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(body: Value, settings: Value) -> Value {
        let (Value::Object(mut body), Value::Object(settings)) = (body, settings) else {
            panic!("objects are merged");
        };
        merge(&mut body, &settings);
        Value::Object(body)
    }

    #[test]
    fn what_only_the_templates_strategy_knows_goes_with_it() {
        let template = json!({
            "strategy": "blue_green", "validation_period_seconds": 60, "blue_green_config": {"auto_advance": true},
        });
        assert_eq!(
            merged(json!({"strategy": "all_at_once"}), template.clone()),
            json!({"strategy": "all_at_once"})
        );
        assert_eq!(merged(json!({"strategy": "blue_green"}), template.clone()), template);
    }

    #[test]
    fn what_the_caller_gives_wins_and_takes_what_it_contradicts_with_it() {
        let template = json!({
            "strategy": "canary", "canary_analysis_config": {"steps": [5]}, "batch_percentage": 20,
            "max_unavailable": 1,
        });
        assert_eq!(
            merged(json!({"max_unavailable": 0}), template.clone()),
            json!({
                "strategy": "canary", "canary_analysis_config": {"steps": [5]}, "batch_percentage": 20,
                "max_unavailable": 0,
            })
        );
        assert_eq!(
            merged(json!({"strategy": "rolling", "batch_size": 3}), template),
            json!({"strategy": "rolling", "batch_size": 3, "max_unavailable": 1})
        );
        assert_eq!(
            merged(json!({"strategy": "rolling"}), json!({"strategy_config": {"a": 1}})),
            json!({"strategy": "rolling", "strategy_config": {"a": 1}})
        );
    }
}
