//! What an operator asks for.

use crate::entity::selector::LabelSelector;
use crate::id::{GroupId, HealthCheckId, NodeId};
use crate::value::Percent;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Which nodes a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TargetSelector {
    /// Every node of the project.
    All,
    /// Nodes that have all of these labels; at least one.
    Labels {
        /// The labels.
        labels: BTreeMap<String, String>,
    },
    /// These nodes; at least one.
    NodeIds {
        /// The nodes.
        node_ids: BTreeSet<NodeId>,
    },
    /// The members of these groups; at least one.
    Groups {
        /// The groups.
        group_ids: BTreeSet<GroupId>,
    },
    /// Nodes whose labels satisfy these requirements.
    Selector {
        /// The requirements.
        selector: LabelSelector,
    },
}

/// What must hold before a step is done. An absent gate is not checked; missing data fails one
/// that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthGates {
    /// The node calls itself healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_healthy: Option<bool>,
    /// Highest error rate in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// Highest 99th percentile of the latency in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// Highest processor use in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpu_percent: Option<f64>,
    /// Highest memory use in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_percent: Option<f64>,
}

impl HealthGates {
    /// The default: the heartbeat gate alone.
    #[must_use]
    pub fn heartbeat() -> Self {
        Self { heartbeat_healthy: Some(true), ..Self::default() }
    }
}

/// What must hold over all nodes that the rollout has reached, taken together. An absent gate is not
/// checked; missing data fails one that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AggregateGates {
    /// Highest share of failed requests in percent, over all requests since the nodes activated the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// Highest 99th percentile of the latency in milliseconds, over all those requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// Lowest share of nodes in percent that run the bundle and call themselves healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_healthy_percent: Option<f64>,
    /// How many requests there must be before the first two are judged; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u64>,
}

impl AggregateGates {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.judges_traffic() && self.min_healthy_percent.is_none()
    }

    /// Whether what the nodes served is judged.
    #[must_use]
    pub fn judges_traffic(&self) -> bool {
        self.max_error_rate.is_some() || self.max_latency_ms.is_some()
    }
}

/// What an operator asks for; fixed once the rollout exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// Which nodes.
    pub target_selector: TargetSelector,
    /// Name of the strategy, for example `rolling`.
    pub strategy: String,
    /// What the strategy needs beyond the common fields; null when nothing.
    pub strategy_config: Value,
    /// Nodes per step, at least 1.
    pub batch_size: u32,
    /// Instead of `batch_size`: share of the targets per step.
    pub batch_percentage: Option<Percent>,
    /// How many nodes of a step may be offline without stopping it.
    pub max_unavailable: u32,
    /// How long a step may take, in seconds, pauses not counted.
    pub progress_deadline_seconds: u32,
    /// What must hold before a step is done.
    pub health_gates: HealthGates,
    /// What must hold over all nodes that were reached so far.
    #[serde(default, skip_serializing_if = "AggregateGates::is_empty")]
    pub aggregate_gates: AggregateGates,
    /// Endpoints that must all pass.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub custom_health_checks: BTreeSet<HealthCheckId>,
    /// Whether failure rolls back by itself.
    pub auto_rollback: bool,
    /// Share of a step's nodes that must fail before the step does.
    pub rollback_threshold: Percent,
    /// Whether each batch is twice as large as the one before, up to `max_batch_size`: what went well carries further.
    #[serde(default)]
    pub batch_doubling: bool,
    /// Most nodes per step, where batches grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<u32>,
    /// Most nodes that may be told per minute, on average over the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes_per_minute: Option<u32>,
    /// Until a step is done, a single node that fails stops the rollout, whatever `rollback_threshold` says.
    #[serde(default)]
    pub safe_mode: bool,
    /// Nodes that lack one of these are left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub required_capabilities: BTreeSet<String>,
    /// Nodes whose proxy is older than this version are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_proxy_version: Option<String>,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            target_selector: TargetSelector::All,
            strategy: "rolling".to_owned(),
            strategy_config: Value::Null,
            batch_size: 1,
            batch_percentage: None,
            max_unavailable: 0,
            progress_deadline_seconds: 600,
            health_gates: HealthGates::heartbeat(),
            aggregate_gates: AggregateGates::default(),
            custom_health_checks: BTreeSet::new(),
            auto_rollback: false,
            rollback_threshold: Percent::HALF,
            batch_doubling: false,
            max_batch_size: None,
            nodes_per_minute: None,
            safe_mode: false,
            required_capabilities: BTreeSet::new(),
            min_proxy_version: None,
        }
    }
}
