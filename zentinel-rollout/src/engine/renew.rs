//! Statements end; targets that nodes have not reached yet must not end with them.

use super::Engine;
use super::statements::{Issued, Issuer, way};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{AuditEntry, BundleStatement, Node, NodeTarget, Project};
use zentinel_core::id::{BundleId, StatementId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope, Stored};

impl Engine {
    /// Issues new statements for targets that are not reached yet and whose statement ends within
    /// a third of its validity. Returns how many nodes got one. One project's failure does not
    /// keep the others from theirs.
    ///
    /// # Errors
    /// The first error, after every project was tried.
    pub async fn renew_statements(&self) -> Result<usize> {
        let projects = self.store.list_all::<Project>(&Scope::Instance, Query::all(RecordKind::Project));
        let (mut renewed, mut failure): (usize, Option<Error>) = (0, None);
        for project in projects.await? {
            let mut retry = self.retry();
            let outcome = loop {
                if let Some(outcome) = retry.judge(self.try_renew(&project.scope()).await).await {
                    break outcome;
                }
            };
            match outcome {
                Ok(count) => renewed += count,
                Err(error) => {
                    tracing::warn!(project = %project.id, %error, "statements were not renewed");
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(renewed), Err)
    }

    async fn try_renew(&self, scope: &Scope) -> Result<usize> {
        let all = Query::all(RecordKind::Node);
        let nodes = self.store.list_where(scope, all, |node: &Node| node.target.is_some()).await?;
        let mut open: Vec<(Stored<Node>, NodeTarget)> =
            nodes.into_iter().filter_map(|node| node.target.clone().map(|target| (node, target))).collect();
        let reports = self.reports(scope, open.iter().map(|(node, _)| node.id)).await?;
        open.retain(|(node, target)| {
            reports.get(&node.id).is_none_or(|report| report.active_bundle_id != Some(target.bundle_id))
        });
        let ending = self.ending(scope, open.iter().map(|(_, target)| target.statement_id)).await?;
        open.retain(|(_, target)| ending.contains(&target.statement_id));
        let Scope::Project(_, project) = *scope else {
            return Ok(0);
        };
        if open.is_empty() {
            return Ok(0);
        }
        let bundles: BTreeSet<BundleId> = open.iter().map(|(_, target)| target.bundle_id).collect();
        let bundles = self.bundles(scope, &bundles).await?;
        let mut running: BTreeMap<StatementId, Vec<Option<BundleId>>> = BTreeMap::new();
        for (node, target) in &open {
            let active = reports.get(&node.id).and_then(|report| report.active_bundle_id);
            running.entry(target.statement_id).or_default().push(active);
        }
        let mut issuer = Issuer::new(self.store.fetch::<Project>(scope, project).await?);
        let mut changes = Changes::new();
        let mut issued: BTreeMap<StatementId, Issued> = BTreeMap::new();
        let mut count = 0;
        for (read, target) in open {
            let Some(bundle) = bundles.get(&target.bundle_id).filter(|bundle| bundle.status.is_deployable())
            else {
                continue;
            };
            let old = target.statement_id;
            let statement = match issued.get(&old) {
                Some(statement) => *statement,
                None => {
                    let active = running.get(&old).into_iter().flatten().copied();
                    let way = way(bundle, active);
                    let statement = issuer.issue(self, StatementId::random(), bundle, way).await?;
                    let entry = AuditEntry::new(
                        scope,
                        Actor::System,
                        "bundle.statement_renewed",
                        bundle.id,
                        self.clock.now(),
                    );
                    changes = changes.audit(entry.with_metadata(json!({
                        "statement_id": statement.statement_id,
                        "sequence": statement.sequence,
                        "nodes": running.get(&old).map_or(0, Vec::len),
                    })));
                    issued.insert(old, statement);
                    statement
                }
            };
            let mut node = read.value.clone();
            node.target = Some(NodeTarget {
                statement_id: statement.statement_id,
                sequence: statement.sequence,
                ..target
            });
            changes = changes.update(&read, &node)?;
            count += 1;
        }
        let changes = issuer.commit_with(changes)?;
        if !changes.is_empty() {
            self.commit(changes).await?;
        }
        Ok(count)
    }

    /// Those of the statements that end within a third of their validity.
    async fn ending(
        &self,
        scope: &Scope,
        ids: impl Iterator<Item = StatementId>,
    ) -> Result<BTreeSet<StatementId>> {
        let ids: BTreeSet<StatementId> = ids.collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let query = Query::all(RecordKind::BundleStatement).with_ids(ids);
        let statements = self.store.list_all::<BundleStatement>(scope, query).await?;
        let soon = self.clock.now() + self.options.statement_validity / 3;
        let ending = statements.iter().filter(|statement| statement.expires_at <= soon);
        Ok(ending.map(|statement| statement.id).collect())
    }
}
