//! Nodes that come back with a bundle after it was rolled back.

use super::{ROLLBACK, Work};
use crate::State;
use crate::decision::Restore;
use crate::plan::part_id;
use crate::transition::MOVED_ON;
use serde_json::json;
use std::collections::BTreeSet;
use zentinel_core::entity::{Node, Rollout, RolloutNode};
use zentinel_core::id::{NodeId, RolloutId, RolloutNodeId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, RecordKind, Result};

impl Work<'_> {
    /// Nodes that ran something else already when their rollout was rolled back: unless somebody has decided about them
    /// since, they should run what they ran before.
    pub(super) async fn expect_previous(&mut self, state: &State, nodes: &[NodeId]) -> Result<()> {
        let moved_on = |id: &NodeId| {
            let part = state.nodes().get(id)?;
            let left = part.error.as_deref() == Some(MOVED_ON);
            left.then_some((*id, part.bundle_id, part.previous_bundle_id?))
        };
        let moved_on: Vec<_> = nodes.iter().filter_map(moved_on).collect();
        let decided = self.decided_since(state, moved_on.iter().map(|(id, ..)| *id).collect()).await?;
        for (id, own, previous) in moved_on {
            if let Some(node) = self.undecided(state, id, &decided).filter(|node| node.target.is_none())
                && node.expected_bundle_id == Some(own)
            {
                node.expected_bundle_id = Some(previous);
            }
        }
        Ok(())
    }

    pub(super) async fn restore(&mut self, state: &State, nodes: &[Restore]) -> Result<()> {
        let rollout = state.rollout();
        let ids = nodes.iter().map(|restore| restore.node_id).collect();
        let decided = self.decided_since(state, ids).await?;
        for Restore { node_id, bundle_id } in nodes {
            let own = state.nodes().get(node_id).map(|part| part.bundle_id);
            let Some(node) = self.undecided(state, *node_id, &decided) else {
                continue;
            };
            if own.is_some() && node.expected_bundle_id == own {
                continue;
            }
            let told = node.target.as_ref().is_some_and(|target| {
                target.bundle_id == *bundle_id && target.reason.as_deref() == Some(ROLLBACK)
            });
            node.expected_bundle_id = Some(*bundle_id);
            if told {
                continue;
            }
            let seen = node.target.as_ref().map_or(0, |target| target.sequence);
            let statement = self.statement(state, *bundle_id, seen).await?;
            if let Some(node) = self.nodes.any(*node_id) {
                node.target = Some(statement.target(Some(rollout.id), Some(ROLLBACK)));
            }
            let metadata = json!({"node_id": node_id, "bundle_id": bundle_id});
            self.audit(state, Actor::System, "rollout.node_restored", metadata);
        }
        Ok(())
    }

    /// The node, unless somebody has decided about it since this rollout: it is gone, claimed by another rollout, one of
    /// those in `decided`, or has a target that is not of this rollout or its rollback.
    fn undecided(&mut self, state: &State, id: NodeId, decided: &BTreeSet<NodeId>) -> Option<&mut Node> {
        let rollout = state.rollout();
        let ours =
            |by: Option<RolloutId>| by.is_some() && (by == Some(rollout.id) || by == rollout.rolled_back_by);
        let node = self.nodes.unclaimed_by_others(id, rollout.id)?;
        let free = node.target.as_ref().is_none_or(|target| ours(target.rollout_id));
        (free && !decided.contains(&id)).then_some(node)
    }

    /// Those of the nodes to which a later rollout, this one's rollback apart, has brought a bundle.
    async fn decided_since(&self, state: &State, ids: BTreeSet<NodeId>) -> Result<BTreeSet<NodeId>> {
        let rollout = state.rollout();
        if ids.is_empty() {
            return Ok(ids);
        }
        let all = Query::all(RecordKind::Rollout);
        let later = self.engine.store.list_all::<Rollout>(&self.scope, all).await?;
        let later = later.iter().filter(|other| {
            other.started_at > rollout.started_at && Some(other.id) != rollout.rolled_back_by
        });
        let parts: Vec<RolloutNodeId> =
            later.flat_map(|other| ids.iter().map(|id| part_id(other.id, *id))).collect();
        if parts.is_empty() {
            return Ok(BTreeSet::new());
        }
        let parts = Query::all(RecordKind::RolloutNode).with_ids(parts);
        let parts = self.engine.store.list_all::<RolloutNode>(&self.scope, parts).await?;
        let brought = parts.iter().filter(|part| part.verified_at.is_some());
        Ok(brought.map(|part| part.node_id).collect())
    }
}
