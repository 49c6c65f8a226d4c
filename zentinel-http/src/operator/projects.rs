//! Projects of the key's organisation.

use super::auth::{AnyKey, InProject, Operator, OrgsAdmin};
use super::listing::{DEFAULT_LIMIT, page_of};
use crate::error::{ApiResult, taken_also_on};
use crate::extract::{Field, Input, Params};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, ProjectBody, ProjectList, ProjectOne, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{AuditEntry, Project, ProjectSettings};
use zentinel_core::error::Checks;
use zentinel_core::port::{Order, Query};
use zentinel_core::{Changes, Error, Percent, RecordKind};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update))
}

/// A project to create or change.
#[derive(Debug, Deserialize, ToSchema)]
struct ProjectInput {
    /// 1 to 100 characters; the slug is made from it once.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "Edge EU", required = true)]
    #[serde(default)]
    name: Field<String>,
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    description: Field<String>,
    #[schema(value_type = Option<SettingsInput>)]
    #[serde(default)]
    settings: Field<SettingsInput>,
}

/// What an operator may set for a project.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct SettingsInput {
    /// Nodes may register without a token; they get nothing until approved.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    open_registration: Field<bool>,
    /// Most rollouts that may be open at once.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    max_concurrent_rollouts: Field<u32>,
    /// Whether people must agree before a rollout starts.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    approval_required: Field<bool>,
    /// How many.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    approvals_needed: Field<u32>,
    /// Whether a drifted node is brought back by a rollout of its own, at most three times an hour.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    drift_auto_remediation: Field<bool>,
    /// How often nodes are looked at for drift, in seconds.
    #[schema(value_type = Option<u32>, minimum = 10, maximum = 86_400)]
    #[serde(default)]
    drift_check_interval: Field<u32>,
    /// The percentage of drifted nodes from which `drift.threshold_exceeded` is told; null for none.
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 100)]
    #[serde(default)]
    drift_alert_threshold: Field<i64>,
    /// The number of drifted nodes from which it is; null for none.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    drift_alert_node_count: Field<u32>,
}

impl SettingsInput {
    /// Applies what is about drift.
    fn apply_drift(self, settings: &mut ProjectSettings, checks: &mut Checks) {
        let field = "settings.drift_auto_remediation";
        if let Some(wanted) = self.drift_auto_remediation.optional(field, checks) {
            settings.drift_auto_remediation = wanted;
        }
        let field = "settings.drift_check_interval";
        if let Some(seconds) = self.drift_check_interval.optional(field, checks) {
            checks.that(field, seconds >= 10, "must be greater than or equal to 10");
            checks.that(field, seconds <= 86_400, "must be less than or equal to 86400");
            settings.drift_check_interval = seconds;
        }
        let field = "settings.drift_alert_threshold";
        if let Some(limit) = self.drift_alert_threshold.change(field, checks) {
            checks.that(field, limit.is_none_or(|limit| limit >= 1), "must be greater than or equal to 1");
            checks.that(field, limit.is_none_or(|limit| limit <= 100), "must be less than or equal to 100");
            let percent = limit.and_then(|limit| u8::try_from(limit).ok());
            settings.drift_alert_threshold = percent.and_then(|percent| Percent::new(percent).ok());
        }
        let field = "settings.drift_alert_node_count";
        if let Some(limit) = self.drift_alert_node_count.change(field, checks) {
            checks.that(field, limit.is_none_or(|limit| limit > 0), "must be greater than 0");
            settings.drift_alert_node_count = limit;
        }
    }
}

impl ProjectInput {
    /// Applies everything but the name.
    fn apply(self, project: &mut Project, checks: &mut Checks) {
        if let Some(description) = self.description.change("description", checks) {
            let fits = description.as_ref().is_none_or(|text| text.chars().count() <= 500);
            checks.that("description", fits, "should be at most 500 character(s)");
            project.description = description;
        }
        let Some(settings) = self.settings.optional("settings", checks) else {
            return;
        };
        if let Some(open) = settings.open_registration.clone().optional("settings.open_registration", checks)
        {
            project.settings.open_registration = open;
        }
        let field = "settings.max_concurrent_rollouts";
        if let Some(most) = settings.max_concurrent_rollouts.clone().optional(field, checks) {
            checks.that(field, most > 0, "must be greater than 0");
            project.settings.max_concurrent_rollouts = most;
        }
        if let Some(required) =
            settings.approval_required.clone().optional("settings.approval_required", checks)
        {
            project.settings.approval_required = required;
        }
        let field = "settings.approvals_needed";
        if let Some(needed) = settings.approvals_needed.clone().optional(field, checks) {
            checks.that(field, needed > 0, "must be greater than 0");
            project.settings.approvals_needed = needed;
        }
        settings.apply_drift(&mut project.settings, checks);
    }
}

/// List projects
///
/// Those that the key may address, by slug.
#[utoipa::path(
    get, path = "/api/v1/projects", tag = "Projects",
    params(("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = ProjectList), Refusals), security(("api_key" = [])),
)]
async fn list(
    State(api): State<Api>,
    operator: Operator<AnyKey>,
    params: Params,
) -> ApiResult<Json<ProjectList>> {
    let query = Query::all(RecordKind::Project).ordered(Order::Name).page(params.page(DEFAULT_LIMIT));
    let page = page_of::<Project>(&api, &operator.caller.scope(), query).await?;
    Ok(Json(ProjectList {
        projects: page.items.iter().map(|project| ProjectBody::from(&project.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a project
#[utoipa::path(
    post, path = "/api/v1/projects", tag = "Projects", request_body = ProjectInput,
    responses((status = 201, body = ProjectOne), ChangeRefusals), security(("api_key" = ["orgs:admin"])),
)]
async fn create(
    State(api): State<Api>,
    Operator { caller, .. }: Operator<OrgsAdmin>,
    Input(input): Input<ProjectInput>,
) -> ApiResult<(StatusCode, Json<ProjectOne>)> {
    if caller.key().project_id.is_some() {
        return Err(Error::forbidden("A key that is bound to a project cannot create projects").into());
    }
    let now = api.now();
    let mut checks = Checks::new();
    let name = input.name.clone().required("name", &mut checks);
    let organisation = caller.key().organisation_id;
    let project = match name {
        Some(name) => checks.absorb(Project::new(organisation, &name, now))?,
        None => None,
    };
    let mut draft = match project {
        Some(project) => project,
        // Only to check the other fields as well.
        None => Project::new(organisation, "draft", now)?,
    };
    input.apply(&mut draft, &mut checks);
    checks.finish()?;
    let entry = AuditEntry::new(&draft.scope(), caller.actor(), "project.created", draft.id, now)
        .with_changes(json!({"name": draft.name, "slug": draft.slug}));
    let changes = Changes::new().insert(&draft)?.audit(entry);
    let committed = api.store.commit(changes).await;
    committed.map_err(|error| taken_also_on(error, "name"))?;
    let project = ProjectBody::from(&draft);
    Ok((StatusCode::CREATED, Json(ProjectOne { project })))
}

/// Show a project
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}", tag = "Projects",
    params(("project_slug" = String, Path)),
    responses((status = 200, body = ProjectOne), Refusals), security(("api_key" = [])),
)]
async fn show(at: InProject<AnyKey>) -> Json<ProjectOne> {
    let project = ProjectBody::from(&*at.project);
    Json(ProjectOne { project })
}

/// Change a project
///
/// Description and settings; fields that are left out stay as they are.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}", tag = "Projects",
    params(("project_slug" = String, Path)), request_body = ProjectInput,
    responses((status = 200, body = ProjectOne), ChangeRefusals), security(("api_key" = ["orgs:admin"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<OrgsAdmin>,
    Input(input): Input<ProjectInput>,
) -> ApiResult<Json<ProjectOne>> {
    use zentinel_core::port::StoreExt;
    let input = &input;
    let project = super::retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<Project>(&at.scope(), at.project.id).await?;
        let mut project = read.value.clone();
        let mut checks = Checks::new();
        if let Some(name) = input.name.clone().optional("name", &mut checks) {
            checks.text("name", &name, 100);
            project.name = name;
        }
        let rest = ProjectInput {
            name: Field::Absent,
            description: input.description.clone(),
            settings: input.settings.clone(),
        };
        rest.apply(&mut project, &mut checks);
        checks.finish()?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "project.updated", project.id, now)
            .with_changes(json!({
                "name": project.name,
                "description": project.description,
                "settings": project.settings,
            }));
        let changes = Changes::new().update(&read, &project)?.audit(entry);
        api.store.commit(changes).await?;
        Ok(project)
    })
    .await?;
    let project = ProjectBody::from(&project);
    Ok(Json(ProjectOne { project }))
}
