//! What is not written yet.

use std::collections::{HashMap, HashSet, VecDeque};
use tokio::sync::oneshot;
use zentinel_core::Result;
use zentinel_core::entity::Event;
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::log::LogRow;

/// Told when a group is committed or refused for good.
pub(super) type Acknowledge = oneshot::Sender<Result<()>>;

/// What goes with the next write of one node's report.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) history: Vec<LogRow>,
    pub(super) events: Vec<Event>,
    /// Rollouts to look at.
    pub(super) ticks: Vec<RolloutId>,
    pub(super) waiters: Vec<Acknowledge>,
    /// The report is to be written, not only what belongs to it.
    pub(super) report: bool,
    /// The node is to be looked at for drift.
    pub(super) drifting: bool,
    /// A change is not durable yet: whoever reports again waits with it.
    pub(super) urgent: bool,
}

impl Dirty {
    /// What was queued later goes behind what was queued before.
    fn absorb(&mut self, later: Self) {
        self.history.extend(later.history);
        self.events.extend(later.events);
        self.ticks.extend(later.ticks);
        self.waiters.extend(later.waiters);
        self.report |= later.report;
        self.drifting |= later.drifting;
        self.urgent |= later.urgent;
    }
}

/// Every node whose report is newer than what the store has.
#[derive(Debug, Default)]
pub(super) struct Pending {
    nodes: HashMap<NodeId, Dirty>,
    /// Urgent nodes in order of arrival; may name nodes that are gone.
    urgent: VecDeque<NodeId>,
    /// Nodes with a change in the commit that is under way.
    committing: HashSet<NodeId>,
    history: usize,
}

impl Pending {
    /// Queues a node's report. History beyond `max_history` rows is dropped.
    pub(super) fn add(&mut self, id: NodeId, mut dirty: Dirty, max_history: usize) {
        if self.history + dirty.history.len() > max_history {
            dirty.history.clear();
        }
        self.history += dirty.history.len();
        let urgent = dirty.urgent;
        let entry = self.nodes.entry(id).or_default();
        if urgent && !entry.urgent {
            self.urgent.push_back(id);
        }
        entry.absorb(dirty);
    }

    /// The commit that was under way is durable.
    pub(super) fn committed(&mut self) {
        self.committing.clear();
    }

    /// Queues again what could not be written, before what was queued meanwhile.
    pub(super) fn restore(&mut self, group: Vec<(NodeId, Dirty)>) {
        self.committing.clear();
        for (id, mut earlier) in group {
            self.history += earlier.history.len();
            if let Some(later) = self.nodes.remove(&id) {
                earlier.absorb(later);
            }
            if earlier.urgent {
                self.urgent.push_front(id);
            }
            self.nodes.insert(id, earlier);
        }
    }

    /// Takes up to `limit` nodes, urgent ones first.
    pub(super) fn take(&mut self, limit: usize) -> Vec<(NodeId, Dirty)> {
        let mut group = Vec::with_capacity(limit.min(self.nodes.len()));
        while group.len() < limit
            && let Some(id) = self.urgent.pop_front()
        {
            if let Some(dirty) = self.nodes.remove(&id) {
                group.push((id, dirty));
            }
        }
        if group.len() < limit {
            let rest: HashSet<NodeId> = self.nodes.keys().take(limit - group.len()).copied().collect();
            group.extend(rest.into_iter().filter_map(|id| self.nodes.remove_entry(&id)));
        }
        self.committing = group.iter().filter(|(_, dirty)| dirty.urgent).map(|(id, _)| *id).collect();
        self.history = self.history.saturating_sub(group.iter().map(|(_, dirty)| dirty.history.len()).sum());
        group
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        if let Some(dirty) = self.nodes.remove(&id) {
            self.history = self.history.saturating_sub(dirty.history.len());
        }
    }

    /// Whether a change of this node is not durable yet.
    pub(super) fn is_urgent(&self, id: NodeId) -> bool {
        self.committing.contains(&id) || self.nodes.get(&id).is_some_and(|dirty| dirty.urgent)
    }

    pub(super) fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u8) -> NodeId {
        use zentinel_core::id::TypedId as _;
        NodeId::from_uuid(uuid::Uuid::from_u128(u128::from(number)))
    }

    #[derive(Clone, Debug)]
    enum Action {
        Report(u8, bool),
        Commit(usize),
        Fail(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (0_u8..6, any::<bool>()).prop_map(|(node, urgent)| Action::Report(node, urgent)),
            (1_usize..4).prop_map(Action::Commit),
            (1_usize..4).prop_map(Action::Fail),
        ]
    }

    proptest! {
        /// Whatever is reported is either written or still waits, and nobody is acknowledged early.
        #[test]
        fn nothing_is_lost_and_urgent_goes_first(actions in proptest::collection::vec(action(), 0..60)) {
            let mut pending = Pending::default();
            let mut unwritten: HashMap<NodeId, bool> = HashMap::new();
            for action in actions {
                match action {
                    Action::Report(number, urgent) => {
                        let dirty = Dirty { urgent, ..Dirty::default() };
                        pending.add(node(number), dirty, 100);
                        *unwritten.entry(node(number)).or_default() |= urgent;
                    }
                    Action::Commit(limit) => {
                        let urgent = unwritten.values().filter(|urgent| **urgent).count();
                        let group = pending.take(limit);
                        prop_assert_eq!(group.len(), limit.min(unwritten.len()));
                        let taken = group.iter().filter(|(_, dirty)| dirty.urgent).count();
                        prop_assert_eq!(taken, urgent.min(limit));
                        pending.committed();
                        for (id, _) in group {
                            unwritten.remove(&id);
                        }
                    }
                    Action::Fail(limit) => {
                        let group = pending.take(limit);
                        for (id, dirty) in &group {
                            prop_assert_eq!(pending.is_urgent(*id), dirty.urgent, "under way is not durable");
                        }
                        pending.restore(group);
                    }
                }
                for (id, urgent) in &unwritten {
                    prop_assert_eq!(pending.is_urgent(*id), *urgent);
                }
            }
            prop_assert_eq!(pending.take(usize::MAX).len(), unwritten.len());
        }
    }
}
