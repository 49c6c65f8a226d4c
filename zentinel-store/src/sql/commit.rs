//! The unit of work.

use super::plan::{Action, Entries, Plan, Set, Step};
use super::rows::{Column, ColumnType, JOB, LOG, RECORD, names, value, values};
use super::{Arg, Backend, Cells as _, Fault, Session, Statement};
use crate::notice::records;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use uuid::Uuid;
use zentinel_core::id::{ProjectId, TypedId as _};
use zentinel_core::log::LogKind;
use zentinel_core::port::{Notice, Receipt};
use zentinel_core::{Changes, Error, RecordKind, Result};

/// How often work is tried again that collided with other work.
pub(super) const RETRIES: u32 = 8;

/// Commits a unit of work.
pub(crate) async fn commit<B: Backend>(backend: &B, changes: Changes) -> Result<Receipt> {
    if changes.is_empty() {
        return Ok(Receipt::default());
    }
    let mut plan = Plan::new::<B>(&changes, true)?;
    let mut tries = 0;
    loop {
        match attempt(backend, &plan).await {
            Ok((receipt, notices)) => {
                backend.committed(notices);
                return Ok(receipt);
            }
            Err(fault) if fault.is_collision::<B>() && tries < RETRIES => {
                tries += 1;
                pause(tries).await;
            }
            // A key that the unit of work itself frees is only taken because of the grouping.
            Err(Fault::Taken(_)) if plan.grouped => plan = Plan::new::<B>(&changes, false)?,
            Err(fault) => return Err(fault.into_error::<B>()),
        }
    }
}

/// Waits a little, longer with every try and never as long as the other one.
pub(super) async fn pause(tries: u32) {
    let most = 2_u64.saturating_pow(tries.min(7));
    let wait = Duration::from_millis(rand::random_range(1..=most.max(1)));
    tracing::debug!(tries, ?wait, "trying again after a collision of transactions");
    tokio::time::sleep(wait).await;
}

async fn attempt<B: Backend>(backend: &B, plan: &Plan) -> Result<(Receipt, Vec<Notice>), Fault> {
    let mut transaction = backend.begin().await?;
    match carry_out::<B>(&mut transaction, plan).await {
        Ok(done) => {
            transaction.commit().await?;
            Ok(done)
        }
        Err(fault) => {
            // Free the connection at once; if that fails the connection is gone, and the
            // transaction with it.
            if let Err(error) = transaction.rollback().await {
                tracing::debug!(%error, "rollback failed");
            }
            Err(fault)
        }
    }
}

async fn carry_out<B: Backend>(
    connection: &mut B::Connection,
    plan: &Plan,
) -> Result<(Receipt, Vec<Notice>), Fault> {
    let mut changed = BTreeMap::new();
    for step in &plan.steps {
        let projects = apply::<B>(connection, step).await?;
        if step.action != Action::Check {
            let (ids, all): &mut (Vec<Uuid>, HashSet<Option<ProjectId>>) =
                changed.entry(step.kind).or_default();
            ids.extend(&step.ids);
            all.extend(projects);
        }
    }
    for entries in &plan.appended {
        append::<B>(connection, entries).await?;
    }
    if plan.jobs.rows > 0 {
        enqueue::<B>(connection, &plan.jobs).await?;
    }
    // Last, because giving out a sequence makes every other commit that needs one wait.
    let mut receipt = Receipt::default();
    for entries in &plan.numbered {
        let last = number::<B>(connection, entries).await?;
        if entries.log == LogKind::Event {
            receipt.last_event_seq = Some(last);
        }
    }
    let notices = notices(changed, plan, receipt.last_event_seq.is_some());
    B::announce(connection, &notices).await?;
    Ok((receipt, notices))
}

fn notices(
    changed: BTreeMap<RecordKind, (Vec<Uuid>, HashSet<Option<ProjectId>>)>,
    plan: &Plan,
    events: bool,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (kind, (mut ids, projects)) in changed {
        ids.sort_unstable();
        ids.dedup();
        let mut projects = projects.into_iter();
        let project_id = projects.next().flatten().filter(|_| projects.next().is_none());
        notices.extend(records(kind, project_id, ids, &plan.renewed));
    }
    notices.extend(events.then_some(Notice::Events));
    notices.extend((plan.jobs.rows > 0).then_some(Notice::Jobs));
    notices
}

/// Carries out one step; returns the projects of the records.
async fn apply<B: Backend>(
    connection: &mut B::Connection,
    step: &Step,
) -> Result<HashSet<Option<ProjectId>>, Fault> {
    let statement = Statement::new(text::<B>(step)).arg(Arg::Json(step.set.json()?));
    let taken = || Error::invalid_field(step.kind.natural_key_field(), "has already been taken");
    if matches!(step.action, Action::Insert | Action::Upsert) {
        connection.execute(statement).await.map_err(|error| Fault::from(error).on_taken(taken))?;
        return Ok(step.projects.clone());
    }
    let rows = connection.rows(statement).await.map_err(|error| Fault::from(error).on_taken(taken))?;
    let mut touched = HashSet::with_capacity(rows.len());
    let mut projects = step.projects.clone();
    for cells in &rows {
        touched.extend(cells.uuid(0)?);
        if step.action == Action::Delete {
            projects.insert(cells.uuid(1)?.map(ProjectId::from_uuid));
        }
    }
    match step.ids.iter().find(|id| !touched.contains(id)) {
        None => Ok(projects),
        Some(id) => Err(refusal::<B>(connection, step, *id).await?),
    }
}

/// Why a record was not touched.
async fn refusal<B: Backend>(connection: &mut B::Connection, step: &Step, id: Uuid) -> Result<Fault, Fault> {
    let text = format!("SELECT 1 FROM {} WHERE id = $1", step.kind.table());
    let is_there = !connection.rows(Statement::new(text).arg(id)).await?.is_empty();
    let noun = step.kind.noun();
    Ok(Fault::Refused(if is_there || step.action == Action::Check {
        Error::stale(noun)
    } else {
        Error::not_found(format!("{noun} not found"))
    }))
}

const EXPECTED: Column = ("expected", ColumnType::Int);

/// What a record keeps when it is upserted. Without them in the statement the indexes over them are
/// left alone, which is most of what an upsert would cost.
const FIXED: [&str; 5] = ["id", "organisation_id", "project_id", "owner", "created_at"];

fn text<B: Backend>(step: &Step) -> String {
    let table = step.kind.table();
    let columns = names(&RECORD);
    let values = values(&RECORD);
    let records = B::set(1, &RECORD);
    let assign = |kept: &[&str], from: fn(&Column) -> String| -> String {
        let columns = RECORD.iter().filter(|(name, _)| !kept.contains(name));
        columns.map(|column| format!("{} = {}, ", column.0, from(column))).collect()
    };
    let expected = B::set(1, &[("id", ColumnType::Uuid), EXPECTED]);
    match step.action {
        Action::Insert => {
            format!("INSERT INTO {table} ({columns}, revision) SELECT {values}, 1 FROM {records}")
        }
        Action::Upsert => format!(
            "INSERT INTO {table} ({columns}, revision) SELECT {values}, 1 FROM {records} WHERE true \
             ON CONFLICT (id) DO UPDATE SET {}revision = {table}.revision + 1",
            assign(&FIXED, |(name, _)| format!("excluded.{name}"))
        ),
        Action::Update => {
            let mut with_revision = RECORD.to_vec();
            with_revision.push(EXPECTED);
            format!(
                "UPDATE {table} SET {}revision = {table}.revision + 1 FROM {} \
                 WHERE {table}.id = x.id AND {table}.revision = x.expected RETURNING {table}.id",
                assign(&["id"], value),
                B::set(1, &with_revision)
            )
        }
        Action::Delete => format!(
            "DELETE FROM {table} WHERE (id, revision) IN (SELECT x.id, x.expected FROM {expected}) \
             RETURNING id, project_id"
        ),
        Action::Check => format!(
            "SELECT id FROM {table} WHERE (id, revision) IN (SELECT x.id, x.expected FROM {expected}){}",
            B::FOR_SHARE
        ),
    }
}

/// An entry whose id the log already has.
fn id_taken() -> Error {
    Error::invalid_field("id", "has already been taken")
}

/// Appends entries; those whose deduplication key the log has are dropped.
async fn append<B: Backend>(connection: &mut B::Connection, entries: &Entries) -> Result<(), Fault> {
    let table = entries.log.table();
    let mut text =
        format!("INSERT INTO {table} ({}) SELECT {} FROM {}", names(&LOG), values(&LOG), B::set(1, &LOG));
    // Reading the table that it writes makes the database put the rows aside first.
    if entries.keyed {
        text.push_str(&format!(
            " WHERE x.dedup_key IS NULL OR NOT EXISTS \
             (SELECT 1 FROM {table} AS t WHERE t.owner = x.owner AND t.dedup_key = x.dedup_key) \
             ON CONFLICT (owner, dedup_key) WHERE dedup_key IS NOT NULL DO NOTHING"
        ));
    }
    let statement = Statement::new(text).arg(Arg::Json(entries.set.json()?));
    connection.execute(statement).await.map_err(|error| Fault::from(error).on_taken(id_taken))?;
    Ok(())
}

/// Appends entries under the next numbers of their log; returns the last. The row of the
/// sequence stays locked until the commit, hence no gaps and the order of commits.
async fn number<B: Backend>(connection: &mut B::Connection, entries: &Entries) -> Result<u64, Fault> {
    let table = entries.log.table();
    let count = entries.set.rows as i64;
    let next = Statement::new("UPDATE log_sequences SET last = last + $1 WHERE log = $2 RETURNING last")
        .arg(count)
        .arg(table);
    let rows = connection.rows(next).await?;
    let Some(last) = rows.first().map(|cells| cells.int(0)).transpose()? else {
        return Err(Fault::Refused(Error::internal(format!("the sequence of {table} is missing"))));
    };
    let mut columns = LOG.to_vec();
    columns.push(("place", ColumnType::Int));
    let text = format!(
        "INSERT INTO {table} (seq, {}) SELECT $2 + x.place, {} FROM {}",
        names(&LOG),
        values(&LOG),
        B::set(1, &columns)
    );
    let statement = Statement::new(text).arg(Arg::Json(entries.set.json()?)).arg(last - count);
    connection.execute(statement).await.map_err(|error| Fault::from(error).on_taken(id_taken))?;
    Ok(u64::try_from(last).unwrap_or_default())
}

/// Adds jobs; one whose key already waits only brings that one forward.
pub(super) async fn enqueue<B: Backend>(connection: &mut B::Connection, jobs: &Set) -> Result<(), Fault> {
    let text = format!(
        "INSERT INTO jobs ({}) SELECT {} FROM {} WHERE true \
         ON CONFLICT (kind, unique_key) WHERE state = 'waiting' AND unique_key IS NOT NULL \
         DO UPDATE SET run_at = excluded.run_at WHERE excluded.run_at < jobs.run_at",
        names(&JOB),
        values(&JOB),
        B::set(1, &JOB)
    );
    let statement = Statement::new(text).arg(Arg::Json(jobs.json()?));
    connection.execute(statement).await.map_err(|error| Fault::from(error).on_taken(id_taken))?;
    Ok(())
}
