//! What a look for drift knows, read set by set.

use super::Look;
use crate::drift::{Facts, Verdict, diff_stats, judge};
use crate::engine::Engine;
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{
    Bundle, BundleSource, BundleStatement, DiffStats, DriftEvent, DriftResolution, Node, NodeConfig,
    NodeReport, Project, Rollout,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId, StatementId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Error, RecordKind, Result, Scope, Sha256Digest, Stored, Timestamp};

/// What the store knows of the nodes of a look.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) nodes: BTreeMap<NodeId, Stored<Node>>,
    pub(super) reports: BTreeMap<NodeId, NodeReport>,
    configs: BTreeMap<NodeId, (Sha256Digest, Timestamp)>,
    bundles: BTreeMap<BundleId, Stored<Bundle>>,
    /// When each open statement was issued.
    issued: BTreeMap<StatementId, Timestamp>,
    /// The rollouts that told the nodes last.
    rollouts: BTreeMap<RolloutId, Rollout>,
}

impl Known {
    pub(super) fn verdict(&self, node: &Node, grace: TimeDelta, now: Timestamp) -> Verdict {
        let expected = node.expected_bundle_id.and_then(|expected| self.bundles.get(&expected));
        let facts = Facts {
            node,
            report: self.reports.get(&node.id),
            config: self.configs.get(&node.id).copied(),
            expected_config: expected.and_then(|bundle| bundle.config_hash),
            changed_at: self.changed_at(node, now),
        };
        judge(&facts, grace, now)
    }

    /// When something else was last expected of a node, as far as that matters: its open target was given to it
    /// then, or the rollout that told it ended then.
    fn changed_at(&self, node: &Node, now: Timestamp) -> Option<Timestamp> {
        let given = node.target.as_ref().and_then(|target| self.issued.get(&target.statement_id).copied());
        let rollout = node.told_by.and_then(|told| self.rollouts.get(&told));
        let ended = rollout.map(|rollout| rollout.completed_at.unwrap_or(now));
        given.max(ended)
    }

    /// What brought a node back.
    pub(super) fn resolution(&self, node: &Node, event: &DriftEvent) -> DriftResolution {
        let Some(told) = node.told_by.and_then(|told| self.rollouts.get(&told)) else {
            return DriftResolution::AutoCorrected;
        };
        let ours = event.remediations.iter().any(|remediation| remediation.rollout_id == told.id);
        let since = told.started_at.is_some_and(|started| started >= event.detected_at);
        match (ours, since && Some(told.bundle_id) == node.expected_bundle_id) {
            (true, _) => DriftResolution::RolloutStarted,
            (false, true) => DriftResolution::RolloutCompleted,
            (false, false) => DriftResolution::AutoCorrected,
        }
    }

    /// Whether a configuration was reported since its node runs what it runs.
    pub(super) fn is_current(&self, config: &NodeConfig) -> bool {
        let since = self.reports.get(&config.node_id).and_then(|report| report.active_since);
        since.is_none_or(|since| config.created_at >= since)
    }
}

impl Engine {
    /// Six queries at most, whatever the number of nodes.
    pub(super) async fn known(&self, project: &Project, look: &Look) -> Result<Known> {
        let scope = project.scope();
        let nodes = self.nodes(&scope, &look.ids).await?;
        let reports = self.reports(&scope, nodes.keys().copied()).await?;
        let active = |id: &NodeId| reports.get(id).and_then(|report| report.active_bundle_id);
        let differing: Vec<&Stored<Node>> = nodes
            .values()
            .filter(|node| {
                active(&node.id) != node.expected_bundle_id
                    || look.configs.contains_key(&node.id)
                    || look.open.contains_key(&node.id)
            })
            .collect();
        let wanted: BTreeSet<BundleId> = look
            .configs
            .keys()
            .filter_map(|id| nodes.get(id).and_then(|node| node.expected_bundle_id))
            .collect();
        let statements: BTreeSet<StatementId> = differing
            .iter()
            .filter_map(|node| node.target.as_ref().map(|target| target.statement_id))
            .collect();
        let told: BTreeSet<RolloutId> = differing.iter().filter_map(|node| node.told_by).collect();
        let mut known = Known {
            configs: look.configs.iter().map(|(id, c)| (*id, (c.config_hash, c.created_at))).collect(),
            bundles: self.bundles(&scope, &wanted).await?,
            ..Known::default()
        };
        if !statements.is_empty() {
            let query = Query::all(RecordKind::BundleStatement).with_ids(statements);
            let found = self.store.list_all::<BundleStatement>(&scope, query).await?;
            known.issued = found.into_iter().map(|found| (found.id, found.created_at)).collect();
        }
        if !told.is_empty() {
            let query = Query::all(RecordKind::Rollout).with_ids(told);
            let found = self.store.list_all::<Rollout>(&scope, query).await?;
            known.rollouts = found.into_iter().map(|found| (found.id, found.value)).collect();
        }
        (known.nodes, known.reports) = (nodes, reports);
        Ok(known)
    }

    /// The configurations of these bundles.
    pub(super) async fn sources(
        &self,
        scope: &Scope,
        bundles: BTreeSet<BundleId>,
    ) -> Result<BTreeMap<BundleId, String>> {
        let query = Query::all(RecordKind::BundleSource).with_ids(bundles);
        let found = self.store.list_all::<BundleSource>(scope, query).await?;
        Ok(found.into_iter().map(|source| (source.bundle_id, source.value.config_source)).collect())
    }
}

/// Counts the lines that differ; long texts take a while, so not on the runtime's threads.
pub(super) async fn count(expected: String, actual: String) -> Result<DiffStats> {
    let counted = tokio::task::spawn_blocking(move || diff_stats(&expected, &actual)).await;
    counted.map_err(|error| Error::internal("the difference was not counted").with_source(error))
}
