//! A unit of work laid over the tables: everything is checked here before anything is applied.

use super::journal::Logs;
use super::table::Tables;
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;
use zentinel_core::id::ProjectId;
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::{Error, RecordKind, Result, Revision, Row, Stored, Timestamp, Write};

/// A unit of work under way: what it wrote so far hides what the tables hold.
pub(super) struct Stage<'a> {
    tables: &'a Tables,
    logs: &'a Logs,
    rows: BTreeMap<(RecordKind, Uuid), Option<Stored<Row>>>,
    natural: HashMap<(RecordKind, Uuid, String), Option<Uuid>>,
    lookup: HashMap<(RecordKind, String), Option<Uuid>>,
    entries: Vec<LogRow>,
    entry_ids: HashSet<(LogKind, Uuid)>,
    dedup_keys: HashSet<(LogKind, Uuid, String)>,
}

/// A checked unit of work.
pub(super) struct Staged {
    /// The rows to write; `None` removes one.
    pub(super) rows: BTreeMap<(RecordKind, Uuid), Option<Stored<Row>>>,
    /// The log entries to append.
    pub(super) entries: Vec<LogRow>,
}

/// What a commit did, for the watchers.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) records: BTreeMap<RecordKind, Changed>,
    pub(super) events: bool,
    pub(super) jobs: bool,
}

/// The changed records of one kind.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) ids: Vec<Uuid>,
    projects: HashSet<Option<ProjectId>>,
}

impl Changed {
    pub(super) fn add(&mut self, row: &Row) {
        self.ids.push(row.id);
        self.projects.insert(row.project_id);
    }

    /// The project of them all, if it is one.
    pub(super) fn common_project(&self) -> Option<ProjectId> {
        match self.projects.len() {
            1 => self.projects.iter().next().copied().flatten(),
            _ => None,
        }
    }
}

impl<'a> Stage<'a> {
    pub(super) fn new(tables: &'a Tables, logs: &'a Logs) -> Self {
        Self {
            tables,
            logs,
            rows: BTreeMap::new(),
            natural: HashMap::new(),
            lookup: HashMap::new(),
            entries: Vec::new(),
            entry_ids: HashSet::new(),
            dedup_keys: HashSet::new(),
        }
    }

    pub(super) fn finish(self) -> Staged {
        Staged { rows: self.rows, entries: self.entries }
    }

    /// Carries out one write on the overlay.
    pub(super) fn write(&mut self, write: Write) -> Result<()> {
        match write {
            Write::Insert(row) => {
                if self.current(row.kind, row.id).is_some() {
                    return Err(taken(row.kind));
                }
                self.put(row, Revision(1))
            }
            Write::Update { row, expected } => {
                self.expect(row.kind, row.id, expected)?;
                self.put(row, Revision(expected.0 + 1))
            }
            Write::Upsert(row) => match self.current(row.kind, row.id) {
                None => self.put(row, Revision(1)),
                Some(old) => {
                    let revision = Revision(old.revision.0 + 1);
                    let (organisation_id, project_id) = (old.value.organisation_id, old.value.project_id);
                    let (owner, created_at) = (old.value.owner, old.value.created_at);
                    self.put(Row { organisation_id, project_id, owner, created_at, ..row }, revision)
                }
            },
            Write::Delete { kind, id, expected } => {
                self.expect(kind, id, expected)?;
                self.release_keys(kind, id);
                self.rows.insert((kind, id), None);
                Ok(())
            }
            Write::Check { kind, id, expected } => match self.current(kind, id) {
                Some(row) if row.revision == expected => Ok(()),
                _ => Err(Error::stale(kind.noun())),
            },
            Write::Append(row) if matches!(row.kind, LogKind::Audit | LogKind::Event) => {
                Err(Error::invalid("audit entries and events are not appended directly"))
            }
            Write::Append(row) => self.append(row),
        }
    }

    /// Adds a log entry, unless its deduplication key is known.
    pub(super) fn append(&mut self, mut row: LogRow) -> Result<()> {
        if let Some(key) = &row.dedup_key {
            let known = self.logs.has_key(row.kind, row.owner, key);
            if known || !self.dedup_keys.insert((row.kind, row.owner, key.clone())) {
                return Ok(());
            }
        }
        if self.logs.has_id(row.kind, row.id) || !self.entry_ids.insert((row.kind, row.id)) {
            return Err(Error::invalid_field("id", "has already been taken"));
        }
        row.at = to_micros(row.at);
        self.entries.push(row);
        Ok(())
    }

    fn current(&self, kind: RecordKind, id: Uuid) -> Option<&Stored<Row>> {
        match self.rows.get(&(kind, id)) {
            Some(staged) => staged.as_ref(),
            None => self.tables.get(kind, id),
        }
    }

    fn expect(&self, kind: RecordKind, id: Uuid, expected: Revision) -> Result<()> {
        match self.current(kind, id) {
            None => Err(Error::not_found(format!("{} not found", kind.noun()))),
            Some(row) if row.revision != expected => Err(Error::stale(kind.noun())),
            Some(_) => Ok(()),
        }
    }

    fn put(&mut self, mut row: Row, revision: Revision) -> Result<()> {
        row.created_at = to_micros(row.created_at);
        self.release_keys(row.kind, row.id);
        if let Some(key) = &row.natural_key {
            let place = (row.kind, row.owner, key.clone());
            let holder = match self.natural.get(&place) {
                Some(staged) => *staged,
                None => self.tables.natural_holder(row.kind, row.owner, key),
            };
            if holder.is_some() {
                return Err(taken(row.kind));
            }
            self.natural.insert(place, Some(row.id));
        }
        if let Some(key) = &row.lookup_key {
            let place = (row.kind, key.clone());
            let holder = match self.lookup.get(&place) {
                Some(staged) => *staged,
                None => self.tables.lookup_holder(row.kind, key),
            };
            if holder.is_some() {
                return Err(taken(row.kind));
            }
            self.lookup.insert(place, Some(row.id));
        }
        self.rows.insert((row.kind, row.id), Some(Stored { value: row, revision }));
        Ok(())
    }

    /// Frees the unique keys that the current version of a record holds.
    fn release_keys(&mut self, kind: RecordKind, id: Uuid) {
        let Some(row) = self.current(kind, id) else { return };
        let natural = row.natural_key.clone().map(|key| (kind, row.owner, key));
        let lookup = row.lookup_key.clone().map(|key| (kind, key));
        self.natural.extend(natural.map(|place| (place, None)));
        self.lookup.extend(lookup.map(|place| (place, None)));
    }
}

fn taken(kind: RecordKind) -> Error {
    Error::invalid_field(kind.natural_key_field(), "has already been taken")
}

/// Storage keeps microseconds.
fn to_micros(at: Timestamp) -> Timestamp {
    Timestamp::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}
