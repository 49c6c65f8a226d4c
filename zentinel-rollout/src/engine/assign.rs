//! Giving a bundle to single nodes, without a rollout.

use super::statements::{Issuer, way};
use super::{Assignment, Engine};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{AuditEntry, Bundle, BundleStatus, Node, NodeTarget, Project};
use zentinel_core::id::{BundleId, EnvironmentId, NodeId, StatementId};
use zentinel_core::port::StoreExt as _;
use zentinel_core::{Actor, Changes, Error, Result, Scope, Stored};

impl Engine {
    /// Tells nodes to run a bundle. Nodes of the scope that are pinned to
    /// another bundle are skipped unless `force`; nodes in an open rollout always are, and so are those where a
    /// rollout would have to wait for approval, promotion or the end of a freeze.
    ///
    /// # Errors
    /// `NotFound` for the bundle, `Conflict` when it is not compiled or revoked.
    pub async fn assign(
        &self,
        scope: &Scope,
        actor: Actor,
        bundle: BundleId,
        nodes: &[NodeId],
        force: bool,
    ) -> Result<Assignment> {
        let nodes: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let mut retry = self.retry();
        loop {
            let outcome = self.try_assign(scope, actor, bundle, &nodes, force).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return outcome;
            }
        }
    }

    async fn try_assign(
        &self,
        scope: &Scope,
        actor: Actor,
        bundle: BundleId,
        ids: &BTreeSet<NodeId>,
        force: bool,
    ) -> Result<Assignment> {
        let bundle = self.store.fetch::<Bundle>(scope, bundle).await?;
        if bundle.status == BundleStatus::Revoked {
            return Err(Error::conflict("Bundle has been revoked"));
        }
        if !bundle.status.is_deployable() {
            return Err(Error::conflict("Bundle must be compiled before assignment"));
        }
        let scope = bundle.scope();
        let mut found = self.nodes(&scope, ids).await?;
        let closed = self.closed_to_assignments(&bundle, found.values()).await?;
        let mut assignment = Assignment::default();
        for id in ids {
            let why = |node: &Stored<Node>| {
                obstacle(node, &bundle, force).or_else(|| *closed.get(&node.environment_id)?)
            };
            match found.get(id).map_or(Some("not_found"), why) {
                Some(reason) => {
                    found.remove(id);
                    assignment.skipped.push((*id, reason.to_owned()));
                }
                None => assignment.assigned.push(*id),
            }
        }
        if assignment.assigned.is_empty() {
            return Ok(assignment);
        }
        let changes = self.assigning(&bundle, found.into_values(), force).await?;
        let entry = AuditEntry::new(&scope, actor, "bundle.assigned", bundle.id, self.clock.now())
            .with_metadata(json!({
                "version": bundle.version,
                "assigned": assignment.assigned.len(),
                "node_ids": assignment.assigned.iter().take(MAX_LISTED).collect::<Vec<_>>(),
                "force": force,
            }));
        self.commit(changes.check(&bundle).audit(entry)).await?;
        Ok(assignment)
    }

    /// Why nodes of these environments cannot be given the bundle without a rollout: where a rollout would wait,
    /// an assignment is refused, so that nobody gets around the rules with it.
    async fn closed_to_assignments(
        &self,
        bundle: &Bundle,
        nodes: impl Iterator<Item = &Stored<Node>>,
    ) -> Result<BTreeMap<Option<EnvironmentId>, Option<&'static str>>> {
        let mut closed = BTreeMap::new();
        let environments: BTreeSet<Option<EnvironmentId>> = nodes.map(|node| node.environment_id).collect();
        for environment in environments {
            let touched = environment.into_iter().collect();
            let rules = self.rules(bundle, &touched, None).await?;
            closed.insert(environment, rules.refuses_assignments(&touched, self.clock.now()));
        }
        Ok(closed)
    }

    async fn assigning(
        &self,
        bundle: &Stored<Bundle>,
        nodes: impl ExactSizeIterator<Item = Stored<Node>>,
        force: bool,
    ) -> Result<Changes> {
        let scope = bundle.scope();
        let nodes: Vec<Stored<Node>> = nodes.collect();
        let reports = self.reports(&scope, nodes.iter().map(|node| node.id)).await?;
        let mut issuer = Issuer::new(self.store.fetch::<Project>(&scope, bundle.project_id).await?);
        let active = |node: &Stored<Node>| reports.get(&node.id)?.active_bundle_id;
        let way = way(bundle, nodes.iter().map(active));
        let statement = issuer.issue(self, StatementId::random(), bundle, way).await?;
        let mut changes = Changes::new();
        for read in nodes {
            let mut node = read.value.clone();
            let active = reports.get(&node.id).and_then(|report| report.active_bundle_id);
            if active != Some(bundle.id) {
                node.previous_bundle_id = active;
            }
            node.expected_bundle_id = Some(bundle.id);
            node.target = Some(NodeTarget { forced: force, ..statement.target(None, None) });
            changes = changes.update(&read, &node)?;
        }
        issuer.commit_with(changes)
    }
}

/// Most node ids in an audit entry.
const MAX_LISTED: usize = 100;

/// Why a node is not given the bundle, if it is not.
fn obstacle(node: &Node, bundle: &Bundle, force: bool) -> Option<&'static str> {
    if !node.approved {
        Some("pending_approval")
    } else if node.rollout_id.is_some() {
        Some("in_rollout")
    } else if !force && node.pinned_bundle_id.is_some_and(|pinned| pinned != bundle.id) {
        Some("pinned")
    } else if !force && node.cordoned {
        Some("cordoned")
    } else if !force && node.bounds.as_ref().is_some_and(|bounds| !bounds.admits(&bundle.version)) {
        Some("version_bounds")
    } else {
        None
    }
}
