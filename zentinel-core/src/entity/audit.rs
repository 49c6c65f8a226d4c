//! The audit log and the outbox.

use crate::id::{AuditId, EventId, OrganisationId, ProjectId};
use crate::scope::{Actor, Scope};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who did what. Written in the commit of the change that it records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its id.
    pub id: AuditId,
    /// The tenant.
    pub organisation_id: Option<OrganisationId>,
    /// The project.
    pub project_id: Option<ProjectId>,
    /// Who.
    pub actor: Actor,
    /// `<resource>.<verb>`, for example `bundle.created`.
    pub action: String,
    /// The kind of thing, for example `bundle`.
    pub resource_type: String,
    /// Which one.
    pub resource_id: Option<String>,
    /// What changed; never a secret.
    pub changes: Value,
    /// What else is worth knowing.
    pub metadata: Value,
    /// When.
    pub at: Timestamp,
}

impl AuditEntry {
    /// An entry for `action` (whose part before the dot is the resource type) on `resource`.
    #[must_use]
    pub fn new(scope: &Scope, actor: Actor, action: &str, resource: impl ToString, at: Timestamp) -> Self {
        Self {
            id: AuditId::random(),
            organisation_id: scope.organisation(),
            project_id: scope.project(),
            actor,
            action: action.to_owned(),
            resource_type: action.split('.').next().unwrap_or(action).to_owned(),
            resource_id: Some(resource.to_string()),
            changes: Value::Object(serde_json::Map::new()),
            metadata: Value::Object(serde_json::Map::new()),
            at,
        }
    }

    /// Records what changed.
    #[must_use]
    pub fn with_changes(mut self, changes: Value) -> Self {
        self.changes = changes;
        self
    }

    /// Records what else is worth knowing.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }
}

/// Something that happened, for notifiers, consoles and integrations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its id, the idempotency key of deliveries.
    pub id: EventId,
    /// `<family>.<what>`, for example `rollout.completed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The details.
    pub payload: Value,
    /// The tenant.
    pub organisation_id: Option<OrganisationId>,
    /// The project.
    pub project_id: Option<ProjectId>,
    /// When.
    pub emitted_at: Timestamp,
}

impl Event {
    /// An event in a scope.
    #[must_use]
    pub fn new(scope: &Scope, kind: &str, payload: Value, emitted_at: Timestamp) -> Self {
        Self {
            id: EventId::random(),
            kind: kind.to_owned(),
            payload,
            organisation_id: scope.organisation(),
            project_id: scope.project(),
            emitted_at,
        }
    }
}
