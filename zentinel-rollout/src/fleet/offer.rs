//! What a poll is answered, and who waits for an answer to change.

use super::known::KnownNode;
use super::{Fleet, unknown_node};
use dashmap::DashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use zentinel_core::Result;
use zentinel_core::entity::{NodeTarget, NodeTraffic, Slot};
use zentinel_core::id::{BundleId, NodeId};

/// What a node is told when it polls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What to activate; none when there is nothing to do, because there is no target, the node
    /// already runs it, the node is not approved, or it is pinned to another bundle and the target is
    /// not forced.
    pub target: Option<NodeTarget>,
    /// What the node says it runs.
    pub active_bundle_id: Option<BundleId>,
    /// The slot and weight that a blue-green rollout gave the node, whether or not there is a target.
    pub traffic: Option<NodeTraffic>,
    /// Differs whenever the answer differs: the target's sequence, or 0 when there is nothing to
    /// do, and the traffic in the upper bits. It is the same on every replica and after a restart.
    pub etag: u64,
}

/// Where the traffic begins in an etag; no sequence gets there.
const TRAFFIC_BITS: u32 = 54;

/// The etag of an offer without a target.
fn etag_of(traffic: Option<NodeTraffic>) -> u64 {
    traffic.map_or(0, |NodeTraffic { slot, weight }| {
        let slot = match slot {
            Slot::Blue => 1,
            Slot::Green => 2,
        };
        (slot << 7 | u64::from(weight)) << TRAFFIC_BITS
    })
}

impl Offer {
    /// What a node is told that says that it runs `active`.
    pub(super) fn of(node: &KnownNode, active: Option<BundleId>) -> Self {
        Self {
            etag: Self::stamp(node, active),
            target: node.due(active).cloned(),
            traffic: node.traffic,
            active_bundle_id: active,
        }
    }

    /// Its etag alone.
    pub(super) fn stamp(node: &KnownNode, active: Option<BundleId>) -> u64 {
        etag_of(node.traffic) | node.due(active).map_or(0, |target| target.sequence)
    }

    /// The etag of the same offer without its target, for nodes that may not be given the bundle. 0 when there is
    /// nothing to say at all.
    #[must_use]
    pub fn etag_without_target(&self) -> u64 {
        etag_of(self.traffic)
    }
}

/// Requests that wait for a new offer, by node. A node is in here only while it waits.
#[derive(Debug, Default)]
pub(super) struct Waiters(DashMap<NodeId, Arc<Notify>>);

impl Waiters {
    pub(super) fn wake(&self, id: NodeId) {
        if let Some(notify) = self.0.get(&id) {
            notify.notify_waiters();
        }
    }

    fn join(&self, id: NodeId) -> Waiter<'_> {
        let notify = Arc::clone(self.0.entry(id).or_default().value());
        Waiter { waiters: self, id, notify }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// One waiting request; leaves when dropped.
struct Waiter<'a> {
    waiters: &'a Waiters,
    id: NodeId,
    notify: Arc<Notify>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        // The map's reference and ours: nobody else waits. Others join under the same shard lock.
        self.waiters.0.remove_if(&self.id, |_, notify| Arc::strong_count(notify) <= 2);
    }
}

impl Fleet {
    /// What a poll of this node is answered, from memory.
    ///
    /// # Errors
    /// `NotFound` for an unknown node.
    pub fn offer(&self, id: NodeId) -> Result<Offer> {
        self.nodes.get(&id).map(|entry| entry.offer()).ok_or_else(unknown_node)
    }

    /// As [`Fleet::offer`], but holds the answer back for up to `wait` while it is not news:
    /// while its etag is the one already `seen`, or without one while there is no target and the traffic stays as it is.
    ///
    /// # Errors
    /// `NotFound` for an unknown node, also when it is deleted meanwhile.
    pub async fn wait_for_offer(&self, id: NodeId, seen: Option<u64>, wait: Duration) -> Result<Offer> {
        let offer = self.offer(id)?;
        let seen = seen.unwrap_or(offer.etag_without_target());
        let is_news = |offer: &Offer| offer.etag != seen;
        if is_news(&offer) || wait.is_zero() {
            return Ok(offer);
        }
        let waiter = self.waiters.join(id);
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        loop {
            let notified = waiter.notify.notified();
            tokio::pin!(notified);
            // Listening before looking: a change between the two is not missed.
            notified.as_mut().enable();
            let offer = self.offer(id)?;
            if is_news(&offer) {
                return Ok(offer);
            }
            tokio::select! {
                () = &mut notified => {}
                () = &mut deadline => return self.offer(id),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_left_behind_when_waiting_ends() {
        let (waiters, id) = (Waiters::default(), NodeId::random());
        let (first, second) = (waiters.join(id), waiters.join(id));
        waiters.wake(id);
        drop(first);
        assert_eq!(waiters.len(), 1);
        drop(second);
        assert_eq!(waiters.len(), 0);
    }
}
