//! Deployment environments, such as development, staging and production.

use crate::error::{Checks, Result};
use crate::id::{EnvironmentId, OrganisationId, ProjectId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::Scope;
use crate::value::{Slug, Timestamp};
use serde::{Deserialize, Serialize};

/// What holds for rollouts to an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvironmentSettings {
    /// Whether people must agree before a rollout starts.
    pub approval_required: bool,
    /// How many, at least 1; the larger of this and the project's figure holds.
    pub approvals_needed: u32,
    /// Whether rollouts may ask to be rolled back by themselves.
    pub auto_rollback_enabled: bool,
}

impl Default for EnvironmentSettings {
    fn default() -> Self {
        Self { approval_required: false, approvals_needed: 1, auto_rollback_enabled: true }
    }
}

/// A deployment environment of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// What people call it, 1 to 50 characters.
    pub name: String,
    /// Unique in the project, at most 30 characters; fixed at creation.
    pub slug: Slug,
    /// What it is for.
    pub description: Option<String>,
    /// `#rrggbb`.
    pub color: String,
    /// Its place in the order of promotion, low first.
    pub ordinal: i32,
    /// What holds for rollouts to it.
    pub settings: EnvironmentSettings,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Longest slug of an environment.
const SLUG_MAX: usize = 30;

impl Environment {
    /// A new environment; without a slug it gets that of its name, without a colour that of its slug.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name`, `slug` or `color`.
    pub fn new(
        scope: (OrganisationId, ProjectId),
        name: &str,
        slug: Option<&str>,
        color: Option<&str>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut checks = Checks::new();
        checks.text("name", name, 50);
        let slug = match slug {
            Some(slug) => Slug::parse(slug),
            None => cut(name),
        };
        let slug = checks.absorb(slug)?;
        let fits = slug.as_ref().is_none_or(|slug| slug.as_str().len() <= SLUG_MAX);
        checks.that("slug", fits, format!("should be at most {SLUG_MAX} character(s)"));
        let color = color.or(slug.as_ref().map(color_of)).unwrap_or(OTHER_COLOR).to_owned();
        checks.that("color", is_color(&color), "is invalid");
        checks.finish()?;
        let Some(slug) = slug else {
            return Err(crate::Error::invalid_field("slug", "is invalid"));
        };
        Ok(Self {
            id: EnvironmentId::random(),
            organisation_id: scope.0,
            project_id: scope.1,
            name: name.to_owned(),
            slug,
            description: None,
            color,
            ordinal: 0,
            settings: EnvironmentSettings::default(),
            created_at: now,
            updated_at: now,
        })
    }

    /// Development, staging and production; production needs one approval.
    ///
    /// # Errors
    /// As [`Environment::new`]; the names given here are fine.
    pub fn defaults(scope: (OrganisationId, ProjectId), now: Timestamp) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for (ordinal, name, slug) in
            [(0, "Development", "dev"), (1, "Staging", "staging"), (2, "Production", "prod")]
        {
            let mut environment = Self::new(scope, name, Some(slug), None, now)?;
            environment.ordinal = ordinal;
            environment.settings.approval_required = slug == "prod";
            all.push(environment);
        }
        Ok(all)
    }

    /// The scope that shows this environment's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }

    /// What environments are ordered by.
    #[must_use]
    pub fn place(&self) -> (i32, &Slug) {
        (self.ordinal, &self.slug)
    }
}

fn cut(name: &str) -> Result<Slug> {
    let slug = Slug::from_name(name)?;
    let short: String = slug.as_str().chars().take(SLUG_MAX).collect();
    Slug::parse(short.trim_matches('-'))
}

const OTHER_COLOR: &str = "#6366f1";

fn color_of(slug: &Slug) -> &'static str {
    match slug.as_str() {
        "dev" => "#22c55e",
        "staging" => "#eab308",
        "prod" => "#ef4444",
        _ => OTHER_COLOR,
    }
}

/// Whether a text is `#rrggbb`.
#[must_use]
pub fn is_color(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Record for Environment {
    const KIND: RecordKind = RecordKind::Environment;
    type Id = EnvironmentId;
    fn id(&self) -> EnvironmentId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.slug.to_string()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_slugs_are_honoured_and_derived_ones_cut() {
        let scope = (OrganisationId::random(), ProjectId::random());
        let now = Timestamp::UNIX_EPOCH;
        let slugs: Vec<_> = Environment::defaults(scope, now).unwrap();
        let shown: Vec<_> =
            slugs.iter().map(|one| (one.slug.as_str(), one.ordinal, one.color.as_str())).collect();
        assert_eq!(shown, [("dev", 0, "#22c55e"), ("staging", 1, "#eab308"), ("prod", 2, "#ef4444")]);
        assert_eq!(slugs.iter().filter(|one| one.settings.approval_required).count(), 1);

        let long = Environment::new(scope, &"very long name ".repeat(3), None, None, now).unwrap();
        assert_eq!(long.slug.as_str(), "very-long-name-very-long-name");
        for (name, slug, color, field) in [
            ("", None, None, "name"),
            ("QA", Some("Not A Slug"), None, "slug"),
            ("QA", Some("a234567890123456789012345678901"), None, "slug"),
            ("QA", None, Some("red"), "color"),
        ] {
            let error = Environment::new(scope, name, slug, color, now).unwrap_err();
            assert!(error.fields().contains_key(field), "{field}: {error:?}");
        }
    }
}
