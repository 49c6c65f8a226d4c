//! What the operator API says of environments, freeze windows, templates and promotion.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;
use zentinel_core::Timestamp;
use zentinel_core::entity::{EnvironmentSettings, PromotionConditions, Recurrence};
use zentinel_core::id::{
    BundleId, EnvironmentId, FreezeWindowId, PromotionId, PromotionRuleId, RolloutId, TemplateId,
};

/// A deployment environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentView {
    /// Its id.
    pub id: EnvironmentId,
    /// What people call it.
    pub name: String,
    /// Unique in the project.
    pub slug: String,
    /// What it is for.
    pub description: Option<String>,
    /// `#rrggbb`.
    pub color: String,
    /// Its place in the order of promotion, low first.
    pub ordinal: i32,
    /// What holds for rollouts to it.
    pub settings: EnvironmentSettings,
}

/// A time span in which no rollout starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FreezeWindowView {
    /// Its id.
    pub id: FreezeWindowId,
    /// What people call it.
    pub name: String,
    /// Why.
    pub reason: Option<String>,
    /// The environment it is for; none for all.
    pub environment_id: Option<EnvironmentId>,
    /// When it begins; none for one that recurs.
    pub starts_at: Option<Timestamp>,
    /// When it ends; none for one that recurs.
    pub ends_at: Option<Timestamp>,
    /// When it holds again and again.
    pub recurrence: Option<Recurrence>,
    /// Whether it holds now.
    pub active: bool,
    /// When it ends, if it holds now.
    pub active_until: Option<Timestamp>,
}

/// Settings of rollouts under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateView {
    /// Its id.
    pub id: TemplateId,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether rollouts that name no template and give no settings use it.
    pub is_default: bool,
    /// The settings, by the names of a rollout's fields.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// What a promotion rule last did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The completed rollout it was about.
    pub source_rollout_id: RolloutId,
    /// The rollout that it created, if it did.
    pub rollout_id: Option<RolloutId>,
    /// Why it created none.
    pub error: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A rule that carries bundles from one environment to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromotionRuleView {
    /// Its id.
    pub id: PromotionRuleId,
    /// Where a bundle must have been rolled out.
    pub source_env_id: EnvironmentId,
    /// Where it goes next.
    pub target_env_id: EnvironmentId,
    /// Whether the rollout there is created without anybody's doing.
    pub auto_promote: bool,
    /// How long after the completion, in minutes.
    pub delay_minutes: u32,
    /// What must hold besides.
    pub conditions: PromotionConditions,
    /// Whether it is in force.
    pub enabled: bool,
    /// What it last did.
    pub last_attempt: Option<AttemptView>,
}

/// A promotion rule to create.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NewPromotionRule {
    /// Where a bundle must have been rolled out.
    pub source_env_id: EnvironmentId,
    /// Where it goes next.
    pub target_env_id: EnvironmentId,
    /// Whether the rollout there is created without anybody's doing.
    pub auto_promote: bool,
    /// How long after the completion, in minutes.
    pub delay_minutes: u32,
    /// What must hold besides.
    pub conditions: PromotionConditions,
}

/// A bundle's release into an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromotionView {
    /// Its id.
    pub id: PromotionId,
    /// The bundle.
    pub bundle_id: BundleId,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// The rule that did it, where no person did.
    pub promotion_rule_id: Option<PromotionRuleId>,
    /// When.
    pub promoted_at: Timestamp,
}

/// How many people agreed to a rollout, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalsView {
    /// How many did.
    pub count: u64,
    /// How many must.
    pub needed: u64,
}

/// What one person said of a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalView {
    /// `user`, or `api_key` for a key that belongs to nobody.
    pub by_type: String,
    /// Which one.
    pub by_id: Option<Uuid>,
    /// Why.
    pub comment: Option<String>,
    /// When.
    pub inserted_at: Timestamp,
}
