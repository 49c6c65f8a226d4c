//! Paging of what the store cannot page itself.

use crate::error::ApiResult;
use crate::extract::Params;
use crate::services::Api;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Error, Kind, Page, PageRequest, Record, Result, Scope, Stored};

/// Page size where the contract names no other.
pub(super) const DEFAULT_LIMIT: u32 = 100;

/// One page of records; a cursor that is not ours is the caller's mistake.
pub(super) async fn page_of<T: Record>(api: &Api, scope: &Scope, query: Query) -> Result<Page<Stored<T>>> {
    api.store.list::<T>(scope, query).await.map_err(bad_cursor)
}

fn bad_cursor(error: Error) -> Error {
    if error.kind() == Kind::Malformed { Error::invalid_field("cursor", "is invalid") } else { error }
}

/// One page of a log, newest first. The cursor is a place in the log.
pub(super) async fn log_page(
    api: &Api,
    scope: &Scope,
    kind: LogKind,
    owner: Option<Uuid>,
    params: &Params,
) -> ApiResult<Page<LogEntry>> {
    let PageRequest { limit, cursor } = params.page(DEFAULT_LIMIT);
    let mut query = LogQuery::newest(kind, limit);
    query.owner = owner;
    query.beyond = cursor.as_deref().map(place).transpose()?;
    let items = api.store.read_log(scope, &query).await?;
    let total = api.store.count_log(scope, kind, owner).await?;
    let full = items.len() == limit as usize;
    let next_cursor =
        items.last().filter(|last| full && last.seq > 1).map(|last| encode(&last.seq.to_string()));
    Ok(Page { items, total, next_cursor })
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn decode(cursor: &str) -> Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::invalid_field("cursor", "is invalid"))
}

fn place(cursor: &str) -> Result<u64> {
    let place = decode(cursor)?.parse().ok();
    // Back ends count in signed 64-bit integers.
    place
        .filter(|place| i64::try_from(*place).is_ok())
        .ok_or_else(|| Error::invalid_field("cursor", "is invalid"))
}

/// One page of records that were read, newest first, and filtered as a whole. The cursor names the
/// last one's place, so that the list goes on there even when that record is gone.
pub(super) fn slice<T: Record>(all: Vec<Stored<T>>, request: &PageRequest) -> Result<Page<Stored<T>>> {
    let total = all.len() as u64;
    let begin = match &request.cursor {
        None => 0,
        Some(cursor) => {
            let text = decode(cursor)?;
            let invalid = || Error::invalid_field("cursor", "is invalid");
            let (at, id) = text.split_once(' ').ok_or_else(invalid)?;
            let last_at: i64 = at.parse().map_err(|_| invalid())?;
            let last_id: uuid::Uuid = id.parse().map_err(|_| invalid())?;
            all.partition_point(|item| {
                let (at, id) = place_of(item);
                at > last_at || at == last_at && id <= last_id
            })
        }
    };
    let limit = request.limit as usize;
    let more = all.len() > begin + limit;
    let items: Vec<_> = all.into_iter().skip(begin).take(limit).collect();
    let next_cursor = items.last().filter(|_| more).map(|last| {
        let (at, id) = place_of(last);
        encode(&format!("{at} {id}"))
    });
    Ok(Page { items, total, next_cursor })
}

/// One page of things that were read as a whole, in the order of their unique keys.
pub(super) fn slice_by<T>(
    mut all: Vec<T>,
    request: &PageRequest,
    key: impl Fn(&T) -> String,
) -> Result<Page<T>> {
    all.sort_by_key(|item| key(item));
    let total = all.len() as u64;
    let begin = match &request.cursor {
        None => 0,
        Some(cursor) => {
            let last = decode(cursor)?;
            all.partition_point(|item| key(item) <= last)
        }
    };
    let limit = request.limit as usize;
    let more = all.len() > begin + limit;
    let items: Vec<T> = all.into_iter().skip(begin).take(limit).collect();
    let next_cursor = items.last().filter(|_| more).map(|last| encode(&key(last)));
    Ok(Page { items, total, next_cursor })
}

/// Where a record stands in a list: by creation, newest first, then by id.
fn place_of<T: Record>(item: &Stored<T>) -> (i64, uuid::Uuid) {
    use zentinel_core::id::TypedId as _;
    (item.value.created_at().timestamp_micros(), item.value.id().uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_of_logs_are_opaque_and_checked() {
        assert_eq!(place(&encode("42")).unwrap(), 42);
        for bad in ["42", "!", "", &encode("-1"), &encode("x"), &encode("18446744073709551615")] {
            let error = place(bad).unwrap_err();
            assert_eq!(error.fields()["cursor"], ["is invalid"], "{bad}");
        }
    }
}
