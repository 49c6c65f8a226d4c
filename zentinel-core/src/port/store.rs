//! Where records live.

use crate::changes::Changes;
use crate::error::{Error, Result};
use crate::id::{ProjectId, TypedId};
use crate::log::{LogEntry, LogKind, LogQuery, Retention};
use crate::page::{Page, PageRequest};
use crate::record::{Record, RecordKind, Row, Stored};
use crate::scope::Scope;
use crate::value::Timestamp;
use async_trait::async_trait;
use futures_core::Stream;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;
use uuid::Uuid;

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By creation, newest first; then by id.
    #[default]
    NewestFirst,
    /// By creation, oldest first; then by id.
    OldestFirst,
    /// By natural key; then by id. Records without one come first.
    Name,
}

/// What to list of one kind. Conditions are combined with "and".
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// The kind.
    pub kind: RecordKind,
    /// Only records that belong to this one.
    pub owner: Option<Uuid>,
    /// Only these ids; at most 100,000.
    pub ids: Option<Vec<Uuid>>,
    /// Only records in one of these states; empty means any.
    pub states: Vec<String>,
    /// Only the record with this natural key (useful together with `owner`).
    pub natural_key: Option<String>,
    /// Only records whose body has a `labels` object with all of these entries.
    pub labels: Vec<(String, String)>,
    /// Only records that were created at this instant or later.
    pub created_from: Option<Timestamp>,
    /// Only records that were created at this instant or before.
    pub created_until: Option<Timestamp>,
    /// The order.
    pub order: Order,
    /// The page.
    pub page: PageRequest,
    /// Whether the page says how many match in all. Counting costs as much as reading: without it
    /// `total` is the number of items of the page.
    pub counted: bool,
}

impl Query {
    /// Every record of a kind that the scope shows.
    #[must_use]
    pub fn all(kind: RecordKind) -> Self {
        Self {
            kind,
            owner: None,
            ids: None,
            states: Vec::new(),
            natural_key: None,
            labels: Vec::new(),
            created_from: None,
            created_until: None,
            order: Order::default(),
            page: PageRequest::default(),
            counted: true,
        }
    }

    /// Only records that belong to `owner`.
    #[must_use]
    pub fn owned_by(mut self, owner: impl TypedId) -> Self {
        self.owner = Some(owner.uuid());
        self
    }

    /// Only these ids.
    #[must_use]
    pub fn with_ids(mut self, ids: impl IntoIterator<Item = impl TypedId>) -> Self {
        self.ids = Some(ids.into_iter().map(TypedId::uuid).collect());
        self
    }

    /// Only records in one of these states.
    #[must_use]
    pub fn in_states(mut self, states: &[&str]) -> Self {
        self.states = states.iter().map(|state| (*state).to_owned()).collect();
        self
    }

    /// Only the record with this natural key.
    #[must_use]
    pub fn named(mut self, key: impl Into<String>) -> Self {
        self.natural_key = Some(key.into());
        self
    }

    /// Only records with these labels.
    #[must_use]
    pub fn labelled(mut self, labels: Vec<(String, String)>) -> Self {
        self.labels = labels;
        self
    }

    /// Only records that were created in this span, both ends included.
    #[must_use]
    pub fn created(mut self, from: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        (self.created_from, self.created_until) = (from, until);
        self
    }

    /// In this order.
    #[must_use]
    pub fn ordered(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// This page.
    #[must_use]
    pub fn page(mut self, page: PageRequest) -> Self {
        self.page = page;
        self
    }

    /// Without a count of all that match.
    #[must_use]
    pub fn uncounted(mut self) -> Self {
        self.counted = false;
        self
    }
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The last event sequence after the commit, when it published events.
    pub last_event_seq: Option<u64>,
}

/// Something was committed, here or by another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Records of one kind changed.
    Records {
        /// The kind.
        kind: RecordKind,
        /// Their project, where they all have the same one.
        project_id: Option<ProjectId>,
        /// Which ones.
        ids: Vec<Uuid>,
        /// Whether all of them were only renewed, see [`Changes::renew`].
        renewed: bool,
    },
    /// Events were published.
    Events,
    /// Jobs were enqueued.
    Jobs,
    /// Notices were lost: read everything again.
    Lagged,
}

/// A stream of notices that never ends while the store lives.
pub type NoticeStream = Pin<Box<dyn Stream<Item = Notice> + Send>>;

/// Records, logs and the unit of work.
///
/// # Contract
/// * `commit` is atomic and durable before it returns; nothing of a failed one is visible.
/// * Reads see every commit that returned before they began.
/// * A scope shows only its own rows: a foreign id is as absent as an unknown one.
/// * The audit log's and the event log's sequence numbers have no gaps and follow commit order.
/// * Every commit is told to every watcher of every replica, after it is visible.
///
/// # Errors
/// `Stale` when an expected revision is not there any more; `Invalid` with the field of
/// [`RecordKind::natural_key_field`] and the message `has already been taken` when a unique key
/// is taken; `NotFound` for an update or deletion of an absent record; `Malformed` for a cursor that is not ours;
/// `Unavailable` when the back end is away. After an error nothing was committed, except that
/// `Unavailable` during a commit leaves the outcome unknown.
///
/// # Testing
/// `zentinel_store::conformance::store`.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// One record.
    async fn get(&self, scope: &Scope, kind: RecordKind, id: Uuid) -> Result<Option<Stored<Row>>>;
    /// The record with a lookup key, whatever its tenant: this is how credentials find theirs.
    async fn lookup(&self, kind: RecordKind, lookup_key: &str) -> Result<Option<Stored<Row>>>;
    /// One page of a list.
    async fn query(&self, scope: &Scope, query: &Query) -> Result<Page<Stored<Row>>>;
    /// How many records of a kind are in which state (`""` for records without one).
    async fn count_by_state(&self, scope: &Scope, kind: RecordKind) -> Result<BTreeMap<String, u64>>;
    /// Commits a unit of work.
    async fn commit(&self, changes: Changes) -> Result<Receipt>;
    /// Reads a log.
    async fn read_log(&self, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>>;
    /// How many entries of a log the scope shows, all of them or those about `owner`.
    ///
    /// The default reads them all; back ends with a query language should ask it.
    async fn count_log(&self, scope: &Scope, kind: LogKind, owner: Option<Uuid>) -> Result<u64> {
        let mut query = LogQuery::after(kind, 0, LOG_PAGE);
        query.owner = owner;
        let mut count = 0;
        loop {
            let entries = self.read_log(scope, &query).await?;
            count += entries.len() as u64;
            match entries.last() {
                Some(last) if entries.len() == LOG_PAGE as usize => query.beyond = Some(last.seq),
                _ => return Ok(count),
            }
        }
    }
    /// Applies a retention to a log; returns how many entries it dropped. Not for the audit log.
    async fn trim_log(&self, kind: LogKind, retention: Retention) -> Result<u64>;
    /// What is committed from now on.
    fn watch(&self) -> NoticeStream;
    /// Whether the back end answers.
    async fn ping(&self) -> Result<()>;
}

/// Typed reads, for every [`Store`].
#[async_trait]
pub trait StoreExt: Store {
    /// One record, or `None`.
    ///
    /// # Errors
    /// Those of the store.
    async fn find<T: Record>(&self, scope: &Scope, id: T::Id) -> Result<Option<Stored<T>>> {
        self.get(scope, T::KIND, id.uuid()).await?.map(typed).transpose()
    }

    /// One record that must be there.
    ///
    /// # Errors
    /// `NotFound` with the contract's text, such as `Bundle not found`.
    async fn fetch<T: Record>(&self, scope: &Scope, id: T::Id) -> Result<Stored<T>> {
        self.find(scope, id).await?.ok_or_else(|| Error::not_found(format!("{} not found", T::KIND.noun())))
    }

    /// The record with a lookup key, or `None`.
    ///
    /// # Errors
    /// Those of the store.
    async fn find_by_key<T: Record>(&self, lookup_key: &str) -> Result<Option<Stored<T>>> {
        self.lookup(T::KIND, lookup_key).await?.map(typed).transpose()
    }

    /// One page of records. `query.kind` must be the kind of `T`.
    ///
    /// # Errors
    /// Those of the store.
    async fn list<T: Record>(&self, scope: &Scope, query: Query) -> Result<Page<Stored<T>>> {
        self.query(scope, &query).await?.try_map(typed)
    }

    /// Every matching record, page by page.
    ///
    /// # Errors
    /// Those of the store.
    async fn list_all<T: Record>(&self, scope: &Scope, query: Query) -> Result<Vec<Stored<T>>> {
        self.list_where(scope, query, |_| true).await
    }

    /// Every matching record that is wanted, page by page: the others are never all in memory.
    ///
    /// # Errors
    /// Those of the store.
    async fn list_where<T, W>(&self, scope: &Scope, query: Query, wanted: W) -> Result<Vec<Stored<T>>>
    where
        T: Record,
        W: for<'r> Fn(&'r T) -> bool + Send,
    {
        // The ids travel with each page.
        let limit = if query.ids.is_some() { BULK_OF_IDS } else { BULK };
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let page = query.clone().uncounted().page(PageRequest { limit, cursor });
            let page = self.list::<T>(scope, page).await?;
            all.extend(page.items.into_iter().filter(|read| wanted(&read.value)));
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }
}

/// Most entries that one read of a log returns.
const LOG_PAGE: u32 = 500;

/// Page size of bulk reads: large enough that a fleet takes few round trips, small enough that the thread
/// that parses a page is free again soon.
const BULK: u32 = 1_000;
/// The same where ids are asked for.
const BULK_OF_IDS: u32 = 10_000;

impl<S: Store + ?Sized> StoreExt for S {}

fn typed<T: Record>(stored: Stored<Row>) -> Result<Stored<T>> {
    Ok(Stored { value: T::from_row(stored.value)?, revision: stored.revision })
}
