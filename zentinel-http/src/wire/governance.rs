//! Approvals, freeze windows, templates, environments and promotion.

use super::Time;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::Timestamp;
use zentinel_core::entity::{
    Approval, BundlePromotion, Environment, FreezeSpan, FreezeWindow, PromotionRule, RolloutTemplate, Verdict,
};
use zentinel_core::id::TypedId;

/// What one person said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalBody {
    /// `user`, or `api_key` for a key that belongs to nobody.
    #[schema(example = "user")]
    by_type: &'static str,
    by_id: Option<String>,
    comment: Option<String>,
    inserted_at: Time,
}

impl From<&Verdict> for ApprovalBody {
    fn from(verdict: &Verdict) -> Self {
        Self {
            by_type: verdict.by.kind(),
            by_id: verdict.by.id(),
            comment: verdict.comment.clone(),
            inserted_at: Time(verdict.at),
        }
    }
}

/// The approvals of a rollout, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalList {
    approvals: Vec<ApprovalBody>,
    total: usize,
    /// Always null: all of them are here.
    next_cursor: Option<String>,
    /// `not_required`, `pending_approval`, `approved` or `rejected`.
    #[schema(example = "pending_approval")]
    approval_state: &'static str,
    /// How many must agree.
    needed: u32,
    /// Who refused.
    rejection: Option<ApprovalBody>,
    /// Why nobody is asked, for example `auto_rollback`.
    exempt: Option<String>,
}

impl From<&Approval> for ApprovalList {
    fn from(approval: &Approval) -> Self {
        Self {
            approvals: approval.given.iter().map(ApprovalBody::from).collect(),
            total: approval.given.len(),
            next_cursor: None,
            approval_state: approval.state.as_str(),
            needed: approval.needed,
            rejection: approval.rejection.as_ref().map(ApprovalBody::from),
            exempt: approval.exempt.clone(),
        }
    }
}

/// A time span in which no rollout starts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FreezeWindowBody {
    id: Uuid,
    project_id: Uuid,
    #[schema(example = "Black Friday")]
    name: String,
    reason: Option<String>,
    /// Null for all environments.
    environment_id: Option<Uuid>,
    /// Null for one that recurs.
    starts_at: Option<Time>,
    ends_at: Option<Time>,
    /// `{weekdays, from, to, time_zone}` of one that recurs.
    recurrence: Option<Value>,
    /// Whether it holds now.
    active: bool,
    /// When it ends, if it holds now.
    active_until: Option<Time>,
    created_by_type: &'static str,
    created_by_id: Option<String>,
    inserted_at: Time,
    updated_at: Time,
}

impl FreezeWindowBody {
    pub(crate) fn of(window: &FreezeWindow, now: Timestamp) -> Self {
        let (starts_at, ends_at, recurrence) = match &window.span {
            FreezeSpan::Once { starts_at, ends_at } => (Some(Time(*starts_at)), Some(Time(*ends_at)), None),
            FreezeSpan::Weekly(recurrence) => (None, None, Some(json!(recurrence))),
        };
        let until = window.until(now);
        Self {
            id: window.id.uuid(),
            project_id: window.project_id.uuid(),
            name: window.name.clone(),
            reason: window.reason.clone(),
            environment_id: window.environment_id.map(TypedId::uuid),
            starts_at,
            ends_at,
            recurrence,
            active: until.is_some(),
            active_until: until.map(Time),
            created_by_type: window.created_by.kind(),
            created_by_id: window.created_by.id(),
            inserted_at: Time(window.created_at),
            updated_at: Time(window.updated_at),
        }
    }
}

/// Settings of rollouts under a name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplateBody {
    id: Uuid,
    project_id: Uuid,
    #[schema(example = "careful")]
    name: String,
    description: Option<String>,
    /// Whether rollouts that name no template and give no settings use it.
    is_default: bool,
    /// The settings as a rollout would get them, defaults included.
    #[serde(flatten)]
    settings: TemplateSettings,
    inserted_at: Time,
    updated_at: Time,
}

/// What a rollout gets from a template; see the fields of a rollout to create.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TemplateSettings {
    #[schema(value_type = Option<Object>)]
    target_selector: Value,
    #[schema(value_type = String, example = "rolling")]
    strategy: Value,
    #[schema(value_type = u32)]
    batch_size: Value,
    #[schema(value_type = Option<u8>)]
    batch_percentage: Value,
    #[schema(value_type = u32)]
    max_unavailable: Value,
    #[schema(value_type = u32)]
    progress_deadline_seconds: Value,
    #[schema(value_type = Object)]
    health_gates: Value,
    #[schema(value_type = bool)]
    auto_rollback: Value,
    #[schema(value_type = u8)]
    rollback_threshold: Value,
    #[schema(value_type = bool)]
    batch_doubling: Value,
    #[schema(value_type = Option<u32>)]
    max_batch_size: Value,
    #[schema(value_type = Option<u32>)]
    nodes_per_minute: Value,
    #[schema(value_type = bool)]
    safe_mode: Value,
    #[schema(value_type = u32)]
    validation_period_seconds: Value,
    #[schema(value_type = Option<Object>)]
    canary_analysis_config: Value,
    #[schema(value_type = Option<Object>)]
    blue_green_config: Value,
    #[schema(value_type = Option<Object>)]
    strategy_config: Value,
    #[schema(value_type = Vec<uuid::Uuid>)]
    custom_health_checks: Value,
}

impl From<&Map<String, Value>> for TemplateSettings {
    fn from(given: &Map<String, Value>) -> Self {
        let field = |name: &str, default: Value| given.get(name).cloned().unwrap_or(default);
        Self {
            target_selector: field("target_selector", Value::Null),
            strategy: field("strategy", json!("rolling")),
            batch_size: field("batch_size", json!(1)),
            batch_percentage: field("batch_percentage", Value::Null),
            max_unavailable: field("max_unavailable", json!(0)),
            progress_deadline_seconds: field("progress_deadline_seconds", json!(600)),
            health_gates: field("health_gates", json!({"heartbeat_healthy": true})),
            auto_rollback: field("auto_rollback", json!(false)),
            rollback_threshold: field("rollback_threshold", json!(50)),
            batch_doubling: field("batch_doubling", json!(false)),
            max_batch_size: field("max_batch_size", Value::Null),
            nodes_per_minute: field("nodes_per_minute", Value::Null),
            safe_mode: field("safe_mode", json!(false)),
            validation_period_seconds: field("validation_period_seconds", json!(300)),
            canary_analysis_config: field("canary_analysis_config", Value::Null),
            blue_green_config: field("blue_green_config", Value::Null),
            strategy_config: field("strategy_config", Value::Null),
            custom_health_checks: field("custom_health_checks", json!([])),
        }
    }
}

impl From<&RolloutTemplate> for TemplateBody {
    fn from(template: &RolloutTemplate) -> Self {
        Self {
            id: template.id.uuid(),
            project_id: template.project_id.uuid(),
            name: template.name.clone(),
            description: template.description.clone(),
            is_default: template.is_default,
            settings: TemplateSettings::from(&template.settings),
            inserted_at: Time(template.created_at),
            updated_at: Time(template.updated_at),
        }
    }
}

/// A template to create or change: beside these any of the settings of a rollout to create.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "says in the document what the handler reads field by field")]
pub(crate) struct TemplateInput {
    /// Unique in the project, 1 to 100 characters.
    #[schema(example = "careful", max_length = 100)]
    name: String,
    #[schema(max_length = 500)]
    description: Option<String>,
    /// Whether rollouts that name no template and give no settings use it.
    is_default: Option<bool>,
    #[schema(value_type = Option<Object>)]
    target_selector: Option<Value>,
    #[schema(example = "rolling")]
    strategy: Option<String>,
    #[schema(minimum = 1)]
    batch_size: Option<u32>,
    #[schema(minimum = 1, maximum = 100)]
    batch_percentage: Option<u8>,
    max_unavailable: Option<u32>,
    #[schema(minimum = 1)]
    progress_deadline_seconds: Option<u32>,
    #[schema(value_type = Option<Object>)]
    health_gates: Option<Value>,
    auto_rollback: Option<bool>,
    #[schema(minimum = 1, maximum = 100)]
    rollback_threshold: Option<u8>,
    batch_doubling: Option<bool>,
    #[schema(minimum = 1)]
    max_batch_size: Option<u32>,
    #[schema(minimum = 1)]
    nodes_per_minute: Option<u32>,
    safe_mode: Option<bool>,
    validation_period_seconds: Option<u32>,
    #[schema(value_type = Option<Object>)]
    canary_analysis_config: Option<Value>,
    #[schema(value_type = Option<Object>)]
    blue_green_config: Option<Value>,
    #[schema(value_type = Option<Object>)]
    strategy_config: Option<Value>,
    custom_health_checks: Option<Vec<Uuid>>,
}

/// What holds for rollouts to an environment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentSettingsBody {
    approval_required: bool,
    approvals_needed: u32,
    auto_rollback_enabled: bool,
}

/// A deployment environment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentBody {
    id: Uuid,
    project_id: Uuid,
    #[schema(example = "Production")]
    name: String,
    #[schema(example = "prod")]
    slug: String,
    description: Option<String>,
    #[schema(example = "#ef4444")]
    color: String,
    /// Its place in the order of promotion, low first.
    ordinal: i32,
    settings: EnvironmentSettingsBody,
    inserted_at: Time,
    updated_at: Time,
}

impl From<&Environment> for EnvironmentBody {
    fn from(environment: &Environment) -> Self {
        let settings = &environment.settings;
        Self {
            id: environment.id.uuid(),
            project_id: environment.project_id.uuid(),
            name: environment.name.clone(),
            slug: environment.slug.to_string(),
            description: environment.description.clone(),
            color: environment.color.clone(),
            ordinal: environment.ordinal,
            settings: EnvironmentSettingsBody {
                approval_required: settings.approval_required,
                approvals_needed: settings.approvals_needed,
                auto_rollback_enabled: settings.auto_rollback_enabled,
            },
            inserted_at: Time(environment.created_at),
            updated_at: Time(environment.updated_at),
        }
    }
}

/// A rule that carries bundles from one environment to another.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromotionRuleBody {
    id: Uuid,
    project_id: Uuid,
    source_env_id: Uuid,
    target_env_id: Uuid,
    auto_promote: bool,
    delay_minutes: u32,
    /// `{min_healthy_minutes, max_error_rate, max_risk_level}`; null where nothing is asked.
    #[schema(value_type = Object)]
    conditions: Value,
    enabled: bool,
    /// What it last did: `{source_rollout_id, rollout_id, error, at}`.
    last_attempt: Option<Value>,
    inserted_at: Time,
    updated_at: Time,
}

impl From<&PromotionRule> for PromotionRuleBody {
    fn from(rule: &PromotionRule) -> Self {
        let last_attempt = rule.last_attempt.as_ref().map(|attempt| {
            json!({
                "source_rollout_id": attempt.source_rollout_id,
                "rollout_id": attempt.rollout_id,
                "error": attempt.error,
                "at": Time(attempt.at),
            })
        });
        Self {
            id: rule.id.uuid(),
            project_id: rule.project_id.uuid(),
            source_env_id: rule.source_environment_id.uuid(),
            target_env_id: rule.target_environment_id.uuid(),
            auto_promote: rule.auto_promote,
            delay_minutes: rule.delay_minutes,
            conditions: json!(rule.conditions),
            enabled: rule.enabled,
            last_attempt,
            inserted_at: Time(rule.created_at),
            updated_at: Time(rule.updated_at),
        }
    }
}

/// A bundle's release into an environment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromotionBody {
    id: Uuid,
    bundle_id: Uuid,
    environment_id: Uuid,
    promoted_by_type: &'static str,
    promoted_by_id: Option<String>,
    /// The rule that did it, where no person did.
    promotion_rule_id: Option<Uuid>,
    /// The completed rollout in the environment before.
    source_rollout_id: Option<Uuid>,
    promoted_at: Time,
}

impl From<&BundlePromotion> for PromotionBody {
    fn from(promotion: &BundlePromotion) -> Self {
        Self {
            id: promotion.id.uuid(),
            bundle_id: promotion.bundle_id.uuid(),
            environment_id: promotion.environment_id.uuid(),
            promoted_by_type: promotion.promoted_by.kind(),
            promoted_by_id: promotion.promoted_by.id(),
            promotion_rule_id: promotion.rule_id.map(TypedId::uuid),
            source_rollout_id: promotion.source_rollout_id.map(TypedId::uuid),
            promoted_at: Time(promotion.created_at),
        }
    }
}

macro_rules! envelopes {
    ($($(#[$doc:meta])* $one:ident, $many:ident, $body:ident, $noun:ident, $nouns:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Serialize, ToSchema)]
        pub(crate) struct $one {
            pub(crate) $noun: $body,
        }

        $(#[$doc])*
        #[derive(Debug, Serialize, ToSchema)]
        pub(crate) struct $many {
            pub(crate) $nouns: Vec<$body>,
            /// How many match in all.
            pub(crate) total: u64,
            /// Where the next page begins.
            pub(crate) next_cursor: Option<String>,
        }
    )*};
}

envelopes! {
    /// Freeze windows.
    FreezeWindowOne, FreezeWindowList, FreezeWindowBody, freeze_window, freeze_windows;
    /// Rollout templates.
    TemplateOne, TemplateList, TemplateBody, rollout_template, rollout_templates;
    /// Environments.
    EnvironmentOne, EnvironmentList, EnvironmentBody, environment, environments;
    /// Promotion rules.
    PromotionRuleOne, PromotionRuleList, PromotionRuleBody, promotion_rule, promotion_rules;
    /// Releases of a bundle.
    PromotionOne, PromotionList, PromotionBody, promotion, promotions;
}
