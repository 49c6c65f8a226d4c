//! Rollouts out of earlier ones: the failed nodes once more, and straight back to what was healthy.

use super::{Engine, NewRollout, Terms};
use chrono::TimeDelta;
use serde_json::json;
use std::collections::BTreeSet;
use zentinel_core::entity::{NodeProgress, Rollout, RolloutNode, RolloutSpec, RolloutState, TargetSelector};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Error, PageRequest, RecordKind, Result, Scope, Timestamp};

/// A bundle counts as recently healthy for this long after a rollout of it was completed.
pub const RECENTLY_HEALTHY: TimeDelta = TimeDelta::days(30);

/// Straight back to a bundle that was recently healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revert {
    /// The bundle.
    pub bundle_id: BundleId,
    /// Which nodes.
    pub target_selector: TargetSelector,
    /// Why, for the audit log.
    pub reason: String,
    /// The person who asks for it.
    pub requested_by: Option<Actor>,
}

fn is_unfinished(node: &RolloutNode) -> bool {
    let gone = node.error.as_deref() == Some(crate::transition::NODE_DELETED);
    (node.state == NodeProgress::Failed || node.lagging) && !gone
}

impl Engine {
    /// Creates a rollout of the same bundle for those nodes alone that an ended one did not bring it to. It
    /// obeys the same rules as any other.
    ///
    /// # Errors
    /// `Conflict` while the rollout is open, for a rollback, and when every node runs the bundle; otherwise as [`Engine::create`].
    pub async fn retry_failed(
        &self,
        scope: &Scope,
        actor: Actor,
        id: RolloutId,
        asked: Terms,
    ) -> Result<Rollout> {
        let detail = self.detail(scope, id).await?;
        let rollout = &detail.rollout;
        if rollout.state.is_open() || rollout.rollback_of.is_some() {
            return Err(Error::conflict("Rollout cannot be retried in current state")
                .with_hint("an ended rollout can be retried that is no rollback"));
        }
        let mut node_ids: BTreeSet<NodeId> =
            detail.nodes.iter().filter(|node| is_unfinished(node)).map(|node| node.node_id).collect();
        // A failed step gives up all of its nodes; those that run the bundle nevertheless need nothing.
        let reports = self.reports(&rollout.scope(), node_ids.iter().copied()).await?;
        node_ids.retain(|id| {
            reports.get(id).and_then(|report| report.active_bundle_id) != Some(rollout.bundle_id)
        });
        if node_ids.is_empty() {
            return Err(Error::conflict("Every node of the rollout runs the bundle"));
        }
        let spec =
            RolloutSpec { target_selector: TargetSelector::NodeIds { node_ids }, ..rollout.spec.clone() };
        let terms = Terms { environment_id: rollout.environment_id, ..asked };
        let new =
            NewRollout { bundle_id: rollout.bundle_id, spec, auto_start: true, supersede: false, terms };
        self.create(scope, actor, new).await
    }

    /// Brings nodes straight back to a bundle that a rollout was completed with in the last
    /// [`RECENTLY_HEALTHY`]: all at once, whatever else is under way on them, and without waiting for approvals or freeze
    /// windows. Never a canary.
    ///
    /// # Errors
    /// `Conflict` when the bundle was not rolled out lately; `Invalid` without a reason; otherwise as [`Engine::create`].
    pub async fn revert(&self, scope: &Scope, actor: Actor, revert: Revert) -> Result<Rollout> {
        let mut checks = zentinel_core::error::Checks::new();
        checks.text("reason", &revert.reason, 500);
        checks.finish()?;
        let bundle = self.deployable(scope, revert.bundle_id).await?;
        let now = self.clock.now();
        if !self.was_healthy_since(&bundle.scope(), bundle.id, now - RECENTLY_HEALTHY).await? {
            let details = json!({"bundle_id": bundle.id, "days": RECENTLY_HEALTHY.num_days()});
            return Err(Error::conflict("Bundle was not healthy lately").with_details(details).with_hint(
                "only a bundle that a rollout was completed with in the last 30 days can be reverted to; create a rollout of it",
            ));
        }
        let spec = RolloutSpec {
            target_selector: revert.target_selector,
            strategy: "all_at_once".to_owned(),
            ..RolloutSpec::default()
        };
        let terms =
            Terms { revert: Some(revert.reason), requested_by: revert.requested_by, ..Terms::default() };
        let new = NewRollout { bundle_id: bundle.id, spec, auto_start: true, supersede: true, terms };
        self.create(scope, actor, new).await
    }

    async fn was_healthy_since(&self, scope: &Scope, bundle: BundleId, since: Timestamp) -> Result<bool> {
        let mut page = PageRequest { limit: 500, cursor: None };
        loop {
            let query = Query::all(RecordKind::Rollout)
                .in_states(&[RolloutState::Completed.as_str()])
                .page(page.clone())
                .uncounted();
            let found = self.store.list::<Rollout>(scope, query).await?;
            let healthy = |rollout: &Rollout| {
                rollout.bundle_id == bundle
                    && rollout.rolled_back_by.is_none()
                    && rollout.completed_at.is_some_and(|at| at >= since)
            };
            if found.items.iter().any(|rollout| healthy(rollout)) {
                return Ok(true);
            }
            // Newest first: a rollout may end long after it was created, but not years.
            let old = since - TimeDelta::days(365);
            match found.next_cursor {
                Some(cursor) if found.items.last().is_some_and(|last| last.created_at > old) => {
                    page.cursor = Some(cursor);
                }
                _ => return Ok(false),
            }
        }
    }
}
