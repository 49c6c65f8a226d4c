//! A rollout as the store holds it, and writing back what a decision changed.

use super::Engine;
use super::look::Seen;
use super::work::Work;
use crate::State;
use crate::decision::Decision;
use crate::observation::{NodeFacts, Observation};
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{Rollout, RolloutMemory, RolloutNode, RolloutStep};
use zentinel_core::id::{BundleId, NodeId, RolloutId, StepId, TypedId as _};
use zentinel_core::port::{Order, Query, StoreExt as _};
use zentinel_core::{Changes, Record, RecordKind, Result, Revision, Stored, Write};

/// Most rollouts kept between ticks.
const CACHED: usize = 1_000;

/// A rollout with the revisions at which its records were read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) revisions: Revisions,
    /// What its last tick knew of its nodes.
    pub(super) seen: Option<Seen>,
}

/// The revisions of a rollout's records. Every commit about a rollout writes the rollout itself,
/// so as long as its revision stands everything else does.
#[derive(Debug)]
pub(super) struct Revisions {
    rollout: Revision,
    steps: BTreeMap<StepId, Revision>,
    nodes: BTreeMap<NodeId, Revision>,
    memory: Option<Revision>,
}

impl Revisions {
    /// Adds the writes that bring the store from what was read to what was decided, and becomes the
    /// revisions that hold once they are committed.
    pub(super) fn write(&mut self, decision: &Decision, mut changes: Changes) -> Result<Changes> {
        let state = &decision.state;
        changes = update(changes, state.rollout(), &mut self.rollout)?;
        for step in decision.steps_to_update() {
            changes = update(changes, step, self.steps.entry(step.id).or_insert(FIRST))?;
        }
        for id in &decision.removed_steps {
            if let Some(expected) = self.steps.remove(id) {
                changes.writes.push(Write::Delete { kind: RecordKind::RolloutStep, id: id.uuid(), expected });
            }
        }
        for step in decision.steps_to_insert() {
            changes = changes.insert(step)?;
            self.steps.insert(step.id, FIRST);
        }
        for node in decision.nodes_to_update() {
            changes = update(changes, node, self.nodes.entry(node.node_id).or_insert(FIRST))?;
        }
        if decision.memory_changed {
            let memory = memory_of(state);
            changes = match &mut self.memory {
                Some(revision) => update(changes, &memory, revision)?,
                None => changes.insert(&memory)?,
            };
            self.memory.get_or_insert(FIRST);
        }
        Ok(changes)
    }
}

fn memory_of(state: &State) -> RolloutMemory {
    let rollout = state.rollout();
    RolloutMemory {
        rollout_id: rollout.id,
        organisation_id: rollout.organisation_id,
        project_id: rollout.project_id,
        value: state.memory().clone(),
        created_at: rollout.created_at,
    }
}

impl Revisions {
    /// Adds the writes that bring the store from one plan of a rollout to another one.
    pub(super) fn restate(&mut self, old: &State, new: &State, mut changes: Changes) -> Result<Changes> {
        changes = update(changes, new.rollout(), &mut self.rollout)?;
        let kept: BTreeSet<StepId> = new.steps().iter().map(|step| step.id).collect();
        for step in old.steps().iter().filter(|step| !kept.contains(&step.id)) {
            if let Some(expected) = self.steps.remove(&step.id) {
                let (kind, id) = (RecordKind::RolloutStep, step.id.uuid());
                changes.writes.push(Write::Delete { kind, id, expected });
            }
        }
        for step in new.steps() {
            match old.steps().iter().find(|old| old.id == step.id) {
                Some(old) if old == step => {}
                Some(_) => changes = update(changes, step, self.steps.entry(step.id).or_insert(FIRST))?,
                None => {
                    changes = changes.insert(step)?;
                    self.steps.insert(step.id, FIRST);
                }
            }
        }
        for (id, node) in old.nodes().iter().filter(|(id, _)| !new.nodes().contains_key(id)) {
            if let Some(expected) = self.nodes.remove(id) {
                let (kind, id) = (RecordKind::RolloutNode, node.id.uuid());
                changes.writes.push(Write::Delete { kind, id, expected });
            }
        }
        for (id, node) in new.nodes() {
            match old.nodes().get(id) {
                Some(old) if old == node => {}
                Some(_) => changes = update(changes, node, self.nodes.entry(*id).or_insert(FIRST))?,
                None => {
                    changes = changes.insert(node)?;
                    self.nodes.insert(*id, FIRST);
                }
            }
        }
        Ok(changes)
    }
}

/// The revision of a record that was inserted.
const FIRST: Revision = Revision(1);

fn update<T: Record>(mut changes: Changes, record: &T, revision: &mut Revision) -> Result<Changes> {
    changes.writes.push(Write::Update { row: record.to_row()?, expected: *revision });
    *revision = Revision(revision.0 + 1);
    Ok(changes)
}

impl Engine {
    /// The rollout with its parts, from memory if nothing changed since.
    pub(super) async fn load(&self, rollout: Stored<Rollout>) -> Result<Loaded> {
        let id = rollout.id;
        let cached = self.cache.lock().remove(&id);
        if let Some(loaded) = cached.filter(|loaded| loaded.revisions.rollout == rollout.revision) {
            return Ok(loaded);
        }
        self.read(rollout).await
    }

    /// The rollout with its parts, from the store.
    pub(super) async fn read(&self, rollout: Stored<Rollout>) -> Result<Loaded> {
        let id = rollout.id;
        let scope = rollout.scope();
        let steps = Query::all(RecordKind::RolloutStep).owned_by(id).ordered(Order::Name);
        let nodes = Query::all(RecordKind::RolloutNode).owned_by(id).ordered(Order::Name);
        let steps = self.store.list_all::<RolloutStep>(&scope, steps).await?;
        let nodes = self.store.list_all::<RolloutNode>(&scope, nodes).await?;
        let memory = self.store.find::<RolloutMemory>(&scope, id).await?;
        // The parts may be from after a commit that the rollout was read before; the revisions
        // then do not match and the commit fails, which is what reading again is for.
        let revisions = Revisions {
            rollout: rollout.revision,
            steps: steps.iter().map(|step| (step.id, step.revision)).collect(),
            nodes: nodes.iter().map(|node| (node.node_id, node.revision)).collect(),
            memory: memory.as_ref().map(|memory| memory.revision),
        };
        let steps = steps.into_iter().map(|step| step.value).collect();
        let nodes = nodes.into_iter().map(|node| node.value);
        let memory = memory.map(|memory| memory.value.value).unwrap_or_default();
        let state = State::new(rollout.value, steps, nodes).remembering(memory);
        Ok(Loaded { state, revisions, seen: None })
    }

    /// Keeps a rollout for its next tick.
    pub(super) fn keep(&self, mut loaded: Loaded) {
        let id = loaded.state.rollout().id;
        let mut journal = self.journal.lock();
        // Another tick of the same rollout may have heard what this one did not.
        loaded.seen = loaded.seen.filter(|seen| journal.is_latest(id, seen.turn));
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED {
            cache.clear();
            journal.clear();
        }
        cache.insert(id, loaded);
    }

    /// Forgets a rollout that is not looked at any more.
    pub(super) fn forget(&self, id: RolloutId) {
        self.journal.lock().forget(id);
        self.cache.lock().remove(&id);
    }

    /// What is known of these nodes and of the rollout's bundles: three queries, whatever their
    /// number. What was read also goes into the unit of work.
    pub(super) async fn observe(
        &self,
        work: &mut Work<'_>,
        state: &State,
        ids: &BTreeSet<NodeId>,
    ) -> Result<Observation> {
        let deployable = self.deployable_of(work, state).await?;
        let nodes = self.facts(work, ids).await?;
        let checks = self.checks(state).await?.facts;
        Ok(Observation { deployable, nodes, checks })
    }

    /// Those of the rollout's bundles that nodes may be given.
    pub(super) async fn deployable_of(
        &self,
        work: &mut Work<'_>,
        state: &State,
    ) -> Result<BTreeSet<BundleId>> {
        let bundles = self.bundles(&state.rollout().scope(), state.bundles()).await?;
        let deployable = bundles.values().filter(|bundle| bundle.status.is_deployable());
        let deployable = deployable.map(|bundle| bundle.id).collect();
        work.take_bundles(bundles);
        Ok(deployable)
    }

    /// What the store knows of these nodes.
    pub(super) async fn facts(
        &self,
        work: &mut Work<'_>,
        ids: &BTreeSet<NodeId>,
    ) -> Result<BTreeMap<NodeId, NodeFacts>> {
        let nodes = self.nodes(work.scope(), ids).await?;
        let reports = self.reports(work.scope(), nodes.keys().copied()).await?;
        let facts = |id: &NodeId| match (nodes.get(id), reports.get(id)) {
            (Some(node), Some(report)) => NodeFacts::of(node, report),
            (Some(node), None) => NodeFacts { exists: true, name: node.name.clone(), ..NodeFacts::default() },
            (None, _) => NodeFacts::deleted(),
        };
        let facts = ids.iter().map(|id| (*id, facts(id))).collect();
        work.take_nodes(nodes);
        Ok(facts)
    }
}
