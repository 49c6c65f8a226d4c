//! Data for the cases.

use super::{Backend, Guard};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;
use zentinel_core::entity::{AuditEntry, Event};
use zentinel_core::id::{OrganisationId, ProjectId, TypedId as _};
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::port::{Query, Scheduler, Store};
use zentinel_core::{Actor, Changes, RecordKind, Revision, Row, Scope, Stored, Timestamp, Write};

/// A tenant with one project.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenant {
    pub(super) organisation: OrganisationId,
    pub(super) project: ProjectId,
}

impl Tenant {
    pub(super) fn random() -> Self {
        Self { organisation: OrganisationId::random(), project: ProjectId::random() }
    }

    pub(super) fn scope(&self) -> Scope {
        Scope::Project(self.organisation, self.project)
    }

    /// A record of the project without unique keys or state.
    pub(super) fn row(&self, kind: RecordKind) -> Row {
        let id = Uuid::new_v4();
        Row {
            kind,
            id,
            organisation_id: Some(self.organisation),
            project_id: Some(self.project),
            owner: self.project.uuid(),
            natural_key: None,
            lookup_key: None,
            state: None,
            created_at: at(0),
            body: json!({ "id": id }),
        }
    }

    /// A bundle with this version.
    pub(super) fn named(&self, name: &str) -> Row {
        Row { natural_key: Some(name.to_owned()), ..self.row(RecordKind::Bundle) }
    }

    /// A log entry about `owner`, `seconds` after the start.
    pub(super) fn entry(&self, kind: LogKind, owner: Uuid, seconds: i64) -> LogRow {
        LogRow {
            kind,
            id: Uuid::new_v4(),
            organisation_id: Some(self.organisation),
            project_id: Some(self.project),
            owner,
            at: at(seconds),
            dedup_key: None,
            body: json!({ "second": seconds }),
        }
    }

    pub(super) fn event(&self, kind: &str) -> Event {
        Event::new(&self.scope(), kind, json!({ "kind": kind }), at(0))
    }

    pub(super) fn audit(&self, action: &str) -> AuditEntry {
        AuditEntry::new(&self.scope(), Actor::System, action, Uuid::new_v4(), at(0))
    }
}

/// An instant, in seconds after a fixed start; to the microsecond, as storage keeps it.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp_micros((1_790_000_000 + seconds) * 1_000_000 + 123_456).unwrap()
}

pub(super) async fn fresh_store(backend: &dyn Backend) -> (Guard, Arc<dyn Store>) {
    let (guard, store, _) = backend.fresh().await;
    (guard, store)
}

pub(super) async fn fresh(backend: &dyn Backend) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
    backend.fresh().await
}

/// A unit of work of these writes.
pub(super) fn writes(writes: impl IntoIterator<Item = Write>) -> Changes {
    Changes { writes: writes.into_iter().collect(), ..Changes::new() }
}

pub(super) fn inserts<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Changes {
    writes(rows.into_iter().cloned().map(Write::Insert))
}

pub(super) fn appends<'a>(rows: impl IntoIterator<Item = &'a LogRow>) -> Changes {
    writes(rows.into_iter().cloned().map(Write::Append))
}

pub(super) async fn insert(store: &dyn Store, row: &Row) {
    store.commit(inserts([row])).await.unwrap();
}

/// A write that replaces what was read by `row`.
pub(super) fn update(row: &Row, expected: u64) -> Write {
    Write::Update { row: row.clone(), expected: Revision(expected) }
}

pub(super) fn delete(row: &Row, expected: u64) -> Write {
    Write::Delete { kind: row.kind, id: row.id, expected: Revision(expected) }
}

pub(super) fn check(row: &Row, expected: u64) -> Write {
    Write::Check { kind: row.kind, id: row.id, expected: Revision(expected) }
}

/// Reads a record whatever its tenant.
pub(super) async fn get(store: &dyn Store, row: &Row) -> Option<Stored<Row>> {
    store.get(&Scope::Instance, row.kind, row.id).await.unwrap()
}

pub(super) fn with_body(row: &Row, body: Value) -> Row {
    Row { body, ..row.clone() }
}

/// Narrows a query to an owner.
pub(super) fn owned_by(mut query: Query, owner: Uuid) -> Query {
    query.owner = Some(owner);
    query
}

/// Narrows a query to these ids.
pub(super) fn with_ids(mut query: Query, ids: impl IntoIterator<Item = Uuid>) -> Query {
    query.ids = Some(ids.into_iter().collect());
    query
}
