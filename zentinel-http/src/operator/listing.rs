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

/// One page of records that were read and filtered as a whole. The cursor is the last one's id.
pub(super) fn slice<T: Record>(all: Vec<Stored<T>>, request: &PageRequest) -> Result<Page<Stored<T>>> {
    use zentinel_core::id::TypedId;
    let total = all.len() as u64;
    let begin = match &request.cursor {
        None => 0,
        Some(cursor) => {
            let last = decode(cursor)?;
            let found = all.iter().position(|item| item.id().uuid().to_string() == last);
            // The record that the page ended with may be gone: then the list begins anew.
            found.map_or(0, |index| index + 1)
        }
    };
    let limit = request.limit as usize;
    let more = all.len() > begin + limit;
    let items: Vec<_> = all.into_iter().skip(begin).take(limit).collect();
    let next_cursor = items.last().filter(|_| more).map(|last| encode(&last.id().uuid().to_string()));
    Ok(Page { items, total, next_cursor })
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
