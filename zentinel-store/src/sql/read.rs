//! Reading records.

use super::fault::tell;
use super::rows::{RECORD, names, record};
use super::{Arg, Backend, Cells as _, Fault, Session as _, Statement};
use crate::cursor::{Cursor, SortKey};
use std::collections::BTreeMap;
use uuid::Uuid;
use zentinel_core::id::TypedId as _;
use zentinel_core::port::{Order, Query};
use zentinel_core::{Error, Page, RecordKind, Result, Row, Scope, Stored, Timestamp};

/// The largest page.
const MAX_PAGE: u32 = 10_000;
/// The most ids in one query.
const MAX_IDS: usize = 100_000;

/// One record.
pub(crate) async fn get<B: Backend>(
    backend: &B,
    scope: &Scope,
    kind: RecordKind,
    id: Uuid,
) -> Result<Option<Stored<Row>>> {
    let mut statement = select(kind);
    statement.push_with(" WHERE id = ?", [id.into()]);
    limit_to::<B>(&mut statement, scope, true);
    tell::<B, _>(one(backend, kind, statement).await)
}

/// The record with a lookup key.
pub(crate) async fn lookup<B: Backend>(
    backend: &B,
    kind: RecordKind,
    lookup_key: &str,
) -> Result<Option<Stored<Row>>> {
    let mut statement = select(kind);
    statement.push_with(" WHERE lookup_key = ?", [lookup_key.into()]);
    tell::<B, _>(one(backend, kind, statement).await)
}

/// One page of a list.
pub(crate) async fn query<B: Backend>(
    backend: &B,
    scope: &Scope,
    query: &Query,
) -> Result<Page<Stored<Row>>> {
    if query.ids.as_ref().is_some_and(|ids| ids.len() > MAX_IDS) {
        return Err(Error::invalid_field("ids", format!("should have at most {MAX_IDS} item(s)")));
    }
    let cursor = query.page.cursor.as_deref();
    let cursor = cursor.map(|text| Cursor::decode(text, query.kind, query.order)).transpose()?;
    tell::<B, _>(page(backend, scope, query, cursor).await)
}

async fn page<B: Backend>(
    backend: &B,
    scope: &Scope,
    query: &Query,
    cursor: Option<Cursor>,
) -> Result<Page<Stored<Row>>, Fault> {
    let limit = query.page.limit.clamp(1, MAX_PAGE) as usize;
    let begins = cursor.is_none();
    let mut statement = select(query.kind);
    matching::<B>(&mut statement, scope, query)?;
    if let Some(cursor) = cursor {
        beyond(&mut statement, query.order, cursor)?;
    }
    statement.push(match query.order {
        Order::NewestFirst => " ORDER BY created_at DESC, id",
        Order::OldestFirst => " ORDER BY created_at, id",
        Order::Name => " ORDER BY natural_key NULLS FIRST, id",
    });
    // One more than asked for tells whether there is more.
    statement.push_with(" LIMIT ?", [Arg::Int(limit as i64 + 1)]);

    let mut connection = backend.readers().acquire().await?;
    let rows = connection.rows(statement).await?;
    let more = rows.len() > limit;
    let items = rows.iter().take(limit).map(|cells| record(query.kind, cells));
    let items = items.collect::<Result<Vec<_>, Fault>>()?;
    let total = if !query.counted || (begins && !more) {
        items.len() as u64
    } else {
        let mut count = Statement::new(format!("SELECT count(*) FROM {}", query.kind.table()));
        matching::<B>(&mut count, scope, query)?;
        connection.rows(count).await?.first().map_or(Ok(0), |cells| cells.count(0))?
    };
    let last = items.last().filter(|_| more);
    let next_cursor = last.map(|row| Cursor::after(query.order, row).encode(query.kind, query.order));
    Ok(Page { items, total, next_cursor })
}

/// How many records of a kind are in which state.
pub(crate) async fn count_by_state<B: Backend>(
    backend: &B,
    scope: &Scope,
    kind: RecordKind,
) -> Result<BTreeMap<String, u64>> {
    let mut statement =
        Statement::new(format!("SELECT coalesce(state, ''), count(*) FROM {} WHERE 1 = 1", kind.table()));
    limit_to::<B>(&mut statement, scope, false);
    statement.push(" GROUP BY coalesce(state, '')");
    let counts = async {
        let rows = backend.readers().acquire().await?.rows(statement).await?;
        let count = |cells: &_| pair(cells);
        rows.iter().map(count).collect::<Result<_, Fault>>()
    };
    tell::<B, _>(counts.await)
}

fn pair(cells: &impl super::Cells) -> Result<(String, u64), Fault> {
    Ok((cells.text(0)?.unwrap_or_default(), cells.count(1)?))
}

/// Whether the database answers.
pub(crate) async fn ping<B: Backend>(backend: &B) -> Result<()> {
    let answer = async {
        backend.readers().acquire().await?.rows(Statement::new("SELECT 1")).await?;
        Ok(())
    };
    tell::<B, _>(answer.await)
}

async fn one<B: Backend>(
    backend: &B,
    kind: RecordKind,
    statement: Statement,
) -> Result<Option<Stored<Row>>, Fault> {
    let rows = backend.readers().acquire().await?.rows(statement).await?;
    rows.first().map(|cells| record(kind, cells)).transpose()
}

fn select(kind: RecordKind) -> Statement {
    Statement::new(format!("SELECT {}, revision FROM {}", names(&RECORD), kind.table()))
}

/// Adds the conditions of a scope. With `narrow` another condition finds the rows sooner than the
/// tenant does.
pub(super) fn limit_to<B: Backend>(statement: &mut Statement, scope: &Scope, narrow: bool) {
    let plain = |known: bool| if known { B::UNINDEXED } else { "" };
    if let Some(project) = scope.project() {
        let condition = format!(" AND {}project_id = ?", plain(narrow));
        statement.push_with(&condition, [project.uuid().into()]);
    }
    if let Some(organisation) = scope.organisation() {
        let condition = format!(" AND {}organisation_id = ?", plain(narrow || scope.project().is_some()));
        statement.push_with(&condition, [organisation.uuid().into()]);
    }
}

/// Adds the conditions of a query, but not the place where its page begins.
fn matching<B: Backend>(statement: &mut Statement, scope: &Scope, query: &Query) -> Result<(), Fault> {
    statement.push(" WHERE 1 = 1");
    let has_ids = query.ids.is_some();
    limit_to::<B>(statement, scope, has_ids || query.owner.is_some());
    if let Some(owner) = query.owner {
        let plain = if has_ids { B::UNINDEXED } else { "" };
        statement.push_with(&format!(" AND {plain}owner = ?"), [owner.into()]);
    }
    if let Some(key) = &query.natural_key {
        statement.push_with(" AND natural_key = ?", [key.as_str().into()]);
    }
    if let Some(ids) = &query.ids {
        statement.push(" AND id IN ");
        statement.push_with(B::uuids(), [Arg::Json(serde_json::to_string(ids)?)]);
    }
    if !query.states.is_empty() {
        let marks = vec!["?"; query.states.len()].join(", ");
        let states = query.states.iter().map(|state| state.as_str().into());
        statement.push_with(&format!(" AND state IN ({marks})"), states);
    }
    if let Some(from) = query.created_from {
        statement.push_with(" AND created_at >= ?", [Arg::Time(from)]);
    }
    if let Some(until) = query.created_until {
        statement.push_with(" AND created_at <= ?", [Arg::Time(until)]);
    }
    for (key, value) in &query.labels {
        let label = serde_json::json!({ key: value }).to_string();
        statement.push(" AND ");
        statement.push_with(B::HAS_LABEL, [Arg::Json(label)]);
    }
    Ok(())
}

/// Continues a list after the end of the previous page.
fn beyond(statement: &mut Statement, order: Order, cursor: Cursor) -> Result<(), Fault> {
    let id = Arg::Uuid(cursor.id);
    match cursor.key {
        SortKey::Created(micros) => {
            let at = Timestamp::from_timestamp_micros(micros);
            let at = Arg::Time(at.ok_or_else(|| Error::malformed("cursor is invalid"))?);
            // The first condition says the same as the second, in a form that an index serves.
            let text = match order {
                Order::OldestFirst => " AND created_at >= ? AND (created_at > ? OR id > ?)",
                Order::NewestFirst | Order::Name => " AND created_at <= ? AND (created_at < ? OR id > ?)",
            };
            statement.push_with(text, [at.clone(), at, id]);
        }
        SortKey::Name(Some(name)) => {
            let name = Arg::Text(Some(name));
            statement
                .push_with(" AND natural_key >= ? AND (natural_key > ? OR id > ?)", [name.clone(), name, id]);
        }
        SortKey::Name(None) => statement.push_with(" AND (natural_key IS NOT NULL OR id > ?)", [id]),
    }
    Ok(())
}
