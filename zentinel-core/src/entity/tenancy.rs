//! Organisations, projects, people.

use crate::error::{Checks, Error, Result};
use crate::id::{MembershipId, OrganisationId, ProjectId, TypedId, UserId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::Scope;
use crate::value::{Percent, Slug, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Organisation {
    /// Its id.
    pub id: OrganisationId,
    /// What people call it, 1 to 100 characters.
    pub name: String,
    /// Unique in the instance; fixed at creation.
    pub slug: Slug,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Organisation {
    /// A new organisation with the slug of its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name` or `slug`.
    pub fn new(name: &str, now: Timestamp) -> Result<Self> {
        let slug = checked_name(name)?;
        Ok(Self { id: OrganisationId::random(), name: name.trim().to_owned(), slug, created_at: now })
    }
}

fn checked_name(name: &str) -> Result<Slug> {
    let mut checks = Checks::new();
    checks.text("name", name, 100);
    checks.finish()?;
    Slug::from_name(name)
}

impl Record for Organisation {
    const KIND: RecordKind = RecordKind::Organisation;
    type Id = OrganisationId;
    fn id(&self) -> OrganisationId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys { organisation_id: Some(self.id), natural_key: Some(self.slug.to_string()), ..Keys::default() }
    }
}

/// What an operator may set for a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectSettings {
    /// Nodes may register without a token; they then get nothing until approved. Off by default.
    pub open_registration: bool,
    /// Most rollouts that may be open at once, at least 1.
    pub max_concurrent_rollouts: u32,
    /// Whether people must agree before a rollout starts.
    pub approval_required: bool,
    /// How many, at least 1.
    pub approvals_needed: u32,
    /// Whether a drifted node is brought back by a rollout of its own. Off by default.
    pub drift_auto_remediation: bool,
    /// How often all nodes are looked at for drift, in seconds; 10 to 86,400.
    pub drift_check_interval: u32,
    /// The percentage of drifted nodes from which the outside is told.
    pub drift_alert_threshold: Option<Percent>,
    /// The number of drifted nodes from which the outside is told.
    pub drift_alert_node_count: Option<u32>,
}

impl Default for ProjectSettings {
    fn default() -> Self {
        Self {
            open_registration: false,
            max_concurrent_rollouts: 5,
            approval_required: false,
            approvals_needed: 1,
            drift_auto_remediation: false,
            drift_check_interval: 30,
            drift_alert_threshold: None,
            drift_alert_node_count: None,
        }
    }
}

/// A fleet with its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// What people call it, 1 to 100 characters.
    pub name: String,
    /// Unique in the organisation; fixed at creation.
    pub slug: Slug,
    /// What it is for.
    pub description: Option<String>,
    /// What an operator may set.
    pub settings: ProjectSettings,
    /// The last sequence given to a signed statement; only grows.
    pub last_sequence: u64,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Project {
    /// A new project with the slug of its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name` or `slug`.
    pub fn new(organisation_id: OrganisationId, name: &str, now: Timestamp) -> Result<Self> {
        let slug = checked_name(name)?;
        Ok(Self {
            id: ProjectId::random(),
            organisation_id,
            name: name.trim().to_owned(),
            slug,
            description: None,
            settings: ProjectSettings::default(),
            last_sequence: 0,
            created_at: now,
        })
    }

    /// The scope that shows this project only.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.id)
    }
}

impl Record for Project {
    const KIND: RecordKind = RecordKind::Project;
    type Id = ProjectId;
    fn id(&self) -> ProjectId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            organisation_id: Some(self.organisation_id),
            project_id: Some(self.id),
            owner: self.organisation_id.uuid(),
            natural_key: Some(self.slug.to_string()),
            ..Keys::default()
        }
    }
}

/// What a member may do, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May look.
    Reader,
    /// May change configuration and roll it out.
    Operator,
    /// May manage people, keys and environments.
    Admin,
}

/// A person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Address for signing in; compared without regard to case.
    pub email: String,
    /// Argon2id in PHC string form.
    pub password_hash: String,
    /// Role in the whole instance.
    pub role: Role,
    /// When it was created.
    pub created_at: Timestamp,
}

impl User {
    /// A new person; `password_hash` is an Argon2id PHC string.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `email`.
    pub fn new(email: &str, password_hash: String, role: Role, now: Timestamp) -> Result<Self> {
        let email = email.trim().to_lowercase();
        let ok = email.contains('@') && !email.contains(char::is_whitespace) && email.chars().count() <= 160;
        if !ok {
            return Err(Error::invalid_field("email", "is invalid"));
        }
        Ok(Self { id: UserId::random(), email, password_hash, role, created_at: now })
    }
}

impl Record for User {
    const KIND: RecordKind = RecordKind::User;
    type Id = UserId;
    fn id(&self) -> UserId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys { owner: Uuid::nil(), natural_key: Some(self.email.clone()), ..Keys::default() }
    }
}

/// A person's role in an organisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Its id.
    pub id: MembershipId,
    /// The tenant.
    pub organisation_id: OrganisationId,
    /// The person.
    pub user_id: UserId,
    /// The role.
    pub role: Role,
    /// When it began.
    pub created_at: Timestamp,
}

impl Membership {
    /// A new membership.
    #[must_use]
    pub fn new(organisation_id: OrganisationId, user_id: UserId, role: Role, now: Timestamp) -> Self {
        Self { id: MembershipId::random(), organisation_id, user_id, role, created_at: now }
    }
}

impl Record for Membership {
    const KIND: RecordKind = RecordKind::Membership;
    type Id = MembershipId;
    fn id(&self) -> MembershipId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            organisation_id: Some(self.organisation_id),
            owner: self.organisation_id.uuid(),
            natural_key: Some(self.user_id.to_string()),
            ..Keys::default()
        }
    }
}
