//! The rules that carry bundles from one environment to another.

use super::{named, require_admin};
use crate::error::{ApiResult, taken_also_on};
use crate::extract::{Field, Input, Params, PathId};
use crate::operator::auth::{InProject, RolloutsRead, RolloutsWrite};
use crate::operator::listing::{DEFAULT_LIMIT, page_of};
use crate::operator::retrying;
use crate::services::Api;
use crate::wire::governance::{PromotionRuleBody, PromotionRuleList, PromotionRuleOne};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{AuditEntry, PromotionConditions, PromotionRule, RiskLevel};
use zentinel_core::error::Checks;
use zentinel_core::id::{EnvironmentId, PromotionRuleId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, RecordKind, Result};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// A promotion rule to create or change.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct PromotionRuleInput {
    /// Where a bundle must have been rolled out; fixed at creation.
    #[schema(value_type = uuid::Uuid, required = true)]
    #[serde(default)]
    source_env_id: Field<String>,
    /// Where it goes next; fixed at creation.
    #[schema(value_type = uuid::Uuid, required = true)]
    #[serde(default)]
    target_env_id: Field<String>,
    /// Whether the rollout there is created without anybody's doing; false by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    auto_promote: Field<bool>,
    /// How long after the completion; 0 by default.
    #[schema(value_type = Option<u32>)]
    #[serde(default)]
    delay_minutes: Field<i64>,
    /// What must hold besides; all of them are replaced.
    #[schema(value_type = Option<ConditionsInput>)]
    #[serde(default)]
    conditions: Field<ConditionsInput>,
    /// Whether it is in force; true by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    enabled: Field<bool>,
}

/// What must hold in the source environment before a bundle goes on.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(example = json!({"min_healthy_minutes": 30, "max_error_rate": 1.0, "max_risk_level": "medium"}))]
struct ConditionsInput {
    /// For how many minutes its nodes must have run the bundle and been healthy, without a break.
    #[schema(value_type = Option<u32>)]
    #[serde(default)]
    min_healthy_minutes: Field<i64>,
    /// Highest error rate of any of its nodes, in percent.
    #[schema(value_type = Option<f64>)]
    #[serde(default)]
    max_error_rate: Field<f64>,
    /// Highest risk level of the bundle.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    max_risk_level: Field<RiskLevel>,
}

fn minutes(name: &str, field: Field<i64>, checks: &mut Checks) -> Option<u32> {
    let number = field.optional(name, checks)?;
    checks.that(name, number >= 0, "must be greater than or equal to 0");
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

impl PromotionRuleInput {
    /// Applies everything but the environments, and checks the whole.
    fn apply(&self, rule: &mut PromotionRule, mut checks: Checks) -> Result<()> {
        if let Some(wanted) = self.auto_promote.clone().optional("auto_promote", &mut checks) {
            rule.auto_promote = wanted;
        }
        if let Some(delay) = minutes("delay_minutes", self.delay_minutes.clone(), &mut checks) {
            rule.delay_minutes = delay;
        }
        if let Some(enabled) = self.enabled.clone().optional("enabled", &mut checks) {
            rule.enabled = enabled;
        }
        if let Some(conditions) = self.conditions.clone().change("conditions", &mut checks) {
            rule.conditions =
                conditions.map_or_else(PromotionConditions::default, |given| PromotionConditions {
                    min_healthy_minutes: minutes(
                        "conditions.min_healthy_minutes",
                        given.min_healthy_minutes,
                        &mut checks,
                    ),
                    max_error_rate: given.max_error_rate.optional("conditions.max_error_rate", &mut checks),
                    max_risk_level: given.max_risk_level.optional("conditions.max_risk_level", &mut checks),
                });
        }
        checks.absorb(rule.check())?;
        checks.finish()
    }
}

fn changed(rule: &PromotionRule) -> serde_json::Value {
    json!({
        "source_env_id": rule.source_environment_id,
        "target_env_id": rule.target_environment_id,
        "auto_promote": rule.auto_promote,
        "delay_minutes": rule.delay_minutes,
        "conditions": rule.conditions,
        "enabled": rule.enabled,
    })
}

/// List promotion rules
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/promotion-rules", tag = "Environments",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = PromotionRuleList), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    params: Params,
) -> ApiResult<Json<PromotionRuleList>> {
    let query = Query::all(RecordKind::PromotionRule).page(params.page(DEFAULT_LIMIT));
    let page = page_of::<PromotionRule>(&api, &at.scope(), query).await?;
    Ok(Json(PromotionRuleList {
        promotion_rules: page.items.iter().map(|rule| PromotionRuleBody::from(&rule.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a promotion rule
///
/// Takes an organisation admin. Followed once a minute: for each rollout that completes in the source environment,
/// one rollout in the target environment, which waits for approvals and freeze windows like any other.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/promotion-rules", tag = "Environments",
    params(("project_slug" = String, Path)), request_body = PromotionRuleInput,
    responses((status = 201, body = PromotionRuleOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    Input(input): Input<PromotionRuleInput>,
) -> ApiResult<(StatusCode, Json<PromotionRuleOne>)> {
    require_admin(&api, &at.caller).await?;
    let now = api.now();
    let (organisation_id, project_id) = at.ids();
    let mut checks = Checks::new();
    let mut ends = Vec::new();
    for (name, field) in [("source_env_id", &input.source_env_id), ("target_env_id", &input.target_env_id)] {
        let found = match field.clone().required(name, &mut checks) {
            Some(text) => named(name, &api, &at.scope(), &text, &mut checks).await?,
            None => None,
        };
        // Different ones, so that a missing one is not called equal to the other.
        ends.push(found.unwrap_or_else(EnvironmentId::random));
    }
    let mut rule = PromotionRule {
        id: PromotionRuleId::random(),
        organisation_id,
        project_id,
        source_environment_id: ends[0],
        target_environment_id: ends[1],
        auto_promote: false,
        delay_minutes: 0,
        conditions: PromotionConditions::default(),
        enabled: true,
        last_attempt: None,
        healthy: None,
        created_at: now,
        updated_at: now,
    };
    input.apply(&mut rule, checks)?;
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "promotion_rule.created", rule.id, now)
        .with_changes(changed(&rule));
    let committed = api.store.commit(Changes::new().insert(&rule)?.audit(entry)).await;
    committed.map_err(|error| taken_also_on(error, "project_id"))?;
    let promotion_rule = PromotionRuleBody::from(&rule);
    Ok((StatusCode::CREATED, Json(PromotionRuleOne { promotion_rule })))
}

/// Show a promotion rule
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/promotion-rules/{id}", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = PromotionRuleOne), Refusals), security(("api_key" = ["rollouts:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<RolloutsRead>,
    id: PathId<PromotionRule>,
) -> ApiResult<Json<PromotionRuleOne>> {
    let rule = api.store.fetch::<PromotionRule>(&at.scope(), id.0).await?;
    let promotion_rule = PromotionRuleBody::from(&rule.value);
    Ok(Json(PromotionRuleOne { promotion_rule }))
}

/// Change a promotion rule
///
/// Fields that are left out stay as they are; the environments stay in any case. Takes an organisation admin.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/promotion-rules/{id}", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = PromotionRuleInput,
    responses((status = 200, body = PromotionRuleOne), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<PromotionRule>,
    Input(input): Input<PromotionRuleInput>,
) -> ApiResult<Json<PromotionRuleOne>> {
    require_admin(&api, &at.caller).await?;
    let (api, at, input, id) = (&api, &at, &input, id.0);
    let rule = retrying(|| async move {
        let now = api.now();
        let read = api.store.fetch::<PromotionRule>(&at.scope(), id).await?;
        let mut rule = read.value.clone();
        input.apply(&mut rule, Checks::new())?;
        rule.updated_at = now;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "promotion_rule.updated", id, now)
            .with_changes(changed(&rule));
        api.store.commit(Changes::new().update(&read, &rule)?.audit(entry)).await?;
        Ok(rule)
    })
    .await?;
    let promotion_rule = PromotionRuleBody::from(&rule);
    Ok(Json(PromotionRuleOne { promotion_rule }))
}

/// Delete a promotion rule
///
/// Takes an organisation admin.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/promotion-rules/{id}", tag = "Environments",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["rollouts:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<RolloutsWrite>,
    id: PathId<PromotionRule>,
) -> ApiResult<StatusCode> {
    require_admin(&api, &at.caller).await?;
    retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<PromotionRule>(&at.scope(), id.0).await?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "promotion_rule.deleted", read.id, now)
            .with_changes(changed(&read));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await.map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
