//! The append-only logs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use uuid::Uuid;
use zentinel_core::Scope;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, LogRow, Retention};

/// The most entries of one read.
const MAX_ENTRIES: u32 = 500;

/// Every log.
#[derive(Default)]
pub(super) struct Logs {
    logs: HashMap<LogKind, Log>,
}

#[derive(Default)]
struct Log {
    /// The last number given; trimming never lowers it.
    last_seq: u64,
    entries: BTreeMap<u64, LogRow>,
    by_owner: HashMap<Uuid, BTreeSet<u64>>,
    ids: HashSet<Uuid>,
    /// By owner, then deduplication key.
    keys: HashMap<Uuid, HashSet<String>>,
}

impl Logs {
    pub(super) fn has_id(&self, kind: LogKind, id: Uuid) -> bool {
        self.logs.get(&kind).is_some_and(|log| log.ids.contains(&id))
    }

    pub(super) fn has_key(&self, kind: LogKind, owner: Uuid, key: &str) -> bool {
        let keys = self.logs.get(&kind).and_then(|log| log.keys.get(&owner));
        keys.is_some_and(|keys| keys.contains(key))
    }

    pub(super) fn last_seq(&self, kind: LogKind) -> u64 {
        self.logs.get(&kind).map_or(0, |log| log.last_seq)
    }

    /// Appends an entry that was checked.
    pub(super) fn append(&mut self, row: LogRow) {
        let log = self.logs.entry(row.kind).or_default();
        log.last_seq += 1;
        log.by_owner.entry(row.owner).or_default().insert(log.last_seq);
        log.ids.insert(row.id);
        if let Some(key) = &row.dedup_key {
            log.keys.entry(row.owner).or_default().insert(key.clone());
        }
        log.entries.insert(log.last_seq, row);
    }

    pub(super) fn read(&self, scope: &Scope, query: &LogQuery) -> Vec<LogEntry> {
        let Some(log) = self.logs.get(&query.kind) else {
            return Vec::new();
        };
        let after = if query.newest_first { 0 } else { query.beyond.unwrap_or(0) };
        let before = if query.newest_first { query.beyond.unwrap_or(u64::MAX) } else { u64::MAX };
        if after == u64::MAX || before == 0 {
            return Vec::new();
        }
        let range = (after + 1).min(before)..before;
        let numbers: Box<dyn DoubleEndedIterator<Item = u64>> = match query.owner {
            Some(owner) => match log.by_owner.get(&owner) {
                Some(numbers) => Box::new(numbers.range(range).copied()),
                None => return Vec::new(),
            },
            None => Box::new(log.entries.range(range).map(|(seq, _)| *seq)),
        };
        let numbers: Box<dyn Iterator<Item = u64>> =
            if query.newest_first { Box::new(numbers.rev()) } else { Box::new(numbers) };
        numbers
            .filter_map(|seq| log.entries.get(&seq).map(|row| (seq, row)))
            .filter(|(_, row)| scope.contains(row.organisation_id, row.project_id))
            .take(query.limit.clamp(1, MAX_ENTRIES) as usize)
            .map(|(seq, row)| LogEntry { seq, row: row.clone() })
            .collect()
    }

    pub(super) fn trim(&mut self, kind: LogKind, retention: Retention) -> u64 {
        let Some(log) = self.logs.get_mut(&kind) else {
            return 0;
        };
        let mut doomed = BTreeSet::new();
        if let Some(not_before) = retention.not_before {
            doomed.extend(log.entries.iter().filter(|(_, row)| row.at < not_before).map(|(seq, _)| *seq));
        }
        if let Some(keep) = retention.per_owner {
            let surplus = |numbers: &BTreeSet<u64>| numbers.len().saturating_sub(keep as usize);
            doomed.extend(
                log.by_owner.values().flat_map(|numbers| numbers.iter().take(surplus(numbers)).copied()),
            );
        }
        for seq in &doomed {
            log.remove(*seq);
        }
        doomed.len() as u64
    }
}

impl Log {
    fn remove(&mut self, seq: u64) {
        let Some(row) = self.entries.remove(&seq) else {
            return;
        };
        self.ids.remove(&row.id);
        if let Some(numbers) = self.by_owner.get_mut(&row.owner) {
            numbers.remove(&seq);
            if numbers.is_empty() {
                self.by_owner.remove(&row.owner);
            }
        }
        if let Some(key) = &row.dedup_key
            && let Some(keys) = self.keys.get_mut(&row.owner)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&row.owner);
            }
        }
    }
}
