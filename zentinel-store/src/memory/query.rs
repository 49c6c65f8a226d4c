//! Lists.

use super::table::Tables;
use crate::cursor::{Cursor, SortKey};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use uuid::Uuid;
use zentinel_core::port::{Order, Query};
use zentinel_core::{Error, Page, Result, Row, Scope, Stored};

/// The largest page.
const MAX_PAGE: u32 = 10_000;
/// The most ids in one query.
const MAX_IDS: usize = 100_000;

/// One page of a list.
pub(super) fn run(tables: &Tables, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>> {
    if query.ids.as_ref().is_some_and(|ids| ids.len() > MAX_IDS) {
        return Err(Error::invalid_field("ids", format!("should have at most {MAX_IDS} item(s)")));
    }
    let cursor = query.page.cursor.as_deref();
    let cursor = cursor.map(|text| Cursor::decode(text, query.kind, query.order)).transpose()?;
    let mut rows = candidates(tables, query);
    rows.retain(|row| matches(row, scope, query));
    let total = rows.len() as u64;
    if let Some(cursor) = &cursor {
        let end = Place::of_cursor(cursor);
        rows.retain(|row| end.cmp(&Place::of_row(row), query.order) == Ordering::Less);
    }
    let limit = query.page.limit.clamp(1, MAX_PAGE) as usize;
    let by_order = |a: &&Stored<Row>, b: &&Stored<Row>| Place::of_row(a).cmp(&Place::of_row(b), query.order);
    let more = rows.len() > limit;
    if more {
        // Only what goes out is sorted: walking a list costs no more than sorting it once.
        rows.select_nth_unstable_by(limit, by_order);
        rows.truncate(limit);
    }
    rows.sort_unstable_by(by_order);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|row| Cursor::after(query.order, row).encode(query.kind, query.order));
    let total = if query.counted { total } else { rows.len() as u64 };
    Ok(Page { items: rows.into_iter().cloned().collect(), total, next_cursor })
}

/// A superset of the matching rows from the narrowest index; ids are settled here.
fn candidates<'a>(tables: &'a Tables, query: &Query) -> Vec<&'a Stored<Row>> {
    if let Some(ids) = &query.ids {
        let ids: BTreeSet<Uuid> = ids.iter().copied().collect();
        return ids.into_iter().filter_map(|id| tables.get(query.kind, id)).collect();
    }
    if let (Some(owner), Some(key)) = (query.owner, &query.natural_key) {
        let holder = tables.natural_holder(query.kind, owner, key);
        return holder.and_then(|id| tables.get(query.kind, id)).into_iter().collect();
    }
    match query.owner {
        Some(owner) => tables.owned(query.kind, owner).collect(),
        None => tables.rows(query.kind).collect(),
    }
}

fn matches(row: &Row, scope: &Scope, query: &Query) -> bool {
    let in_state = |states: &[String]| row.state.as_ref().is_some_and(|state| states.contains(state));
    scope.contains(row.organisation_id, row.project_id)
        && query.owner.is_none_or(|owner| row.owner == owner)
        && (query.states.is_empty() || in_state(&query.states))
        && query.natural_key.as_ref().is_none_or(|key| row.natural_key.as_ref() == Some(key))
        && query.created_from.is_none_or(|from| row.created_at >= from)
        && query.created_until.is_none_or(|until| row.created_at <= until)
        && has_labels(row, &query.labels)
}

fn has_labels(row: &Row, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(key, value)| {
        let label = row.body.get("labels").and_then(|labels| labels.get(key));
        label.and_then(|label| label.as_str()) == Some(value)
    })
}

/// Where a row stands in a list.
struct Place<'a> {
    created: i64,
    name: Option<&'a str>,
    id: Uuid,
}

impl<'a> Place<'a> {
    fn of_row(row: &'a Row) -> Self {
        Self { created: row.created_at.timestamp_micros(), name: row.natural_key.as_deref(), id: row.id }
    }

    fn of_cursor(cursor: &'a Cursor) -> Self {
        match &cursor.key {
            SortKey::Created(created) => Self { created: *created, name: None, id: cursor.id },
            SortKey::Name(name) => Self { created: 0, name: name.as_deref(), id: cursor.id },
        }
    }

    fn cmp(&self, other: &Self, order: Order) -> Ordering {
        let key = match order {
            Order::NewestFirst => other.created.cmp(&self.created),
            Order::OldestFirst => self.created.cmp(&other.created),
            Order::Name => self.name.cmp(&other.name),
        };
        key.then_with(|| self.id.cmp(&other.id))
    }
}
