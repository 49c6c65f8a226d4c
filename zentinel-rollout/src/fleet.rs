//! The live state of every node, in memory.
//!
//! Nodes heartbeat and poll far more often than anything about them changes, so both are answered
//! from here. What a heartbeat reports is written to the store in groups: a heartbeat that changes
//! something (another active bundle, a failure, a health verdict) is acknowledged after its group
//! commit; one that only says "still alive" is acknowledged at once, and goes into the history a moment
//! later. The report itself, which is what a restart begins with, is then written less often.
//!
//! Domain time comes from the [`Clock`]; the pacing of flushes and long polls uses the runtime's
//! timer, so that a fleet under a manual clock still makes progress.

mod bundles;
mod entry;
mod flush;
mod follow;
mod heartbeat;
mod known;
mod load;
mod offer;
mod pending;
mod said;
mod sampling;
mod survey;

pub use known::KnownNode;
pub use load::SingleRead;
pub use offer::Offer;
pub use survey::Survey;

use crate::observation::NodeFacts;
use bundles::KnownBundles;
use dashmap::DashMap;
use entry::Entry;
use load::Restore;
use offer::Waiters;
use parking_lot::Mutex;
use pending::Pending;
use said::Words;
use sampling::Sampling;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{Node, NodeReport, NodeStatus, Registration};
use zentinel_core::id::{NodeId, ProjectId};
use zentinel_core::port::{Clock, NoticeStream, Query, Store, StoreExt};
use zentinel_core::{Error, RecordKind, Result, Revision, Scope, Stored};

/// Settings of a [`Fleet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOptions {
    /// How long a node may be silent before it is offline; 120 s.
    pub offline_after: Duration,
    /// How long a report that changes nothing may wait for its write; 500 ms.
    pub flush_interval: Duration,
    /// How long a report may stay unwritten whose heartbeats say "still alive" and that no rollout
    /// waits for. At most half of `offline_after`; 60 s.
    pub report_interval: Duration,
    /// How long a group commit waits for company; 3 ms.
    pub group_linger: Duration,
    /// How often nodes are asked to poll; 30 s.
    pub poll_interval: Duration,
    /// Whether other replicas write reports to the same store; off.
    pub shared: bool,
    /// Most reports in one commit; 1,000.
    pub max_group: usize,
    /// Most heartbeats that wait for their commit at once; further ones are refused. 20,000.
    pub max_waiting: usize,
    /// How long a heartbeat waits for its commit before it is refused; 10 s.
    pub max_wait: Duration,
    /// Most heartbeat history rows kept for a store that is away; older ones are dropped. 20,000.
    pub max_history: usize,
    /// Heartbeats kept in the history, a second, over all nodes: of a fleet that sends more, those
    /// without news are kept in an even share. 1,000.
    pub history_rate: u32,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            offline_after: Duration::from_secs(120),
            flush_interval: Duration::from_millis(500),
            report_interval: Duration::from_secs(60),
            group_linger: Duration::from_millis(3),
            poll_interval: Duration::from_secs(30),
            shared: false,
            max_group: 1_000,
            max_waiting: 20_000,
            max_wait: Duration::from_secs(10),
            max_history: 20_000,
            history_rate: 1_000,
        }
    }
}

/// The live state of every node. Share it through an [`Arc`].
pub struct Fleet {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    options: FleetOptions,
    /// Boxed, because a table has up to twice as many places as entries.
    nodes: DashMap<NodeId, Box<Entry>>,
    words: Words,
    /// By the beginning of the digest; who is found there is compared with the whole.
    credentials: DashMap<Slot, NodeId>,
    bundles: KnownBundles,
    waiters: Waiters,
    pending: Mutex<Pending>,
    sampling: Mutex<Sampling>,
    /// Heartbeats that wait for their commit.
    waiting: AtomicUsize,
    /// The last write failed: whoever needs one need not wait for it.
    store_away: AtomicBool,
    /// Something urgent was queued.
    urgent: Notify,
    /// Only one flush runs at a time, so that an older report never overtakes a newer one.
    flushing: tokio::sync::Mutex<()>,
    /// Subscribed before the first read, so that nothing is missed between the two.
    notices: Mutex<Option<NoticeStream>>,
    restore: Restore,
    /// Nodes that are forgotten while all are being read: what was read of them is void.
    forgotten: Mutex<Option<HashSet<NodeId>>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("nodes", &self.nodes.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Restores the fleet from the store with bulk reads.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: FleetOptions,
    ) -> Result<Arc<Self>> {
        let fleet = Self::open(store, clock, options);
        fleet.restore().await?;
        Ok(fleet)
    }

    /// A fleet that knows nobody yet: [`Fleet::run`] restores it. Until then a node is known once
    /// [`Fleet::refresh`] was asked for it.
    #[must_use]
    pub fn open(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: FleetOptions) -> Arc<Self> {
        let notices = store.watch();
        Arc::new(Self {
            restore: Restore::default(),
            forgotten: Mutex::new(None),
            nodes: DashMap::new(),
            words: Words::default(),
            credentials: DashMap::new(),
            bundles: KnownBundles::default(),
            waiters: Waiters::default(),
            pending: Mutex::new(Pending::default()),
            sampling: Mutex::new(Sampling::default()),
            waiting: AtomicUsize::new(0),
            store_away: AtomicBool::new(false),
            urgent: Notify::new(),
            flushing: tokio::sync::Mutex::new(()),
            notices: Mutex::new(Some(notices)),
            store,
            clock,
            options,
        })
    }

    /// Restores what is not restored yet, writes reports and follows the store until `shutdown`, then
    /// writes what is left. Cancel it only after the last heartbeat was answered. A second call while
    /// one runs does nothing useful.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(
            self.restore_until(&shutdown),
            self.flush_until(&shutdown),
            self.follow_until(&shutdown)
        );
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &FleetOptions {
        &self.options
    }

    /// Takes in a node after the commit of its registration.
    pub fn admit(&self, node: Node, report: NodeReport) {
        let stored = Stored { value: node, revision: Revision(1) };
        self.install(stored, Some(report));
    }

    /// Drops a node after the commit of its deletion.
    pub fn forget(&self, id: NodeId) {
        if let Some(forgotten) = &mut *self.forgotten.lock() {
            forgotten.insert(id);
        }
        if let Some((_, entry)) = self.nodes.remove(&id) {
            for key in entry.node.keys() {
                self.credentials.remove_if(&slot(key), |_, owner| *owner == id);
            }
        }
        self.pending.lock().remove(id);
        self.waiters.wake(id);
    }

    /// The node with a static key: its current one, or the one before while that still works.
    #[must_use]
    pub fn authenticate(&self, key: &CredentialHash) -> Option<Arc<KnownNode>> {
        let id = self.credentials.get(&slot(key)).map(|entry| *entry.value())?;
        self.node(id).filter(|node| node.accepts(key, self.clock.now()))
    }

    /// What the control plane wants of a node; a reference count, no copy.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<Arc<KnownNode>> {
        self.nodes.get(&id).map(|entry| Arc::clone(&entry.node))
    }

    /// What a node last said.
    #[must_use]
    pub fn report(&self, id: NodeId) -> Option<NodeReport> {
        self.nodes.get(&id).map(|entry| entry.report())
    }

    /// Whether a node is known to be online.
    #[must_use]
    pub fn is_online(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|entry| entry.said.status == NodeStatus::Online)
    }

    /// What a node says whose last activation failed: what
    /// [`NodeFacts::took_back`](crate::NodeFacts::took_back) goes by, nothing else.
    #[must_use]
    pub fn failure(&self, id: NodeId) -> Option<NodeFacts> {
        let entry = self.nodes.get(&id)?;
        let (error, at) = entry.said.failure()?;
        Some(NodeFacts {
            exists: true,
            active_bundle_id: entry.said.active_bundle_id,
            bundle_error: Some(error.clone()),
            bundle_error_at: at,
            ..NodeFacts::default()
        })
    }

    /// How many nodes are in which status, over all projects or in one.
    #[must_use]
    pub fn counts(&self, project: Option<ProjectId>) -> BTreeMap<NodeStatus, u64> {
        let mut counts = BTreeMap::new();
        for entry in &self.nodes {
            if project.is_none_or(|project| entry.node.project_id == project) {
                *counts.entry(entry.said.status).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Nodes that were last heard from more than `silence` ago, or never.
    #[must_use]
    pub fn list_stale(&self, silence: Duration) -> Vec<NodeId> {
        let before = self.clock.now() - silence;
        let stale = |entry: &Entry| entry.said.last_seen_at.is_none_or(|seen| seen < before);
        let stale = self.nodes.iter().filter(|entry| stale(entry));
        stale.map(|entry| *entry.key()).collect()
    }

    /// Reads these nodes again with one set-based query and wakes those with a new offer. Called
    /// after a commit on this replica, so that what was decided is in force when the call returns;
    /// other replicas follow the store's notices.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn refresh(&self, ids: &[NodeId]) -> Result<()> {
        for ids in ids.chunks(MAX_IDS) {
            let query = Query::all(RecordKind::Node).with_ids(ids.iter().copied());
            let nodes = self.store.list_all::<Node>(&Scope::Instance, query).await?;
            let mut missing: HashSet<NodeId> = ids.iter().copied().collect();
            for node in &nodes {
                missing.remove(&node.id);
            }
            self.install_all(nodes).await?;
            missing.into_iter().for_each(|id| self.forget(id));
        }
        Ok(())
    }

    /// Takes in nodes; the reports of those not known yet are read with one query.
    async fn install_all(&self, nodes: Vec<Stored<Node>>) -> Result<()> {
        let new: Vec<NodeId> =
            nodes.iter().map(|node| node.id).filter(|id| !self.nodes.contains_key(id)).collect();
        let mut reports = HashMap::new();
        if !new.is_empty() {
            for report in self.read_reports(&new).await? {
                reports.insert(report.node_id, report);
            }
        }
        for node in nodes {
            let report = reports.remove(&node.id);
            self.install(node, report);
        }
        Ok(())
    }

    async fn read_reports(&self, ids: &[NodeId]) -> Result<Vec<NodeReport>> {
        let query = Query::all(RecordKind::NodeReport).with_ids(ids.iter().copied());
        let reports = self.store.list_all::<NodeReport>(&Scope::Instance, query).await?;
        Ok(reports.into_iter().map(|report| report.value).collect())
    }

    /// Takes in one node unless a newer revision is known, and a report unless a newer one is.
    fn install(&self, stored: Stored<Node>, report: Option<NodeReport>) {
        let Stored { value, revision } = stored;
        let id = value.id;
        // What is known of a node that nothing was heard of.
        let unheard = report.is_none().then(|| NodeReport::registered(&value, &Registration::default()));
        let node = Arc::new(KnownNode::from(value));
        let mut replaced = None;
        let mut wake = false;
        // Before the node can be seen: whoever sees it relies on its keys being known.
        let learn_keys = || {
            for key in node.keys() {
                self.credentials.insert(slot(key), id);
            }
        };
        match self.nodes.entry(id) {
            dashmap::Entry::Occupied(mut place) => {
                let entry = place.get_mut();
                let offered = entry.offered();
                if revision <= entry.revision && report.is_none() {
                    return;
                }
                if revision > entry.revision {
                    learn_keys();
                    replaced = Some(std::mem::replace(&mut entry.node, Arc::clone(&node)));
                    entry.revision = revision;
                }
                if let Some(report) = report {
                    entry.take_newer(report, &self.words);
                }
                wake = entry.offered() != offered;
            }
            dashmap::Entry::Vacant(place) => {
                let Some(report) = report.or(unheard) else { return };
                learn_keys();
                let mut entry = Box::new(Entry::new(Arc::clone(&node), revision, report, &self.words));
                entry.spread_write(self.clock.now(), self.report_interval());
                place.insert(entry);
            }
        }
        for key in replaced.iter().flat_map(|old| old.keys()) {
            if node.keys().all(|kept| kept != key) {
                self.credentials.remove_if(&slot(key), |_, owner| *owner == id);
            }
        }
        if wake {
            self.waiters.wake(id);
        }
    }
}

/// Where a key is found.
type Slot = [u8; 16];

/// The first half of a digest.
fn slot(key: &CredentialHash) -> Slot {
    key.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// Most ids of one set-based query.
const MAX_IDS: usize = 10_000;

fn unknown_node() -> Error {
    Error::not_found("Node not found")
}
