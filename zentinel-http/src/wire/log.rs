//! Entries of the append-only logs.

use super::Time;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{AuditEntry, Event};
use zentinel_core::id::TypedId;
use zentinel_core::log::LogEntry;
use zentinel_core::{Error, Result};

/// Who did what.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditBody {
    id: Uuid,
    /// Its place in the log.
    sequence: u64,
    timestamp: Time,
    /// `user`, `api_key`, `node` or `system`.
    #[schema(example = "api_key")]
    actor_type: &'static str,
    actor_id: Option<String>,
    #[schema(example = "bundle.created")]
    action: String,
    #[schema(example = "bundle")]
    resource_type: String,
    resource_id: Option<String>,
    project_id: Option<Uuid>,
    org_id: Option<Uuid>,
    changes: Value,
    metadata: Value,
}

impl TryFrom<LogEntry> for AuditBody {
    type Error = Error;

    fn try_from(entry: LogEntry) -> Result<Self> {
        let audit: AuditEntry = serde_json::from_value(entry.row.body)?;
        Ok(Self {
            id: audit.id.uuid(),
            sequence: entry.seq,
            timestamp: Time(audit.at),
            actor_type: audit.actor.kind(),
            actor_id: audit.actor.id(),
            action: audit.action,
            resource_type: audit.resource_type,
            resource_id: audit.resource_id,
            project_id: audit.project_id.map(TypedId::uuid),
            org_id: audit.organisation_id.map(TypedId::uuid),
            changes: audit.changes,
            metadata: audit.metadata,
        })
    }
}

/// A page of the audit log, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditList {
    pub(crate) entries: Vec<AuditBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    id: Uuid,
    /// Its place in the log.
    sequence: u64,
    #[serde(rename = "type")]
    #[schema(example = "rollout.completed")]
    kind: String,
    payload: Value,
    project_id: Option<Uuid>,
    org_id: Option<Uuid>,
    emitted_at: Time,
}

impl TryFrom<LogEntry> for EventBody {
    type Error = Error;

    fn try_from(entry: LogEntry) -> Result<Self> {
        let event: Event = serde_json::from_value(entry.row.body)?;
        Ok(Self {
            id: event.id.uuid(),
            sequence: entry.seq,
            kind: event.kind,
            payload: event.payload,
            project_id: event.project_id.map(TypedId::uuid),
            org_id: event.organisation_id.map(TypedId::uuid),
            emitted_at: Time(event.emitted_at),
        })
    }
}

/// A page of events, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventList {
    pub(crate) events: Vec<EventBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// What a node reported, with the fields of its report.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReportedBody {
    id: Uuid,
    node_id: Uuid,
    inserted_at: Time,
    #[serde(flatten)]
    reported: Map<String, Value>,
}

impl From<LogEntry> for ReportedBody {
    fn from(entry: LogEntry) -> Self {
        let mut reported = match entry.row.body {
            Value::Object(reported) => reported,
            _ => Map::new(),
        };
        for own in ["id", "node_id", "inserted_at"] {
            reported.remove(own);
        }
        Self { id: entry.row.id, node_id: entry.row.owner, inserted_at: Time(entry.row.at), reported }
    }
}

/// A page of heartbeats, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeartbeatList {
    pub(crate) heartbeats: Vec<ReportedBody>,
    /// How many are kept in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// A page of events that a node reported, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeEventList {
    pub(crate) events: Vec<ReportedBody>,
    /// How many are kept in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}
