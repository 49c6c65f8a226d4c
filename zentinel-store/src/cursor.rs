//! The cursor of lists: where the previous page ended.
//!
//! Every order ends with the id, ascending, so that it is total:
//!
//! | Order | Sorted by |
//! |---|---|
//! | newest first | `created_at` descending, `id` ascending |
//! | oldest first | `created_at` ascending, `id` ascending |
//! | name | `natural_key` ascending by its UTF-8 bytes (none first), `id` ascending |
//!
//! On the wire a cursor is unpadded base64url of
//! `version (1) ‖ order (1) ‖ length of table (1) ‖ table ‖ id (16) ‖ key`, where `key` is the
//! creation time in microseconds (8 bytes, big endian) or `0`/`1` and the natural key. It names its
//! table and order, so a cursor of another list is refused instead of skipping rows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use zentinel_core::port::Order;
use zentinel_core::{Error, RecordKind, Result, Row};

const VERSION: u8 = 1;

/// What a list is sorted by, before the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SortKey {
    /// Creation time in microseconds since 1970.
    Created(i64),
    /// The natural key.
    Name(Option<String>),
}

/// The last row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// What the list is sorted by.
    pub(crate) key: SortKey,
    /// The row's id.
    pub(crate) id: Uuid,
}

impl Cursor {
    /// The cursor that continues a list after `row`.
    pub(crate) fn after(order: Order, row: &Row) -> Self {
        let key = match order {
            Order::NewestFirst | Order::OldestFirst => SortKey::Created(row.created_at.timestamp_micros()),
            Order::Name => SortKey::Name(row.natural_key.clone()),
        };
        Self { key, id: row.id }
    }

    /// The opaque text for callers.
    pub(crate) fn encode(&self, kind: RecordKind, order: Order) -> String {
        let table = kind.table().as_bytes();
        let mut bytes = vec![VERSION, order_code(order), u8::try_from(table.len()).unwrap_or(u8::MAX)];
        bytes.extend_from_slice(table);
        bytes.extend_from_slice(self.id.as_bytes());
        match &self.key {
            SortKey::Created(micros) => bytes.extend_from_slice(&micros.to_be_bytes()),
            SortKey::Name(None) => bytes.push(0),
            SortKey::Name(Some(name)) => {
                bytes.push(1);
                bytes.extend_from_slice(name.as_bytes());
            }
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor back for the same kind and order.
    ///
    /// # Errors
    /// `Malformed` for anything that [`Cursor::encode`] did not make for this list.
    pub(crate) fn decode(text: &str, kind: RecordKind, order: Order) -> Result<Self> {
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| read(&bytes, kind, order))
            .ok_or_else(|| Error::malformed("cursor is invalid").with_field("cursor", "is invalid"))
    }
}

fn read(bytes: &[u8], kind: RecordKind, order: Order) -> Option<Cursor> {
    let rest = bytes.strip_prefix(&[VERSION, order_code(order)])?;
    let (length, rest) = rest.split_first()?;
    let (table, rest) = rest.split_at_checked(usize::from(*length))?;
    if table != kind.table().as_bytes() {
        return None;
    }
    let (id, key) = rest.split_first_chunk::<16>()?;
    let key = match order {
        Order::NewestFirst | Order::OldestFirst => SortKey::Created(i64::from_be_bytes(key.try_into().ok()?)),
        Order::Name => match key.split_first()? {
            (0, []) => SortKey::Name(None),
            (1, name) => SortKey::Name(Some(String::from_utf8(name.to_vec()).ok()?)),
            _ => return None,
        },
    };
    Some(Cursor { key, id: Uuid::from_bytes(*id) })
}

fn order_code(order: Order) -> u8 {
    match order {
        Order::NewestFirst => b'n',
        Order::OldestFirst => b'o',
        Order::Name => b'a',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zentinel_core::Kind;

    proptest! {
        #[test]
        fn cursors_survive_the_round_trip(micros in any::<i64>(), name in proptest::option::of(".{0,40}"), id in any::<u128>()) {
            let id = Uuid::from_u128(id);
            for (order, key) in [
                (Order::NewestFirst, SortKey::Created(micros)),
                (Order::OldestFirst, SortKey::Created(micros)),
                (Order::Name, SortKey::Name(name.clone())),
            ] {
                let cursor = Cursor { key, id };
                let text = cursor.encode(RecordKind::Node, order);
                prop_assert_eq!(Cursor::decode(&text, RecordKind::Node, order).unwrap(), cursor);
                prop_assert!(Cursor::decode(&text, RecordKind::Bundle, order).is_err());
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for text in [text, URL_SAFE_NO_PAD.encode(bytes)] {
                if let Err(error) = Cursor::decode(&text, RecordKind::Node, Order::Name) {
                    prop_assert_eq!(error.kind(), Kind::Malformed);
                }
            }
        }
    }

    #[test]
    fn an_order_refuses_the_cursor_of_another() {
        let cursor = Cursor { key: SortKey::Created(7), id: Uuid::nil() };
        let text = cursor.encode(RecordKind::Node, Order::OldestFirst);
        assert!(Cursor::decode(&text, RecordKind::Node, Order::NewestFirst).is_err());
    }
}
