//! How bundles get from one environment to the next.

use super::bundle::RiskLevel;
use crate::error::{Checks, Result};
use crate::id::{
    BundleId, EnvironmentId, OrganisationId, ProjectId, PromotionId, PromotionRuleId, RolloutId, TypedId,
};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::{Actor, Scope};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};

/// A bundle's release into an environment. At most one per bundle and environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundlePromotion {
    /// Its id.
    pub id: PromotionId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The bundle.
    pub bundle_id: BundleId,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// Who released it.
    pub promoted_by: Actor,
    /// The rule that did, where no person did.
    pub rule_id: Option<PromotionRuleId>,
    /// The completed rollout in the environment before that it followed.
    pub source_rollout_id: Option<RolloutId>,
    /// When.
    pub created_at: Timestamp,
}

impl Record for BundlePromotion {
    const KIND: RecordKind = RecordKind::BundlePromotion;
    type Id = PromotionId;
    fn id(&self) -> PromotionId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            owner: self.bundle_id.uuid(),
            natural_key: Some(self.environment_id.to_string()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// What must hold in the source environment before a bundle goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromotionConditions {
    /// For how many minutes its nodes must have run the bundle and been healthy.
    pub min_healthy_minutes: Option<u32>,
    /// Highest error rate of any of its nodes, in percent.
    pub max_error_rate: Option<f64>,
    /// Highest risk level of the bundle.
    pub max_risk_level: Option<RiskLevel>,
}

/// What a rule last did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionAttempt {
    /// The completed rollout it was about. A rule acts once on each.
    pub source_rollout_id: RolloutId,
    /// The rollout that it created, if it did.
    pub rollout_id: Option<RolloutId>,
    /// Why it created none.
    pub error: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Since when the nodes of a rule's source environment are found healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthyStretch {
    /// The rollout whose bundle they run.
    pub source_rollout_id: RolloutId,
    /// Since when, without a break.
    pub since: Timestamp,
}

/// A rule that carries bundles from one environment to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromotionRule {
    /// Its id.
    pub id: PromotionRuleId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Where a bundle must have been rolled out.
    pub source_environment_id: EnvironmentId,
    /// Where it goes next.
    pub target_environment_id: EnvironmentId,
    /// Whether the rollout there is created without anybody's doing.
    pub auto_promote: bool,
    /// How long after the completion, in minutes.
    pub delay_minutes: u32,
    /// What must hold besides.
    pub conditions: PromotionConditions,
    /// Whether it is in force.
    pub enabled: bool,
    /// What it last did.
    pub last_attempt: Option<PromotionAttempt>,
    /// Since when its source environment is found healthy.
    pub healthy: Option<HealthyStretch>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When an operator last changed it.
    pub updated_at: Timestamp,
}

impl PromotionRule {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `target_env_id`, `delay_minutes` or `conditions`.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        let different = self.source_environment_id != self.target_environment_id;
        checks.that("target_env_id", different, "must be different from source_env_id");
        let year = 366 * 24 * 60;
        let message = format!("must be less than or equal to {year}");
        checks.that("delay_minutes", self.delay_minutes <= year, message.clone());
        let minutes = self.conditions.min_healthy_minutes;
        checks.that("conditions.min_healthy_minutes", minutes.is_none_or(|minutes| minutes <= year), message);
        let rate = self.conditions.max_error_rate;
        let sane = rate.is_none_or(|rate| (0.0..=100.0).contains(&rate));
        checks.that("conditions.max_error_rate", sane, "must be from 0 to 100");
        checks.finish()
    }

    /// The scope that shows this rule's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for PromotionRule {
    const KIND: RecordKind = RecordKind::PromotionRule;
    type Id = PromotionRuleId;
    fn id(&self) -> PromotionRuleId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(format!("{} {}", self.source_environment_id, self.target_environment_id)),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}
