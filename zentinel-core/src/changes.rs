//! The unit of work.

use crate::entity::{AuditEntry, Event};
use crate::error::Result;
use crate::id::TypedId;
use crate::log::LogRow;
use crate::port::NewJob;
use crate::record::{Record, RecordKind, Revision, Row, Stored};
use std::collections::HashSet;
use uuid::Uuid;

/// One write of a unit of work.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A new record, at revision 1. Fails when the id or a unique key is taken.
    Insert(Row),
    /// Replaces a record that still has the expected revision; it gets the next one.
    Update {
        /// The new content.
        row: Row,
        /// The revision that was read.
        expected: Revision,
    },
    /// Inserts or replaces, whatever is there. For reported facts, where the newest wins. A record that
    /// is there keeps its tenant, project, owner and creation time.
    Upsert(Row),
    /// Removes a record that still has the expected revision.
    Delete {
        /// Its kind.
        kind: RecordKind,
        /// Its id.
        id: Uuid,
        /// The revision that was read.
        expected: Revision,
    },
    /// Writes nothing; fails the unit of work unless the record still has this revision.
    Check {
        /// Its kind.
        kind: RecordKind,
        /// Its id.
        id: Uuid,
        /// The revision that was read.
        expected: Revision,
    },
    /// Adds an entry to an append-only log. A repeated deduplication key adds nothing.
    Append(LogRow),
}

/// A set of writes with the audit entries, events and jobs that belong to them. It is committed
/// as a whole or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// The writes, carried out in order.
    pub writes: Vec<Write>,
    /// Who did what.
    pub audit: Vec<AuditEntry>,
    /// What the outside is told (transactional outbox).
    pub events: Vec<Event>,
    /// Background work that follows.
    pub jobs: Vec<NewJob>,
    /// The written records that were only renewed, see [`Changes::renew`].
    pub renewed: HashSet<Uuid>,
}

impl Changes {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.audit.is_empty() && self.events.is_empty() && self.jobs.is_empty()
    }

    /// Adds a new record.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the record does not serialise.
    pub fn insert<T: Record>(mut self, record: &T) -> Result<Self> {
        self.writes.push(Write::Insert(record.to_row()?));
        Ok(self)
    }

    /// Replaces a record that was read at `read`'s revision.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the record does not serialise.
    pub fn update<T: Record>(mut self, read: &Stored<T>, record: &T) -> Result<Self> {
        self.writes.push(Write::Update { row: record.to_row()?, expected: read.revision });
        Ok(self)
    }

    /// Inserts or replaces a record.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the record does not serialise.
    pub fn upsert<T: Record>(mut self, record: &T) -> Result<Self> {
        self.writes.push(Write::Upsert(record.to_row()?));
        Ok(self)
    }

    /// Inserts or replaces a record whose new version says again what the last one said, only
    /// later: watchers are told so apart from true changes.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the record does not serialise.
    pub fn renew<T: Record>(mut self, record: &T) -> Result<Self> {
        self.renewed.insert(record.id().uuid());
        self.upsert(record)
    }

    /// Removes a record that was read.
    #[must_use]
    pub fn delete<T: Record>(mut self, read: &Stored<T>) -> Self {
        self.writes.push(Write::Delete {
            kind: T::KIND,
            id: read.value.id().uuid(),
            expected: read.revision,
        });
        self
    }

    /// Demands that a record is still as it was read.
    #[must_use]
    pub fn check<T: Record>(mut self, read: &Stored<T>) -> Self {
        self.writes.push(Write::Check { kind: T::KIND, id: read.value.id().uuid(), expected: read.revision });
        self
    }

    /// Adds an entry to an append-only log.
    #[must_use]
    pub fn append(mut self, row: LogRow) -> Self {
        self.writes.push(Write::Append(row));
        self
    }

    /// Adds an audit entry.
    #[must_use]
    pub fn audit(mut self, entry: AuditEntry) -> Self {
        self.audit.push(entry);
        self
    }

    /// Adds an event.
    #[must_use]
    pub fn event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    /// Adds a job.
    #[must_use]
    pub fn job(mut self, job: NewJob) -> Self {
        self.jobs.push(job);
        self
    }

    /// Appends another unit of work to this one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.writes.extend(other.writes);
        self.audit.extend(other.audit);
        self.events.extend(other.events);
        self.jobs.extend(other.jobs);
        self.renewed.extend(other.renewed);
        self
    }
}
