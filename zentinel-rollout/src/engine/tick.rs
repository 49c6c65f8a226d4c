//! One look at a rollout.

use super::loaded::Loaded;
use super::look::Decided;
use super::work::Work;
use super::{Engine, probe_job, tick_job};
use crate::State;
use crate::decision::{Decision, Effect};
use serde_json::json;
use std::collections::BTreeSet;
use zentinel_core::entity::{BundleStatus, Node, NodeReport, Rollout, RolloutState};
use zentinel_core::id::{BundleId, RolloutId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, RecordKind, Result, Scope, Timestamp};

impl Engine {
    /// Looks at a rollout, commits what follows, and enqueues the next look in the same commit.
    /// Returns when that is; `None` when only a command or a report can change anything. Safe to
    /// call at any time, any number of times, by any number of engines.
    ///
    /// # Errors
    /// Those of the store and the signer; nothing is lost, the next look decides again.
    pub async fn tick(&self, id: RolloutId) -> Result<Option<Timestamp>> {
        let mut retry = self.retry();
        loop {
            if let Some(outcome) = retry.judge(self.try_tick(id).await).await {
                return outcome;
            }
        }
    }

    async fn try_tick(&self, id: RolloutId) -> Result<Option<Timestamp>> {
        let Some(rollout) = self.store.find::<Rollout>(&Scope::Instance, id).await? else {
            self.forget(id);
            return Ok(None);
        };
        let before = rollout.state;
        let mut work = Work::new(self, rollout.scope());
        let decided = self.decide(&mut work, rollout).await?;
        self.follow_through(before, work, decided).await
    }

    /// Commits a decision with what follows from it.
    pub(super) async fn follow_through(
        &self,
        before: RolloutState,
        mut work: Work<'_>,
        decided: Decided,
    ) -> Result<Option<Timestamp>> {
        let Decided { decision, mut revisions, seen, probe_at } = decided;
        let (id, next) = (decision.state.rollout().id, decision.next_wake);
        if decision.is_idle() {
            let mut changes = Changes::new();
            changes.jobs.extend(next.map(|at| tick_job(id, at)));
            changes.jobs.extend(probe_at.map(|at| probe_job(id, at)));
            if !changes.is_empty() {
                self.commit(changes).await?;
            }
        } else {
            work.record(&mut revisions, &decision)?;
            work.add(probe_at.into_iter().fold(Changes::new(), |changes, at| changes.job(probe_job(id, at))));
            work.carry_out(&decision.state, &decision.effects).await?;
            audit(&mut work, &decision);
            if before != RolloutState::Completed && decision.state.rollout().state == RolloutState::Completed
            {
                self.settle_bundles(&mut work, &decision.state).await?;
            }
            self.commit(work.finish()?).await?;
        }
        if next.is_some() || decision.state.rollout().state.is_open() {
            self.keep(Loaded { state: decision.state, revisions, seen: Some(seen) });
        } else {
            self.forget(id);
        }
        Ok(next)
    }

    /// A completed rollout covered every node that ran an older bundle: that one is superseded. A
    /// superseded bundle that was rolled out again, or restored by a rollback, is not any more. What a
    /// rollback undoes is not superseded: it may be rolled out again.
    async fn settle_bundles(&self, work: &mut Work<'_>, state: &State) -> Result<()> {
        let rollout = state.rollout();
        let mut delivered: BTreeSet<BundleId> = state.nodes().values().map(|node| node.bundle_id).collect();
        delivered.insert(rollout.bundle_id);
        for id in delivered {
            if work.status_of(id) == Some(BundleStatus::Superseded) {
                work.set_status(id, BundleStatus::Compiled)?;
            }
        }
        if rollout.rollback_of.is_some() {
            return Ok(());
        }
        let previous = state.nodes().values().filter_map(|node| node.previous_bundle_id);
        let mut left: BTreeSet<BundleId> = previous.filter(|id| *id != rollout.bundle_id).collect();
        if left.is_empty() {
            return Ok(());
        }
        let scope = rollout.scope();
        for report in self.store.list_all::<NodeReport>(&scope, Query::all(RecordKind::NodeReport)).await? {
            left.retain(|id| report.active_bundle_id != Some(*id));
        }
        for node in self.store.list_all::<Node>(&scope, Query::all(RecordKind::Node)).await? {
            let told = node.target.as_ref().map(|target| target.bundle_id);
            left.retain(|id| told != Some(*id) && node.pinned_bundle_id != Some(*id));
        }
        for id in left {
            if work.status_of(id) == Some(BundleStatus::Compiled) {
                work.set_status(id, BundleStatus::Superseded)?;
            }
        }
        Ok(())
    }
}

/// One entry for each thing that the control plane did to the rollout by itself.
fn audit(work: &mut Work<'_>, decision: &Decision) {
    for event in &decision.events {
        work.audit(&decision.state, Actor::System, event.kind, event.payload.clone());
    }
    for effect in &decision.effects {
        if let Effect::RollBack(rollback) = effect {
            let metadata = json!({
                "rolled_back_by": rollback.rollout_id,
                "reason": rollback.reason,
                "nodes": rollback.nodes.len(),
                "unrestorable": rollback.unrestorable.len(),
            });
            work.audit(&decision.state, Actor::System, "rollout.rolled_back", metadata);
        }
    }
}
