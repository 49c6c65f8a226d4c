//! Audit entries and events as rows of their logs, the same in every back end.
//!
//! The row is about the resource (audit) where its id is a UUID, otherwise about nothing.

use uuid::Uuid;
use zentinel_core::Result;
use zentinel_core::entity::{AuditEntry, Event};
use zentinel_core::id::TypedId as _;
use zentinel_core::log::{LogKind, LogRow};

/// The row of an audit entry.
pub(crate) fn audit_row(entry: &AuditEntry) -> Result<LogRow> {
    let owner = entry.resource_id.as_deref().and_then(|id| Uuid::parse_str(id).ok());
    Ok(LogRow {
        kind: LogKind::Audit,
        id: entry.id.uuid(),
        organisation_id: entry.organisation_id,
        project_id: entry.project_id,
        owner: owner.unwrap_or(Uuid::nil()),
        at: entry.at,
        dedup_key: None,
        body: serde_json::to_value(entry)?,
    })
}

/// The row of an event.
pub(crate) fn event_row(event: &Event) -> Result<LogRow> {
    Ok(LogRow {
        kind: LogKind::Event,
        id: event.id.uuid(),
        organisation_id: event.organisation_id,
        project_id: event.project_id,
        owner: Uuid::nil(),
        at: event.emitted_at,
        dedup_key: None,
        body: serde_json::to_value(event)?,
    })
}
