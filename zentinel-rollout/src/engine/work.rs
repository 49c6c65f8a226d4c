//! Effects become writes: one unit of work, however many rollouts take part in it.

mod restore;
mod statement;

use super::loaded::Revisions;
use super::nodes::Nodes;
use super::statements::{Issued, Issuer};
use super::{Engine, shift_job, tick_job};
use crate::State;
use crate::command::{Command, apply};
use crate::decision::{Decision, Effect, Restore, Rollback, RolloutEvent};
use crate::observation::Observation;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use zentinel_core::entity::{AuditEntry, Bundle, BundleStatus, Event, Node, NodeTraffic, Rollout, StepState};
use zentinel_core::id::{BundleId, NodeId, RolloutId, StatementId, TypedId as _};
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::port::StoreExt as _;
use zentinel_core::{Actor, Changes, Error, Result, Scope, Stored, Timestamp, Write};

/// The reason that nodes are told with a restored bundle.
const ROLLBACK: &str = "rollback";

/// A unit of work while it is put together.
#[derive(Debug)]
pub(super) struct Work<'a> {
    engine: &'a Engine,
    scope: Scope,
    nodes: Nodes,
    asked: BTreeSet<NodeId>,
    bundles: BTreeMap<BundleId, Stored<Bundle>>,
    /// Bundles that are given out: the commit demands that they are as they were read, so that
    /// none is given out after it was revoked.
    given_out: BTreeSet<BundleId>,
    issuer: Option<Issuer>,
    /// Statements of earlier commits that are used again.
    reused: BTreeMap<StatementId, Issued>,
    changes: Changes,
}

impl<'a> Work<'a> {
    pub(super) fn new(engine: &'a Engine, scope: Scope) -> Self {
        Self {
            engine,
            scope,
            nodes: Nodes::default(),
            asked: BTreeSet::new(),
            bundles: BTreeMap::new(),
            given_out: BTreeSet::new(),
            issuer: None,
            reused: BTreeMap::new(),
            changes: Changes::new(),
        }
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Reads the nodes that are not here yet, with one query.
    pub(super) async fn load_nodes(&mut self, ids: impl IntoIterator<Item = NodeId>) -> Result<()> {
        let new: Vec<NodeId> = ids.into_iter().filter(|id| self.asked.insert(*id)).collect();
        self.nodes.extend(self.engine.nodes(&self.scope, &new).await?);
        Ok(())
    }

    /// Takes in nodes that were read for another purpose.
    pub(super) fn take_nodes(&mut self, read: BTreeMap<NodeId, Stored<Node>>) {
        self.asked.extend(read.keys());
        self.nodes.extend(read);
    }

    /// Takes in bundles that were read for the observation.
    pub(super) fn take_bundles(&mut self, read: BTreeMap<BundleId, Stored<Bundle>>) {
        self.bundles.extend(read);
    }

    async fn bundle(&mut self, id: BundleId) -> Result<Stored<Bundle>> {
        if let Some(bundle) = self.bundles.get(&id) {
            return Ok(bundle.clone());
        }
        let bundle = self.engine.store.fetch::<Bundle>(&self.scope, id).await?;
        self.bundles.insert(id, bundle.clone());
        Ok(bundle)
    }

    /// Carries out what was decided about one rollout. Every effect is handled by name, so that a
    /// new one cannot be forgotten here.
    pub(super) async fn carry_out(&mut self, state: &State, effects: &[Effect]) -> Result<()> {
        self.load_nodes(effects.iter().flat_map(nodes_of)).await?;
        for effect in effects {
            match effect {
                Effect::Claim { nodes } => self.claim(state.rollout(), nodes)?,
                Effect::Stage { nodes } => self.stage(state, nodes).await?,
                Effect::Unstage { nodes } => {
                    self.unstage(state.rollout().id, nodes);
                    self.expect_previous(state, nodes).await?;
                }
                Effect::Expect { nodes } => self.expect(state, nodes),
                Effect::Release { nodes } => {
                    for id in nodes {
                        if let Some(node) = self.nodes.claimed_by(*id, state.rollout().id) {
                            node.rollout_id = None;
                        }
                    }
                }
                Effect::RollBack(rollback) => self.roll_back(state, rollback).await?,
                Effect::Restore { nodes } => self.restore(state, nodes).await?,
                Effect::Traffic { slot, weight, nodes } => {
                    for id in nodes {
                        if let Some(node) = self.nodes.unclaimed_by_others(*id, state.rollout().id) {
                            node.traffic = Some(NodeTraffic { slot: *slot, weight: *weight });
                        }
                    }
                }
                Effect::Shift { .. } => {
                    let now = self.engine.clock.now();
                    self.changes.jobs.push(shift_job(state.rollout().id, now));
                }
            }
        }
        Ok(())
    }

    /// A rollback may take over the nodes of the rollout that it undoes.
    fn claim(&mut self, rollout: &Rollout, nodes: &[NodeId]) -> Result<()> {
        let mut in_the_way: BTreeMap<RolloutId, u64> = BTreeMap::new();
        for id in nodes {
            let Some(node) = self.nodes.any(*id) else { continue };
            match node.rollout_id {
                Some(other) if other != rollout.id && Some(other) != rollout.rollback_of => {
                    *in_the_way.entry(other).or_default() += 1;
                }
                _ => node.rollout_id = Some(rollout.id),
            }
        }
        if in_the_way.is_empty() { Ok(()) } else { Err(overlap(&in_the_way)) }
    }

    async fn stage(&mut self, state: &State, nodes: &[NodeId]) -> Result<()> {
        let rollout = state.rollout();
        let reason = rollout.rollback_of.map(|_| ROLLBACK);
        for id in nodes {
            let Some(part) = state.nodes().get(id) else {
                continue;
            };
            let Some(node) = self.nodes.claimed_by(*id, rollout.id) else {
                continue;
            };
            node.previous_bundle_id = part.previous_bundle_id;
            if rollout.rollback_of.is_none() {
                // A rollback must not hide the rollout that it undoes: that one looks after late activations.
                node.told_by = Some(rollout.id);
            }
            let told = node.target.as_ref().is_some_and(|target| {
                target.rollout_id == Some(rollout.id) && target.bundle_id == part.bundle_id
            });
            if told {
                continue;
            }
            let seen = node.target.as_ref().map_or(0, |target| target.sequence);
            let statement = self.statement(state, part.bundle_id, seen).await?;
            let bounded = self.nodes.get(*id).is_some_and(|node| node.bounds.is_some());
            let version = match bounded {
                true => Some(self.bundle(part.bundle_id).await?.value.version),
                false => None,
            };
            if let Some(node) = self.nodes.claimed_by(*id, rollout.id) {
                node.target = Some(statement.target(Some(rollout.id), reason));
                if let (Some(bounds), Some(version)) = (&mut node.bounds, version) {
                    let forbidden = rollout.rollback_of.is_none() && !bounds.admits(&version);
                    bounds.barred = forbidden.then_some(part.bundle_id);
                }
            }
        }
        Ok(())
    }

    fn unstage(&mut self, rollout: RolloutId, nodes: &[NodeId]) {
        for id in nodes {
            if let Some(node) = self.nodes.any(*id)
                && node.target.as_ref().is_some_and(|target| target.rollout_id == Some(rollout))
            {
                node.target = None;
            }
        }
    }

    /// The target is reached and goes; the claim stays until the rollout has ended, because a later
    /// failure may have to bring these nodes back.
    fn expect(&mut self, state: &State, nodes: &[NodeId]) {
        let rollout = state.rollout().id;
        for id in nodes {
            let Some(part) = state.nodes().get(id) else {
                continue;
            };
            let Some(node) = self.nodes.unclaimed_by_others(*id, rollout) else {
                continue;
            };
            node.expected_bundle_id = Some(part.bundle_id);
            let reached = node.target.as_ref().is_some_and(|target| {
                target.rollout_id == Some(rollout) && target.bundle_id == part.bundle_id
            });
            if reached {
                node.target = None;
            }
        }
    }

    /// Creates and starts the linked rollback in the same unit of work: there is no moment at which
    /// the one has ended and the other does not exist.
    async fn roll_back(&mut self, original: &State, rollback: &Rollback) -> Result<()> {
        let now = self.engine.clock.now();
        for Restore { node_id, bundle_id } in &rollback.nodes {
            if let Some(node) = self.nodes.unclaimed_by_others(*node_id, original.rollout().id) {
                node.expected_bundle_id = Some(*bundle_id);
            }
        }
        let strategies = &self.engine.strategies;
        let state = State::rollback(original.rollout(), rollback, strategies, Actor::System, now)?;
        let known = Observation::new(rollback.nodes.iter().map(|restore| restore.bundle_id));
        let decision = apply(Command::Start, state, &known, now)?;
        Box::pin(self.carry_out(&decision.state, &decision.effects)).await?;
        self.insert(&decision.state)?;
        self.publish(&decision.state, &decision.events);
        self.log(&decision);
        let metadata = json!({
            "rollback_of": original.rollout().id,
            "reason": rollback.reason,
            "nodes": rollback.nodes.len(),
            "unrestorable": rollback.unrestorable.len(),
        });
        self.audit(&decision.state, Actor::System, "rollout.created", metadata);
        self.tick_at(&decision.state, decision.next_wake);
        Ok(())
    }

    /// Inserts every record of a new rollout.
    pub(super) fn insert(&mut self, state: &State) -> Result<()> {
        let mut changes = std::mem::take(&mut self.changes).insert(state.rollout())?;
        for step in state.steps() {
            changes = changes.insert(step)?;
        }
        for node in state.nodes().values() {
            changes = changes.insert(node)?;
        }
        self.changes = changes;
        Ok(())
    }

    pub(super) fn publish(&mut self, state: &State, events: &[RolloutEvent]) {
        let now = self.engine.clock.now();
        let events = events.iter().map(|event| event.to_event(state.rollout(), now));
        self.changes.events.extend(events);
    }

    /// Adds what was found and decided to the rollout's log.
    pub(super) fn log(&mut self, decision: &Decision) {
        let now = self.engine.clock.now();
        let rows =
            decision.log().into_iter().map(|entry| log_row(decision.state.rollout(), entry.to_value(), now));
        self.changes.writes.extend(rows.map(Write::Append));
    }

    pub(super) fn audit(&mut self, state: &State, actor: Actor, action: &str, metadata: Value) {
        let (rollout, now) = (state.rollout(), self.engine.clock.now());
        let entry = AuditEntry::new(&rollout.scope(), actor, action, rollout.id, now);
        self.changes.audit.push(entry.with_metadata(metadata));
    }

    pub(super) fn tick_at(&mut self, state: &State, at: Option<Timestamp>) {
        self.changes.jobs.extend(at.map(|at| tick_job(state.rollout().id, at)));
    }

    /// Adds what a decision changed in the rollout's own records, and what follows from it. Goes
    /// before the effects: whoever lost a race then fails on the rollout's revision, not on a
    /// record that the winner has inserted.
    pub(super) fn record(&mut self, revisions: &mut Revisions, decision: &Decision) -> Result<()> {
        self.changes = revisions.write(decision, std::mem::take(&mut self.changes))?;
        self.publish(&decision.state, &decision.events);
        self.tick_at(&decision.state, decision.next_wake);
        self.log(decision);
        for (place, to) in &decision.step_transitions {
            let Some(step) = decision.state.steps().get(*place) else { continue };
            let action = match to {
                StepState::Completed => "rollout.step_completed",
                StepState::Failed => "rollout.step_failed",
                StepState::Pending | StepState::Running | StepState::Verifying | StepState::Validating => {
                    "rollout.step_started"
                }
            };
            let mut metadata = json!({"step_index": step.index, "nodes": step.node_ids.len()});
            if let Some(error) = &step.error {
                metadata["reason"] = json!(error.reason);
            }
            self.audit(&decision.state, Actor::System, action, metadata);
        }
        Ok(())
    }

    /// Adds the writes that bring the store from one plan of a rollout to another one.
    pub(super) fn restate(&mut self, revisions: &mut Revisions, old: &State, new: &State) -> Result<()> {
        self.changes = revisions.restate(old, new, std::mem::take(&mut self.changes))?;
        Ok(())
    }

    /// Adds an event.
    pub(super) fn event(&mut self, kind: &str, payload: Value) {
        let event = Event::new(&self.scope, kind, payload, self.engine.clock.now());
        self.changes.events.push(event);
    }

    /// Adds what was put together elsewhere.
    pub(super) fn add(&mut self, changes: Changes) {
        self.changes = std::mem::take(&mut self.changes).and(changes);
    }

    /// Demands that the bundle is still as it was read.
    pub(super) fn give_out(&mut self, bundle: Stored<Bundle>) {
        self.given_out.insert(bundle.id);
        self.bundles.insert(bundle.id, bundle);
    }

    /// Changes the status of a bundle that was read.
    pub(super) fn set_status(&mut self, id: BundleId, status: BundleStatus) -> Result<()> {
        let Some(read) = self.bundles.get(&id).filter(|bundle| bundle.status != status) else {
            return Ok(());
        };
        let mut bundle = read.value.clone();
        bundle.status = status;
        bundle.updated_at = self.engine.clock.now();
        self.changes = std::mem::take(&mut self.changes).update(read, &bundle)?;
        Ok(())
    }

    /// The rollout that has claimed a node, as far as it was read.
    pub(super) fn claim_of(&self, id: NodeId) -> Option<RolloutId> {
        self.nodes.get(id).and_then(|node| node.rollout_id)
    }

    /// The status of a bundle that was read.
    pub(super) fn status_of(&self, id: BundleId) -> Option<BundleStatus> {
        self.bundles.get(&id).map(|bundle| bundle.status)
    }

    /// Everything, ready to be committed.
    pub(super) fn finish(self) -> Result<Changes> {
        let mut changes = Changes::new();
        for bundle in self.given_out.iter().filter_map(|id| self.bundles.get(id)) {
            changes = changes.check(bundle);
        }
        changes = self.nodes.commit_with(changes.and(self.changes))?;
        match self.issuer {
            Some(issuer) => issuer.commit_with(changes),
            None => Ok(changes),
        }
    }
}

/// An entry of a rollout's log.
fn log_row(rollout: &Rollout, body: Value, now: Timestamp) -> LogRow {
    LogRow {
        kind: LogKind::RolloutLog,
        id: Uuid::new_v4(),
        organisation_id: Some(rollout.organisation_id),
        project_id: Some(rollout.project_id),
        owner: rollout.id.uuid(),
        at: now,
        dedup_key: None,
        body,
    }
}

/// The nodes that an effect names.
fn nodes_of(effect: &Effect) -> Vec<NodeId> {
    match effect {
        Effect::Claim { nodes }
        | Effect::Stage { nodes }
        | Effect::Unstage { nodes }
        | Effect::Expect { nodes }
        | Effect::Release { nodes } => nodes.clone(),
        Effect::RollBack(rollback) => rollback.nodes.iter().map(|restore| restore.node_id).collect(),
        Effect::Restore { nodes } => nodes.iter().map(|restore| restore.node_id).collect(),
        Effect::Traffic { nodes, .. } => nodes.clone(),
        Effect::Shift { .. } => Vec::new(),
    }
}

/// The refusal of a rollout that overlaps with open ones.
pub(super) fn overlap(in_the_way: &BTreeMap<RolloutId, u64>) -> Error {
    let nodes: u64 = in_the_way.values().sum();
    Error::conflict(format!("Another rollout is active on {nodes} target nodes"))
        .with_details(json!({"rollout_ids": in_the_way.keys().collect::<Vec<_>>(), "nodes": nodes}))
        .with_hint("wait for it, cancel it, or create the new one with `queue` or `supersede`")
}
