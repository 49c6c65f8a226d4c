//! The node records of one unit of work.

use std::collections::BTreeMap;
use zentinel_core::entity::Node;
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::{Changes, Result, Stored};

/// Nodes as they were read and as they shall be. What ends up different is written, naming the
/// revision that was read.
#[derive(Debug, Default)]
pub(super) struct Nodes(BTreeMap<NodeId, (Stored<Node>, Node)>);

impl Nodes {
    /// Takes in nodes that were read; those that are here already stay as they are.
    pub(super) fn extend(&mut self, read: BTreeMap<NodeId, Stored<Node>>) {
        for (id, read) in read {
            let node = read.value.clone();
            self.0.entry(id).or_insert((read, node));
        }
    }

    /// The node as it shall be; none when it is gone.
    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.0.get(&id).map(|(_, node)| node)
    }

    /// The node, unless it is gone or an open rollout other than `rollout` has claimed it.
    pub(super) fn unclaimed_by_others(&mut self, id: NodeId, rollout: RolloutId) -> Option<&mut Node> {
        let node = self.0.get_mut(&id).map(|(_, node)| node)?;
        node.rollout_id.is_none_or(|claimed| claimed == rollout).then_some(node)
    }

    /// The node if this rollout has claimed it.
    pub(super) fn claimed_by(&mut self, id: NodeId, rollout: RolloutId) -> Option<&mut Node> {
        let node = self.0.get_mut(&id).map(|(_, node)| node)?;
        (node.rollout_id == Some(rollout)).then_some(node)
    }

    /// The node, whoever has claimed it.
    pub(super) fn any(&mut self, id: NodeId) -> Option<&mut Node> {
        self.0.get_mut(&id).map(|(_, node)| node)
    }

    pub(super) fn commit_with(self, mut changes: Changes) -> Result<Changes> {
        for (read, node) in self.0.into_values() {
            if read.value != node {
                changes = changes.update(&read, &node)?;
            }
        }
        Ok(changes)
    }
}
