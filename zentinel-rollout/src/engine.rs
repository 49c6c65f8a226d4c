//! The imperative shell of rollouts: reads, asks the pure core, commits.
//!
//! Everything here is level-triggered. A wake-up carries a rollout's id and nothing else; what is
//! to be done follows from what the store holds. Every commit names the revisions that were read,
//! so two engines that work on one rollout at the same time cannot both win: the loser reads again.

mod again;
mod approvals;
mod assign;
mod commands;
mod create;
mod drift;
mod explain;
mod in_the_way;
mod jobs;
mod journal;
mod loaded;
mod look;
mod nodes;
mod probe;
mod promote;
mod queue;
mod renew;
mod retry;
mod revoke;
mod shift;
mod start;
mod statements;
mod terms;
mod tick;
mod work;

pub use crate::command::Command;
pub use again::{RECENTLY_HEALTHY, Revert};
pub use drift::{DRIFT, DRIFT_NODES, DriftWatch, drift_job};
pub use terms::Terms;

use crate::gate::{FleetGate, Gate, Gates};
use crate::strategy::{AllAtOnce, Strategies};
use journal::Journal;
use loaded::Loaded;
use parking_lot::Mutex;
use retry::Retry;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{
    Bundle, Excluded, Node, NodeReport, Rollout, RolloutNode, RolloutSpec, RolloutStep,
};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::port::{
    Clock, HealthProbe, NewJob, Query, Queue, Signer, Store, StoreExt as _, TrafficShifter,
};
use zentinel_core::{Changes, Error, Kind, RecordKind, Result, Scope, Stored, Timestamp};

/// Kind of the job that looks at one rollout; its unique key is the rollout's id.
pub const TICK: &str = "rollout.tick";
/// Kind of the job that starts one pending rollout; its unique key is the rollout's id.
pub const START: &str = "rollout.start";
/// Kind of the periodic job that starts every rollout whose time has come; every 30 s.
pub const SCHEDULE: &str = "rollout.schedule";
/// Kind of the periodic job that follows promotion rules; every 60 s.
pub const PROMOTE: &str = "bundle.promote";
/// Kind of the periodic job that gives every rollout under way a tick; every 30 s.
pub const RESCUE: &str = "rollout.rescue";
/// Kind of the periodic job that issues new statements for targets whose statement ends soon;
/// every hour.
pub const RENEW: &str = "statement.renew";

/// Kind of the job that asks an external load balancer for a rollout's traffic split; its unique key is the
/// rollout's id.
pub const SHIFT: &str = "traffic.shift";

/// The job that asks for the traffic split of a rollout; at most one waits per rollout, and it asks for what holds when
/// it runs.
#[must_use]
pub fn shift_job(rollout: RolloutId, at: Timestamp) -> NewJob {
    NewJob::new(Queue::Default, SHIFT, json!({"rollout_id": rollout}), at).unique(rollout.to_string())
}

/// The job that looks at a rollout at `at`; at most one waits per rollout.
#[must_use]
pub fn tick_job(rollout: RolloutId, at: Timestamp) -> NewJob {
    NewJob::new(Queue::Rollouts, TICK, json!({"rollout_id": rollout}), at).unique(rollout.to_string())
}

/// Kind of the job that asks the endpoints which a rollout names; its unique key is the rollout's id.
pub const PROBE: &str = "rollout.probe";

/// The job that asks the endpoints of a rollout at `at`; at most one waits per rollout.
fn probe_job(rollout: RolloutId, at: Timestamp) -> NewJob {
    NewJob::new(Queue::Default, PROBE, json!({"rollout_id": rollout}), at).unique(rollout.to_string())
}

/// The job that starts a pending rollout at `at`; at most one waits per rollout.
fn start_job(rollout: RolloutId, at: Timestamp) -> NewJob {
    NewJob::new(Queue::Rollouts, START, json!({"rollout_id": rollout}), at).unique(rollout.to_string())
}

/// Settings of an [`Engine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// How long nodes accept a signed statement; 30 days.
    pub statement_validity: Duration,
    /// How often nodes are told to report; a report older than three intervals opens no gate. 30 s.
    pub poll_interval: Duration,
    /// How often a lost race is tried again; 10.
    pub max_retries: u32,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            statement_validity: Duration::from_secs(30 * 24 * 3_600),
            poll_interval: Duration::from_secs(30),
            max_retries: 10,
        }
    }
}

/// A rollout to create.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRollout {
    /// The bundle; it must be compiled and belong to the project.
    pub bundle_id: BundleId,
    /// What is asked for.
    pub spec: RolloutSpec,
    /// Whether it starts by itself: at once, or as soon as its terms let it. Otherwise it stays pending.
    pub auto_start: bool,
    /// Whether open rollouts on the same nodes are cancelled instead of being in the way.
    pub supersede: bool,
    /// When it may start, and where it may go.
    pub terms: Terms,
}

/// What a rollout would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// The nodes of each step, in order.
    pub steps: Vec<Vec<NodeId>>,
    /// Nodes that the selector names but that would be left out.
    pub excluded: Vec<Excluded>,
    /// What it would wait for before it starts, in sentences.
    pub waits: Vec<String>,
}

/// Everything about one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutDetail {
    /// The rollout.
    pub rollout: Rollout,
    /// Its steps by index.
    pub steps: Vec<RolloutStep>,
    /// Its nodes in the order of the steps.
    pub nodes: Vec<RolloutNode>,
}

/// What a manual assignment did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Nodes that were given the bundle.
    pub assigned: Vec<NodeId>,
    /// Nodes that were not, and why: `not_found`, `pending_approval`, `pinned`, `cordoned`, `version_bounds`,
    /// `in_rollout`, or what a rollout would wait for: `not_promoted`, `approval_required`, `frozen`.
    pub skipped: Vec<(NodeId, String)>,
}

/// Drives rollouts. Share it through an [`Arc`]; every replica has one.
///
/// What it commits about nodes reaches a [`Fleet`](crate::fleet::Fleet) through the store's
/// notices; a caller that must not wait for those calls
/// [`Fleet::refresh`](crate::fleet::Fleet::refresh).
pub struct Engine {
    store: Arc<dyn Store>,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    strategies: Strategies,
    options: EngineOptions,
    gates: Vec<Arc<dyn Gate>>,
    shifter: Option<Arc<dyn TrafficShifter>>,
    fleet_gates: Vec<Arc<dyn FleetGate>>,
    probe: Option<Arc<dyn HealthProbe>>,
    /// Rollouts as of their last tick, so that an idle tick reads little. Only a hint: each is used
    /// only while the store still has the same revision.
    cache: Mutex<HashMap<RolloutId, Loaded>>,
    /// What was committed since each of them was looked at.
    journal: Arc<Mutex<Journal>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("strategies", &self.strategies)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine over these ports.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        signer: Arc<dyn Signer>,
        clock: Arc<dyn Clock>,
        strategies: Strategies,
        options: EngineOptions,
    ) -> Self {
        // Rollbacks go to all nodes at once, whatever else rollouts may ask for.
        let strategies = match strategies.get("all_at_once") {
            Ok(_) => strategies,
            Err(_) => strategies.register(Arc::new(AllAtOnce)),
        };
        Self {
            store,
            signer,
            clock,
            strategies,
            options,
            gates: Vec::new(),
            shifter: None,
            fleet_gates: Vec::new(),
            probe: None,
            cache: Mutex::new(HashMap::new()),
            journal: Arc::default(),
        }
    }

    /// Adds a gate that every step of every rollout must pass, beside those of its specification.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gates.push(gate);
        self
    }

    /// Adds what drives an external load balancer; without it, rollouts that ask for shifts are refused.
    #[must_use]
    pub fn with_shifter(mut self, shifter: Arc<dyn TrafficShifter>) -> Self {
        self.shifter = Some(shifter);
        self
    }

    /// Adds a gate over all nodes that every step of every rollout must pass.
    #[must_use]
    pub fn with_fleet_gate(mut self, gate: Arc<dyn FleetGate>) -> Self {
        self.fleet_gates.push(gate);
        self
    }

    /// Lets rollouts ask health check endpoints. Without it those that name one never pass their gates.
    #[must_use]
    pub fn with_probe(mut self, probe: Arc<dyn HealthProbe>) -> Self {
        self.probe = Some(probe);
        self
    }

    /// The strategies that rollouts may ask for.
    #[must_use]
    pub fn strategies(&self) -> &Strategies {
        &self.strategies
    }

    /// A rollout with its steps and nodes.
    ///
    /// # Errors
    /// `NotFound`: `Rollout not found`; those of the store.
    pub async fn detail(&self, scope: &Scope, id: RolloutId) -> Result<RolloutDetail> {
        let loaded = self.load(self.store.fetch::<Rollout>(scope, id).await?).await?;
        let (rollout, steps, mut nodes) = loaded.state.into_parts();
        let mut ordered = Vec::with_capacity(nodes.len());
        for id in steps.iter().flat_map(|step| &step.node_ids) {
            ordered.extend(nodes.remove(id));
        }
        ordered.extend(nodes.into_values());
        Ok(RolloutDetail { rollout, steps, nodes: ordered })
    }

    fn gates_of(&self, rollout: &Rollout) -> Gates {
        let gates = Gates::of_spec(&rollout.spec).polled_every(self.options.poll_interval);
        let gates = self.gates.iter().cloned().fold(gates, Gates::with);
        self.fleet_gates.iter().cloned().fold(gates, Gates::with_fleet)
    }

    /// Commits. A record that was deleted since it was read is a lost race like any other.
    async fn commit(&self, changes: Changes) -> Result<()> {
        match self.store.commit(changes).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound => {
                Err(Error::stale("a record of the unit of work").with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    fn retry(&self) -> Retry {
        Retry::new(self.options.max_retries)
    }

    /// These nodes, with one query.
    async fn nodes(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &NodeId>,
    ) -> Result<BTreeMap<NodeId, Stored<Node>>> {
        let query = Query::all(RecordKind::Node).with_ids(ids.into_iter().copied());
        if query.ids.as_ref().is_some_and(Vec::is_empty) {
            return Ok(BTreeMap::new());
        }
        let nodes = self.store.list_all::<Node>(scope, query).await?;
        Ok(nodes.into_iter().map(|node| (node.id, node)).collect())
    }

    /// The last reports of these nodes, with one query.
    async fn reports(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = NodeId>,
    ) -> Result<BTreeMap<NodeId, NodeReport>> {
        let query = Query::all(RecordKind::NodeReport).with_ids(ids);
        if query.ids.as_ref().is_some_and(Vec::is_empty) {
            return Ok(BTreeMap::new());
        }
        let reports = self.store.list_all::<NodeReport>(scope, query).await?;
        Ok(reports.into_iter().map(|report| (report.value.node_id, report.value)).collect())
    }

    /// These bundles, with one query.
    async fn bundles(
        &self,
        scope: &Scope,
        ids: &BTreeSet<BundleId>,
    ) -> Result<BTreeMap<BundleId, Stored<Bundle>>> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let query = Query::all(RecordKind::Bundle).with_ids(ids.iter().copied());
        let bundles = self.store.list_all::<Bundle>(scope, query).await?;
        Ok(bundles.into_iter().map(|bundle| (bundle.id, bundle)).collect())
    }
}
