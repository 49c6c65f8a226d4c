//! Rollout templates: settings of rollouts under a name.

use crate::error::{Checks, Result};
use crate::id::{OrganisationId, ProjectId, TemplateId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::Scope;
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Settings of rollouts under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutTemplate {
    /// Its id.
    pub id: TemplateId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Unique in the project, 1 to 100 characters.
    pub name: String,
    /// What it is for, at most 500 characters.
    pub description: Option<String>,
    /// Whether rollouts that name no template and no settings use it. At most one of a project.
    pub is_default: bool,
    /// Fields of a rollout to create, as a caller would give them. What a caller gives as well wins.
    pub settings: Map<String, Value>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl RolloutTemplate {
    /// Checks name and description.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name` or `description`.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        checks.text("name", &self.name, 100);
        let fits = self.description.as_ref().is_none_or(|text| text.chars().count() <= 500);
        checks.that("description", fits, "should be at most 500 character(s)");
        checks.finish()
    }

    /// The scope that shows this template's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }

    /// The lookup key of a project's default template. That it is unique is what keeps a second default out.
    #[must_use]
    pub fn default_key(project: ProjectId) -> String {
        format!("default:{project}")
    }
}

impl Record for RolloutTemplate {
    const KIND: RecordKind = RecordKind::RolloutTemplate;
    type Id = TemplateId;
    fn id(&self) -> TemplateId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.name.clone()),
            lookup_key: self.is_default.then(|| Self::default_key(self.project_id)),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}
