//! The model fleet: what nodes are told, what they truly run, and what they say.

use super::rng::Rng;
use crate::observation::{NodeFacts, Observation};
use chrono::TimeDelta;
use std::collections::BTreeSet;
use uuid::Uuid;
use zentinel_core::Timestamp;
use zentinel_core::entity::{
    BundleError, Health, LATENCY_BUCKETS, NodeStatus, NodeTraffic, Traffic, TrafficCounts,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId, TypedId};

/// A node that was silent for longer is offline.
const OFFLINE_AFTER: TimeDelta = TimeDelta::seconds(120);

/// How a node misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Not at all.
    Healthy,
    /// Takes minutes to activate.
    Slow,
    /// Can't activate the new bundle.
    Rejecting,
    /// Activates it, and then calls itself degraded.
    FailingGate,
    /// Falls silent once it is told something.
    Silent,
    /// Comes and goes.
    Flapping,
    /// Activates, falls back to what it ran, and is silent for a while.
    Crashing,
    /// Activates, is well, and takes the bundle back later, saying why.
    TakingBack,
    /// Reports what it was told to run, without running it.
    Lying,
    /// Reports without health.
    Mute,
}

impl Behaviour {
    const FAULTY: [Self; 9] = [
        Self::Slow,
        Self::Rejecting,
        Self::FailingGate,
        Self::Silent,
        Self::Flapping,
        Self::Crashing,
        Self::TakingBack,
        Self::Lying,
        Self::Mute,
    ];

    pub(super) fn any_fault(rng: &mut Rng) -> Self {
        let faults = Self::FAULTY.len() as u64;
        usize::try_from(rng.below(faults)).map_or(Self::Slow, |place| Self::FAULTY[place])
    }
}

/// What a node was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) bundle: BundleId,
    pub(super) by: RolloutId,
}

/// One model node.
#[derive(Clone, Debug)]
pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) behaviour: Behaviour,
    /// What it truly runs.
    pub(super) truth: BundleId,
    /// What it ran when the simulation began.
    pub(super) original: BundleId,
    /// What it is told to run.
    pub(super) target: Option<Told>,
    pub(super) expected: BundleId,
    pub(super) traffic: Option<NodeTraffic>,
    pub(super) claim: Option<RolloutId>,
    /// Every bundle it was ever told.
    pub(super) told: BTreeSet<BundleId>,
    /// What is under way on the node.
    pub(super) installing: Option<BundleId>,
    pub(super) silent_until: Timestamp,
    pub(super) deleted: bool,
    /// Whether it ever lied.
    pub(super) lied: bool,
}

impl SimNode {
    fn is_silent(&self, now: Timestamp) -> bool {
        self.deleted || now < self.silent_until
    }
}

/// The nodes and what the control plane knows of them.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) nodes: Vec<SimNode>,
    pub(super) observation: Observation,
    /// Whether requests and answers are lost now and then.
    pub(super) lossy: bool,
}

pub(super) fn bundle(number: u128) -> BundleId {
    BundleId::from_uuid(Uuid::from_u128(number))
}

/// The bundle that is rolled out.
pub(super) const NEW: u128 = 100;

impl Fleet {
    pub(super) fn new(count: usize, faulty_percent: u64, rng: &mut Rng, now: Timestamp) -> Self {
        let mut nodes = Vec::with_capacity(count);
        let faulty_percent = rng.below(faulty_percent + 1);
        let mut observation = Observation::new([bundle(NEW), bundle(1), bundle(2), bundle(3)]);
        for number in 1..=count as u128 {
            let id = NodeId::from_uuid(Uuid::from_u128(number));
            let behaviour = match rng.percent(faulty_percent) {
                true => Behaviour::any_fault(rng),
                false => Behaviour::Healthy,
            };
            let original = bundle(u128::from(rng.between(1, 3)));
            nodes.push(SimNode {
                id,
                behaviour,
                truth: original,
                original,
                target: None,
                expected: original,
                traffic: None,
                claim: None,
                told: BTreeSet::new(),
                installing: None,
                silent_until: now,
                deleted: false,
                lied: false,
            });
            let facts = NodeFacts {
                exists: true,
                status: NodeStatus::Online,
                last_seen_at: Some(now),
                active_bundle_id: Some(original),
                active_since: Some(now - TimeDelta::hours(1)),
                healthy_streak: 5,
                health: healthy(),
                ..NodeFacts::default()
            };
            observation.nodes.insert(id, facts);
        }
        Self { nodes, observation, lossy: false }
    }

    /// The place of a node; ids count from 1.
    pub(super) fn place(id: NodeId) -> usize {
        usize::try_from(id.uuid().as_u128()).unwrap_or(usize::MAX) - 1
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut SimNode {
        &mut self.nodes[Self::place(id)]
    }

    /// A node reports. Returns whether what is known changed, and how long until it activates what it is told, if it
    /// begins to.
    pub(super) fn beat(&mut self, place: usize, rng: &mut Rng, now: Timestamp) -> (bool, Option<TimeDelta>) {
        let node = &mut self.nodes[place];
        if node.behaviour == Behaviour::Flapping && rng.percent(20) {
            node.silent_until = now + TimeDelta::seconds(60 + rng.below(180).cast_signed());
        }
        if node.behaviour == Behaviour::Crashing && node.truth == bundle(NEW) && rng.percent(20) {
            node.truth = node.original;
            node.silent_until = now + TimeDelta::seconds(rng.below(240).cast_signed());
        }
        let takes_back = node.behaviour == Behaviour::TakingBack
            && node.truth == bundle(NEW)
            && node.claim.is_some()
            && rng.percent(5);
        if takes_back {
            node.truth = node.original;
            // It knows now that it cannot run the bundle.
            node.behaviour = Behaviour::Rejecting;
        }
        let (request_lost, answer_lost) = (self.lossy && rng.percent(2), self.lossy && rng.percent(2));
        if node.is_silent(now) || request_lost {
            return (false, None);
        }
        let Some(facts) = self.observation.nodes.get_mut(&node.id) else {
            return (false, None);
        };
        let begins = if answer_lost { None } else { Self::poll(node, facts, rng, now) };
        let lies = node.behaviour == Behaviour::Lying;
        let says = match node.target {
            Some(target) if lies => {
                node.lied |= target.bundle != node.truth;
                target.bundle
            }
            _ => node.truth,
        };
        let before = (facts.active_bundle_id, facts.status, facts.healthy_streak.min(3));
        facts.status = NodeStatus::Online;
        facts.last_seen_at = Some(now);
        facts.staged_bundle_id = node.installing;
        if facts.active_bundle_id != Some(says) {
            facts.active_bundle_id = Some(says);
            facts.active_since = Some(now);
            facts.healthy_streak = 0;
            facts.bundle_error = None;
        }
        let traffic = facts.health.traffic.take();
        if takes_back {
            refuse(facts, bundle(NEW), "proxy_crashed", now);
        }
        match node.behaviour {
            Behaviour::Mute => facts.health = Health::default(),
            Behaviour::FailingGate if says == bundle(NEW) => facts.health = degraded(),
            _ if facts.health.is_healthy() => {}
            _ => facts.health = healthy(),
        }
        facts.health.traffic = served(traffic, &facts.health, rng);
        facts.healthy_streak = if facts.health.is_healthy() { facts.healthy_streak + 1 } else { 0 };
        let after = (facts.active_bundle_id, facts.status, facts.healthy_streak.min(3));
        (before != after, begins)
    }

    /// A report arrives that is older than one that has arrived already, or that has arrived before: nobody can tell.
    /// Returns whether what is known changed.
    pub(super) fn hear_late(&mut self, place: usize, old: &NodeFacts, now: Timestamp) -> bool {
        let node = &mut self.nodes[place];
        let Some(facts) = self.observation.nodes.get_mut(&node.id).filter(|facts| facts.exists) else {
            return false;
        };
        // What such a node seems to run need not be what it runs.
        node.lied |= old.active_bundle_id != Some(node.truth);
        let before = (facts.active_bundle_id, facts.status, facts.healthy_streak.min(3));
        facts.status = NodeStatus::Online;
        facts.last_seen_at = Some(now);
        facts.staged_bundle_id = old.staged_bundle_id;
        if facts.active_bundle_id != old.active_bundle_id {
            facts.active_bundle_id = old.active_bundle_id;
            facts.active_since = Some(now);
            facts.healthy_streak = 0;
            facts.bundle_error = None;
        }
        facts.health.clone_from(&old.health);
        facts.healthy_streak = if facts.health.is_healthy() { facts.healthy_streak + 1 } else { 0 };
        before != (facts.active_bundle_id, facts.status, facts.healthy_streak.min(3))
    }

    /// Asks what to run. Returns how long the node takes to activate it.
    fn poll(node: &mut SimNode, facts: &mut NodeFacts, rng: &mut Rng, now: Timestamp) -> Option<TimeDelta> {
        let target = node.target.filter(|target| target.bundle != node.truth)?;
        if node.installing == Some(target.bundle) || node.behaviour == Behaviour::Lying {
            return None;
        }
        let new = target.bundle == bundle(NEW);
        if new && node.behaviour == Behaviour::Rejecting {
            if facts.bundle_error.is_none() {
                refuse(facts, target.bundle, "invalid_config", now);
            }
            return None;
        }
        if new && node.behaviour == Behaviour::Silent {
            // Half of them activate before they fall silent: the control plane can't tell.
            if rng.percent(50) {
                node.truth = target.bundle;
            }
            node.silent_until = now + TimeDelta::minutes(20);
            return None;
        }
        node.installing = Some(target.bundle);
        let seconds = match node.behaviour {
            Behaviour::Slow => rng.between(60, 900),
            _ => rng.between(1, 20),
        };
        Some(TimeDelta::seconds(seconds.cast_signed()))
    }

    /// An activation ends, whether or not the node is still told to. Returns whether it worked.
    pub(super) fn activate(&mut self, place: usize, wanted: BundleId, rng: &mut Rng, now: Timestamp) -> bool {
        let node = &mut self.nodes[place];
        if node.deleted || node.installing != Some(wanted) {
            return false;
        }
        node.installing = None;
        if node.behaviour == Behaviour::Crashing && rng.percent(60) {
            node.silent_until = now + TimeDelta::seconds(30 + rng.below(300).cast_signed());
            return false;
        }
        node.truth = wanted;
        true
    }

    /// Marks nodes that were silent for too long.
    pub(super) fn sweep(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        for facts in self.observation.nodes.values_mut() {
            if facts.is_available() && facts.age(now).is_none_or(|age| age > OFFLINE_AFTER) {
                facts.status = NodeStatus::Offline;
                changed = true;
            }
        }
        changed
    }

    pub(super) fn delete(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.deleted = true;
        node.claim = None;
        node.target = None;
        self.observation.nodes.insert(node.id, NodeFacts::deleted());
    }

    /// No more faults.
    pub(super) fn heal(&mut self, now: Timestamp) {
        self.lossy = false;
        for node in &mut self.nodes {
            node.behaviour = Behaviour::Healthy;
            node.silent_until = now;
        }
    }
}

fn refuse(facts: &mut NodeFacts, bundle_id: BundleId, reason: &str, now: Timestamp) {
    facts.bundle_error_at = Some(now);
    facts.bundle_error = Some(BundleError {
        bundle_id,
        reason: reason.to_owned(),
        message: "refused".to_owned(),
        sequence: None,
    });
}

fn healthy() -> Health {
    Health {
        status: Some("healthy".to_owned()),
        error_rate: Some(0.5),
        latency_p99_ms: Some(50.0),
        cpu_percent: Some(20.0),
        memory_percent: Some(30.0),
        traffic: Some(Box::default()),
    }
}

fn degraded() -> Health {
    Health { status: Some("degraded".to_owned()), error_rate: Some(40.0), ..healthy() }
}

/// Counts a beat's worth of requests; nothing on nodes that report nothing.
fn served(before: Option<Box<Traffic>>, health: &Health, rng: &mut Rng) -> Option<Box<Traffic>> {
    let percent = health.error_rate?;
    let mut traffic = before.unwrap_or_default();
    let requests = rng.between(100, 300);
    let mut latency = [0; LATENCY_BUCKETS];
    latency[3] = requests - requests / 20;
    latency[5] = requests / 20;
    let errors = (requests as f64 * percent / 100.0) as u64;
    traffic.total.add(&TrafficCounts { requests, errors, latency });
    traffic.recent = traffic.total;
    Some(traffic)
}
