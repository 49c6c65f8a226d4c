//! What a query may see, and who asks.

use crate::id::{ApiKeyId, NodeId, OrganisationId, ProjectId, UserId};
use serde::{Deserialize, Serialize};

/// The part of the data that a call may touch. Every store query carries one, so that
/// tenancy is in the type of the call and not in anybody's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything: background work and instance administration only.
    Instance,
    /// One organisation with all its projects.
    Organisation(OrganisationId),
    /// One project.
    Project(OrganisationId, ProjectId),
}

impl Scope {
    /// The organisation this scope is limited to.
    #[must_use]
    pub fn organisation(&self) -> Option<OrganisationId> {
        match *self {
            Self::Instance => None,
            Self::Organisation(organisation) | Self::Project(organisation, _) => Some(organisation),
        }
    }

    /// The project this scope is limited to.
    #[must_use]
    pub fn project(&self) -> Option<ProjectId> {
        match *self {
            Self::Project(_, project) => Some(project),
            Self::Instance | Self::Organisation(_) => None,
        }
    }

    /// Whether a row that belongs to `organisation` and `project` is visible.
    #[must_use]
    pub fn contains(&self, organisation: Option<OrganisationId>, project: Option<ProjectId>) -> bool {
        match *self {
            Self::Instance => true,
            Self::Organisation(mine) => organisation == Some(mine),
            Self::Project(mine, its) => organisation == Some(mine) && project == Some(its),
        }
    }
}

/// Who does something; recorded in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "id", rename_all = "snake_case")]
pub enum Actor {
    /// A person in the console.
    User(UserId),
    /// A caller of the operator API.
    ApiKey(ApiKeyId),
    /// A node.
    Node(NodeId),
    /// The control plane itself.
    System,
}

impl Actor {
    /// The wire name of the actor's type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::ApiKey(_) => "api_key",
            Self::Node(_) => "node",
            Self::System => "system",
        }
    }

    /// The actor's id, where it has one.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        match self {
            Self::User(id) => Some(id.to_string()),
            Self::ApiKey(id) => Some(id.to_string()),
            Self::Node(id) => Some(id.to_string()),
            Self::System => None,
        }
    }
}
