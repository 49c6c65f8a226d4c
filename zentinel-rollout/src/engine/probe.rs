//! Asking the endpoints that rollouts name, away from their ticks.
//!
//! A tick that finds a step in its verification enqueues a round; the round stores what it finds and enqueues a tick,
//! which sees the answers as facts.

use super::{Engine, tick_job};
use crate::State;
use crate::observation::CheckFacts;
use chrono::TimeDelta;
use futures_util::StreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zentinel_core::entity::{
    HealthCheck, Node, NodeReport, ProbeEntry, ProbeResult, ProbeVariables, Rollout, RolloutProbes,
    RolloutState, RolloutStep, StepState,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{HealthCheckId, NodeId, RolloutId};
use zentinel_core::port::{Clock, HealthProbe, Query, StoreExt as _};
use zentinel_core::{Changes, Error, RecordKind, Result, Scope, Stored, Timestamp};

/// How many calls of one round are under way at a time.
const CONCURRENCY: usize = 16;
/// How long a round goes on with nodes that were not asked yet. The others are asked first in the next one.
const MAX_ROUND: TimeDelta = TimeDelta::seconds(60);

/// The endpoints that a rollout names.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    pub(super) facts: BTreeMap<HealthCheckId, CheckFacts>,
    /// When the last round began, and when the next one may.
    pub(super) asked: Option<(Timestamp, Timestamp)>,
}

/// One call of a round.
struct Call {
    check: Arc<HealthCheck>,
    node_id: Option<NodeId>,
    variables: ProbeVariables,
    last: Option<Timestamp>,
}

/// The step that is being verified.
fn verified(state: &State) -> Option<&RolloutStep> {
    let rollout = state.rollout();
    let asks = rollout.state == RolloutState::Running && !rollout.spec.custom_health_checks.is_empty();
    let step = &state.steps()[state.active().filter(|_| asks)?];
    matches!(step.state, StepState::Verifying | StepState::Validating).then_some(step)
}

/// When the endpoints are to be asked, if at all. Answers from before the step's phase are worth nothing.
pub(super) fn probe_due(
    state: &State,
    asked: Option<(Timestamp, Timestamp)>,
    now: Timestamp,
) -> Option<Timestamp> {
    let since = verified(state)?.entered_at;
    match asked {
        Some((asked_at, due_at)) if since.is_none_or(|since| asked_at >= since) => Some(due_at.max(now)),
        _ => Some(now),
    }
}

impl Engine {
    /// What is known of the endpoints that a rollout names: two queries, none where it names none.
    pub(super) async fn checks(&self, state: &State) -> Result<Endpoints> {
        let rollout = state.rollout();
        if rollout.spec.custom_health_checks.is_empty() || state.active().is_none() {
            return Ok(Endpoints::default());
        }
        let scope = rollout.scope();
        let probes = self.store.find::<RolloutProbes>(&scope, rollout.id).await?;
        let entries = probes.as_ref().map(|probes| probes.entries.as_slice()).unwrap_or_default();
        let checks = self.endpoints(&scope, &rollout.spec.custom_health_checks).await?;
        let facts = checks.iter().map(|check| (check.id, CheckFacts::of(check, entries))).collect();
        Ok(Endpoints { facts, asked: probes.as_ref().map(|probes| (probes.asked_at, probes.due_at)) })
    }

    async fn endpoints(&self, scope: &Scope, ids: &BTreeSet<HealthCheckId>) -> Result<Vec<HealthCheck>> {
        let query = Query::all(RecordKind::HealthCheck).with_ids(ids.iter().copied());
        let found = self.store.list_all::<HealthCheck>(scope, query).await?;
        Ok(found.into_iter().map(|check| check.value).collect())
    }

    /// Demands that the project has these endpoints.
    ///
    /// # Errors
    /// `Invalid` on `custom_health_checks`, naming the first that it has not; those of the store.
    pub async fn check_endpoints(&self, scope: &Scope, ids: &BTreeSet<HealthCheckId>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let found = self.endpoints(scope, ids).await?;
        let missing = ids.iter().find(|id| !found.iter().any(|check| check.id == **id));
        let mut checks = Checks::new();
        if let Some(id) = missing {
            checks.that("custom_health_checks", false, format!("{id} does not exist in this project"));
        }
        checks.finish()
    }

    /// Asks an endpoint now, for a node where its URL has placeholders. Nothing is stored.
    ///
    /// # Errors
    /// `NotFound` for the node; `Invalid` on `node_id` where the URL needs one; `Unavailable` for an engine without
    /// [`Engine::with_probe`].
    pub async fn try_endpoint(
        &self,
        scope: &Scope,
        check: &HealthCheck,
        node: Option<NodeId>,
    ) -> Result<ProbeResult> {
        let Some(probe) = &self.probe else {
            return Err(Error::unavailable("This server asks no health check endpoints"));
        };
        let mut variables = ProbeVariables::default();
        if let Some(id) = node {
            let node = self.store.fetch::<Node>(scope, id).await?;
            let reports = self.reports(scope, [id]).await?;
            variables = variables_of(&node, reports.get(&id));
        } else if check.is_per_node() {
            return Err(Error::invalid_field("node_id", "can't be blank: the URL is for single nodes"));
        }
        Ok(probe.probe(check, &variables).await)
    }

    /// Asks the endpoints of a rollout whose step is being verified, and stores what they answer. Safe to call at any
    /// time, any number of times; calls before the next round is due do nothing.
    ///
    /// # Errors
    /// Those of the store; the next tick has the endpoints asked again.
    pub async fn probe(&self, id: RolloutId) -> Result<()> {
        let Some(rollout) = self.store.find::<Rollout>(&Scope::Instance, id).await? else {
            return Ok(());
        };
        let scope = rollout.scope();
        let state = self.read(rollout).await?.state;
        let Some(step) = verified(&state) else {
            return Ok(());
        };
        let known = self.store.find::<RolloutProbes>(&scope, id).await?;
        let asked = known.as_ref().map(|known| (known.asked_at, known.due_at));
        let now = self.clock.now();
        if self.probe.is_none() || probe_due(&state, asked, now).is_none_or(|due| due > now) {
            return Ok(());
        }
        let checks = self.endpoints(&scope, &state.rollout().spec.custom_health_checks).await?;
        let entries = known.as_ref().map(|known| known.entries.clone()).unwrap_or_default();
        let calls = self.calls(&state, step, &checks, &entries).await?;
        let entries = self.round(calls, entries, now).await;
        let interval = checks.iter().map(HealthCheck::interval).min().unwrap_or_default();
        let probes = RolloutProbes {
            rollout_id: id,
            organisation_id: state.rollout().organisation_id,
            project_id: state.rollout().project_id,
            entries,
            asked_at: now,
            due_at: now
                + TimeDelta::from_std(interval).unwrap_or(TimeDelta::zero()).max(TimeDelta::seconds(1)),
            created_at: state.rollout().created_at,
        };
        let changes = match &known {
            Some(known) => Changes::new().update(known, &probes)?,
            None => Changes::new().insert(&probes)?,
        };
        self.commit(changes.job(tick_job(id, self.clock.now()))).await
    }

    /// What is to be asked, those that were asked longest ago first.
    async fn calls(
        &self,
        state: &State,
        step: &RolloutStep,
        checks: &[HealthCheck],
        entries: &[ProbeEntry],
    ) -> Result<Vec<Call>> {
        let scope = state.rollout().scope();
        let nodes: BTreeMap<NodeId, (Stored<Node>, Option<NodeReport>)> =
            if checks.iter().any(HealthCheck::is_per_node) {
                let nodes = self.nodes(&scope, &step.node_ids).await?;
                let mut reports = self.reports(&scope, nodes.keys().copied()).await?;
                nodes.into_iter().map(|(id, node)| (id, (node, reports.remove(&id)))).collect()
            } else {
                BTreeMap::new()
            };
        let last: BTreeMap<_, _> =
            entries.iter().map(|entry| ((entry.check_id, entry.node_id), entry.result.asked_at)).collect();
        let mut calls = Vec::new();
        for check in checks.iter().filter(|check| check.enabled) {
            let shared = Arc::new(check.clone());
            let mut add = |node_id, variables| {
                let last = last.get(&(check.id, node_id)).copied();
                calls.push(Call { check: Arc::clone(&shared), node_id, variables, last });
            };
            if !check.is_per_node() {
                add(None, ProbeVariables::default());
                continue;
            }
            for (id, (node, report)) in &nodes {
                let bundle = state.nodes().get(id).map(|part| part.bundle_id);
                let active = report.as_ref().and_then(|report| report.active_bundle_id);
                if active.is_some() && active == bundle {
                    add(Some(*id), variables_of(node, report.as_ref()));
                }
            }
        }
        calls.sort_by_key(|call| call.last);
        Ok(calls)
    }

    /// Carries out the calls, several at a time. What there is no time for keeps its last answer.
    async fn round(
        &self,
        calls: Vec<Call>,
        mut entries: Vec<ProbeEntry>,
        began: Timestamp,
    ) -> Vec<ProbeEntry> {
        let Some(probe) = &self.probe else {
            return entries;
        };
        let wanted: BTreeSet<_> = calls.iter().map(|call| (call.check.id, call.node_id)).collect();
        entries.retain(|entry| wanted.contains(&(entry.check_id, entry.node_id)));
        let mut answers: BTreeMap<_, _> =
            entries.into_iter().map(|entry| ((entry.check_id, entry.node_id), entry.result)).collect();
        let asked =
            calls.into_iter().map(|call| ask(Arc::clone(probe), Arc::clone(&self.clock), call, began));
        let fresh: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(CONCURRENCY).collect().await;
        answers.extend(fresh.into_iter().flatten());
        let entry = |((check_id, node_id), result)| ProbeEntry { check_id, node_id, result };
        answers.into_iter().map(entry).collect()
    }
}

fn variables_of(node: &Node, report: Option<&NodeReport>) -> ProbeVariables {
    ProbeVariables::of_node(&node.name, report.and_then(|report| report.ip.as_deref()))
}

type Answer = ((HealthCheckId, Option<NodeId>), ProbeResult);

/// One call, unless the round has gone on for too long.
async fn ask(
    probe: Arc<dyn HealthProbe>,
    clock: Arc<dyn Clock>,
    call: Call,
    began: Timestamp,
) -> Option<Answer> {
    if clock.now() - began > MAX_ROUND {
        return None;
    }
    let result = probe.probe(&call.check, &call.variables).await;
    Some(((call.check.id, call.node_id), result))
}
