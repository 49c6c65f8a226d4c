//! Asking an external load balancer for the split that a blue-green rollout wants.

use super::loaded::Loaded;
use super::work::Work;
use super::{Engine, SHIFT};
use crate::State;
use crate::command::{acknowledge, shift_failed};
use crate::decision::Decision;
use crate::traffic;
use async_trait::async_trait;
use chrono::TimeDelta;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{NodeTraffic, Rollout, RolloutSpec};
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::port::{
    ClaimedJob, JobHandler, JobOutcome, ShiftFailure, ShiftedNode, StoreExt as _, TrafficShift,
};
use zentinel_core::{Actor, Error, Result, Scope, Timestamp};

/// How long a split is asked for in vain after its rollout has ended.
const PATIENCE: TimeDelta = TimeDelta::hours(24);
/// The first pause after a failure; it grows with the time that the request has waited.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Engine {
    /// Asks the load balancer for the split that a rollout wants, if it has not acknowledged it yet, and takes note of the
    /// answer. Returns when to ask again.
    ///
    /// # Errors
    /// Those of the store; nothing is lost, the next call asks again.
    pub async fn shift(&self, id: RolloutId) -> Result<Option<Timestamp>> {
        let Some(rollout) = self.store.find::<Rollout>(&Scope::Instance, id).await? else {
            return Ok(None);
        };
        let Loaded { state, .. } = self.load(rollout).await?;
        let Some(request) = self.request(&state).await? else {
            return Ok(None);
        };
        let answer = match &self.shifter {
            Some(shifter) => shifter.shift(&request).await,
            None => Err(ShiftFailure::refused("no traffic shifter is configured: set traffic_shifter.url")),
        };
        let number = request.number;
        match answer {
            Ok(()) => {
                self.note_shift(id, |state, now| acknowledge(state, number, now), Some(&request)).await?;
                Ok(None)
            }
            Err(failure) => {
                tracing::warn!(rollout = %id, number, %failure, "the traffic was not shifted; asking again");
                self.note_shift(id, |state, now| shift_failed(state, number, &failure.reason, now), None)
                    .await?;
                Ok(Some(next_try(&request, &failure, self.clock.now())))
            }
        }
    }

    /// Refuses a rollout that would wait for a load balancer that nobody can ask.
    pub(super) fn check_shifts(&self, spec: &RolloutSpec) -> Result<()> {
        if traffic::wants_shifts(spec) && self.shifter.is_none() {
            let why = "shift_traffic needs a traffic shifter and none is configured: set traffic_shifter.url";
            return Err(Error::invalid_field("blue_green_config", why));
        }
        Ok(())
    }

    /// What is to be asked for, while anybody waits for it.
    async fn request(&self, state: &State) -> Result<Option<TrafficShift>> {
        let rollout = state.rollout();
        let Some(shift) = traffic::shift(rollout).filter(|shift| shift.acknowledged_at.is_none()) else {
            return Ok(None);
        };
        if rollout.completed_at.is_some_and(|ended| self.clock.now() - ended > PATIENCE) {
            return Ok(None);
        }
        let weights = traffic::weights(state);
        Ok(Some(TrafficShift {
            id: format!("{}:{}", rollout.id, shift.number),
            number: shift.number,
            organisation_id: rollout.organisation_id,
            project_id: rollout.project_id,
            rollout_id: rollout.id,
            bundle_id: rollout.bundle_id,
            split: shift.split,
            requested_at: shift.requested_at,
            nodes: self.shifted_nodes(&rollout.scope(), weights).await?,
        }))
    }

    async fn shifted_nodes(
        &self,
        scope: &Scope,
        weights: BTreeMap<NodeId, NodeTraffic>,
    ) -> Result<Vec<ShiftedNode>> {
        if weights.len() > TrafficShift::MOST_NODES {
            return Ok(Vec::new());
        }
        let named = self.nodes(scope, weights.keys()).await?;
        let node = |(node_id, NodeTraffic { slot, weight }): (NodeId, NodeTraffic)| {
            let name = named.get(&node_id)?.name.clone();
            Some(ShiftedNode { node_id, name, slot, weight })
        };
        Ok(weights.into_iter().filter_map(node).collect())
    }

    /// Commits what an answer means. Where something else was decided meanwhile, that stands.
    async fn note_shift(
        &self,
        id: RolloutId,
        decide: impl Fn(State, Timestamp) -> Option<Decision>,
        done: Option<&TrafficShift>,
    ) -> Result<()> {
        let mut retry = self.retry();
        loop {
            let outcome = self.try_note_shift(id, &decide, done).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return outcome;
            }
        }
    }

    async fn try_note_shift(
        &self,
        id: RolloutId,
        decide: &impl Fn(State, Timestamp) -> Option<Decision>,
        done: Option<&TrafficShift>,
    ) -> Result<()> {
        let Some(rollout) = self.store.find::<Rollout>(&Scope::Instance, id).await? else {
            return Ok(());
        };
        let mut work = Work::new(self, rollout.scope());
        let Loaded { state, mut revisions, .. } = self.load(rollout).await?;
        let Some(decision) = decide(state, self.clock.now()) else {
            return Ok(());
        };
        work.record(&mut revisions, &decision)?;
        work.carry_out(&decision.state, &decision.effects).await?;
        if let Some(shift) = done {
            let metadata = json!({
                "number": shift.number,
                "green": shift.split.green,
                "blue": shift.split.blue,
            });
            work.audit(&decision.state, Actor::System, "rollout.traffic_shifted", metadata);
        }
        self.commit(work.finish()?).await?;
        self.keep(Loaded { state: decision.state, revisions, seen: None });
        Ok(())
    }
}

/// When to ask again: when the receiver said, or the later the longer it has been asked in vain.
fn next_try(request: &TrafficShift, failure: &ShiftFailure, now: Timestamp) -> Timestamp {
    let waited = (now - request.requested_at).to_std().unwrap_or_default();
    let pause = match failure.retryable {
        true => failure.after.unwrap_or(waited / 4),
        false => LONGEST_PAUSE,
    };
    let pause = pause.clamp(FIRST_PAUSE, LONGEST_PAUSE);
    now + TimeDelta::from_std(pause).unwrap_or(TimeDelta::seconds(60))
}

/// Runs [`SHIFT`] jobs.
#[derive(Debug)]
pub(super) struct ShiftHandler(pub(super) Arc<Engine>);

#[async_trait]
impl JobHandler for ShiftHandler {
    fn kind(&self) -> &str {
        SHIFT
    }

    async fn run(&self, job: &ClaimedJob) -> Result<JobOutcome> {
        let id = job.job.payload.get("rollout_id").and_then(|id| id.as_str());
        let id: RolloutId = id
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| Error::internal("a traffic shift does not name a rollout"))?;
        Ok(match self.0.shift(id).await? {
            Some(at) => JobOutcome::Again(at),
            None => JobOutcome::Done,
        })
    }
}
