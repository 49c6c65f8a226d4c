//! The engine's background jobs.

use super::shift::ShiftHandler;
use super::{DRIFT_NODES, Engine, PROBE, PROMOTE, RENEW, RESCUE, SCHEDULE, START, TICK, tick_job};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;
use zentinel_core::entity::Rollout;
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::port::{ClaimedJob, JobHandler, JobOutcome, Query, StoreExt as _};
use zentinel_core::{Changes, Error, PageRequest, RecordKind, Result, Scope};

/// How many ended rollouts are searched, newest first, for those with stragglers.
const MAX_ENDED: u32 = 1_000;

impl Engine {
    /// What runs the engine's jobs: [`TICK`], [`START`], [`PROBE`] and [`DRIFT_NODES`] on demand; [`RESCUE`], [`SCHEDULE`], [`PROMOTE`] and
    /// [`RENEW`] periodically.
    #[must_use]
    pub fn handlers(self: &Arc<Self>) -> Vec<Arc<dyn JobHandler>> {
        vec![
            Arc::new(TickHandler(Arc::clone(self))),
            Arc::new(ShiftHandler(Arc::clone(self))),
            Arc::new(StartHandler(Arc::clone(self))),
            Arc::new(ProbeHandler(Arc::clone(self))),
            Arc::new(ScheduleHandler(Arc::clone(self))),
            Arc::new(PromoteHandler(Arc::clone(self))),
            Arc::new(RescueHandler(Arc::clone(self))),
            Arc::new(RenewHandler(Arc::clone(self))),
            Arc::new(DriftNodesHandler(Arc::clone(self))),
        ]
    }

    /// Gives every rollout that is under way a tick, and those of the last thousand ended ones whose stragglers should
    /// have been looked at by now, in case one was lost. Returns how many.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rescue(&self) -> Result<usize> {
        let open = Query::all(RecordKind::Rollout).in_states(&["running", "paused"]);
        let mut rollouts = self.store.list_all::<Rollout>(&Scope::Instance, open).await?;
        let now = self.clock.now();
        let ended = Query::all(RecordKind::Rollout).in_states(&["completed", "cancelled", "failed"]);
        let ended = ended.page(PageRequest { limit: MAX_ENDED, cursor: None });
        let mut ended = self.store.list::<Rollout>(&Scope::Instance, ended).await?.items;
        ended.retain(|rollout| rollout.next_tick_at.is_some_and(|due| due <= now));
        rollouts.append(&mut ended);
        let mut changes = Changes::new();
        changes.jobs.extend(rollouts.iter().map(|rollout| tick_job(rollout.id, now)));
        if !changes.is_empty() {
            self.store.commit(changes).await?;
        }
        Ok(rollouts.len())
    }
}

/// Runs [`TICK`] jobs.
#[derive(Debug)]
struct TickHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for TickHandler {
    fn kind(&self) -> &str {
        TICK
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        // The next tick was enqueued in the same commit as what this one decided.
        self.0.tick(rollout_of(job)?).await?;
        Ok(JobOutcome::Done)
    }
}

fn rollout_of(job: &ClaimedJob) -> Result<RolloutId> {
    let id = job.job.payload.get("rollout_id").and_then(|id| id.as_str());
    id.and_then(|id| id.parse().ok()).ok_or_else(|| Error::internal("a job does not name a rollout"))
}

/// Runs [`START`] jobs.
#[derive(Debug)]
struct StartHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for StartHandler {
    fn kind(&self) -> &str {
        START
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        self.0.start_if_due(rollout_of(job)?).await?;
        Ok(JobOutcome::Done)
    }
}

/// Runs [`PROBE`] jobs.
#[derive(Debug)]
struct ProbeHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for ProbeHandler {
    fn kind(&self) -> &str {
        PROBE
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        self.0.probe(rollout_of(job)?).await?;
        Ok(JobOutcome::Done)
    }
}

/// Runs [`SCHEDULE`] jobs: what a lost [`START`] job or a changed rule would leave behind.
#[derive(Debug)]
struct ScheduleHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for ScheduleHandler {
    fn kind(&self) -> &str {
        SCHEDULE
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        self.0.start_due().await?;
        Ok(JobOutcome::Done)
    }
}

/// Runs [`PROMOTE`] jobs.
#[derive(Debug)]
struct PromoteHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for PromoteHandler {
    fn kind(&self) -> &str {
        PROMOTE
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        let created = self.0.promote_due().await?;
        if created > 0 {
            tracing::info!(created, "rollouts were created by promotion rules");
        }
        Ok(JobOutcome::Done)
    }
}

/// Runs [`RESCUE`] jobs.
#[derive(Debug)]
struct RescueHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for RescueHandler {
    fn kind(&self) -> &str {
        RESCUE
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        self.0.rescue().await?;
        Ok(JobOutcome::Done)
    }
}

/// Runs [`DRIFT_NODES`] jobs.
#[derive(Debug)]
struct DriftNodesHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for DriftNodesHandler {
    fn kind(&self) -> &str {
        DRIFT_NODES
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        let ids = job.job.payload.get("node_ids").cloned().unwrap_or_default();
        let ids: BTreeSet<NodeId> = serde_json::from_value(ids)?;
        self.0.check_drift_of(&ids).await?;
        Ok(JobOutcome::Done)
    }
}

/// Runs [`RENEW`] jobs.
#[derive(Debug)]
struct RenewHandler(Arc<Engine>);

#[async_trait]
impl JobHandler for RenewHandler {
    fn kind(&self) -> &str {
        RENEW
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        let renewed = self.0.renew_statements().await?;
        if renewed > 0 {
            tracing::info!(renewed, "statements of open targets were renewed");
        }
        Ok(JobOutcome::Done)
    }
}
