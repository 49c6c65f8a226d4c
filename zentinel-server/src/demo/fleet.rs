//! The demo's nodes: real agents over real HTTP, in this process.

use crate::agent::{Agent, AgentOptions, DirectoryActivator, HealthSource};
use crate::cli::Output;
use crate::compose::App;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::Project;
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::SystemClock;
use zentinel_core::{Result, Secret};

/// The directory that the second bundle serves files from.
pub(super) const ASSETS: &str = "srv/zentinel/assets";

/// Nodes that run until stopped.
#[derive(Debug)]
pub(super) struct DemoFleet {
    nodes: Vec<Arc<Agent>>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

/// A node that is always well.
#[derive(Debug)]
struct Healthy;

#[async_trait::async_trait]
impl HealthSource for Healthy {
    async fn sample(&self, _: Option<BundleId>) -> (Map<String, Value>, Map<String, Value>) {
        let object = |value: Value| {
            if let Value::Object(object) = value { object } else { Map::new() }
        };
        (
            object(json!({ "status": "healthy" })),
            object(
                json!({ "error_rate": 0.2, "latency_p99_ms": 18.0, "cpu_percent": 12.0, "memory_percent": 30.0 }),
            ),
        )
    }
}

impl DemoFleet {
    /// Registers `count` nodes and lets them run.
    pub(super) async fn start(
        app: &App,
        project: &Project,
        token: &Secret,
        count: usize,
        data: &Path,
        output: &Output,
    ) -> Result<Self> {
        let shutdown = CancellationToken::new();
        let mut fleet = Self { nodes: Vec::with_capacity(count), shutdown, tasks: JoinSet::new() };
        for index in 0..count {
            let agent = Arc::new(enrol(app, project, token, index, count, data).await?);
            let (running, until) = (Arc::clone(&agent), fleet.shutdown.clone());
            fleet.tasks.spawn(async move { running.run(until).await });
            fleet.nodes.push(agent);
        }
        output.event("nodes_registered", json!({ "nodes": count }), || {
            format!("nodes           {count} registered")
        });
        Ok(fleet)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn ids(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().map(|node| node.node_id()).collect()
    }

    /// What each node says it runs.
    pub(super) fn active(&self) -> Vec<Option<BundleId>> {
        self.nodes.iter().map(|node| node.active_bundle_id()).collect()
    }

    pub(super) async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Whether this node lacks the directory of the second bundle: two in the middle of the fleet, so
/// that some steps succeed before one stops.
fn lacks_assets(index: usize, count: usize) -> bool {
    index == count / 2 || index == count / 2 + 3
}

/// Makes the node's file tree, with or without the directory; an earlier run may have left either.
fn lay_out(assets: &Path, lacking: bool) -> std::io::Result<()> {
    std::fs::create_dir_all(assets)?;
    if lacking { std::fs::remove_dir_all(assets) } else { Ok(()) }
}

async fn enrol(
    app: &App,
    project: &Project,
    token: &Secret,
    index: usize,
    count: usize,
    data: &Path,
) -> Result<Agent> {
    let name = format!("edge-{:03}", index + 1);
    let directory = data.join("nodes").join(&name);
    let file_root = directory.join("root");
    let assets = file_root.join(ASSETS);
    lay_out(&assets, lacks_assets(index, count)).map_err(|error| {
        zentinel_core::Error::unavailable(format!("{}: {error}", assets.display())).with_source(error)
    })?;
    let zone = ["a", "b", "c"][index % 3];
    let labels = [("region", "eu"), ("zone", zone)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let activator =
        DirectoryActivator::new(directory.clone(), file_root, Arc::clone(&app.services.validator));
    let options = AgentOptions {
        server: app.public_url.clone(),
        project: project.slug.to_string(),
        token: Some(token.clone()),
        name,
        labels: BTreeMap::from(labels),
        version: "0.6.45".to_owned(),
        directory,
        heartbeat_interval: Duration::from_secs(1),
        long_poll: Duration::from_secs(20),
        traffic_hook: None,
    };
    Agent::enrol(options, Arc::new(SystemClock), Arc::new(activator), Arc::new(Healthy)).await
}
