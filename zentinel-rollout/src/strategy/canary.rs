//! `canary`: ever larger shares of the fleet, each judged against the nodes that still run the old bundle.

mod config;

pub use config::{CanaryConfig, INCONCLUSIVE_FAIL, INCONCLUSIVE_PAUSE};

use super::{Begin, Memory, PlannedStep, Proposal, Strategy, TargetOrder, View};
use crate::analysis::{Analysis, Ledger, Member, Trial, Verdict};
use crate::plan::lot;
use crate::transition::State;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{RolloutSpec, RolloutStep, StepState, Traffic};
use zentinel_core::error::Checks;
use zentinel_core::id::NodeId;
use zentinel_core::{Result, Timestamp};

/// Most canaries of a step that are compared; more add cost and hardly any power.
const MOST_CANARIES: usize = 300;
/// Most nodes of the baseline that they are compared with.
const MOST_BASELINE: usize = 1_500;

/// `canary`: steps of 5, 25, 50 and 100 % of the targets by default, each followed by an
/// [analysis](crate::analysis) of its nodes against those that have not been told yet.
///
/// Who is a canary is drawn by lot within each failure domain, the same for every rollout. The analysis starts
/// counting when every node of the step has passed its gates, and its answers are: promote, look again, roll back, and
/// inconclusive, which pauses the rollout (or fails it, if asked to) and never passes the step. The last step
/// has nothing left to compare with and is held against the ceilings for one window.
///
/// Nodes must report what they serve ([`Traffic`], `metrics.traffic` of the heartbeat); otherwise every analysis
/// is inconclusive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Canary;

/// What is remembered between ticks.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    ledger: Ledger,
    trial: Option<Trial>,
    /// When to look next; read alone at ticks in between.
    next_look_at: Option<Timestamp>,
    /// What the last look said.
    summary: String,
    /// Nothing could be compared in the time there was: whoever resumes gets a new comparison of the nodes that report
    /// by then.
    begins_anew: bool,
}

impl Remembered {
    fn of(memory: &Memory) -> Self {
        serde_json::from_value(memory.value().clone()).unwrap_or_default()
    }

    fn keep(self, memory: &mut Memory) {
        // Numbers and strings only: it always serialises.
        memory.set(serde_json::to_value(self).unwrap_or_default());
    }
}

/// One field of what is remembered, without reading all of it.
fn field<T: for<'de> Deserialize<'de>>(memory: &Value, name: &str) -> Option<T> {
    T::deserialize(memory.get(name)?).ok()
}

impl Strategy for Canary {
    fn name(&self) -> &str {
        "canary"
    }

    fn check(&self, spec: &RolloutSpec, checks: &mut Checks) {
        CanaryConfig::read(&spec.strategy_config, checks);
    }

    fn order(&self) -> TargetOrder {
        TargetOrder::ByLot
    }

    fn plan(&self, spec: &RolloutSpec, targets: &[NodeId]) -> Result<Vec<PlannedStep>> {
        let mut steps = Vec::new();
        let mut done = 0;
        for percent in CanaryConfig::of(spec).steps {
            let until = percent.ceil_of(targets.len()).min(targets.len());
            if let Some(batch) = targets.get(done..until).filter(|batch| !batch.is_empty()) {
                steps.push(PlannedStep::deploy(batch));
                done = until;
            }
        }
        Ok(steps)
    }

    fn observes(&self, state: &State) -> BTreeSet<NodeId> {
        if !state.rollout().state.is_open() {
            return BTreeSet::new();
        }
        match (state.active(), state.upcoming()) {
            (Some(place), _) if begins_anew(state.memory()) => {
                sample(state.steps(), place).map(|(id, _)| id).collect()
            }
            (Some(_), _) => members(state.memory()),
            (None, Some(place)) => sample(state.steps(), place).map(|(id, _)| id).collect(),
            (None, None) => BTreeSet::new(),
        }
    }

    fn before_step(&self, view: &View<'_>, memory: &mut Memory) -> Begin {
        let step = view.step();
        let place = usize::try_from(step.index).unwrap_or(usize::MAX);
        let sample: Vec<(NodeId, bool)> = sample(view.steps(), place).collect();
        if sample.iter().any(|(id, _)| view.facts(*id).is_none()) {
            let why = "Measuring what the fleet serves before the next step begins.".to_owned();
            return Begin::Later { until: None, why };
        }
        let mut remembered = Remembered::of(memory);
        remembered.trial = Some(Trial::begin(step.index, enrol(view, &sample)));
        remembered.begins_anew = false;
        remembered.next_look_at = None;
        remembered.summary = String::new();
        remembered.keep(memory);
        Begin::Now
    }

    fn after_gates(&self, view: &View<'_>, memory: &mut Memory) -> Proposal {
        let (now, config) = (view.now(), CanaryConfig::of(&view.rollout().spec));
        if let Some(next) = field::<Timestamp>(memory.value(), "next_look_at").filter(|next| now < *next) {
            let why = field(memory.value(), "summary").unwrap_or_default();
            return Proposal::Hold { until: next, why };
        }
        let mut remembered = Remembered::of(memory);
        if remembered.begins_anew {
            return begin_anew(view, remembered, &config, memory);
        }
        let ours = |trial: &Trial| trial.step_index == view.step().index;
        let Some(mut trial) = remembered.trial.take().filter(ours) else {
            let why = "Nothing is remembered of how the analysis of this step began.".to_owned();
            return Proposal::Pause { why };
        };
        let traffic = |id: NodeId| traffic_of(view, id);
        if trial.marked_at().is_none() {
            trial.mark(traffic, now);
            remembered.summary = "The canaries serve; their comparison with the baseline begins.".to_owned();
            return hold(remembered, trial, &config, memory, now);
        }
        let watched = view.step().state == StepState::Validating;
        let overdue = watched && view.elapsed() >= TimeDelta::seconds(config.trial.deadline_seconds.into());
        let analysis = trial.look(&config.trial, &mut remembered.ledger, traffic, now, overdue);
        memory.note(entry(&analysis));
        remembered.summary.clone_from(&analysis.summary);
        let why = analysis.summary.clone();
        match analysis.decision {
            Verdict::Extend => hold(remembered, trial, &config, memory, now),
            Verdict::Inconclusive if !config.fails_when_inconclusive => {
                // Whoever resumes gets further looks at the same counts, if there are any.
                remembered.begins_anew = analysis.findings.is_empty();
                remembered.next_look_at =
                    if remembered.begins_anew { None } else { trial.next_look(&config.trial) };
                remembered.trial = Some(trial);
                remembered.keep(memory);
                Proposal::Pause { why }
            }
            Verdict::Promote => {
                remembered.next_look_at = None;
                remembered.keep(memory);
                Proposal::Complete
            }
            Verdict::RollBack | Verdict::Inconclusive => {
                remembered.keep(memory);
                Proposal::RollBack { why }
            }
        }
    }
}

/// A comparison that starts where the canaries run the bundle already. Their own past is not known to be one, so nobody's
/// counts.
fn begin_anew(
    view: &View<'_>,
    mut remembered: Remembered,
    config: &CanaryConfig,
    memory: &mut Memory,
) -> Proposal {
    let (step, now) = (view.step(), view.now());
    let place = usize::try_from(step.index).unwrap_or(usize::MAX);
    let sample: Vec<(NodeId, bool)> = sample(view.steps(), place).collect();
    if sample.iter().any(|(id, _)| view.facts(*id).is_none()) {
        let why = "Measuring what the fleet serves before the comparison begins anew.".to_owned();
        return Proposal::Extend { why };
    }
    let mut trial = Trial::begin(step.index, enrol(view, &sample)).without_past();
    trial.mark(|id| traffic_of(view, id), now);
    remembered.begins_anew = false;
    remembered.summary = "The comparison of the canaries with the baseline begins anew.".to_owned();
    hold(remembered, trial, config, memory, now)
}

/// Whether the next tick needs to know the whole sample.
fn begins_anew(memory: &Value) -> bool {
    field(memory, "begins_anew").unwrap_or(false)
}

fn hold(
    mut remembered: Remembered,
    trial: Trial,
    config: &CanaryConfig,
    memory: &mut Memory,
    now: Timestamp,
) -> Proposal {
    let until = trial.next_look(&config.trial).unwrap_or(now);
    let why = remembered.summary.clone();
    remembered.next_look_at = Some(until);
    remembered.trial = Some(trial);
    remembered.keep(memory);
    Proposal::Hold { until, why }
}

/// An analysis as an entry of the rollout's log.
fn entry(analysis: &Analysis) -> Value {
    let mut entry = serde_json::to_value(analysis).unwrap_or_default();
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("kind".to_owned(), json!("analysis"));
    }
    entry
}

/// The nodes that are compared at a step, with whether each is a canary: as many of both arms as are
/// needed. The plan's order is drawn by lot and spread over the failure domains, so the first ones are a fair sample.
fn sample(steps: &[RolloutStep], place: usize) -> impl Iterator<Item = (NodeId, bool)> + '_ {
    let nodes = |from: usize, to: usize| {
        let steps = steps.get(from..to.min(steps.len())).unwrap_or_default();
        steps.iter().flat_map(|step| step.node_ids.iter().copied())
    };
    let after = place.saturating_add(1);
    let canaries = nodes(place, after).take(MOST_CANARIES);
    let baseline = nodes(after, usize::MAX).take(MOST_BASELINE);
    canaries.map(|id| (id, true)).chain(baseline.map(|id| (id, false)))
}

/// The nodes of the trial that is remembered.
fn members(memory: &Value) -> BTreeSet<NodeId> {
    let members = memory.get("trial").and_then(|trial| trial.get("members")?.as_array());
    members.into_iter().flatten().filter_map(|member| field(member, "node_id")).collect()
}

fn traffic_of<'a>(view: &View<'a>, id: NodeId) -> Option<&'a Traffic> {
    view.facts(id)?.health.traffic.as_deref()
}

/// Those of a sample that report what they serve.
fn enrol(view: &View<'_>, sample: &[(NodeId, bool)]) -> Vec<Member> {
    let mut strata: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    let mut members = Vec::new();
    for (id, canary) in sample {
        let (Some(facts), Some(traffic)) = (view.facts(*id), traffic_of(view, *id)) else {
            continue;
        };
        let next = u32::try_from(strata.len()).unwrap_or(u32::MAX);
        let stratum = *strata.entry(facts.zone.as_deref()).or_insert(next);
        members.push(Member::new(*id, *canary, stratum, lot(*id), traffic));
    }
    members
}

#[cfg(test)]
mod tests;
