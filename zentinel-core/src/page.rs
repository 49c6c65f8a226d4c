//! Keyset paging.

use serde::{Deserialize, Serialize};

/// Which page of a list to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// Most items to return. API callers get at most [`PageRequest::MAX`]; bulk reads inside the
    /// control plane may ask for up to 10,000.
    pub limit: u32,
    /// Where the previous page ended, from [`Page::next_cursor`]. Opaque to callers.
    pub cursor: Option<String>,
}

impl PageRequest {
    /// The most items one page holds.
    pub const MAX: u32 = 500;

    /// The first page of `limit` items; out-of-range values are clamped.
    #[must_use]
    pub fn first(limit: u32) -> Self {
        Self { limit: limit.clamp(1, Self::MAX), cursor: None }
    }

    /// The same page size, continued after `cursor`.
    #[must_use]
    pub fn after(mut self, cursor: Option<String>) -> Self {
        self.cursor = cursor;
        self
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first(100)
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, in the order asked for.
    pub items: Vec<T>,
    /// How many rows match in all.
    pub total: u64,
    /// Where to go on; `None` at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Maps the items, keeps the rest.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<U, E>(self, f: impl FnMut(T) -> Result<U, E>) -> Result<Page<U>, E> {
        Ok(Page {
            items: self.items.into_iter().map(f).collect::<Result<_, _>>()?,
            total: self.total,
            next_cursor: self.next_cursor,
        })
    }
}
