//! Following what others commit.

use super::Fleet;
use futures_util::StreamExt as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zentinel_core::id::{NodeId, TypedId};
use zentinel_core::port::Notice;
use zentinel_core::{RecordKind, Result};

/// Most notices that are worked off together.
const BURST: usize = 256;
/// Pause after a failed read.
const RETRY: Duration = Duration::from_millis(500);

/// What must be read again.
#[derive(Debug, Default)]
struct Outdated {
    everything: bool,
    nodes: BTreeSet<NodeId>,
    reports: BTreeSet<NodeId>,
}

impl Fleet {
    /// Reads nodes again when the store says that they changed, until `shutdown`.
    pub(super) async fn follow_until(&self, shutdown: &CancellationToken) {
        let Some(mut notices) = self.notices.lock().take() else {
            tracing::warn!("the fleet already follows the store");
            return;
        };
        let mut outdated = Outdated::default();
        while !shutdown.is_cancelled() {
            let mut bursts = notices.as_mut().ready_chunks(BURST);
            let burst = tokio::select! {
                () = shutdown.cancelled() => break,
                burst = bursts.next() => burst,
            };
            match burst {
                Some(burst) => burst.into_iter().for_each(|notice| self.note(&mut outdated, notice)),
                None => {
                    tracing::warn!("the store's notices ended; subscribing again");
                    tokio::time::sleep(RETRY).await;
                    notices = self.store.watch();
                    outdated.everything = true;
                }
            }
            while let Err(error) = self.catch_up(&mut outdated).await {
                tracing::warn!(%error, "changed nodes could not be read; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    fn note(&self, outdated: &mut Outdated, notice: Notice) {
        match notice {
            Notice::Records { kind, ids, .. } => {
                let ids = ids.into_iter().map(NodeId::from_uuid);
                match kind {
                    RecordKind::Node => outdated.nodes.extend(ids),
                    RecordKind::NodeReport if self.options.shared => outdated.reports.extend(ids),
                    RecordKind::Bundle => self.bundles.forget_unknown(),
                    _ => {}
                }
            }
            Notice::Lagged => outdated.everything = true,
            Notice::Events | Notice::Jobs => {}
        }
    }

    /// Reads what is outdated; what failed stays outdated.
    async fn catch_up(&self, outdated: &mut Outdated) -> Result<()> {
        if outdated.everything {
            self.bundles.forget_unknown();
            self.reload().await?;
            *outdated = Outdated::default();
        }
        if !outdated.nodes.is_empty() {
            let ids: Vec<NodeId> = outdated.nodes.iter().copied().collect();
            self.refresh(&ids).await?;
            outdated.nodes.clear();
        }
        if !outdated.reports.is_empty() {
            let ids: Vec<NodeId> = outdated.reports.iter().copied().collect();
            self.take_reports(self.read_reports(&ids).await?);
            outdated.reports.clear();
        }
        Ok(())
    }
}
