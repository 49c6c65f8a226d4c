//! The pull loop that makes a proxy a node.
//!
//! ```text
//! register once ─> state file (0600) ─┬─> heartbeat every interval, and at once on a change
//!                                     └─> long poll ─> verify statement ─> download (resumed) ─> digest
//!                                            ^            ─> unpack with limits ─> Activator ─> report
//!                                            └── refused or failed: what served before keeps serving
//! ```
//!
//! The node trusts the keys it pinned when it registered. It refuses a statement for another
//! project, one that is older than what it accepted before, and one that has expired. When the
//! control plane is away, what serves keeps serving; the loops back off with jitter.

mod activator;
mod download;
mod state;

pub use activator::{Activator, DirectoryActivator, Rejection, Release};
pub use state::{NodeState, Refused};

use crate::backoff::Backoff;
use serde_json::{Map, Value};
use state::StateFile;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;
use zentinel_core::entity::BundleError;
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::Clock;
use zentinel_core::statement::{Expectation, Statement};
use zentinel_core::{Kind, Result, Secret};
use zentinel_http::client::{BundleOffer, HeartbeatRequest, NodeClient, Poll, RegisterRequest};

/// How far a node's clock may be off when it checks a statement, in seconds.
const CLOCK_SKEW_SECONDS: i64 = 900;

/// Where the health of a heartbeat comes from.
pub trait HealthSource: Debug + Send + Sync + 'static {
    /// The `health` and `metrics` objects of the next heartbeat.
    fn sample(&self) -> (Map<String, Value>, Map<String, Value>);
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
    /// Version of the proxy.
    pub version: String,
    /// Directory for the state file, downloads and unpacked bundles.
    pub directory: PathBuf,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// How long one poll may wait for news.
    pub long_poll: Duration,
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
    state: Mutex<NodeState>,
    changed: Notify,
}

impl Agent {
    /// Takes up the node's identity from its state file, or registers and writes one.
    ///
    /// # Errors
    /// Those of the control plane; [`Kind::Unavailable`] when the directory can't be used.
    pub async fn enrol(
        options: AgentOptions,
        clock: Arc<dyn Clock>,
        activator: Arc<dyn Activator>,
        health: Arc<dyn HealthSource>,
    ) -> Result<Self> {
        std::fs::create_dir_all(options.directory.join("bundles")).map_err(|error| {
            zentinel_core::Error::unavailable(format!("{}: {error}", options.directory.display()))
                .with_source(error)
        })?;
        let file = StateFile::in_directory(&options.directory);
        let client = NodeClient::new(options.server.clone())?;
        let state = match file.load()? {
            Some(state) => state,
            None => {
                let state = register(&client, &options).await?;
                file.save(&state)?;
                state
            }
        };
        let client = client.with_credentials(state.node_id, Secret::new(state.node_key.clone()));
        Ok(Self {
            options,
            clock,
            activator,
            health,
            client,
            file,
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    /// The node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.state().node_id
    }

    /// The bundle that serves traffic.
    #[must_use]
    pub fn active_bundle_id(&self) -> Option<BundleId> {
        self.state().active_bundle_id
    }

    /// Why the last offered bundle does not serve, if so.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        self.state().refused.clone()
    }

    fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Heartbeats and polls until cancelled.
    pub async fn run(&self, shutdown: CancellationToken) {
        let loops = async { tokio::join!(self.heartbeat_loop(), self.poll_loop()) };
        shutdown.run_until_cancelled(loops).await;
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

    async fn poll_loop(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut etag = None;
        loop {
            let asked = tokio::time::Instant::now();
            let pause = match self.client.poll(Some(self.options.long_poll), etag.as_deref()).await {
                Ok(answer) => {
                    backoff.reset();
                    etag = answer.etag().map(str::to_owned).or(etag);
                    let hint = answer.poll_after();
                    let news = !matches!(answer, Poll::NotModified { .. });
                    // A server that does not hold the request asks for patience instead.
                    let held = asked.elapsed() >= self.options.long_poll / 2;
                    match self.take(answer).await {
                        Ok(()) if news || held => Duration::ZERO,
                        Ok(()) => hint,
                        Err(error) => {
                            tracing::warn!(node = %self.options.name, %error, "bundle not fetched");
                            // The same offer must be looked at again.
                            etag = None;
                            backoff.pause()
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(node = %self.options.name, %error, "poll failed");
                    backoff.pause()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends one heartbeat with what is true now.
    ///
    /// # Errors
    /// Those of the control plane.
    pub async fn heartbeat(&self) -> Result<()> {
        let (health, metrics) = self.health.sample();
        let (active_bundle_id, refused) = {
            let state = self.state();
            (state.active_bundle_id, state.refused.clone())
        };
        let request = HeartbeatRequest {
            health: health.into(),
            metrics: metrics.into(),
            active_bundle_id,
            bundle_error: refused.map(|refused| BundleError {
                bundle_id: refused.bundle_id,
                reason: refused.reason,
                message: refused.message,
            }),
            version: Some(self.options.version.clone()),
            ..HeartbeatRequest::default()
        };
        self.client.heartbeat(&request).await.map(drop)
    }

    /// Acts on a poll answer. An error is worth another try; a refusal is remembered instead.
    async fn take(&self, answer: Poll) -> Result<()> {
        let Poll::Update(offer) = answer else {
            return Ok(());
        };
        let statement = match self.verify(&offer) {
            Ok(statement) => statement,
            Err(error) => {
                // Nothing about an untrusted statement is believed, not even its sequence.
                tracing::error!(node = %self.options.name, %error, "statement refused");
                return self.refuse(0, offer.bundle_id, Rejection::new("bad_statement", error.to_string()));
            }
        };
        let (active, refused) = {
            let state = self.state();
            (state.active_bundle_id, state.refused.clone())
        };
        if active == Some(statement.bundle_id) {
            return self.settle(&statement);
        }
        if refused.is_some_and(|refused| refused.sequence == statement.sequence) {
            return Ok(());
        }
        let directory =
            match download::fetch(&self.client, &self.options.directory, &statement, &offer.download_url)
                .await
            {
                Ok(directory) => directory,
                Err(error) if error.kind().is_transient() => return Err(error),
                Err(error) => {
                    return self.refuse(
                        statement.sequence,
                        statement.bundle_id,
                        Rejection::new("bad_archive", error.to_string()),
                    );
                }
            };
        let release = Release { bundle_id: statement.bundle_id, directory, activation: statement.activation };
        match self.activator.activate(&release).await {
            Ok(()) => self.settle(&statement),
            Err(rejection) => self.refuse(statement.sequence, statement.bundle_id, rejection),
        }
    }

    fn verify(&self, offer: &BundleOffer) -> Result<Statement> {
        let state = self.state();
        let expectation = Expectation {
            project_id: state.project_id,
            last_sequence: state.last_sequence,
            now: self.clock.now(),
            clock_skew_seconds: CLOCK_SKEW_SECONDS,
        };
        let envelope = offer.statement.as_ref().ok_or_else(|| {
            zentinel_core::Error::new(Kind::Forbidden, "the answer carries no signed statement")
        })?;
        let statement = envelope.verify(&state.pinned_keys, &expectation)?;
        if statement.bundle_id != offer.bundle_id {
            return Err(zentinel_core::Error::new(Kind::Forbidden, "the statement is about another bundle"));
        }
        Ok(statement)
    }

    /// The statement's bundle serves: remembers and reports it.
    fn settle(&self, statement: &Statement) -> Result<()> {
        self.update(|state| {
            state.active_bundle_id = Some(statement.bundle_id);
            state.last_sequence = statement.sequence;
            state.refused = None;
        })
    }

    fn refuse(&self, sequence: u64, bundle_id: BundleId, rejection: Rejection) -> Result<()> {
        self.update(|state| {
            state.last_sequence = state.last_sequence.max(sequence);
            state.refused =
                Some(Refused { sequence, bundle_id, reason: rejection.reason, message: rejection.message });
        })
    }

    fn update(&self, change: impl FnOnce(&mut NodeState)) -> Result<()> {
        let mut state = self.state();
        let mut next = state.clone();
        change(&mut next);
        self.file.save(&next)?;
        *state = next;
        drop(state);
        self.changed.notify_one();
        Ok(())
    }
}

async fn register(client: &NodeClient, options: &AgentOptions) -> Result<NodeState> {
    let request = RegisterRequest {
        name: options.name.clone(),
        labels: options.labels.clone(),
        version: Some(options.version.clone()),
        ..RegisterRequest::default()
    };
    let registered = client.register(&options.project, options.token.as_ref(), &request).await?;
    Ok(NodeState {
        node_id: registered.node_id,
        node_key: registered.node_key.expose().to_owned(),
        project_id: registered.project_id,
        pinned_keys: registered.signing_keys,
        last_sequence: 0,
        active_bundle_id: None,
        refused: None,
    })
}
