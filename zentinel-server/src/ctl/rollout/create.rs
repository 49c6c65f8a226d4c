//! Creating a rollout.

use super::sentence;
use crate::ctl::find;
use crate::ctl::node::pair;
use crate::ctl::screen::clean;
use crate::ctl::session::Session;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use zentinel_core::entity::{AggregateGates, HealthGates, LabelSelector, RolloutState, TargetSelector};
use zentinel_core::id::HealthCheckId;
use zentinel_core::{Error, Result};
use zentinel_http::client::NewRollout;

/// What is left out is the server's default.
#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Create {
    /// Version, id or beginning of the id of the bundle.
    bundle: String,
    /// Only nodes with this label; may be repeated, all must match. Every node by default.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair, conflicts_with = "nodes")]
    labels: Vec<(String, String)>,
    /// Only this node (name, id or its beginning); may be repeated.
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// Only nodes with these labels: `region=eu,env in (prod),!retired`.
    #[arg(long, conflicts_with_all = ["labels", "nodes"])]
    selector: Option<LabelSelector>,
    /// `rolling`, `canary`, `blue_green` or `all_at_once`.
    #[arg(long)]
    strategy: Option<String>,
    /// Nodes per step.
    #[arg(long, value_name = "N", conflicts_with = "batch_percentage")]
    batch_size: Option<u32>,
    /// Canary: cumulative shares of the nodes in percent, the last is 100.
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',')]
    canary_steps: Vec<u8>,
    /// Canary: how long each step is watched, in minutes.
    #[arg(long, value_name = "MINUTES")]
    analysis_window: Option<f64>,
    /// Canary: 1 minus the probability of a false rollback, for example 0.99.
    #[arg(long, value_name = "SHARE")]
    confidence: Option<f64>,
    /// Blue-green: weights of the green slot, one after the other; the last is 100.
    #[arg(long, value_name = "WEIGHT,...", value_delimiter = ',')]
    traffic_steps: Vec<u8>,
    /// Blue-green: go on to the next weight without an operator.
    #[arg(long)]
    auto_advance: bool,
    /// Blue-green: how long each weight is held at least, in seconds.
    #[arg(long, value_name = "SECONDS")]
    advance_delay: Option<u32>,
    /// Blue-green: the same, as the validation period; the longer of both counts.
    #[arg(long, value_name = "SECONDS")]
    validation_period: Option<u32>,
    /// Blue-green: percentage of the nodes that become the green slot.
    #[arg(long, value_name = "PERCENT")]
    green_percentage: Option<u8>,
    /// Blue-green: wait until the load balancer has acknowledged each weight.
    #[arg(long)]
    shift_traffic: bool,
    /// Percentage of the nodes per step.
    #[arg(long, value_name = "PERCENT")]
    batch_percentage: Option<u8>,
    /// Nodes of a step that may be offline.
    #[arg(long, value_name = "N")]
    max_unavailable: Option<u32>,
    /// How long a step may take, in seconds.
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u32>,
    /// Highest error rate of a node, in percent.
    #[arg(long, value_name = "PERCENT")]
    max_error_rate: Option<f64>,
    /// Highest 99th percentile of a node's latency, in milliseconds.
    #[arg(long, value_name = "MS")]
    max_latency_ms: Option<f64>,
    /// Highest processor use of a node, in percent.
    #[arg(long, value_name = "PERCENT")]
    max_cpu_percent: Option<f64>,
    /// Highest memory use of a node, in percent.
    #[arg(long, value_name = "PERCENT")]
    max_memory_percent: Option<f64>,
    /// A health check (its id) that must pass; may be repeated.
    #[arg(long = "health-check", value_name = "ID")]
    health_checks: Vec<HealthCheckId>,
    /// Over all nodes reached so far: highest share of failed requests, in percent.
    #[arg(long, value_name = "PERCENT")]
    fleet_error_rate: Option<f64>,
    /// Over all nodes reached so far: highest 99th percentile of the latency, in milliseconds.
    #[arg(long, value_name = "MS")]
    fleet_latency_ms: Option<f64>,
    /// Over all nodes reached so far: lowest share of healthy nodes, in percent.
    #[arg(long, value_name = "PERCENT")]
    fleet_healthy: Option<f64>,
    /// Roll back by itself when it fails.
    #[arg(long)]
    auto_rollback: bool,
    /// Percentage of a step's nodes that must fail before the step does.
    #[arg(long, value_name = "PERCENT")]
    rollback_threshold: Option<u8>,
    /// Make each batch twice as large as the one before.
    #[arg(long)]
    batch_doubling: bool,
    /// Most nodes per step, where batches grow.
    #[arg(long, value_name = "N")]
    max_batch_size: Option<u32>,
    /// Most nodes that may be told per minute, on average over the steps.
    #[arg(long, value_name = "N")]
    nodes_per_minute: Option<u32>,
    /// Until a step is done, stop at the first node that fails.
    #[arg(long)]
    safe_mode: bool,
    #[command(flatten)]
    terms: super::approve::Terms,
    /// Create it without starting it.
    #[arg(long, conflicts_with = "wait")]
    no_start: bool,
    /// Cancel open rollouts on the same nodes.
    #[arg(long)]
    supersede: bool,
    /// Wait for open rollouts on the same nodes to end, and start then.
    #[arg(long, conflicts_with_all = ["supersede", "no_start"])]
    queue: bool,
    /// Follow it to its end; fails when the rollout does.
    #[arg(long)]
    wait: bool,
    /// Seconds between two looks with --wait.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = crate::ctl::node::seconds)]
    interval: Duration,
}

impl Create {
    fn canary(&self) -> Option<Value> {
        let mut config = Map::new();
        let mut set =
            |key: &str, value: Option<Value>| config.extend(value.map(|value| (key.to_owned(), value)));
        set("steps", (!self.canary_steps.is_empty()).then(|| json!(self.canary_steps)));
        set("analysis_window_minutes", self.analysis_window.map(Value::from));
        set("confidence_level", self.confidence.map(Value::from));
        (!config.is_empty()).then_some(Value::Object(config))
    }

    fn blue_green(&self) -> Option<Value> {
        let mut config = Map::new();
        let mut set =
            |key: &str, value: Option<Value>| config.extend(value.map(|value| (key.to_owned(), value)));
        set("traffic_steps", (!self.traffic_steps.is_empty()).then(|| json!(self.traffic_steps)));
        set("auto_advance", self.auto_advance.then_some(Value::Bool(true)));
        set("advance_delay_seconds", self.advance_delay.map(Value::from));
        set("validation_period_seconds", self.validation_period.map(Value::from));
        set("green_percentage", self.green_percentage.map(Value::from));
        set("shift_traffic", self.shift_traffic.then_some(Value::Bool(true)));
        (!config.is_empty()).then_some(Value::Object(config))
    }

    fn aggregates(&self) -> Option<AggregateGates> {
        let wanted = AggregateGates {
            max_error_rate: self.fleet_error_rate,
            max_latency_ms: self.fleet_latency_ms,
            min_healthy_percent: self.fleet_healthy,
            min_requests: None,
        };
        (!wanted.is_empty()).then_some(wanted)
    }

    fn gates(&self) -> Option<HealthGates> {
        let own = HealthGates {
            heartbeat_healthy: None,
            max_error_rate: self.max_error_rate,
            max_latency_ms: self.max_latency_ms,
            max_cpu_percent: self.max_cpu_percent,
            max_memory_percent: self.max_memory_percent,
        };
        // With none given the server's default stands, which is the heartbeat gate.
        (own != HealthGates::default()).then_some(HealthGates { heartbeat_healthy: Some(true), ..own })
    }
}

/// Names the rollouts on the same nodes, and what can be done about them.
fn in_the_way(error: Error) -> Error {
    let details = error.details().cloned().unwrap_or_default();
    let overlap = details["nodes"].is_u64();
    let Some(rollouts) = details["rollouts"].as_array().filter(|rollouts| overlap && !rollouts.is_empty())
    else {
        return error;
    };
    let name = |rollout: &Value| {
        let text = |field: &str| clean(rollout[field].as_str().unwrap_or("-"));
        let id: String = text("id").chars().take(8).collect();
        format!("{id} (bundle {}, {})", text("bundle_version"), text("state"))
    };
    let names: Vec<String> = rollouts.iter().map(name).collect();
    let hint = "`zentinelctl rollout watch ID` waits for it, `rollout cancel ID` ends it; --queue waits for it, \
        --supersede cancels it for this one";
    Error::conflict(format!("{}: {}", error.message(), names.join(", ")))
        .with_details(details.clone())
        .with_hint(hint)
}

pub(super) async fn run(session: &Session, create: Create) -> Result<()> {
    let bundle = find::bundle(session, &create.bundle).await?;
    let mut node_ids = BTreeSet::new();
    for name in &create.nodes {
        node_ids.insert(find::node(session, name).await?.id);
    }
    let labels = create.labels.iter().cloned().collect();
    let mut rollout = NewRollout {
        target_selector: match (create.labels.is_empty(), node_ids.is_empty()) {
            (true, true) if create.selector.is_some() => {
                create.selector.clone().map(|selector| TargetSelector::Selector { selector })
            }
            (false, _) => Some(TargetSelector::Labels { labels }),
            (true, false) => Some(TargetSelector::NodeIds { node_ids }),
            (true, true) => None,
        },
        health_gates: create.gates(),
        aggregate_gates: create.aggregates(),
        custom_health_checks: (!create.health_checks.is_empty())
            .then(|| create.health_checks.iter().copied().collect()),
        canary_analysis_config: create.canary(),
        blue_green_config: create.blue_green(),
        strategy: create.strategy,
        batch_size: create.batch_size,
        batch_percentage: create.batch_percentage,
        max_unavailable: create.max_unavailable,
        progress_deadline_seconds: create.deadline,
        auto_rollback: create.auto_rollback.then_some(true),
        rollback_threshold: create.rollback_threshold,
        batch_doubling: create.batch_doubling.then_some(true),
        max_batch_size: create.max_batch_size,
        nodes_per_minute: create.nodes_per_minute,
        safe_mode: create.safe_mode.then_some(true),
        auto_start: create.no_start.then_some(false),
        supersede: create.supersede.then_some(true),
        queue: create.queue.then_some(true),
        ..NewRollout::of(bundle.id)
    };
    create.terms.add(session, &mut rollout).await?;
    let made = session.client.create_rollout(&session.project, &rollout).await;
    let rollout = made.map_err(in_the_way)?;
    if create.wait {
        return super::watch::run(session, rollout.id, create.interval).await;
    }
    session.screen.answer(&rollout, || sentence(&rollout))?;
    let waiting = &rollout.waiting.summary;
    if rollout.state == RolloutState::Pending && !waiting.is_empty() {
        session.screen.note(&clean(waiting));
    }
    session.screen.note(&format!("follow it with `zentinelctl rollout watch {}`", rollout.id));
    Ok(())
}
