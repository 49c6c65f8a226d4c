//! A unit of work made ready: grouped into sets and encoded before a connection is taken, so that
//! transactions are short and a retry costs no work.

use super::Backend;
use super::rows::{JobItem, LogItem, RecordItem};
use crate::journal::{audit_row, event_row};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;
use zentinel_core::id::ProjectId;
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::port::NewJob;
use zentinel_core::{Changes, Error, RecordKind, Result, Revision, Timestamp, Write};

/// The most rows in one set.
const MAX_ROWS: usize = 5_000;
/// A set is closed once it has this many bytes.
const MAX_BYTES: usize = 8_000_000;

/// What is done with the rows of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Insert,
    Update,
    Upsert,
    Delete,
    Check,
}

/// Rows for one statement.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// A JSON array.
    json: Vec<u8>,
    /// How many rows it has.
    pub(super) rows: usize,
}

impl Set {
    fn push(&mut self, item: &impl Serialize) -> Result<()> {
        self.json.push(if self.rows == 0 { b'[' } else { b',' });
        serde_json::to_writer(&mut self.json, item)?;
        self.rows += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= MAX_ROWS || self.json.len() >= MAX_BYTES
    }

    /// The finished JSON array.
    pub(super) fn json(&self) -> Result<String> {
        let text = std::str::from_utf8(&self.json);
        let text = text.map_err(|error| Error::internal("JSON is not UTF-8").with_source(error))?;
        Ok(if self.rows == 0 {
            "[]".to_owned()
        } else {
            format!("{text}]")
        })
    }
}

/// Writes of one kind and action, none of which touches the same record twice.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kind: RecordKind,
    pub(super) action: Action,
    /// The records, in the order of the writes.
    pub(super) ids: Vec<Uuid>,
    /// Their projects, as far as the writes say.
    pub(super) projects: HashSet<Option<ProjectId>>,
    pub(super) set: Set,
}

/// Entries of one log.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) log: LogKind,
    pub(super) set: Set,
}

/// A unit of work, ready to be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Entries of logs whose sequences the database gives.
    pub(super) appended: Vec<Entries>,
    /// Entries of the audit log, then events: their sequences have no gaps.
    pub(super) numbered: Vec<Entries>,
    pub(super) jobs: Set,
    /// Whether some step has several rows.
    pub(super) grouped: bool,
}

impl Plan {
    /// Makes a unit of work ready. With `group` false every record is written by a statement of
    /// its own, in order: then a unique key may change hands within the unit of work.
    pub(super) fn new<B: Backend>(changes: &Changes, group: bool) -> Result<Self> {
        let (steps, logs) = steps::<B>(&changes.writes, group)?;
        let audit = changes.audit.iter().map(audit_row).collect::<Result<Vec<_>>>()?;
        let events = changes.events.iter().map(event_row).collect::<Result<Vec<_>>>()?;
        let mut plan = Self {
            grouped: steps.iter().any(|step| step.ids.len() > 1),
            steps,
            appended: Vec::new(),
            numbered: Vec::new(),
            jobs: jobs::<B>(&changes.jobs)?,
        };
        for (log, rows) in logs {
            entries::<B>(log, &distinct(rows), &mut plan.appended)?;
        }
        entries::<B>(
            LogKind::Audit,
            &audit.iter().collect::<Vec<_>>(),
            &mut plan.numbered,
        )?;
        entries::<B>(
            LogKind::Event,
            &events.iter().collect::<Vec<_>>(),
            &mut plan.numbered,
        )?;
        Ok(plan)
    }
}

type Logs<'a> = BTreeMap<LogKind, Vec<&'a LogRow>>;

/// Kinds are independent of each other and taken in a fixed order, so that two units of work
/// lock their tables in the same one. Within a kind the order of the writes is kept.
fn steps<B: Backend>(writes: &[Write], group: bool) -> Result<(Vec<Step>, Logs<'_>)> {
    let mut kinds: BTreeMap<RecordKind, Vec<(Action, Uuid, &Write)>> = BTreeMap::new();
    let mut logs = Logs::new();
    for write in writes {
        let (kind, action, id) = match write {
            Write::Insert(row) => (row.kind, Action::Insert, row.id),
            Write::Update { row, .. } => (row.kind, Action::Update, row.id),
            Write::Upsert(row) => (row.kind, Action::Upsert, row.id),
            Write::Delete { kind, id, .. } => (*kind, Action::Delete, *id),
            Write::Check { kind, id, .. } => (*kind, Action::Check, *id),
            Write::Append(row) if matches!(row.kind, LogKind::Audit | LogKind::Event) => {
                return Err(Error::invalid(
                    "audit entries and events are not appended directly",
                ));
            }
            Write::Append(row) => {
                logs.entry(row.kind).or_default().push(row);
                continue;
            }
        };
        kinds.entry(kind).or_default().push((action, id, write));
    }
    let mut steps = Vec::new();
    for (kind, writes) in kinds {
        let mut rest = writes.as_slice();
        while !rest.is_empty() {
            let (step, taken) = step::<B>(kind, rest, group)?;
            steps.push(step);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
    Ok((steps, logs))
}

/// The longest step that the writes begin with, and how many writes it takes.
fn step<B: Backend>(
    kind: RecordKind,
    writes: &[(Action, Uuid, &Write)],
    group: bool,
) -> Result<(Step, usize)> {
    let mut seen = HashSet::new();
    let action = writes.first().map_or(Action::Check, |(action, _, _)| *action);
    let mut run: Vec<_> = writes
        .iter()
        .take_while(|(next, id, _)| *next == action && seen.insert(*id))
        .take(if group { MAX_ROWS } else { 1 })
        .collect();
    // Two units of work that write the same records should lock them in the same order.
    run.sort_unstable_by_key(|(_, id, _)| *id);
    let mut step = Step {
        kind,
        action,
        ids: Vec::new(),
        projects: HashSet::new(),
        set: Set::default(),
    };
    let mut written = HashSet::new();
    for (_, id, write) in &run {
        if step.set.is_full() {
            break;
        }
        step.push::<B>(write)?;
        written.insert(*id);
    }
    if written.len() == run.len() {
        step.ids = writes.iter().take(run.len()).map(|(_, id, _)| *id).collect();
        return Ok((step, run.len()));
    }
    // The set was full: as many writes as it took, in their own order.
    let taken = written.len();
    let mut step = Step {
        kind,
        action,
        ids: Vec::new(),
        projects: HashSet::new(),
        set: Set::default(),
    };
    for (_, id, write) in writes.iter().take(taken) {
        step.push::<B>(write)?;
        step.ids.push(*id);
    }
    Ok((step, taken))
}

impl Step {
    fn push<B: Backend>(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::Insert(row) | Write::Upsert(row) => {
                self.projects.insert(row.project_id);
                self.set.push(&RecordItem::new::<B>(row, None))
            }
            Write::Update { row, expected } => {
                self.projects.insert(row.project_id);
                self.set.push(&RecordItem::new::<B>(row, Some(*expected)))
            }
            Write::Delete { id, expected, .. } | Write::Check { id, expected, .. } => {
                self.set.push(&Expected {
                    id: *id,
                    expected: *expected,
                })
            }
            Write::Append(_) => Ok(()),
        }
    }
}

/// A record that must have a revision.
#[derive(Serialize)]
struct Expected {
    id: Uuid,
    expected: Revision,
}

/// Without entries whose deduplication key the unit of work itself repeats.
fn distinct(rows: Vec<&LogRow>) -> Vec<&LogRow> {
    let mut seen = HashSet::new();
    let is_new = |row: &&LogRow| match &row.dedup_key {
        Some(key) => seen.insert((row.owner, key.clone())),
        None => true,
    };
    rows.into_iter().filter(is_new).collect()
}

fn entries<B: Backend>(log: LogKind, rows: &[&LogRow], into: &mut Vec<Entries>) -> Result<()> {
    let mut set = Set::default();
    for row in rows {
        if set.is_full() {
            into.push(Entries {
                log,
                set: std::mem::take(&mut set),
            });
        }
        let place = set.rows as u64 + 1;
        set.push(&LogItem::new::<B>(row, place))?;
    }
    if set.rows > 0 {
        into.push(Entries { log, set });
    }
    Ok(())
}

/// Jobs with the same key become one, due at the earliest of their instants.
pub(super) fn jobs<B: Backend>(jobs: &[NewJob]) -> Result<Set> {
    let mut earliest: HashMap<(&str, &str), Timestamp> = HashMap::new();
    let key = |job: &'_ NewJob| job.unique_key.is_some();
    for job in jobs.iter().filter(|job| key(job)) {
        let place = (job.kind.as_str(), job.unique_key.as_deref().unwrap_or_default());
        let at = earliest.entry(place).or_insert(job.run_at);
        *at = job.run_at.min(*at);
    }
    let mut set = Set::default();
    for job in jobs {
        let run_at = match &job.unique_key {
            None => Some(job.run_at),
            Some(key) => earliest.remove(&(job.kind.as_str(), key.as_str())),
        };
        if let Some(run_at) = run_at {
            set.push(&JobItem::new::<B>(job, run_at))?;
        }
    }
    Ok(set)
}
