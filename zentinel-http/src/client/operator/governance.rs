//! Approvals, freeze windows, templates, environments and promotion.

use super::super::governance::{
    ApprovalView, EnvironmentView, FreezeWindowView, NewPromotionRule, PromotionRuleView, PromotionView,
    TemplateView,
};
use super::super::transport::{CALL_TIMEOUT, call, send};
use super::super::views::{List, NodeView, RolloutView};
use super::{LIMIT, OperatorClient, one};
use reqwest::Method;
use serde_json::{Value, json};
use zentinel_core::Result;
use zentinel_core::id::{
    BundleId, EnvironmentId, FreezeWindowId, NodeId, PromotionRuleId, RolloutId, TemplateId,
};

macro_rules! deletions {
    ($($(#[$doc:meta])* $name:ident, $id:ty, $path:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// `NotFound`; `Forbidden` for who may not; `Conflict` while it is in use.
        pub async fn $name(&self, project_slug: &str, id: $id) -> Result<()> {
            let id = id.to_string();
            let request = self.in_project(Method::DELETE, project_slug, &[$path, &id])?;
            send(request.timeout(CALL_TIMEOUT)).await.map(drop)
        }
    )*};
}

impl OperatorClient {
    /// The approvals of a rollout, oldest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn approvals(&self, project_slug: &str, id: RolloutId) -> Result<List<ApprovalView>> {
        let id = id.to_string();
        self.list(&["projects", project_slug, "rollouts", &id, "approvals"], None).await
    }

    /// Approves a rollout.
    ///
    /// # Errors
    /// `Conflict`: `invalid_state`, `self_approval`, `already_approved`; `Forbidden`: `not_authorized`.
    pub async fn approve_rollout(
        &self,
        project_slug: &str,
        id: RolloutId,
        comment: Option<&str>,
    ) -> Result<RolloutView> {
        let id = id.to_string();
        let request = self.in_project(Method::POST, project_slug, &["rollouts", &id, "approve"])?;
        call(request.json(&json!({ "comment": comment }))).await
    }

    /// Rejects a rollout, for good.
    ///
    /// # Errors
    /// As [`Self::approve_rollout`]; `Invalid` without a comment.
    pub async fn reject_rollout(
        &self,
        project_slug: &str,
        id: RolloutId,
        comment: &str,
    ) -> Result<RolloutView> {
        let id = id.to_string();
        let request = self.in_project(Method::POST, project_slug, &["rollouts", &id, "reject"])?;
        call(request.json(&json!({ "comment": comment }))).await
    }

    /// Starts a pending rollout in spite of freeze windows.
    ///
    /// # Errors
    /// `Forbidden` unless the key is an admin's; `Conflict` when something else is in the way.
    pub async fn start_in_freeze(
        &self,
        project_slug: &str,
        id: RolloutId,
        reason: &str,
    ) -> Result<RolloutView> {
        let id = id.to_string();
        let request = self.in_project(Method::POST, project_slug, &["rollouts", &id, "start"])?;
        call(request.json(&json!({"override_freeze": true, "override_reason": reason}))).await
    }

    /// One page of the project's environments, in the order of promotion.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn environments(
        &self,
        project_slug: &str,
        cursor: Option<&str>,
    ) -> Result<List<EnvironmentView>> {
        self.list(&["projects", project_slug, "environments"], cursor).await
    }

    /// Creates an environment from the fields of the API.
    ///
    /// # Errors
    /// `Invalid` for a field that is wrong, `Forbidden` unless the key is an admin's.
    pub async fn create_environment(&self, project_slug: &str, fields: &Value) -> Result<EnvironmentView> {
        let request = self.in_project(Method::POST, project_slug, &["environments"])?;
        one(request.json(fields), "environment").await
    }

    /// Changes an environment.
    ///
    /// # Errors
    /// As [`Self::create_environment`], and `NotFound`.
    pub async fn update_environment(
        &self,
        project_slug: &str,
        id: EnvironmentId,
        fields: &Value,
    ) -> Result<EnvironmentView> {
        let id = id.to_string();
        let request = self.in_project(Method::PATCH, project_slug, &["environments", &id])?;
        one(request.json(fields), "environment").await
    }

    /// Creates development, staging and production, as far as they are missing; answers all there are.
    ///
    /// # Errors
    /// `Forbidden` unless the key is an admin's.
    pub async fn create_default_environments(&self, project_slug: &str) -> Result<Vec<EnvironmentView>> {
        let request = self.in_project(Method::POST, project_slug, &["environments", "defaults"])?;
        one(request, "environments").await
    }

    /// Puts a node into an environment, or takes it out.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for an environment that the project does not have.
    pub async fn set_node_environment(
        &self,
        project_slug: &str,
        id: NodeId,
        environment: Option<EnvironmentId>,
    ) -> Result<NodeView> {
        let id = id.to_string();
        let request = self.in_project(Method::PATCH, project_slug, &["nodes", &id])?;
        one(request.json(&json!({ "environment_id": environment })), "node").await
    }

    /// One page of the project's freeze windows, newest first.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn freeze_windows(
        &self,
        project_slug: &str,
        only_active: bool,
        cursor: Option<&str>,
    ) -> Result<List<FreezeWindowView>> {
        let active = only_active.then(|| ("active".to_owned(), "true".to_owned()));
        let parameters: Vec<_> = active.into_iter().collect();
        self.list_where(&["projects", project_slug, "freeze-windows"], &parameters, LIMIT, cursor).await
    }

    /// Creates a freeze window from the fields of the API.
    ///
    /// # Errors
    /// `Invalid` for a field that is wrong, `Forbidden` unless the key is an admin's.
    pub async fn create_freeze_window(&self, project_slug: &str, fields: &Value) -> Result<FreezeWindowView> {
        let request = self.in_project(Method::POST, project_slug, &["freeze-windows"])?;
        one(request.json(fields), "freeze_window").await
    }

    /// One page of the project's templates, the default first, then by name.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn templates(&self, project_slug: &str, cursor: Option<&str>) -> Result<List<TemplateView>> {
        self.list(&["projects", project_slug, "rollout-templates"], cursor).await
    }

    /// Creates a template from the fields of the API.
    ///
    /// # Errors
    /// `Invalid` for a field that is wrong.
    pub async fn create_template(&self, project_slug: &str, fields: &Value) -> Result<TemplateView> {
        let request = self.in_project(Method::POST, project_slug, &["rollout-templates"])?;
        one(request.json(fields), "rollout_template").await
    }

    /// Changes a template.
    ///
    /// # Errors
    /// As [`Self::create_template`], and `NotFound`.
    pub async fn update_template(
        &self,
        project_slug: &str,
        id: TemplateId,
        fields: &Value,
    ) -> Result<TemplateView> {
        let id = id.to_string();
        let request = self.in_project(Method::PATCH, project_slug, &["rollout-templates", &id])?;
        one(request.json(fields), "rollout_template").await
    }

    /// One page of the project's promotion rules, newest first.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn promotion_rules(
        &self,
        project_slug: &str,
        cursor: Option<&str>,
    ) -> Result<List<PromotionRuleView>> {
        self.list(&["projects", project_slug, "promotion-rules"], cursor).await
    }

    /// Creates a promotion rule.
    ///
    /// # Errors
    /// `Invalid` for a field that is wrong, `Forbidden` unless the key is an admin's.
    pub async fn create_promotion_rule(
        &self,
        project_slug: &str,
        rule: &NewPromotionRule,
    ) -> Result<PromotionRuleView> {
        let request = self.in_project(Method::POST, project_slug, &["promotion-rules"])?;
        one(request.json(rule), "promotion_rule").await
    }

    /// Turns a promotion rule on or off.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden` unless the key is an admin's.
    pub async fn enable_promotion_rule(
        &self,
        project_slug: &str,
        id: PromotionRuleId,
        enabled: bool,
    ) -> Result<PromotionRuleView> {
        let id = id.to_string();
        let request = self.in_project(Method::PATCH, project_slug, &["promotion-rules", &id])?;
        one(request.json(&json!({ "enabled": enabled })), "promotion_rule").await
    }

    /// Promotes a bundle to an environment, or to the one after the last it was promoted to.
    ///
    /// # Errors
    /// `Conflict` when it may not go there yet, or was already.
    pub async fn promote_bundle(
        &self,
        project_slug: &str,
        id: BundleId,
        environment: Option<EnvironmentId>,
    ) -> Result<PromotionView> {
        let id = id.to_string();
        let request = self.in_project(Method::POST, project_slug, &["bundles", &id, "promote"])?;
        one(request.json(&json!({ "environment_id": environment })), "promotion").await
    }

    /// Where a bundle was promoted to, newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn promotions(
        &self,
        project_slug: &str,
        id: BundleId,
        cursor: Option<&str>,
    ) -> Result<List<PromotionView>> {
        let id = id.to_string();
        self.list(&["projects", project_slug, "bundles", &id, "promotions"], cursor).await
    }

    deletions! {
        /// Deletes an environment that nothing belongs to.
        delete_environment, EnvironmentId, "environments";
        /// Deletes a freeze window.
        delete_freeze_window, FreezeWindowId, "freeze-windows";
        /// Deletes a template.
        delete_template, TemplateId, "rollout-templates";
        /// Deletes a promotion rule.
        delete_promotion_rule, PromotionRuleId, "promotion-rules";
    }
}
