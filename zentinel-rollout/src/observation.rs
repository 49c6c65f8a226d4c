//! What one tick knows about the world. Nothing here is ever guessed: what is not known is
//! absent, and absent never opens a gate.

use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::Timestamp;
use zentinel_core::entity::{
    BundleError, Health, HealthCheck, Node, NodeReport, NodeStatus, ProbeEntry, ProbeResult, RolloutNode,
};
use zentinel_core::id::{BundleId, HealthCheckId, NodeId, RolloutId};

/// The facts about one node. [`NodeFacts::deleted`] is the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Whether the node still exists in the project.
    pub exists: bool,
    /// Its name, for messages.
    pub name: String,
    /// Its failure domain, the label [`ZONE_LABEL`](crate::plan::ZONE_LABEL).
    pub zone: Option<String>,
    /// Whether it is to be given no new bundle.
    pub cordoned: bool,
    /// Liveness.
    pub status: NodeStatus,
    /// When it was last heard from.
    pub last_seen_at: Option<Timestamp>,
    /// The bundle it says it runs.
    pub active_bundle_id: Option<BundleId>,
    /// When the control plane first heard that this bundle is active.
    pub active_since: Option<Timestamp>,
    /// The bundle it was last brought to: verified by a rollout, or assigned by hand.
    pub expected_bundle_id: Option<BundleId>,
    /// The bundle it has downloaded but not activated.
    pub staged_bundle_id: Option<BundleId>,
    /// Healthy heartbeats in a row since the active bundle became active.
    pub healthy_streak: u32,
    /// The rollout that tells it what to run, and the sequence of the statement; none for a manual assignment.
    pub told: Option<(RolloutId, u64)>,
    /// The last activation that failed.
    pub bundle_error: Option<BundleError>,
    /// When that was reported.
    pub bundle_error_at: Option<Timestamp>,
    /// Health and measurements of the last heartbeat.
    pub health: Health,
}

impl NodeFacts {
    /// A node that the project does not have any more.
    #[must_use]
    pub fn deleted() -> Self {
        Self::default()
    }

    /// The facts out of a node's two records.
    #[must_use]
    pub fn of(node: &Node, report: &NodeReport) -> Self {
        Self {
            exists: true,
            name: node.name.clone(),
            zone: node.labels.get(crate::plan::ZONE_LABEL).cloned(),
            cordoned: node.cordoned,
            status: report.status,
            last_seen_at: report.last_seen_at,
            active_bundle_id: report.active_bundle_id,
            active_since: report.active_since,
            expected_bundle_id: node.expected_bundle_id,
            staged_bundle_id: report.staged_bundle_id,
            healthy_streak: report.healthy_streak,
            told: node.target.as_ref().and_then(|target| Some((target.rollout_id?, target.sequence))),
            bundle_error: report.bundle_error.clone(),
            bundle_error_at: report.bundle_error_at,
            health: report.health.clone(),
        }
    }

    /// Whether it says that it runs `bundle`.
    #[must_use]
    pub fn runs(&self, bundle: BundleId) -> bool {
        self.active_bundle_id == Some(bundle)
    }

    /// Whether it is known to be online.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.exists && self.status == NodeStatus::Online
    }

    /// How old the last report is; `None` when there is none.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<TimeDelta> {
        self.last_seen_at.map(|seen| now - seen)
    }

    /// The activation error that belongs to this part of a rollout: for its bundle, and about the
    /// statement that the rollout told the node with; where the node does not say which statement
    /// that was, not from before it was told.
    #[must_use]
    pub fn error_for(&self, node: &RolloutNode) -> Option<&BundleError> {
        let error = self.bundle_error.as_ref()?;
        let current = match (error.sequence, self.bundle_error_at, node.staged_at) {
            (_, _, None) => false,
            (Some(sequence), _, Some(_)) => self.told == Some((node.rollout_id, sequence)),
            (None, Some(at), Some(told)) => at >= told,
            (None, None, Some(_)) => true,
        };
        (error.bundle_id == node.bundle_id && current).then_some(error)
    }

    /// Why a node that ran the bundle of this part of a rollout took it back, if it did: it runs
    /// something else, and has complained about the bundle since it activated it.
    #[must_use]
    pub fn took_back(&self, node: &RolloutNode) -> Option<&BundleError> {
        let error = self.bundle_error.as_ref().filter(|error| error.bundle_id == node.bundle_id)?;
        let later = node.activated_at.is_some() && self.bundle_error_at >= node.activated_at;
        (self.exists && !self.runs(node.bundle_id) && later).then_some(error)
    }
}

/// What is known of an endpoint that a rollout names.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckFacts {
    /// What people call it.
    pub name: String,
    /// Whether it may be asked.
    pub enabled: bool,
    /// Whether it is asked for each node.
    pub per_node: bool,
    /// How long an answer is believed.
    pub believed_for: TimeDelta,
    /// The last answer, where it is asked once for all.
    pub of_all: Option<ProbeResult>,
    /// The last answers, where it is asked for each node.
    pub of_nodes: BTreeMap<NodeId, ProbeResult>,
}

impl CheckFacts {
    /// The facts out of an endpoint and the last answers of all endpoints.
    #[must_use]
    pub fn of(check: &HealthCheck, entries: &[ProbeEntry]) -> Self {
        let own = || entries.iter().filter(|entry| entry.check_id == check.id);
        let of_nodes = own().filter_map(|entry| Some((entry.node_id?, entry.result.clone())));
        Self {
            name: check.name.clone(),
            enabled: check.enabled,
            per_node: check.is_per_node(),
            believed_for: TimeDelta::from_std(check.believed_for()).unwrap_or(TimeDelta::zero()),
            of_all: own().find(|entry| entry.node_id.is_none()).map(|entry| entry.result.clone()),
            of_nodes: of_nodes.collect(),
        }
    }
}

/// What one tick knows.
///
/// Gather it for [`State::watched`](crate::State::watched) and [`State::bundles`](crate::State::bundles)
/// (for a command: [`State::concerned`](crate::State::concerned)), and for [`State::done_of`](crate::State::done_of) the
/// nodes about which something changed. A node that is not in `nodes` was not looked at: nothing is decided about it. A node that
/// was deleted is in `nodes` with [`NodeFacts::deleted`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The bundles that nodes may be given; a bundle that is not here may not.
    pub deployable: BTreeSet<BundleId>,
    /// The facts by node.
    pub nodes: BTreeMap<NodeId, NodeFacts>,
    /// The endpoints that the rollout names, as far as they exist.
    pub checks: BTreeMap<HealthCheckId, CheckFacts>,
}

impl Observation {
    /// Nothing known yet, but these bundles may be given to nodes.
    #[must_use]
    pub fn new(deployable: impl IntoIterator<Item = BundleId>) -> Self {
        Self { deployable: deployable.into_iter().collect(), ..Self::default() }
    }

    /// Adds the facts of a node.
    #[must_use]
    pub fn with(mut self, node: NodeId, facts: NodeFacts) -> Self {
        self.nodes.insert(node, facts);
        self
    }
}
