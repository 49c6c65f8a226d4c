//! The event loop of a simulation.

mod effects;
mod world;

use super::fleet::{Fleet, NEW, bundle};
use super::invariants::{INVARIANTS, Moment, at_the_end, traffic_strays};
use super::rng::Rng;
use super::{Options, Outcome, Violation};
use crate::command::{Command, acknowledge, apply, shift_failed};
use crate::decision::{Decision, Outlook};
use crate::gate::Gates;
use crate::plan::{NewRollout, Plan, Target};
use crate::step::{VALIDATION_HOLD, rest, step};
use crate::strategy::{Strategies, Strategy};
use crate::traffic::{is_blue_green, split};
use crate::transition::State;
use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;
use world::{Based, World};
use zentinel_core::entity::{HealthGates, RolloutSpec, RolloutState, TrafficSplit};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId, TypedId};
use zentinel_core::{Actor, Percent, Timestamp};

const BEAT: i64 = 30;
const SWEEP: i64 = 15;
/// How long faults last.
const TROUBLE: i64 = 2_400;
/// How long nodes that are well again may take to do what they were told.
const SETTLING: TimeDelta = TimeDelta::seconds(300);
/// Decisions to keep for a failure.
const TRACE: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Beat(usize),
    Poll(usize),
    Activate(usize, BundleId),
    Tick(usize),
    Shifted(usize, u32),
    Sweep,
    /// A report arrives late or twice.
    Late(usize),
    /// A replica that paused between looking and committing goes on.
    Wakes(usize),
    Operator(Command),
    Delete(usize),
    Revoke(BundleId),
    Heal,
}

/// One simulation under way.
pub(super) struct Run {
    seed: u64,
    engine_faults: bool,
    strategies: Strategies,
    now: Timestamp,
    fleet: Fleet,
    rollouts: Vec<State>,
    /// When the next look at each rollout is due; like a unique job, a second one only brings it forward.
    due: Vec<Option<Timestamp>>,
    queue: BinaryHeap<Reverse<(Timestamp, u64, What)>>,
    sequence: u64,
    nodes_rng: Rng,
    engine_rng: Rng,
    rests_rng: Rng,
    world: World,
    ran_before: BTreeMap<(RolloutId, NodeId), BundleId>,
    rollbacks: usize,
    ticks: u64,
    /// Every how many ticks a decision without effects is checked.
    check_every: u64,
    /// How late a report wakes its rollouts.
    wake_delay: TimeDelta,
    /// How many commands of operators are still to come.
    commands: usize,
    digest: u64,
    trace: VecDeque<String>,
    violation: Option<Violation>,
    healed: bool,
    healed_at: Timestamp,
    end: Timestamp,
}

fn spec(options: &Options, rng: &mut Rng) -> RolloutSpec {
    let nodes = options.nodes.max(1) as u64;
    let standard = ["all_at_once", "rolling", "rolling", "canary", "blue_green"];
    let standard = standard[usize::try_from(rng.below(standard.len() as u64)).unwrap_or(0)];
    let share = rng.percent(40).then(|| Percent::new(u8::try_from(rng.between(5, 60)).unwrap_or(10)));
    let percent = |value: u64| Percent::new(u8::try_from(value).unwrap_or(50)).unwrap_or(Percent::HALF);
    let batch_percentage = share.and_then(Result::ok);
    let batch = u32::try_from(rng.between(1, nodes.div_ceil(3))).unwrap_or(1);
    let strategy = options.strategy.as_ref().map_or(standard, |strategy| strategy.name());
    let strategy_config = match strategy {
        "canary" => json!({"analysis_window_minutes": rng.between(1, 5)}),
        "blue_green" => blue_green(rng),
        _ => Value::Null,
    };
    RolloutSpec {
        strategy: strategy.to_owned(),
        strategy_config,
        batch_size: if batch_percentage.is_some() { 1 } else { batch },
        batch_percentage,
        max_unavailable: if rng.percent(50) {
            u32::try_from(rng.between(1, nodes / 10 + 1)).unwrap_or(1)
        } else {
            0
        },
        progress_deadline_seconds: u32::try_from(rng.between(180, 900)).unwrap_or(600),
        health_gates: HealthGates {
            max_error_rate: rng.percent(50).then_some(5.0),
            ..HealthGates::heartbeat()
        },
        auto_rollback: rng.percent(60),
        rollback_threshold: percent(rng.between(10, 100)),
        ..RolloutSpec::default()
    }
}

fn blue_green(rng: &mut Rng) -> Value {
    let middle = rng.between(11, 89);
    json!({
        "traffic_steps": if rng.percent(50) { json!([10, middle, 100]) } else { json!([100]) },
        "auto_advance": rng.percent(60),
        "advance_delay_seconds": rng.between(10, 120),
        "validation_period_seconds": rng.between(10, 120),
        "green_percentage": rng.between(10, 90),
        "shift_traffic": rng.percent(40),
    })
}

fn planned(seed: u64, spec: RolloutSpec, strategy: &dyn Strategy, fleet: &Fleet, now: Timestamp) -> State {
    let target = |node: &super::fleet::SimNode| Target {
        node_id: node.id,
        bundle_id: bundle(NEW),
        previous_bundle_id: Some(node.original),
    };
    let targets: Vec<Target> = fleet.nodes.iter().map(target).collect();
    let ids: Vec<NodeId> = targets.iter().map(|target| target.node_id).collect();
    let plan = Plan { steps: strategy.plan(&spec, &ids).unwrap_or_default(), targets, excluded: Vec::new() };
    let new = NewRollout {
        id: RolloutId::from_uuid(Uuid::from_u128(u128::from(seed) << 64 | 1)),
        organisation_id: OrganisationId::from_uuid(Uuid::from_u128(1)),
        project_id: ProjectId::from_uuid(Uuid::from_u128(2)),
        bundle_id: bundle(NEW),
        spec,
        created_by: Actor::System,
    };
    new.build(plan, now)
}

impl Run {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let now = DateTime::UNIX_EPOCH;
        let mut fleet =
            Fleet::new(options.nodes, options.faulty_percent, &mut Rng::named(seed, "fleet"), now);
        fleet.lossy = options.world_faults;
        let mut strategies = Strategies::standard();
        if let Some(strategy) = &options.strategy {
            strategies = strategies.register(Arc::clone(strategy));
        }
        let spec = spec(options, &mut Rng::named(seed, "spec"));
        let mut run = Self {
            seed,
            engine_faults: options.engine_faults,
            strategies,
            now,
            fleet,
            rollouts: Vec::new(),
            due: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            nodes_rng: Rng::named(seed, "nodes"),
            engine_rng: Rng::named(seed, "engine"),
            rests_rng: Rng::named(seed, "rests"),
            world: World::new(seed, options),
            ran_before: BTreeMap::new(),
            rollbacks: 0,
            ticks: 0,
            check_every: 1 + options.nodes as u64 / 100,
            wake_delay: TimeDelta::seconds(2 + (options.nodes as u64 / 250).cast_signed()),
            commands: 0,
            digest: seed,
            trace: VecDeque::new(),
            violation: None,
            healed: false,
            healed_at: now,
            end: now,
        };
        if let Some(strategy) = run.strategy(&spec.strategy) {
            let state = planned(seed, spec, strategy.as_ref(), &run.fleet, now);
            run.rollouts.push(state);
            run.due.push(None);
        }
        run.schedule_the_world(options);
        run.command(0, Command::Start);
        run
    }

    fn strategy(&self, name: &str) -> Option<Arc<dyn Strategy>> {
        self.strategies.get(name).ok().cloned()
    }

    fn schedule_the_world(&mut self, options: &Options) {
        let mut rng = Rng::named(self.seed, "world");
        for place in 0..options.nodes {
            self.at(rng.below(BEAT.cast_unsigned()).cast_signed(), What::Beat(place));
        }
        self.at(SWEEP, What::Sweep);
        self.at(TROUBLE, What::Heal);
        let second = |rng: &mut Rng| rng.below(TROUBLE.cast_unsigned()).cast_signed();
        if options.operators {
            for _ in 0..rng.below(5) {
                let commands = [
                    Command::Pause,
                    Command::Hold,
                    Command::Resume,
                    Command::Resume,
                    Command::Advance,
                    Command::SwapSlot,
                    Command::SwapSlot,
                    Command::Cancel,
                    Command::Rollback,
                ];
                let which = usize::try_from(rng.below(9)).unwrap_or(0);
                let when = second(&mut rng) / 3;
                self.at(when, What::Operator(commands[which]));
            }
        }
        if options.faulty_percent > 0 {
            for _ in 0..rng.below(3) {
                let place = usize::try_from(rng.below(options.nodes as u64)).unwrap_or(0);
                let when = second(&mut rng);
                self.at(when, What::Delete(place));
            }
            if rng.percent(10) {
                let revoked = if rng.percent(70) { bundle(NEW) } else { bundle(1) };
                let when = second(&mut rng);
                self.at(when, What::Revoke(revoked));
            }
        }
    }

    fn at(&mut self, seconds: i64, what: What) {
        self.sequence += 1;
        self.commands += usize::from(matches!(what, What::Operator(_)));
        let when = self.now + TimeDelta::seconds(seconds);
        self.queue.push(Reverse((when, self.sequence, what)));
    }

    /// A look at a rollout, like a unique job: an earlier due time wins.
    fn wake(&mut self, rollout: usize, when: Timestamp) {
        let due = &mut self.due[rollout];
        if due.is_none_or(|due| when < due) {
            *due = Some(when);
            self.sequence += 1;
            self.queue.push(Reverse((when, self.sequence, What::Tick(rollout))));
        }
    }

    /// Something was reported: the rollouts are looked at soon.
    fn wake_all(&mut self) {
        for rollout in 0..self.rollouts.len() {
            let state = &self.rollouts[rollout];
            if state.rollout().state.is_open() || !state.stragglers().is_empty() {
                self.wake(rollout, self.now + self.wake_delay);
            }
        }
    }

    pub(super) fn finish(mut self) -> Outcome {
        while self.violation.is_none() {
            let Some(Reverse((when, _, what))) = self.queue.pop() else {
                break;
            };
            if (self.healed && when > self.end) || (self.commands == 0 && self.is_over()) {
                break;
            }
            self.now = when;
            self.happens(what);
        }
        if self.violation.is_none()
            && let Some((invariant, message)) = at_the_end(&self.fleet, &self.rollouts)
        {
            self.violate(invariant, message);
        }
        Outcome {
            seed: self.seed,
            nodes: self.fleet.nodes.len(),
            rollouts: self.rollouts.iter().map(|state| state.rollout().state).collect(),
            ticks: self.ticks,
            seconds: (self.now - DateTime::UNIX_EPOCH).num_seconds(),
            digest: self.digest,
            violation: self.violation,
            trace: self.trace.into(),
        }
    }

    fn is_over(&self) -> bool {
        let over = |state: &State| {
            let ended = state.rollout().completed_at.map(|ended| ended.max(self.healed_at));
            // Nodes that are well again have had their chance to come late.
            let settled = ended.is_some_and(|ended| self.healed && self.now - ended > SETTLING);
            let late = |id: &NodeId| {
                let node = &self.fleet.nodes[Fleet::place(*id)];
                !node.deleted && state.nodes().get(id).is_some_and(|part| part.bundle_id == node.truth)
            };
            let settled = settled && !state.stragglers().iter().any(late);
            ended.is_some() && (settled || state.stragglers().is_empty())
        };
        // What nodes were told last must have had time to arrive.
        let quiet = || {
            self.fleet.nodes.iter().all(|node| {
                let done = node.target.is_none_or(|target| target.bundle == node.truth);
                node.deleted || (done && node.installing.is_none())
            })
        };
        self.rollouts.iter().all(over) && quiet()
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Beat(place) => self.beat(place),
            What::Poll(place) => self.report(place),
            What::Activate(place, wanted) => {
                if self.fleet.activate(place, wanted, &mut self.nodes_rng, self.now) {
                    self.report(place);
                }
            }
            What::Tick(rollout) => {
                if self.due[rollout].is_some_and(|due| due <= self.now) {
                    self.due[rollout] = None;
                    self.tick(rollout);
                }
            }
            What::Shifted(rollout, number) => self.shifted(rollout, number),
            What::Sweep => {
                if self.fleet.sweep(self.now) {
                    self.wake_all();
                }
                self.at(SWEEP, What::Sweep);
            }
            What::Late(which) => self.late(which),
            What::Wakes(which) => self.wakes(which),
            What::Operator(command) => {
                self.commands -= 1;
                for rollout in 0..self.rollouts.len() {
                    self.command(rollout, command);
                }
            }
            What::Delete(place) if !self.healed => {
                self.fleet.delete(place);
                self.wake_all();
            }
            What::Delete(_) => {}
            What::Revoke(revoked) => {
                self.fleet.observation.deployable.remove(&revoked);
                self.wake_all();
            }
            What::Heal => self.heal(),
        }
    }

    fn beat(&mut self, place: usize) {
        if self.fleet.nodes[place].deleted {
            return;
        }
        self.report(place);
        self.at(BEAT, What::Beat(place));
    }

    fn report(&mut self, place: usize) {
        self.delay_or_repeat(place);
        let (changed, begins) = self.fleet.beat(place, &mut self.nodes_rng, self.now);
        if let (Some(takes), Some(wanted)) = (begins, self.fleet.nodes[place].installing) {
            self.at(takes.num_seconds(), What::Activate(place, wanted));
        }
        if changed {
            self.wake_all();
        }
    }

    /// Faults end; operators go on with what is held. The deadlines of every step say how long it may take now.
    fn heal(&mut self) {
        self.healed = true;
        self.healed_at = self.now;
        self.engine_faults = false;
        self.world.heal();
        self.fleet.heal(self.now);
        for rollout in 0..self.rollouts.len() {
            self.command(rollout, Command::Resume);
        }
        let seconds: i64 = self
            .rollouts
            .iter()
            .map(|state| {
                let steps = i64::try_from(state.steps().len()).unwrap_or(i64::MAX) + 2;
                steps * (i64::from(state.rollout().spec.progress_deadline_seconds) + 60)
            })
            .sum();
        // A rollback may follow, and stragglers are looked at every minute.
        self.end = self.now + TimeDelta::seconds(seconds + 4_000);
    }

    fn tick(&mut self, rollout: usize) {
        self.ticks += 1;
        let spec = &self.rollouts[rollout].rollout().spec;
        let gates = Gates::of(&spec.health_gates);
        let Some(strategy) = self.strategy(&spec.strategy) else {
            return;
        };
        let now = self.world.clock_of_a_replica(self.now);
        let state = self.load(rollout);
        let before = (state.rollout().state, split(state.rollout(), state.steps()));
        let lost = self.engine_faults && self.engine_rng.percent(3);
        let pauses = self.world.replica_pauses();
        let kept = (lost || pauses).then(|| state.clone());
        let decision = step(state, strategy.as_ref(), &gates, &self.fleet.observation, now);
        if let Some(kept) = kept {
            // The commit lost a race: as if nothing had happened, and again soon.
            self.rollouts[rollout] = kept;
            if pauses {
                self.pause(rollout, before, decision, now);
            }
            self.wake(rollout, self.now + TimeDelta::seconds(1));
            return;
        }
        self.check_rest(strategy.as_ref(), &gates, &decision, now);
        self.commit(rollout, before, decision, Based::at(now));
        // Resume what paused by itself: somebody is on call.
        let now = self.rollouts[rollout].rollout();
        if before.0 == RolloutState::Running && now.state == RolloutState::Paused {
            let held = now.error.as_ref().is_some_and(|error| error.reason == VALIDATION_HOLD);
            let slots = is_blue_green(self.rollouts[rollout].steps());
            let command = if held && slots { Command::Advance } else { Command::Resume };
            let after = self.engine_rng.between(30, 300).cast_signed();
            self.at(after, What::Operator(command));
        }
    }

    /// The load balancer answers: now and then that it is busy.
    fn shifted(&mut self, rollout: usize, number: u32) {
        let state = self.rollouts[rollout].clone();
        let moment = (state.rollout().state, split(state.rollout(), state.steps()));
        if self.engine_faults && self.engine_rng.percent(30) {
            let again = self.engine_rng.between(5, 60).cast_signed();
            self.at(again, What::Shifted(rollout, number));
            if let Some(decision) = shift_failed(state, number, "busy", self.now) {
                self.commit(rollout, moment, decision, Based::at(self.now));
            }
        } else if let Some(decision) = acknowledge(state, number, self.now) {
            self.commit(rollout, moment, decision, Based::at(self.now));
        }
    }

    /// Now and then: where a decision says that the rollout rests, a later look at every fact decides the same as one
    /// at none.
    fn check_rest(&mut self, strategy: &dyn Strategy, gates: &Gates, decision: &Decision, now: Timestamp) {
        let Outlook::Rests { until, .. } = decision.outlook else { return };
        if !self.rests_rng.percent(5) {
            return;
        }
        let longest = (until - now).num_seconds().clamp(0, 7_200);
        let later =
            now + TimeDelta::seconds(self.rests_rng.between(0, longest.cast_unsigned()).cast_signed());
        let looked = step(decision.state.clone(), strategy, gates, &self.fleet.observation, later);
        let rested = rest(decision.state.clone(), decision.outlook, later);
        if looked != rested {
            let message = format!("at {later} of {:?}: {}", decision.outlook, looked.report().summary);
            self.violate("resting_is_looking", message);
        }
    }

    /// A restart now and then: the state must be the same when it is built from its records again.
    fn load(&mut self, rollout: usize) -> State {
        // A state without nodes stands in until the decision is committed: a copy of all would cost more than the tick.
        let hollow = State::new(self.rollouts[rollout].rollout().clone(), Vec::new(), []);
        let state = std::mem::replace(&mut self.rollouts[rollout], hollow);
        if !self.engine_faults || !self.engine_rng.percent(2) {
            return state;
        }
        let memory = state.memory().clone();
        let (record, steps, nodes) = state.clone().into_parts();
        let again = State::new(record, steps, nodes.into_values()).remembering(memory);
        let same = (again.watched(), again.active(), again.upcoming())
            == (state.watched(), state.active(), state.upcoming());
        if !same {
            self.violate("a_restart_changes_nothing", format!("{}", state.rollout().id));
        }
        again
    }

    fn command(&mut self, rollout: usize, command: Command) {
        let state = self.rollouts[rollout].clone();
        let before = (state.rollout().state, split(state.rollout(), state.steps()));
        let legal = command.check(&state, self.now).is_ok();
        match apply(command, state, &self.fleet.observation, self.now) {
            Ok(decision) => self.commit(rollout, before, decision, Based::at(self.now)),
            Err(error) if legal => self.violate("legal_commands_succeed", format!("{command:?}: {error}")),
            Err(_) => {}
        }
    }

    fn commit(
        &mut self,
        rollout: usize,
        (before, split_before): (RolloutState, Option<TrafficSplit>),
        decision: Decision,
        based: Based,
    ) {
        self.world.count_commit(rollout, &decision);
        self.remember(rollout, before, &decision);
        // Structure only changes together with effects, events or steps; in between, samples do.
        let quiet =
            decision.effects.is_empty() && decision.events.is_empty() && decision.changed_steps.is_empty();
        if !quiet || (self.ticks.is_multiple_of(self.check_every) && !decision.is_idle()) {
            let moment = Moment {
                before,
                split_before,
                decision: &decision,
                observation: based.observation.as_ref().unwrap_or(&self.fleet.observation),
                ran_before: &self.ran_before,
                rollbacks: if rollout == 0 { self.rollbacks } else { 0 },
                now: based.now,
            };
            let broken = INVARIANTS.iter().find_map(|(name, holds)| Some((*name, holds(&moment)?)));
            if let Some((name, message)) = broken {
                self.violate(name, message);
            }
        }
        if let Some(wake) = decision.next_wake {
            // A replica whose clock is slow has the job only when it is due by that clock.
            self.wake(rollout, wake.max(self.now + TimeDelta::seconds(1)));
        }
        let again = self.engine_faults && self.engine_rng.percent(10);
        let id = decision.state.rollout().id;
        let effects = decision.effects;
        self.rollouts[rollout] = decision.state;
        for effect in &effects {
            self.carry_out(rollout, id, effect);
            if again {
                self.carry_out(rollout, id, effect);
            }
        }
        if before.is_open() {
            self.check_the_end(rollout);
        }
        if !effects.is_empty()
            && let Some(message) = traffic_strays(&self.fleet, &self.rollouts[rollout])
        {
            self.violate("nodes_have_the_weight_of_their_slot", message);
        }
    }

    fn violate(&mut self, invariant: &'static str, message: String) {
        let second = (self.now - DateTime::UNIX_EPOCH).num_seconds();
        self.violation.get_or_insert(Violation { invariant, message, second });
    }
}
