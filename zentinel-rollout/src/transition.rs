//! The state of a rollout, and the one place that changes it.

use crate::decision::{Decision, Effect, Outlook, RolloutEvent};
use crate::plan::new_step;
use crate::strategy::{Memory, PlannedStep};
use crate::traffic;
use chrono::TimeDelta;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::Timestamp;
use zentinel_core::entity::{
    NodeProgress, Rollout, RolloutError, RolloutNode, RolloutState, RolloutStep, StepState, TrafficSplit,
    Waiting,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId};

/// Why a node's part ended when the node was deleted; such nodes leave every denominator.
pub const NODE_DELETED: &str = "node_deleted";

/// Why a node's part ended when the node was cordoned before its step told it; such nodes leave every denominator
/// too.
pub const CORDONED: &str = "cordoned";

/// Whether a node left the rollout without having been reached.
#[must_use]
pub(crate) fn is_out(node: &RolloutNode) -> bool {
    matches!(node.error.as_deref(), Some(NODE_DELETED | CORDONED))
}

/// The detail of a rollout's error that says how it ended.
pub const OUTCOME: &str = "outcome";
/// [`OUTCOME`] of a rollout whose touched nodes get back what they ran before.
pub const ROLLED_BACK: &str = "rolled_back";

/// The detail of a rollout's error that says when an operator rolled it back.
pub(crate) const ROLLED_BACK_AT: &str = "rolled_back_at";

/// Why a node's part ended when, at the rollback of an ended rollout, the node ran something else already. Should it
/// return to the bundle, it is restored.
pub const MOVED_ON: &str = "moved_on";

/// The table of transitions of a rollout.
#[must_use]
pub fn rollout_may(from: RolloutState, to: RolloutState) -> bool {
    use RolloutState::{Cancelled, Completed, Failed, Paused, Pending, Running};
    match from {
        Pending => matches!(to, Running | Cancelled),
        Running => matches!(to, Paused | Completed | Cancelled | Failed),
        Paused => matches!(to, Running | Cancelled | Failed),
        Completed | Cancelled | Failed => false,
    }
}

/// The table of transitions of a step.
#[must_use]
pub fn step_may(from: StepState, to: StepState) -> bool {
    use StepState::{Completed, Failed, Pending, Running, Validating, Verifying};
    match from {
        Pending => matches!(to, Running | Failed),
        Running => matches!(to, Verifying | Completed | Failed),
        Verifying => matches!(to, Validating | Completed | Failed),
        // After a swap the gates are asked again before the slot gets its weight back.
        Validating => matches!(to, Verifying | Completed | Failed),
        Completed | Failed => false,
    }
}

/// The table of transitions of a node's part. Going back is possible: a node falls back to what it ran
/// before, and one that failed may succeed while its step lasts.
#[must_use]
pub fn node_may(from: NodeProgress, to: NodeProgress) -> bool {
    use NodeProgress::{Activating, Active, Failed, Pending, Staged, Staging};
    match from {
        Pending => matches!(to, Staging | Activating | Failed),
        Staging => matches!(to, Staged | Activating | Pending | Failed),
        Staged => matches!(to, Staging | Activating | Pending | Failed),
        Activating => matches!(to, Staging | Staged | Active | Pending | Failed),
        Active => matches!(to, Staging | Staged | Failed),
        Failed => matches!(to, Activating),
    }
}

/// A rollout with its steps and its nodes.
///
/// Build it from what the store holds; read it through its getters. Only this crate's transitions change it.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    rollout: Rollout,
    steps: Vec<RolloutStep>,
    nodes: BTreeMap<NodeId, RolloutNode>,
    /// The first step that is not completed or failed.
    cursor: usize,
    /// Nodes to watch beside the active step: lagging ones, and in a rolled-back rollout those that were
    /// told but have not activated, as far as is known.
    stragglers: BTreeSet<NodeId>,
    bundles: BTreeSet<BundleId>,
    /// What the strategy remembers.
    memory: Value,
}

impl State {
    /// The state out of its records.
    #[must_use]
    pub fn new(
        rollout: Rollout,
        mut steps: Vec<RolloutStep>,
        nodes: impl IntoIterator<Item = RolloutNode>,
    ) -> Self {
        steps.sort_by_key(|step| step.index);
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.node_id, node)).collect();
        let mut bundles = BTreeSet::from([rollout.bundle_id]);
        for node in nodes.values() {
            bundles.insert(node.bundle_id);
            bundles.extend(node.previous_bundle_id);
        }
        let mut state = Self {
            rollout,
            steps,
            nodes,
            cursor: 0,
            stragglers: BTreeSet::new(),
            bundles,
            memory: Value::Null,
        };
        state.find_cursor_from_here();
        state.find_stragglers();
        state
    }

    /// With what the strategy remembers of it.
    #[must_use]
    pub fn remembering(mut self, memory: Value) -> Self {
        self.memory = memory;
        self
    }

    /// What the strategy remembers; null when nothing.
    #[must_use]
    pub fn memory(&self) -> &Value {
        &self.memory
    }

    fn find_stragglers(&mut self) {
        let outcome = self.rollout.error.as_ref().and_then(|error| error.details.get(OUTCOME));
        let late = !self.rollout.state.is_open() && outcome.is_some_and(|outcome| outcome == ROLLED_BACK);
        let stragglers = self.nodes.values().filter(|node| {
            let reason = node.error.as_deref();
            let told_only = node.staged_at.is_some() && node.activated_at.is_none();
            let may_come = told_only || reason == Some(MOVED_ON);
            node.lagging || (late && may_come && reason != Some(NODE_DELETED))
        });
        self.stragglers = stragglers.map(|node| node.node_id).collect();
    }

    pub(crate) fn undoing(mut self, original: RolloutId) -> Self {
        self.rollout.rollback_of = Some(original);
        self
    }

    /// The rollout.
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Its steps by index.
    #[must_use]
    pub fn steps(&self) -> &[RolloutStep] {
        &self.steps
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, RolloutNode> {
        &self.nodes
    }

    /// The place of the step that is under way.
    #[must_use]
    pub fn active(&self) -> Option<usize> {
        let step = self.steps.get(self.cursor)?;
        step.state.is_active().then_some(self.cursor)
    }

    /// The place of the step that starts next.
    #[must_use]
    pub fn upcoming(&self) -> Option<usize> {
        let next = self.cursor + usize::from(self.active().is_some());
        let step = self.steps.get(next)?;
        (step.state == StepState::Pending).then_some(next)
    }

    /// The nodes that a tick needs facts about: those of the active and of the next step, and stragglers.
    #[must_use]
    pub fn watched(&self) -> BTreeSet<NodeId> {
        let mut watched = self.stragglers.clone();
        if self.rollout.state.is_open() {
            for place in [self.active(), self.upcoming()].into_iter().flatten() {
                watched.extend(&self.steps[place].node_ids);
            }
        }
        watched
    }

    /// The nodes of completed steps of a rollout under way, which gates over all nodes look back at.
    #[must_use]
    pub fn reached(&self) -> BTreeSet<NodeId> {
        let open = self.rollout.state.is_open() && self.active().is_some();
        let done = self.steps.iter().filter(|step| open && step.state == StepState::Completed);
        done.flat_map(|step| step.node_ids.iter().copied()).collect()
    }

    /// Those of these nodes that are done in a rollout under way: what they report may still stop it. A
    /// tick needs facts about them when something about them changed.
    #[must_use]
    pub fn done_of<'a>(&self, ids: impl IntoIterator<Item = &'a NodeId>) -> BTreeSet<NodeId> {
        let watches = self.rollout.state.is_open() && self.rollout.rollback_of.is_none();
        let done = |id: &&NodeId| {
            watches && self.nodes.get(id).is_some_and(|node| node.state == NodeProgress::Active)
        };
        ids.into_iter().filter(done).copied().collect()
    }

    /// The nodes that a command needs facts about: all that were told the bundle, and the watched ones.
    #[must_use]
    pub fn concerned(&self) -> BTreeSet<NodeId> {
        let told = self.nodes.values().filter(|node| node.staged_at.is_some());
        let mut concerned = self.watched();
        concerned.extend(told.map(|node| node.node_id));
        concerned
    }

    /// The bundles whose deployability a tick or a command needs to know.
    #[must_use]
    pub fn bundles(&self) -> &BTreeSet<BundleId> {
        &self.bundles
    }

    /// Nodes that are watched beside the active step.
    #[must_use]
    pub fn stragglers(&self) -> &BTreeSet<NodeId> {
        &self.stragglers
    }

    /// The records back.
    #[must_use]
    pub fn into_parts(self) -> (Rollout, Vec<RolloutStep>, BTreeMap<NodeId, RolloutNode>) {
        (self.rollout, self.steps, self.nodes)
    }
}

mod weighing;

/// A decision in the making: the state plus what has changed so far.
#[derive(Debug)]
pub(crate) struct Draft {
    decision: Decision,
    /// Whether something that an operator would call a change happened to the rollout itself.
    touched: bool,
    /// How the traffic is split by now; the effects have said so.
    split: Option<TrafficSplit>,
    /// Nodes that have been found healthy with the bundle, or no longer are, in a rollout with slots.
    reweighed: BTreeSet<NodeId>,
    now: Timestamp,
}

impl Draft {
    pub(crate) fn new(state: State, now: Timestamp) -> Self {
        let split = traffic::split(&state.rollout, &state.steps);
        let decision = Decision {
            next_wake: state.rollout.next_tick_at,
            outlook: Outlook::Open,
            state,
            effects: Vec::new(),
            events: Vec::new(),
            rollout_changed: false,
            changed_steps: BTreeSet::new(),
            added_steps: BTreeSet::new(),
            step_transitions: Vec::new(),
            removed_steps: BTreeSet::new(),
            changed_nodes: BTreeSet::new(),
            memory_changed: false,
            findings: Vec::new(),
        };
        Self { decision, touched: false, split, reweighed: BTreeSet::new(), now }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn state(&self) -> &State {
        &self.decision.state
    }

    pub(crate) fn rollout(&self) -> &Rollout {
        &self.decision.state.rollout
    }

    pub(crate) fn step(&self, place: usize) -> &RolloutStep {
        &self.decision.state.steps[place]
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&RolloutNode> {
        self.decision.state.nodes.get(&id)
    }

    /// Adds an effect, unless it is about no node.
    pub(crate) fn effect(&mut self, effect: Effect) {
        let empty = match &effect {
            Effect::Claim { nodes }
            | Effect::Stage { nodes }
            | Effect::Unstage { nodes }
            | Effect::Expect { nodes }
            | Effect::Release { nodes } => nodes.is_empty(),
            Effect::RollBack(rollback) => rollback.nodes.is_empty(),
            Effect::Restore { nodes } => nodes.is_empty(),
            Effect::Traffic { nodes, .. } => nodes.is_empty(),
            Effect::Shift { .. } => false,
        };
        if !empty {
            self.decision.effects.push(effect);
        }
    }

    /// Moves the rollout, and says so.
    pub(crate) fn move_rollout(&mut self, to: RolloutState, error: Option<RolloutError>) {
        let from = self.rollout().state;
        if !rollout_may(from, to) {
            tracing::error!(rollout = %self.rollout().id, ?from, ?to, "refused a transition of a rollout");
            return;
        }
        let now = self.now;
        self.edit_rollout(|rollout| {
            rollout.state = to;
            rollout.error = error;
            rollout.paused_at = (to == RolloutState::Paused).then_some(now);
            if to == RolloutState::Running {
                rollout.started_at.get_or_insert(now);
            }
            if !to.is_open() {
                rollout.completed_at = Some(now);
                rollout.unavailable_grace = None;
            }
        });
        self.decision.events.push(RolloutEvent::transition(&self.decision.state.rollout, from));
        if matches!(to, RolloutState::Failed | RolloutState::Cancelled) {
            self.give_traffic_back();
        }
        self.settle_traffic();
    }

    /// Changes a field of the rollout other than its state.
    pub(crate) fn edit_rollout(&mut self, edit: impl FnOnce(&mut Rollout)) {
        edit(&mut self.decision.state.rollout);
        self.decision.rollout_changed = true;
        self.touched = true;
    }

    /// Lets the strategy speak: it sees the draft and may change what it remembers.
    pub(crate) fn consult<T>(&mut self, ask: impl FnOnce(&Self, &mut Memory) -> T) -> T {
        let mut memory = Memory::new(self.decision.state.memory.take());
        let answer = ask(self, &mut memory);
        self.decision.memory_changed |= memory.is_changed();
        let (value, findings) = memory.into_parts();
        self.decision.state.memory = value;
        self.decision.findings.extend(findings);
        answer
    }

    /// Replaces the report, if it says something else.
    pub(crate) fn report(&mut self, waiting: Waiting) {
        if self.rollout().waiting != waiting {
            self.decision.state.rollout.waiting = waiting;
            self.decision.rollout_changed = true;
        }
    }

    /// Moves a step.
    pub(crate) fn move_step(&mut self, place: usize, to: StepState, error: Option<RolloutError>) {
        let from = self.step(place).state;
        if !step_may(from, to) {
            tracing::error!(step = %self.step(place).id, ?from, ?to, "refused a transition of a step");
            return;
        }
        let now = self.now;
        self.edit_step(place, |step| {
            step.state = to;
            match to {
                StepState::Running => {
                    step.started_at = Some(now);
                    step.entered_at = Some(now);
                    step.paused_ms = 0;
                }
                // The deadline of a hold counts from its start; that of a delivery includes its verification.
                StepState::Validating => {
                    step.entered_at = Some(now);
                    step.paused_ms = 0;
                }
                StepState::Completed | StepState::Failed => {
                    step.completed_at = Some(now);
                    step.failing_since = None;
                    step.error = error;
                }
                StepState::Verifying if from == StepState::Validating => {
                    step.entered_at = Some(now);
                    step.paused_ms = 0;
                    step.shifted_at = None;
                }
                StepState::Pending | StepState::Verifying => {}
            }
        });
        let over = matches!(to, StepState::Completed | StepState::Failed) && from.is_active();
        if over || to == StepState::Running {
            self.decision.step_transitions.push((place, to));
        }
        self.decision.state.find_cursor_from_here();
        if to == StepState::Validating && self.rollout().traffic.is_some() {
            self.edit_traffic(|traffic| (traffic.swapped, traffic.withheld) = (false, false));
        }
        if to != StepState::Failed {
            self.settle_traffic();
        }
    }

    /// Changes a field of a step other than its state.
    pub(crate) fn edit_step(&mut self, place: usize, edit: impl FnOnce(&mut RolloutStep)) {
        if let Some(step) = self.decision.state.steps.get_mut(place) {
            edit(step);
            if !self.decision.added_steps.contains(&place) {
                self.decision.changed_steps.insert(place);
            }
        }
    }

    /// Moves a node's part. `error` is kept only by a failure.
    pub(crate) fn move_node(&mut self, id: NodeId, to: NodeProgress, error: Option<&str>) {
        let Some(from) = self.node(id).map(|node| node.state) else {
            return;
        };
        if from == to {
            return;
        }
        if !node_may(from, to) {
            tracing::error!(node = %id, ?from, ?to, "refused a transition of a node's part");
            return;
        }
        let now = self.now;
        self.edit_node(id, |node| {
            node.state = to;
            node.error = error.map(str::to_owned);
            match to {
                NodeProgress::Staging => {
                    node.staged_at.get_or_insert(now);
                }
                NodeProgress::Active => {
                    node.verified_at = Some(now);
                    node.lagging = false;
                }
                NodeProgress::Failed => node.lagging = false,
                NodeProgress::Pending | NodeProgress::Staged | NodeProgress::Activating => {}
            }
        });
    }

    /// The node was deleted, wherever it stood.
    pub(crate) fn node_is_gone(&mut self, id: NodeId) {
        self.give_up_node(id, NODE_DELETED);
    }

    /// A node's part fails for this reason, also when it had failed for another one.
    pub(crate) fn give_up_node(&mut self, id: NodeId, reason: &str) {
        match self.node(id).map(|node| node.state) {
            Some(NodeProgress::Failed) => {
                self.edit_node(id, |node| node.error = Some(reason.to_owned()));
            }
            Some(_) => self.move_node(id, NodeProgress::Failed, Some(reason)),
            None => {}
        }
    }

    /// Changes a field of a node's part other than its state.
    pub(crate) fn edit_node(&mut self, id: NodeId, edit: impl FnOnce(&mut RolloutNode)) {
        let now = self.now;
        let has_slots = self.split.is_some();
        let state = &mut self.decision.state;
        if let Some(node) = state.nodes.get_mut(&id) {
            let proven = node.state == NodeProgress::Active;
            edit(node);
            if has_slots && proven != (node.state == NodeProgress::Active) {
                self.reweighed.insert(id);
            }
            node.last_report_at = Some(now);
            state.bundles.extend(node.previous_bundle_id);
            if node.lagging {
                state.stragglers.insert(id);
            } else if state.rollout.state.is_open() {
                state.stragglers.remove(&id);
            }
            self.decision.changed_nodes.insert(id);
        }
    }

    /// Stops watching a straggler.
    pub(crate) fn caught_up(&mut self, id: NodeId) {
        self.decision.state.stragglers.remove(&id);
    }

    /// Finds the stragglers of a rollout that has just ended.
    pub(crate) fn find_stragglers(&mut self) {
        self.decision.state.find_stragglers();
    }

    /// Replaces the steps that have not begun. The caller has checked them.
    pub(crate) fn recut(&mut self, steps: Vec<PlannedStep>) {
        let now = self.now;
        let Some(first) = self.state().upcoming() else {
            return;
        };
        let old: Vec<RolloutStep> = self.decision.state.steps.drain(first..).collect();
        for (place, planned) in (first..).zip(steps) {
            let index = u32::try_from(place).unwrap_or(u32::MAX);
            let step = new_step(&self.decision.state.rollout, index, planned, now);
            self.decision.state.steps.push(step);
            let existed = place - first < old.len();
            if existed && !self.decision.added_steps.contains(&place) {
                self.decision.changed_steps.insert(place);
            } else {
                self.decision.added_steps.insert(place);
            }
        }
        let kept = self.decision.state.steps.len();
        for step in old.into_iter().skip(kept - first) {
            let place = usize::try_from(step.index).unwrap_or(usize::MAX);
            if !self.decision.added_steps.remove(&place) {
                self.decision.removed_steps.insert(step.id);
            }
            self.decision.changed_steps.remove(&place);
        }
    }

    /// Says when to look again. The stored due time only moves when it is due, so that early wake-ups
    /// neither postpone it nor cost a write.
    pub(crate) fn wake_in(&mut self, interval: TimeDelta) {
        let due = self.rollout().next_tick_at.filter(|due| *due > self.now);
        self.wake_at(Some(due.unwrap_or(self.now + interval)));
    }

    pub(crate) fn outlook(&self) -> Outlook {
        self.decision.outlook
    }

    /// Says for how long the decision stands.
    pub(crate) fn rest(&mut self, outlook: Outlook) {
        self.decision.outlook = outlook;
    }

    /// Sets when to look again.
    pub(crate) fn wake_at(&mut self, at: Option<Timestamp>) {
        self.decision.next_wake = at;
        if self.rollout().next_tick_at != at {
            self.decision.state.rollout.next_tick_at = at;
            self.decision.rollout_changed = true;
        }
    }

    pub(crate) fn finish(mut self) -> Decision {
        if !self.reweighed.is_empty() && !self.ended_badly() {
            let nodes = std::mem::take(&mut self.reweighed);
            self.weigh(|id| nodes.contains(&id));
        }
        if self.touched {
            self.decision.state.rollout.updated_at = self.now;
        }
        self.decision
    }
}

impl State {
    /// The cursor only ever moves forward.
    fn find_cursor_from_here(&mut self) {
        while let Some(step) = self.steps.get(self.cursor) {
            if !matches!(step.state, StepState::Completed | StepState::Failed) {
                break;
            }
            self.cursor += 1;
        }
    }
}
