//! The statements that a unit of work hands out.

use super::super::statements::{Issued, Issuer, Way, statement_id, way};
use super::Work;
use crate::State;
use zentinel_core::Result;
use zentinel_core::entity::{Bundle, BundleStatement, Project};
use zentinel_core::id::{BundleId, NodeId, StatementId};
use zentinel_core::port::StoreExt as _;

impl Work<'_> {
    /// The rollout's statement about a bundle: one per bundle, issued with the first target, used
    /// again by later ones unless it ends soon, or is older than `seen`, the sequence that a node was last told.
    pub(super) async fn statement(&mut self, state: &State, bundle: BundleId, seen: u64) -> Result<Issued> {
        let rollout = state.rollout().id;
        let id = statement_id(rollout, bundle);
        self.given_out.insert(bundle);
        if let Some(issued) = self.reused.get(&id).filter(|issued| issued.sequence >= seen) {
            return Ok(*issued);
        }
        let bundle = self.bundle(bundle).await?;
        let soon = self.engine.clock.now() + self.engine.options.statement_validity / 3;
        let issued = match self.engine.store.find::<BundleStatement>(&self.scope, id).await? {
            Some(earlier) if earlier.expires_at > soon && earlier.sequence >= seen => Issued::of(&earlier),
            Some(_) => self.issue(state, &bundle, StatementId::random()).await?,
            // Issued in this unit of work, but too old by now.
            None if self.reused.contains_key(&id) => {
                self.issue(state, &bundle, StatementId::random()).await?
            }
            None => self.issue(state, &bundle, id).await?,
        };
        self.reused.insert(id, issued);
        Ok(issued)
    }

    async fn issue(&mut self, state: &State, bundle: &Bundle, id: StatementId) -> Result<Issued> {
        let way = self.way_in(state, bundle).await?;
        let issuer = match &mut self.issuer {
            Some(issuer) => issuer,
            none => {
                let project = bundle.project_id;
                let project = self.engine.store.fetch::<Project>(&self.scope, project).await?;
                none.insert(Issuer::new(project))
            }
        };
        issuer.issue(self.engine, id, bundle, way).await
    }

    /// The way to a bundle on all nodes of the rollout that are told it, now or by a later step. A node that
    /// comes back with the rollout's own bundle after it was withdrawn runs just that.
    async fn way_in(&self, state: &State, bundle: &Bundle) -> Result<Way> {
        let told = state.nodes().values().filter(|part| part.bundle_id == bundle.id);
        let told: Vec<NodeId> = told.map(|part| part.node_id).collect();
        if told.is_empty() {
            return Ok(way(bundle, [Some(state.rollout().bundle_id)]));
        }
        let reports = self.engine.reports(&self.scope, told).await?;
        Ok(way(bundle, reports.values().map(|report| report.active_bundle_id)))
    }
}
