//! Faults of the world around the nodes and the engine: a lossy network that delays, repeats and reorders, replicas whose
//! clocks disagree, replicas that pause between looking and committing.

use super::{Run, What};
use crate::decision::Decision;
use crate::observation::{NodeFacts, Observation};
use crate::sim::Options;
use crate::sim::invariants::CLOCKS_APART;
use crate::sim::rng::Rng;
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::{RolloutState, TrafficSplit};

/// Larger fleets are not copied for a replica that pauses.
const MOST_COPIED: usize = 64;

/// What a decision is based on.
#[derive(Debug)]
pub(super) struct Based {
    /// What the replica knew, where that is not what is known now.
    pub(super) observation: Option<Observation>,
    /// The instant by its clock.
    pub(super) now: Timestamp,
}

impl Based {
    pub(super) fn at(now: Timestamp) -> Self {
        Self { observation: None, now }
    }
}

/// A replica that has decided and not yet committed.
#[derive(Debug)]
struct Paused {
    rollout: usize,
    /// How often the rollout had been written when it was read.
    revision: u64,
    before: (RolloutState, Option<TrafficSplit>),
    decision: Decision,
    based: Based,
}

/// The faults of one simulation.
#[derive(Debug)]
pub(super) struct World {
    faults: bool,
    copies: bool,
    rng: Rng,
    /// By how many seconds the clocks of two replicas are off.
    skews: [i64; 2],
    revisions: Vec<u64>,
    late: Vec<Option<(usize, NodeFacts)>>,
    paused: Vec<Option<Paused>>,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::named(seed, "faults of the world");
        let faults = options.world_faults;
        let apart = CLOCKS_APART.num_seconds();
        let mut skew =
            || if faults { rng.between(0, apart.cast_unsigned()).cast_signed() - apart / 2 } else { 0 };
        let skews = [skew(), skew()];
        let copies = options.nodes <= MOST_COPIED;
        Self { faults, copies, rng, skews, revisions: Vec::new(), late: Vec::new(), paused: Vec::new() }
    }

    pub(super) fn heal(&mut self) {
        self.faults = false;
    }

    /// The instant by the clock of whichever replica has the job.
    pub(super) fn clock_of_a_replica(&mut self, now: Timestamp) -> Timestamp {
        let replica = usize::from(self.rng.percent(50));
        now + TimeDelta::seconds(self.skews[replica])
    }

    pub(super) fn replica_pauses(&mut self) -> bool {
        self.faults && self.copies && self.rng.percent(2)
    }

    fn revision(&mut self, rollout: usize) -> &mut u64 {
        if self.revisions.len() <= rollout {
            self.revisions.resize(rollout + 1, 0);
        }
        &mut self.revisions[rollout]
    }

    /// A decision that changes nothing writes nothing.
    pub(super) fn count_commit(&mut self, rollout: usize, decision: &Decision) {
        if !decision.is_idle() {
            *self.revision(rollout) += 1;
        }
    }
}

impl Run {
    /// What the node said last is on its way still, or once more.
    pub(super) fn delay_or_repeat(&mut self, place: usize) {
        if !self.world.faults || !self.world.rng.percent(2) {
            return;
        }
        let Some(facts) = self.fleet.observation.nodes.get(&self.fleet.nodes[place].id) else { return };
        self.world.late.push(Some((place, facts.clone())));
        let after = self.world.rng.between(1, 40).cast_signed();
        self.at(after, What::Late(self.world.late.len() - 1));
    }

    pub(super) fn late(&mut self, which: usize) {
        // Once nothing goes wrong any more, nothing old arrives either.
        let Some((place, facts)) = self.world.late[which].take().filter(|_| self.world.faults) else {
            return;
        };
        if self.fleet.hear_late(place, &facts, self.now) {
            self.wake_all();
        }
    }

    /// The replica stands still with its decision in hand; others go on.
    pub(super) fn pause(
        &mut self,
        rollout: usize,
        before: (RolloutState, Option<TrafficSplit>),
        decision: Decision,
        now: Timestamp,
    ) {
        let based = Based { observation: Some(self.fleet.observation.clone()), now };
        let revision = *self.world.revision(rollout);
        self.world.paused.push(Some(Paused { rollout, revision, before, decision, based }));
        let after = self.world.rng.between(1, 90).cast_signed();
        self.at(after, What::Wakes(self.world.paused.len() - 1));
    }

    /// It goes on: its commit counts only if nobody has written the rollout since.
    pub(super) fn wakes(&mut self, which: usize) {
        let Some(paused) = self.world.paused[which].take() else { return };
        if *self.world.revision(paused.rollout) == paused.revision {
            self.commit(paused.rollout, paused.before, paused.decision, paused.based);
        }
    }
}
