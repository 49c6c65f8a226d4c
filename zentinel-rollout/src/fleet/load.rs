//! Reading the whole fleet, page by page, while it is already being served.

use super::Fleet;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::Node;
use zentinel_core::id::NodeId;
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{PageRequest, RecordKind, Result, Scope, Stored};

/// Nodes of one page: what a page takes in memory is what a start takes beyond the fleet itself.
const PAGE: u32 = 2_500;
/// Pause after a failed read.
const RETRY: Duration = Duration::from_millis(500);

impl Fleet {
    /// Whether every node of the store is known. Until then, one that is not may still exist.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.loaded_at.get().is_some()
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
        let _at = self.loaded_at.get_or_init(|| self.clock.now());
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
            let page = Query::all(RecordKind::Node).page(PageRequest { limit: PAGE, cursor });
            let page = self.store.list::<Node>(&Scope::Instance, page).await?;
            for node in &page.items {
                gone.remove(&node.id);
            }
            self.take_in_page(page.items).await?;
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
