//! The pull loop that makes a proxy a node.
//!
//! ```text
//! register once ─> state file (0600) ─┬─> heartbeat every interval, and at once on a change
//!                                     └─> long poll ─> verify statement ─> download (resumed) ─> digest
//!                                            ^            ─> unpack with limits ─> Activator ─> report
//!                                            └── refused or failed: what served before keeps serving
//! ```
//!
//! Before its first try to register the node draws a secret and keeps it until it is in: with it, a
//! registration whose answer was lost is answered again.
//!
//! The node trusts the keys it pinned when it registered; a statement that one of them signed
//! names the keys to trust from then on, so keys rotate without a visit. It refuses a statement for another
//! project, one that is older than what it accepted before, and one that has expired. When the
//! control plane is away, what serves keeps serving; the loops back off with jitter.
//!
//! A bundle is refused for good only when the bundle is at fault: verified bytes that are no
//! archive, or a configuration that this node cannot run. Every other failure (the transfer, the
//! disk, a checker that is away) is tried again with a fresh offer, and reported as an error once
//! it has lasted for five tries.
//!
//! What the state file says is written before an activation begins and after it ends. After a
//! start the [`Activator`] is asked what serves, and the file follows. An unpacked bundle is on
//! disk before it is used, and checked against its manifest before it is used again; the bundle
//! that serves and the two before it are kept.

mod activator;
mod certificates;
mod check;
pub mod cli;
mod crash;
mod download;
mod events;
pub mod health;
mod http;
mod install;
pub mod proxy;
mod registration;
mod release;
mod report;
pub mod settings;
mod state;
#[cfg(test)]
mod tests;
mod traffic;
mod update;

pub use activator::{Activator, DirectoryActivator, Incident, Outcome, Rejection, Release};
pub use crash::CRASH_POINTS;
pub use state::{Activating, NodeState, Refused};

use crate::backoff::Backoff;
use async_trait::async_trait;
use events::{EventKind, EventQueue};
use serde_json::{Map, Value, json};
use state::StateFile;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use traffic::TrafficFiles;
use url::Url;
use zentinel_core::entity::BundleError;
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::Clock;
use zentinel_core::{Result, Secret};
use zentinel_http::client::{HeartbeatRequest, NodeClient};

/// After how many tries a fault that may pass is reported.
const REPORTED_TRIES: u32 = 5;

/// Where the health of a heartbeat comes from.
#[async_trait]
pub trait HealthSource: Debug + Send + Sync + 'static {
    /// The `health` and `metrics` objects of the next heartbeat, soon: a heartbeat waits for them.
    /// What is measured over time must begin after `active` began to serve.
    async fn sample(&self, active: Option<BundleId>) -> (Map<String, Value>, Map<String, Value>);

    /// The version of the proxy, when it says so itself.
    fn version(&self) -> Option<String> {
        None
    }
}

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Base URL of the control plane.
    pub server: Url,
    /// Slug of the project to register in.
    pub project: String,
    /// Registration token; only needed before the first registration.
    pub token: Option<Secret>,
    /// Name, unique in the project.
    pub name: String,
    /// Labels for selectors.
    pub labels: BTreeMap<String, String>,
    /// Version of the proxy; empty when not known.
    pub version: String,
    /// Directory for the state file, downloads and unpacked bundles.
    pub directory: PathBuf,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// How long one poll may wait for news.
    pub long_poll: Duration,
    /// Shell command that is told each new slot and weight.
    pub traffic_hook: Option<String>,
}

/// One node.
#[derive(Debug)]
pub struct Agent {
    options: AgentOptions,
    clock: Arc<dyn Clock>,
    activator: Arc<dyn Activator>,
    health: Arc<dyn HealthSource>,
    client: NodeClient,
    file: StateFile,
    live: Mutex<Live>,
    changed: Notify,
    events: EventQueue,
    /// There is something to tell besides the next heartbeat.
    news: Notify,
    traffic: TrafficFiles,
}

/// What the node knows at the moment.
#[derive(Debug)]
struct Live {
    state: NodeState,
    /// Whether the state differs from its file.
    unsaved: bool,
    fault: Option<Fault>,
    /// The bundle whose configuration this run has reported.
    config_told: Option<BundleId>,
}

/// A failure that may pass.
#[derive(Debug)]
struct Fault {
    about: Refused,
    tries: u32,
}

impl Live {
    /// What to report as failed.
    fn refused(&self) -> Option<&Refused> {
        let lasting = self.fault.as_ref().filter(|fault| fault.tries >= REPORTED_TRIES);
        lasting.map(|fault| &fault.about).or(self.state.refused.as_ref())
    }
}

impl Agent {
    /// Takes up the node's identity from its state file, or registers and writes one.
    ///
    /// # Errors
    /// Those of the control plane; [`Kind::Unavailable`](zentinel_core::Kind::Unavailable) when the
    /// directory can't be used.
    pub async fn enrol(
        options: AgentOptions,
        clock: Arc<dyn Clock>,
        activator: Arc<dyn Activator>,
        health: Arc<dyn HealthSource>,
    ) -> Result<Self> {
        std::fs::create_dir_all(options.directory.join(release::BUNDLES)).map_err(|error| {
            zentinel_core::Error::unavailable(format!("{}: {error}", options.directory.display()))
                .with_source(error)
        })?;
        let file = StateFile::in_directory(&options.directory);
        let client = NodeClient::new(options.server.clone())?;
        let state = match file.load()? {
            Some(mut state) => {
                let written = state.clone();
                state.reconcile(activator.active());
                if state != written {
                    file.save(&state)?;
                }
                state
            }
            None => registration::register(&client, &options, &file).await?,
        };
        registration::forget(&options.directory)?;
        let client = client.with_credentials(state.node_id, Secret::new(state.node_key.clone()));
        let events = EventQueue::in_directory(&options.directory);
        let traffic = TrafficFiles::in_directory(&options.directory);
        Ok(Self {
            options,
            clock,
            activator,
            health,
            client,
            file,
            live: Mutex::new(Live { state, unsaved: false, fault: None, config_told: None }),
            changed: Notify::new(),
            events,
            news: Notify::new(),
            traffic,
        })
    }

    /// The node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.live().state.node_id
    }

    /// The bundle that serves traffic.
    #[must_use]
    pub fn active_bundle_id(&self) -> Option<BundleId> {
        self.live().state.active_bundle_id
    }

    /// Why the last offered bundle does not serve, if so.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        self.live().refused().cloned()
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Heartbeats and polls until cancelled, and says so then.
    pub async fn run(&self, shutdown: CancellationToken) {
        self.event(EventKind::Startup, "the agent began", json!({ "version": env!("CARGO_PKG_VERSION") }));
        let work = async {
            if let Some(outcome) = self.activator.recover().await {
                self.note_outcome(outcome);
            }
            tokio::join!(self.poll_loop(), self.watch_loop())
        };
        let loops =
            async { tokio::join!(self.heartbeat_loop(), self.report_loop(), self.traffic_loop(), work) };
        shutdown.run_until_cancelled(loops).await;
        tokio::join!(self.farewell(), self.activator.stop());
    }

    async fn heartbeat_loop(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        loop {
            let pause = match self.heartbeat().await {
                Ok(()) => {
                    backoff.reset();
                    self.options.heartbeat_interval
                }
                Err(error) => {
                    tracing::warn!(node = %self.options.name, %error, "heartbeat failed");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Sends one heartbeat with what is true now.
    ///
    /// # Errors
    /// Those of the control plane.
    pub async fn heartbeat(&self) -> Result<()> {
        let report = self.report().await;
        self.client.heartbeat(&report).await.map(drop)?;
        if report.active_bundle_id.is_some() {
            crash::point("reported");
        }
        Ok(())
    }

    async fn report(&self) -> HeartbeatRequest {
        let mut active = self.active_bundle_id();
        let (health, metrics) = loop {
            let sample = self.health.sample(active).await;
            let now = self.active_bundle_id();
            if now == active {
                break sample;
            }
            // What was measured under one bundle is not told of another.
            active = now;
        };
        let (active_bundle_id, refused) = (active, self.refused());
        HeartbeatRequest {
            health: health.into(),
            metrics: metrics.into(),
            active_bundle_id,
            bundle_error: refused.map(|refused| BundleError {
                bundle_id: refused.bundle_id,
                // A statement that is not trusted has none that could be told.
                sequence: (refused.sequence > 0).then_some(refused.sequence),
                reason: refused.reason,
                message: refused.message,
            }),
            version: self.health.version().or_else(|| self.options.version()),
            ..HeartbeatRequest::default()
        }
    }
}

impl AgentOptions {
    fn version(&self) -> Option<String> {
        (!self.version.is_empty()).then(|| self.version.clone())
    }
}
