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
        self.push_encoded(&serde_json::to_vec(item)?);
        Ok(())
    }

    fn push_encoded(&mut self, item: &[u8]) {
        self.json.push(if self.rows == 0 { b'[' } else { b',' });
        self.json.extend_from_slice(item);
        self.rows += 1;
    }

    fn is_full(&self) -> bool {
        self.rows >= MAX_ROWS || self.json.len() >= MAX_BYTES
    }

    /// The finished JSON array.
    pub(super) fn json(&self) -> Result<String> {
        let text = std::str::from_utf8(&self.json);
        let text = text.map_err(|error| Error::internal("JSON is not UTF-8").with_source(error))?;
        Ok(if self.rows == 0 { "[]".to_owned() } else { format!("{text}]") })
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
    /// Whether some have a deduplication key.
    pub(super) keyed: bool,
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
    /// The records that are only renewed.
    pub(super) renewed: HashSet<Uuid>,
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
            renewed: changes.renewed.clone(),
        };
        for (log, rows) in logs {
            entries::<B>(log, &distinct(rows), &mut plan.appended)?;
        }
        entries::<B>(LogKind::Audit, &audit.iter().collect::<Vec<_>>(), &mut plan.numbered)?;
        entries::<B>(LogKind::Event, &events.iter().collect::<Vec<_>>(), &mut plan.numbered)?;
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
                return Err(Error::invalid("audit entries and events are not appended directly"));
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
    let action = writes.first().map_or(Action::Check, |(action, _, _)| *action);
    let most = if group { MAX_ROWS } else { 1 };
    let mut step = Step { kind, action, ids: Vec::new(), projects: HashSet::new(), set: Set::default() };
    let mut seen = HashSet::new();
    let mut items = Vec::new();
    let mut bytes = 0;
    for (next, id, write) in writes.iter().take(most) {
        if *next != action || bytes >= MAX_BYTES || !seen.insert(*id) {
            break;
        }
        let item = item::<B>(write)?;
        bytes += item.len();
        items.push((*id, item));
        step.ids.push(*id);
        if let Write::Insert(row) | Write::Update { row, .. } | Write::Upsert(row) = write {
            step.projects.insert(row.project_id);
        }
    }
    // Two units of work that write the same records should lock them in the same order.
    items.sort_unstable_by_key(|(id, _)| *id);
    for (_, item) in &items {
        step.set.push_encoded(item);
    }
    Ok((step, items.len()))
}

/// What a set says of one write.
fn item<B: Backend>(write: &Write) -> Result<Vec<u8>> {
    Ok(match write {
        Write::Insert(row) | Write::Upsert(row) => serde_json::to_vec(&RecordItem::new::<B>(row, None))?,
        Write::Update { row, expected } => serde_json::to_vec(&RecordItem::new::<B>(row, Some(*expected)))?,
        Write::Delete { id, expected, .. } | Write::Check { id, expected, .. } => {
            serde_json::to_vec(&Expected { id: *id, expected: *expected })?
        }
        Write::Append(row) => serde_json::to_vec(&LogItem::new::<B>(row, 1))?,
    })
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
    let keyed = rows.iter().any(|row| row.dedup_key.is_some());
    for row in rows {
        if set.is_full() {
            into.push(Entries { log, set: std::mem::take(&mut set), keyed });
        }
        let place = set.rows as u64 + 1;
        set.push(&LogItem::new::<B>(row, place))?;
    }
    if set.rows > 0 {
        into.push(Entries { log, set, keyed });
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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::sqlite::Lite;
    use serde_json::{Value, json};
    use zentinel_core::id::{OrganisationId, TypedId as _};
    use zentinel_core::port::Queue;

    fn row(kind: RecordKind, id: u128) -> zentinel_core::Row {
        zentinel_core::Row {
            kind,
            id: Uuid::from_u128(id),
            organisation_id: Some(OrganisationId::from_uuid(Uuid::nil())),
            project_id: None,
            owner: Uuid::nil(),
            natural_key: None,
            lookup_key: None,
            state: None,
            created_at: Timestamp::UNIX_EPOCH,
            body: json!({ "id": id.to_string() }),
        }
    }

    fn beat(owner: u128, key: Option<&str>) -> Write {
        Write::Append(LogRow {
            kind: LogKind::Heartbeat,
            id: Uuid::new_v4(),
            organisation_id: None,
            project_id: None,
            owner: Uuid::from_u128(owner),
            at: Timestamp::UNIX_EPOCH,
            dedup_key: key.map(str::to_owned),
            body: Value::Null,
        })
    }

    #[expect(clippy::unwrap_used, reason = "tests may panic")]
    fn plan(writes: Vec<Write>, group: bool) -> Plan {
        Plan::new::<Lite>(&Changes { writes, ..Changes::new() }, group).unwrap()
    }

    #[test]
    fn a_flush_of_reports_and_heartbeats_takes_two_statements() {
        let pair = |id| [Write::Upsert(row(RecordKind::NodeReport, id)), beat(id, None)];
        let plan = plan((0..1_000).rev().flat_map(pair).collect(), true);
        assert_eq!((plan.steps.len(), plan.appended.len()), (1, 1));
        assert_eq!((plan.steps[0].set.rows, plan.appended[0].set.rows), (1_000, 1_000));
        assert!(plan.grouped);
        // Encoded in the order of ids, remembered in the order of the writes.
        assert_eq!(plan.steps[0].ids[0], Uuid::from_u128(999));
        let rows: Vec<Value> = serde_json::from_str(&plan.steps[0].set.json().unwrap()).unwrap();
        assert!(rows.is_sorted_by_key(|row| row["id"].as_str().map(str::to_owned)));
    }

    #[test]
    fn the_order_within_a_kind_is_kept() {
        let node = |id| row(RecordKind::Node, id);
        let update = |id, revision| Write::Update { row: node(id), expected: Revision(revision) };
        let writes = vec![
            Write::Insert(row(RecordKind::Bundle, 9)),
            update(1, 1),
            update(2, 1),
            Write::Insert(row(RecordKind::Bundle, 8)),
            update(1, 2),
            Write::Check { kind: RecordKind::Node, id: Uuid::from_u128(1), expected: Revision(3) },
        ];
        let steps = |group| -> Vec<(RecordKind, Action, usize)> {
            let plan = plan(writes.clone(), group);
            plan.steps.iter().map(|step| (step.kind, step.action, step.set.rows)).collect()
        };
        assert_eq!(
            steps(true),
            [
                (RecordKind::Node, Action::Update, 2),
                (RecordKind::Node, Action::Update, 1),
                (RecordKind::Node, Action::Check, 1),
                (RecordKind::Bundle, Action::Insert, 2),
            ]
        );
        assert_eq!(steps(false).len(), 6);
    }

    #[test]
    fn large_sets_are_cut() {
        let mut large = row(RecordKind::BundleSource, 0);
        large.body = "x".repeat(3_000_000).into();
        let writes =
            (0..4).map(|id| Write::Insert(zentinel_core::Row { id: Uuid::from_u128(id), ..large.clone() }));
        let sizes = |plan: Plan| plan.steps.iter().map(|step| step.set.rows).collect::<Vec<_>>();
        assert_eq!(sizes(plan(writes.collect(), true)), [3, 1]);
        let many = (0..MAX_ROWS as u128 + 1).map(|id| Write::Insert(row(RecordKind::Node, id)));
        assert_eq!(sizes(plan(many.collect(), true)), [MAX_ROWS, 1]);
    }

    #[test]
    fn repeated_keys_become_one() {
        let repeated =
            plan(vec![beat(1, Some("a")), beat(1, Some("a")), beat(2, Some("a")), beat(1, None)], true);
        assert_eq!(repeated.appended[0].set.rows, 3);
        let job = |second: i64, key: Option<&str>| NewJob {
            unique_key: key.map(str::to_owned),
            ..NewJob::new(Queue::Default, "tick", Value::Null, Timestamp::from_timestamp(second, 0).unwrap())
        };
        let set =
            jobs::<Lite>(&[job(9, Some("a")), job(3, Some("a")), job(5, None), job(7, Some("b"))]).unwrap();
        let rows: Vec<Value> = serde_json::from_str(&set.json().unwrap()).unwrap();
        let due: Vec<i64> = rows.iter().map(|row| row["run_at"].as_i64().unwrap() / 1_000_000).collect();
        assert_eq!(due, [3, 5, 7]);
    }

    #[test]
    fn audit_entries_are_not_appended_directly() {
        let mut write = beat(1, None);
        if let Write::Append(row) = &mut write {
            row.kind = LogKind::Audit;
        }
        let changes = Changes { writes: vec![write], ..Changes::new() };
        assert!(Plan::new::<Lite>(&changes, true).is_err());
    }
}
