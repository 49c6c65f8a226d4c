//! Reading the whole fleet, page by page, while it is already being served.

use super::Fleet;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::Node;
use zentinel_core::id::NodeId;
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{PageRequest, RecordKind, Result, Scope, Stored, Timestamp};

/// Nodes of one page. Small, because the thread that parses one serves nobody meanwhile.
const PAGE: u32 = 500;
/// Pause after a failed read.
const RETRY: Duration = Duration::from_millis(500);
/// How many nodes are read singly at once while all are being read.
const SINGLE_READS: usize = 4;
/// A restore that ends this soon is waited for.
const NEARLY: Duration = Duration::from_millis(100);
/// What a restore takes as long as nobody knows.
const UNKNOWN: Duration = Duration::from_secs(1);

/// How far the first reading of all nodes is.
#[derive(Debug)]
pub(super) struct Restore {
    /// When every node of the store was known for the first time.
    done: watch::Sender<Option<Timestamp>>,
    progress: Mutex<Option<Progress>>,
    single_reads: Semaphore,
}

/// Nodes read, of how many, since when.
#[derive(Clone, Copy, Debug)]
struct Progress {
    since: Instant,
    read: u64,
    of: u64,
}

impl Progress {
    fn left(&self, now: Instant) -> Duration {
        if self.read == 0 {
            return UNKNOWN;
        }
        let missing = self.of.saturating_sub(self.read) as f64;
        (now - self.since).mul_f64(missing / self.read as f64)
    }
}

impl Default for Restore {
    fn default() -> Self {
        Self {
            done: watch::Sender::new(None),
            progress: Mutex::default(),
            single_reads: Semaphore::new(SINGLE_READS),
        }
    }
}

impl Restore {
    pub(super) fn done_at(&self) -> Option<Timestamp> {
        *self.done.borrow()
    }

    fn left(&self, now: Instant) -> Duration {
        self.progress.lock().as_ref().map_or(UNKNOWN, |progress| progress.left(now))
    }

    async fn turn(&self) -> Result<SingleRead<'_>, Duration> {
        if self.done_at().is_some() {
            return Ok(SingleRead { _turn: None });
        }
        if let Ok(turn) = self.single_reads.try_acquire() {
            return Ok(SingleRead { _turn: Some(turn) });
        }
        let left = self.left(Instant::now());
        if left <= NEARLY {
            let mut done = self.done.subscribe();
            let restored = tokio::time::timeout(NEARLY, done.wait_for(Option::is_some)).await;
            if matches!(restored, Ok(Ok(_))) {
                return Ok(SingleRead { _turn: None });
            }
        }
        Err(left)
    }

    fn count(&self, now: Instant, read: u64, of: Option<u64>) {
        let mut progress = self.progress.lock();
        match (&mut *progress, of) {
            (Some(progress), None) => progress.read += read,
            (progress, of) => {
                *progress = Some(Progress { since: now, read: 0, of: of.unwrap_or(read) });
            }
        }
    }
}

/// Leave to read one node from the store; to be kept until it was read.
#[derive(Debug)]
pub struct SingleRead<'a> {
    _turn: Option<SemaphorePermit<'a>>,
}

impl Fleet {
    /// Whether every node of the store is known. Until then, one that is not may still exist.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.restore.done_at().is_some()
    }

    /// Asks for leave to read a node that is not known. While all are being read only a few get it,
    /// because what they read singly would keep the store from the others; it may know the node by the
    /// time it is granted.
    ///
    /// # Errors
    /// How long the restore will take, for whoever had better come back then.
    pub async fn single_read(&self) -> Result<SingleRead<'_>, Duration> {
        self.restore.turn().await
    }

    /// Restores the fleet unless it is, however often that takes, until `shutdown`.
    pub(super) async fn restore_until(&self, shutdown: &CancellationToken) {
        while !self.is_restored() && !shutdown.is_cancelled() {
            if let Some(Err(error)) = shutdown.run_until_cancelled(self.restore()).await {
                tracing::warn!(%error, "the fleet could not be restored; trying again");
                shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            }
        }
    }

    /// Reads every node for the first time.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn restore(&self) -> Result<()> {
        self.reload().await?;
        // Somebody else may have been faster; then nodes have its instant.
        self.restore.done.send_if_modified(|done| {
            let first = done.is_none();
            done.get_or_insert_with(|| self.clock.now());
            first
        });
        tracing::info!(nodes = self.nodes.len(), "fleet restored");
        Ok(())
    }

    /// Reads everything again; nodes that are gone are forgotten.
    pub(super) async fn reload(&self) -> Result<()> {
        *self.forgotten.lock() = Some(HashSet::new());
        let read = self.read_all().await;
        *self.forgotten.lock() = None;
        read
    }

    async fn read_all(&self) -> Result<()> {
        let mut gone: HashSet<NodeId> = self.nodes.iter().map(|entry| *entry.key()).collect();
        let mut cursor = None;
        loop {
            let first = cursor.is_none();
            let mut query = Query::all(RecordKind::Node).page(PageRequest { limit: PAGE, cursor });
            query.counted = first;
            let page = self.store.list::<Node>(&Scope::Instance, query).await?;
            if first {
                self.restore.count(Instant::now(), 0, Some(page.total));
            }
            for node in &page.items {
                gone.remove(&node.id);
            }
            let read = page.items.len() as u64;
            self.take_in_page(page.items).await?;
            self.restore.count(Instant::now(), read, None);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        gone.into_iter().for_each(|id| self.forget(id));
        Ok(())
    }

    async fn take_in_page(&self, nodes: Vec<Stored<Node>>) -> Result<()> {
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        let reports = self.read_reports(&ids).await?;
        let mut reports: HashMap<NodeId, _> =
            reports.into_iter().map(|report| (report.node_id, report)).collect();
        for node in nodes {
            let report = reports.remove(&node.id);
            self.install(node, report);
        }
        // Whoever forgets a node notes it before he looks for it here, so one of the two finds it.
        let forgotten = self.forgotten.lock().clone().unwrap_or_default();
        ids.into_iter().filter(|id| forgotten.contains(id)).for_each(|id| self.forget(id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_was_read() {
        let (restore, begun) = (Restore::default(), Instant::now());
        assert_eq!(restore.left(begun), UNKNOWN);
        restore.count(begun, 0, Some(1_000));
        assert_eq!(restore.left(begun), UNKNOWN);
        let now = begun + Duration::from_secs(3);
        restore.count(now, 250, None);
        assert_eq!(restore.left(now), Duration::from_secs(9));
        restore.count(now, 750, None);
        assert_eq!(restore.left(now), Duration::ZERO);
    }

    /// A store that is slow to list nodes must not be asked for each one that comes back meanwhile.
    #[tokio::test]
    async fn only_a_few_nodes_are_read_singly_while_all_are_being_read() {
        let restore = Restore::default();
        let turns: Vec<_> = (0..SINGLE_READS).map(|_| restore.single_reads.try_acquire().unwrap()).collect();
        assert_eq!(restore.turn().await.unwrap_err(), UNKNOWN);
        drop(turns);
        assert!(restore.turn().await.is_ok());
        // One that is nearly done is waited for.
        let begun = Instant::now() - Duration::from_secs(1);
        restore.count(begun, 0, Some(1_000));
        restore.count(begun, 990, None);
        let turns: Vec<_> = (0..SINGLE_READS).map(|_| restore.single_reads.try_acquire().unwrap()).collect();
        let (turn, ()) = tokio::join!(restore.turn(), async {
            restore.done.send_replace(Some(Timestamp::UNIX_EPOCH));
        });
        assert!(turn.is_ok());
        drop(turns);
        assert!(restore.turn().await.is_ok(), "as many as like once it is done");
    }
}
