//! Rows of records and logs: their columns, how they are read and how they travel as JSON sets.

use super::{Backend, Cells, Fault, Instant};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use zentinel_core::id::{OrganisationId, ProjectId, TypedId as _};
use zentinel_core::log::{LogEntry, LogKind, LogRow};
use zentinel_core::port::NewJob;
use zentinel_core::{Error, RecordKind, Revision, Row, Stored, Timestamp};

/// What a column of a JSON set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    /// An id.
    Uuid,
    /// Text.
    Text,
    /// A number.
    Int,
    /// An instant.
    Time,
    /// A JSON document.
    Json,
}

/// A column of a JSON set.
pub(crate) type Column = (&'static str, ColumnType);

/// The columns of a record that its writer gives, without the revision.
pub(super) const RECORD: [Column; 9] = [
    ("id", ColumnType::Uuid),
    ("organisation_id", ColumnType::Uuid),
    ("project_id", ColumnType::Uuid),
    ("owner", ColumnType::Uuid),
    ("natural_key", ColumnType::Text),
    ("lookup_key", ColumnType::Text),
    ("state", ColumnType::Text),
    ("created_at", ColumnType::Time),
    ("body", ColumnType::Json),
];

/// The columns of a log entry, without the sequence.
pub(super) const LOG: [Column; 7] = [
    ("id", ColumnType::Uuid),
    ("organisation_id", ColumnType::Uuid),
    ("project_id", ColumnType::Uuid),
    ("owner", ColumnType::Uuid),
    ("at", ColumnType::Time),
    ("dedup_key", ColumnType::Text),
    ("body", ColumnType::Json),
];

/// The columns of a new job.
pub(super) const JOB: [Column; 7] = [
    ("id", ColumnType::Uuid),
    ("queue", ColumnType::Text),
    ("kind", ColumnType::Text),
    ("payload", ColumnType::Json),
    ("unique_key", ColumnType::Text),
    ("run_at", ColumnType::Time),
    ("max_attempts", ColumnType::Int),
];

/// The names of columns, joined by commas.
pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// The values of a set's columns, joined by commas.
pub(super) fn values(columns: &[Column]) -> String {
    let values: Vec<String> = columns.iter().map(value).collect();
    values.join(", ")
}

/// The value of a set's column.
pub(super) fn value((name, kind): &Column) -> String {
    match kind {
        // PostgreSQL makes no difference between a JSON null in a set and an absent value.
        ColumnType::Json => format!("coalesce(x.{name}, 'null')"),
        _ => format!("x.{name}"),
    }
}

/// A record within a JSON set.
#[derive(Serialize)]
pub(super) struct RecordItem<'a> {
    pub(super) id: Uuid,
    organisation_id: Option<OrganisationId>,
    project_id: Option<ProjectId>,
    owner: Uuid,
    natural_key: Option<&'a str>,
    lookup_key: Option<&'a str>,
    state: Option<&'a str>,
    created_at: Instant,
    body: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<u64>,
}

impl<'a> RecordItem<'a> {
    pub(super) fn new<B: Backend>(row: &'a Row, expected: Option<Revision>) -> Self {
        Self {
            id: row.id,
            organisation_id: row.organisation_id,
            project_id: row.project_id,
            owner: row.owner,
            natural_key: row.natural_key.as_deref(),
            lookup_key: row.lookup_key.as_deref(),
            state: row.state.as_deref(),
            created_at: B::instant(row.created_at),
            body: &row.body,
            expected: expected.map(|revision| revision.0),
        }
    }
}

/// A log entry within a JSON set.
#[derive(Serialize)]
pub(super) struct LogItem<'a> {
    id: Uuid,
    organisation_id: Option<OrganisationId>,
    project_id: Option<ProjectId>,
    owner: Uuid,
    at: Instant,
    dedup_key: Option<&'a str>,
    body: &'a Value,
    /// Its place among the entries of the set, from 1.
    place: u64,
}

impl<'a> LogItem<'a> {
    pub(super) fn new<B: Backend>(row: &'a LogRow, place: u64) -> Self {
        Self {
            id: row.id,
            organisation_id: row.organisation_id,
            project_id: row.project_id,
            owner: row.owner,
            at: B::instant(row.at),
            dedup_key: row.dedup_key.as_deref(),
            body: &row.body,
            place,
        }
    }
}

/// A job within a JSON set.
#[derive(Serialize)]
pub(super) struct JobItem<'a> {
    id: Uuid,
    queue: &'static str,
    kind: &'a str,
    payload: &'a Value,
    unique_key: Option<&'a str>,
    run_at: Instant,
    max_attempts: u32,
}

impl<'a> JobItem<'a> {
    pub(super) fn new<B: Backend>(job: &'a NewJob, run_at: Timestamp) -> Self {
        Self {
            id: job.id.uuid(),
            queue: job.queue.name(),
            kind: &job.kind,
            payload: &job.payload,
            unique_key: job.unique_key.as_deref(),
            run_at: B::instant(run_at),
            max_attempts: job.max_attempts.max(1),
        }
    }
}

/// What a column that is never NULL lacks.
pub(super) fn missing(column: &str) -> Fault {
    Fault::Refused(Error::internal(format!("the database returned no {column}")))
}

/// Reads a record; the columns are those of [`RECORD`], then the revision.
pub(super) fn record(kind: RecordKind, cells: &impl Cells) -> Result<Stored<Row>, Fault> {
    Ok(Stored {
        value: Row {
            kind,
            id: cells.uuid(0)?.ok_or_else(|| missing("id"))?,
            organisation_id: cells.uuid(1)?.map(OrganisationId::from_uuid),
            project_id: cells.uuid(2)?.map(ProjectId::from_uuid),
            owner: cells.uuid(3)?.ok_or_else(|| missing("owner"))?,
            natural_key: cells.text(4)?,
            lookup_key: cells.text(5)?,
            state: cells.text(6)?,
            created_at: cells.time(7)?.ok_or_else(|| missing("created_at"))?,
            body: serde_json::from_str(&cells.json(8)?)?,
        },
        revision: Revision(cells.count(9)?),
    })
}

/// Reads a log entry; the columns are those of [`LOG`], then the sequence.
pub(super) fn log_entry(kind: LogKind, cells: &impl Cells) -> Result<LogEntry, Fault> {
    Ok(LogEntry {
        row: LogRow {
            kind,
            id: cells.uuid(0)?.ok_or_else(|| missing("id"))?,
            organisation_id: cells.uuid(1)?.map(OrganisationId::from_uuid),
            project_id: cells.uuid(2)?.map(ProjectId::from_uuid),
            owner: cells.uuid(3)?.ok_or_else(|| missing("owner"))?,
            at: cells.time(4)?.ok_or_else(|| missing("at"))?,
            dedup_key: cells.text(5)?,
            body: serde_json::from_str(&cells.json(6)?)?,
        },
        seq: cells.count(7)?,
    })
}
