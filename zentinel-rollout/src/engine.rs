//! The imperative shell of rollouts: reads, asks the pure core, commits.
//!
//! Everything here is level-triggered. A wake-up carries a rollout's id and nothing else; what is
//! to be done follows from what the store holds. Every commit names the revisions that were read,
//! so two engines that work on one rollout at the same time cannot both win: the loser reads again.

use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{Bundle, Excluded, Rollout, RolloutNode, RolloutSpec, RolloutStep};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::port::{Clock, JobHandler, NewJob, Queue, Signer, Store};
use zentinel_core::{Actor, Error, Result, Scope, Timestamp};

/// Kind of the job that looks at one rollout; its unique key is the rollout's id.
pub const TICK: &str = "rollout.tick";
/// Kind of the periodic job that gives every running rollout a tick; every 30 s.
pub const RESCUE: &str = "rollout.rescue";
/// Kind of the periodic job that issues new statements for targets whose statement ends soon.
pub const RENEW: &str = "statement.renew";

/// The job that looks at a rollout at `at`; at most one waits per rollout.
#[must_use]
pub fn tick_job(rollout: RolloutId, at: Timestamp) -> NewJob {
    NewJob::new(Queue::Rollouts, TICK, json!({"rollout_id": rollout}), at).unique(rollout.to_string())
}

/// Settings of an [`Engine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// How long nodes accept a signed statement; 30 days.
    pub statement_validity: Duration,
    /// When a rollout is first looked at after it started or resumed; 1 s.
    pub first_tick: Duration,
    /// How often it is looked at while nothing is reported; 5 s.
    pub tick_interval: Duration,
    /// How often a lost race is tried again; 10.
    pub max_retries: u32,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            statement_validity: Duration::from_secs(30 * 24 * 3_600),
            first_tick: Duration::from_secs(1),
            tick_interval: Duration::from_secs(5),
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
    /// Whether it starts at once; otherwise it stays pending.
    pub auto_start: bool,
    /// Whether open rollouts on the same nodes are cancelled instead of being in the way.
    pub supersede: bool,
}

/// What a rollout would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// The nodes of each step, in order.
    pub steps: Vec<Vec<NodeId>>,
    /// Nodes that the selector names but that would be left out.
    pub excluded: Vec<Excluded>,
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
    /// Nodes that were not, and why: `not_found`, `pending_approval`, `pinned` or `in_rollout`.
    pub skipped: Vec<(NodeId, String)>,
}

/// What an operator may do with a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Start a pending one.
    Start,
    /// Hold a running one.
    Pause,
    /// Go on with a held one.
    Resume,
    /// End it; nodes that were not reached keep what they run.
    Cancel,
    /// End it and give every touched node back what it ran before.
    Rollback,
}

/// Drives rollouts. Cheap to share; every replica has one.
pub struct Engine {
    store: Arc<dyn Store>,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    options: EngineOptions,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.options).finish_non_exhaustive()
    }
}

#[allow(clippy::unused_async, unused_variables, missing_docs, clippy::missing_errors_doc)]
impl Engine {
    pub async fn create(&self, scope: &Scope, actor: Actor, new: NewRollout) -> Result<Rollout> {
        Err(Error::internal("pending"))
    }
    pub async fn preview(&self, scope: &Scope, new: &NewRollout) -> Result<Preview> {
        Err(Error::internal("pending"))
    }
    pub async fn command(&self, scope: &Scope, actor: Actor, id: RolloutId, command: Command) -> Result<Rollout> {
        Err(Error::internal("pending"))
    }
    pub async fn tick(&self, id: RolloutId) -> Result<Option<Timestamp>> {
        Err(Error::internal("pending"))
    }
    pub async fn detail(&self, scope: &Scope, id: RolloutId) -> Result<RolloutDetail> {
        Err(Error::internal("pending"))
    }
    pub async fn assign(
        &self,
        scope: &Scope,
        actor: Actor,
        bundle: BundleId,
        nodes: &[NodeId],
        force: bool,
    ) -> Result<Assignment> {
        Err(Error::internal("pending"))
    }
    pub async fn revoke(&self, scope: &Scope, actor: Actor, bundle: BundleId) -> Result<Bundle> {
        Err(Error::internal("pending"))
    }
    #[must_use]
    pub fn handlers(self: &Arc<Self>) -> Vec<Arc<dyn JobHandler>> {
        Vec::new()
    }
}
