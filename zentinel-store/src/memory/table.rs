//! The tables: rows by id, and their unique keys.

use super::stage::{Applied, Changed};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;
use zentinel_core::{RecordKind, Row, Stored};

/// Every table.
#[derive(Default)]
pub(super) struct Tables {
    tables: HashMap<RecordKind, Table>,
}

#[derive(Default)]
struct Table {
    rows: HashMap<Uuid, Stored<Row>>,
    /// By owner, then natural key.
    natural: HashMap<Uuid, HashMap<String, Uuid>>,
    lookup: HashMap<String, Uuid>,
    owned: HashMap<Uuid, HashSet<Uuid>>,
}

impl Tables {
    pub(super) fn get(&self, kind: RecordKind, id: Uuid) -> Option<&Stored<Row>> {
        self.tables.get(&kind)?.rows.get(&id)
    }

    /// Every row of a kind, in no order.
    pub(super) fn rows(&self, kind: RecordKind) -> impl Iterator<Item = &Stored<Row>> {
        self.tables.get(&kind).into_iter().flat_map(|table| table.rows.values())
    }

    /// The rows that belong to `owner`, in no order.
    pub(super) fn owned(&self, kind: RecordKind, owner: Uuid) -> impl Iterator<Item = &Stored<Row>> {
        let table = self.tables.get(&kind);
        let ids = table.and_then(|table| table.owned.get(&owner));
        ids.into_iter().flatten().filter_map(move |id| table?.rows.get(id))
    }

    pub(super) fn natural_holder(&self, kind: RecordKind, owner: Uuid, key: &str) -> Option<Uuid> {
        self.tables.get(&kind)?.natural.get(&owner)?.get(key).copied()
    }

    pub(super) fn lookup_holder(&self, kind: RecordKind, key: &str) -> Option<Uuid> {
        self.tables.get(&kind)?.lookup.get(key).copied()
    }

    /// Applies checked rows; `None` removes one. Old rows go first, so that keys may change hands.
    pub(super) fn apply(&mut self, rows: BTreeMap<(RecordKind, Uuid), Option<Stored<Row>>>) -> Applied {
        let mut applied = Applied::default();
        for ((kind, id), new) in &rows {
            let old = self.tables.entry(*kind).or_default().remove(*id);
            let Some(row) = new.as_ref().or(old.as_ref()) else {
                continue;
            };
            applied.records.entry(*kind).or_insert_with(Changed::default).add(row);
        }
        for ((kind, _), new) in rows {
            if let Some(row) = new {
                self.tables.entry(kind).or_default().insert(row);
            }
        }
        applied
    }
}

impl Table {
    fn insert(&mut self, row: Stored<Row>) {
        if let Some(key) = &row.natural_key {
            self.natural.entry(row.owner).or_default().insert(key.clone(), row.id);
        }
        if let Some(key) = &row.lookup_key {
            self.lookup.insert(key.clone(), row.id);
        }
        self.owned.entry(row.owner).or_default().insert(row.id);
        self.rows.insert(row.id, row);
    }

    fn remove(&mut self, id: Uuid) -> Option<Stored<Row>> {
        let row = self.rows.remove(&id)?;
        if let Some(key) = &row.natural_key
            && let Some(keys) = self.natural.get_mut(&row.owner)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.natural.remove(&row.owner);
            }
        }
        if let Some(key) = &row.lookup_key {
            self.lookup.remove(key);
        }
        if let Some(ids) = self.owned.get_mut(&row.owner) {
            ids.remove(&id);
            if ids.is_empty() {
                self.owned.remove(&row.owner);
            }
        }
        Some(row)
    }
}
