//! Rollouts that wait for their nodes instead of being refused.
//!
//! A queued rollout stays pending. It looks for itself, through a durable job, whether what was in its way has ended, and
//! starts through the same guards as any other. Of two that want the same nodes the older one goes first.

use super::terms::waits;
use super::work::Work;
use super::{Engine, start_job};
use crate::State;
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{ApprovalState, Bundle, Project, Rollout, Waiting};
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::port::{NewJob, Query, StoreExt as _};
use zentinel_core::{Changes, RecordKind, Result, Stored, Timestamp};

/// How often a queued rollout looks whether its turn has come.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(5);
/// Most rollouts that a sentence names.
const MAX_NAMED: usize = 3;

/// The job that looks again.
pub(super) fn next_look(id: RolloutId, now: Timestamp) -> NewJob {
    start_job(id, now + LOOK_AGAIN)
}

impl Engine {
    /// What a queued rollout waits for, if anything: rollouts under way on its nodes, older ones in the queue for them,
    /// or the project's limit.
    pub(super) async fn queue_before(
        &self,
        work: &Work<'_>,
        state: &State,
        bundle: &Bundle,
        now: Timestamp,
    ) -> Result<Option<Waiting>> {
        let mut before: BTreeMap<RolloutId, u64> = BTreeMap::new();
        for rollout in state.nodes().keys().filter_map(|id| work.claim_of(*id)) {
            *before.entry(rollout).or_default() += 1;
        }
        self.add_older(state, &mut before, now).await?;
        if !before.is_empty() {
            return Ok(Some(waits(self.named(bundle, &before).await?)));
        }
        let scope = bundle.scope();
        let limit = self.store.fetch::<Project>(&scope, bundle.project_id).await?;
        let limit = limit.settings.max_concurrent_rollouts.max(1);
        let open = Query::all(RecordKind::Rollout).in_states(&["running", "paused"]);
        let open = self.store.list_all::<Rollout>(&scope, open).await?.len();
        let full = open >= usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(full.then(|| {
            waits(format!("Waits for one of {open} rollouts under way; the project may have {limit}."))
        }))
    }

    /// Adds the rollouts that have queued for longer, on how many of the same nodes. Those that could not start anyway
    /// hold nobody up.
    async fn add_older(
        &self,
        state: &State,
        before: &mut BTreeMap<RolloutId, u64>,
        now: Timestamp,
    ) -> Result<()> {
        let (own, nodes) = (state.rollout(), state.nodes());
        let pending = Query::all(RecordKind::Rollout).in_states(&["pending"]);
        for other in self.store.list_all::<Rollout>(&own.scope(), pending).await? {
            let waits_for_people =
                matches!(other.approval.state, ApprovalState::PendingApproval | ApprovalState::Rejected);
            let ready = other.starts_by_itself
                && other.queued
                && !waits_for_people
                && other.scheduled_at.is_none_or(|at| at <= now);
            if !ready || (other.created_at, other.id) >= (own.created_at, own.id) {
                continue;
            }
            let id = other.id;
            let theirs = self.read(other).await?.state;
            let shared = theirs.nodes().keys().filter(|id: &&NodeId| nodes.contains_key(*id)).count();
            if shared > 0 {
                *before.entry(id).or_default() += u64::try_from(shared).unwrap_or(u64::MAX);
            }
        }
        Ok(())
    }

    async fn named(&self, bundle: &Bundle, before: &BTreeMap<RolloutId, u64>) -> Result<String> {
        let scope = bundle.scope();
        let ids: Vec<RolloutId> = before.keys().copied().take(MAX_NAMED).collect();
        let rollouts = Query::all(RecordKind::Rollout).with_ids(ids.iter().copied());
        let rollouts = self.store.list_all::<Rollout>(&scope, rollouts).await?;
        let bundles: BTreeSet<_> = rollouts.iter().map(|rollout| rollout.bundle_id).collect();
        let bundles = self.bundles(&scope, &bundles).await?;
        let name = |id: &RolloutId| {
            let rollout = rollouts.iter().find(|rollout| rollout.id == *id);
            let version = rollout.and_then(|rollout| bundles.get(&rollout.bundle_id));
            let version = version.map_or("unknown", |bundle| bundle.version.as_str());
            let nodes = before.get(id).copied().unwrap_or_default();
            let nodes = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
            format!("rollout {id} (bundle {version}) on {nodes}")
        };
        let names: Vec<String> = ids.iter().map(name).collect();
        let more = before.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Ok(format!("Waits for {}{more}.", names.join(", ")))
    }

    /// Writes down what a queued rollout waits for, where that is news, and when it looks again.
    pub(super) async fn keep_queued(
        &self,
        read: &Stored<Rollout>,
        waiting: Waiting,
        now: Timestamp,
    ) -> Result<()> {
        let mut changes = Changes::new().job(next_look(read.id, now));
        if read.waiting != waiting {
            let mut rollout = read.value.clone();
            (rollout.waiting, rollout.updated_at) = (waiting, now);
            changes = changes.update(read, &rollout)?;
        }
        self.commit(changes).await
    }
}
