//! What a tick reads: the first one everything, later ones what changed.
//!
//! The store's notices say which nodes changed since the tick before; everything else is as it was.
//! A notice may arrive after the commit that it is about was seen: then this tick decides without
//! it and the next one, at most [`TICK_INTERVAL`](crate::step::TICK_INTERVAL) later, with it. Where
//! no next one is due soon, a look that the notices do not explain reads everything.

use super::Engine;
use super::journal::{Journal, News};
use super::loaded::{Loaded, Revisions};
use super::probe::probe_due;
use super::work::Work;
use crate::decision::{Decision, Outlook};
use crate::observation::Observation;
use crate::step::{rest, step};
use chrono::TimeDelta;
use std::collections::BTreeSet;
use zentinel_core::entity::{Rollout, RolloutState};
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::{Result, Stored, Timestamp};

/// Everything is read again after so long, in case a notice was lost.
const FULL_LOOK: TimeDelta = TimeDelta::minutes(5);

/// What a tick knew, and what it means for the next one.
#[derive(Debug)]
pub(super) struct Seen {
    /// The number of the tick.
    pub(super) turn: u64,
    observation: Observation,
    outlook: Outlook,
    /// Nodes that have only reported again since their facts were read; gates need to know.
    renewed: BTreeSet<NodeId>,
    /// The decision may have changed which nodes are watched.
    moved: bool,
    /// When everything was read.
    since: Timestamp,
}

/// A decision with what is needed to store it.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) decision: Decision,
    pub(super) revisions: Revisions,
    pub(super) seen: Seen,
    /// When the endpoints that the rollout names are to be asked.
    pub(super) probe_at: Option<Timestamp>,
}

/// What changed since the tick before.
struct Differences {
    /// Nodes whose facts must be read.
    outdated: BTreeSet<NodeId>,
    /// Whether any fact may differ.
    any: bool,
}

impl Engine {
    /// Looks at a rollout and decides; commits nothing.
    pub(super) async fn decide(&self, work: &mut Work<'_>, rollout: Stored<Rollout>) -> Result<Decided> {
        let (turn, news) = Journal::begin(&self.journal, &*self.store, rollout.id, rollout.project_id);
        let Loaded { state, revisions, seen } = self.load(rollout).await?;
        let deployable = self.deployable_of(work, &state).await?;
        let mut now = self.clock.now();
        let mut again = None;
        let strategy = self.strategies.get(&state.rollout().spec.strategy)?;
        let gates = self.gates_of(state.rollout());
        let checks = self.checks(&state).await?;
        let watched = || {
            let mut watched = state.watched();
            watched.extend(strategy.observes(&state));
            if gates.look_back() {
                watched.extend(state.reached());
            }
            watched
        };
        // Done nodes are not kept in mind: only what changed about one of them matters.
        let mut done = state.done_of(&news.changed);
        if let Some(mut seen) = seen.filter(|seen| !news.everything && now - seen.since < FULL_LOOK) {
            done.retain(|id| !seen.observation.nodes.contains_key(id));
            let mut differences = seen.differences(watched, &news, &deployable, now);
            differences.any |= !done.is_empty();
            if differences.any || !is_unexpected(state.rollout(), now) {
                differences.outdated.extend(&done);
                let facts = self.facts(work, &differences.outdated).await?;
                seen.observation.nodes.extend(facts);
                again = Some((seen, differences.any));
            }
        }
        let (mut seen, changed) = match again {
            Some(again) => again,
            None => {
                let mut asked = watched();
                done = state.done_of(state.nodes().keys().filter(|id| !asked.contains(id)));
                asked.extend(&done);
                let nodes = self.facts(work, &asked).await?;
                now = self.clock.now();
                (Seen::of(Observation { deployable, nodes, ..Observation::default() }, now), true)
            }
        };
        seen.turn = turn;
        seen.observation.checks = checks.facts;
        let stragglers = state.stragglers().len();
        let decision = match seen.outlook {
            Outlook::Rests { until, .. } if !changed && now <= until => rest(state, seen.outlook, now),
            Outlook::Rests { .. } | Outlook::Open => {
                step(state, strategy.as_ref(), &gates, &seen.observation, now)
            }
        };
        if !done.is_empty() {
            seen.observation.nodes.retain(|id, _| !done.contains(id));
        }
        seen.outlook = decision.outlook;
        seen.moved = moves_watch(&decision, stragglers);
        let probe_at = probe_due(&decision.state, checks.asked, now);
        Ok(Decided { decision, revisions, seen, probe_at })
    }
}

/// Whether somebody asked for this look and no other is due soon.
fn is_unexpected(rollout: &Rollout, now: Timestamp) -> bool {
    rollout.state != RolloutState::Running && rollout.next_tick_at.is_none_or(|due| now < due)
}

/// Whether other nodes may be watched after a decision than before. Single nodes come and go only as
/// stragglers.
fn moves_watch(decision: &Decision, stragglers: usize) -> bool {
    let state = &decision.state;
    !decision.changed_steps.is_empty()
        || !decision.added_steps.is_empty()
        || !decision.removed_steps.is_empty()
        || !decision.events.is_empty()
        || decision.memory_changed
        || stragglers > 0
        || !state.stragglers().is_empty()
}

impl Seen {
    fn of(observation: Observation, now: Timestamp) -> Self {
        Self {
            turn: 0,
            observation,
            outlook: Outlook::Open,
            renewed: BTreeSet::new(),
            moved: false,
            since: now,
        }
    }

    /// Takes in what is new, and says what must be read before the facts are as they should be.
    fn differences(
        &mut self,
        all_watched: impl FnOnce() -> BTreeSet<NodeId>,
        news: &News,
        deployable: &BTreeSet<BundleId>,
        now: Timestamp,
    ) -> Differences {
        let known = &mut self.observation.nodes;
        let watched = |nodes: &std::collections::HashSet<NodeId>| -> BTreeSet<NodeId> {
            nodes.iter().copied().filter(|id| known.contains_key(id)).collect()
        };
        let mut outdated = watched(&news.changed);
        self.renewed.extend(watched(&news.renewed));
        if self.moved {
            let watched = all_watched();
            known.retain(|id, _| watched.contains(id));
            self.renewed.retain(|id| watched.contains(id));
            outdated.retain(|id| watched.contains(id));
            outdated.extend(watched.into_iter().filter(|id| !known.contains_key(id)));
        }
        let gates_asked = match self.outlook {
            Outlook::Open => true,
            Outlook::Rests { until, gates_after } => now > until || outdated.len() >= gates_after,
        };
        if gates_asked {
            outdated.append(&mut self.renewed);
        } else {
            self.renewed.retain(|id| !outdated.contains(id));
        }
        let any = !outdated.is_empty() || self.observation.deployable != *deployable;
        self.observation.deployable.clone_from(deployable);
        Differences { outdated, any }
    }
}

#[cfg(test)]
mod tests;
