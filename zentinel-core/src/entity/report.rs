//! What nodes say: heartbeats, the last that is known of each, the configuration it runs.

use super::node::{Node, NodeStatus, Registration};
use super::traffic::Traffic;
use crate::error::Result;
use crate::id::{BundleId, NodeId, OrganisationId, ProjectId, TypedId};
use crate::log::{LogKind, LogRow};
use crate::record::{Keys, Record, RecordKind};
use crate::value::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Health and measurements of one heartbeat. Absent is unknown, never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `healthy` opens the heartbeat gate.
    pub status: Option<String>,
    /// Share of failed requests in percent, 0 to 100.
    pub error_rate: Option<f64>,
    /// 99th percentile of the latency in milliseconds.
    pub latency_p99_ms: Option<f64>,
    /// Processor use in percent, 0 to 100.
    pub cpu_percent: Option<f64>,
    /// Memory use in percent, 0 to 100.
    pub memory_percent: Option<f64>,
    /// What was served, in counts; canary analysis lives on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Box<Traffic>>,
}

impl Health {
    /// Whether the node calls itself healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status.as_deref() == Some("healthy")
    }
}

/// Why a node could not activate a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleError {
    /// The bundle it tried.
    pub bundle_id: BundleId,
    /// Stable word, for example `invalid_config`, `bad_signature`, `activation_failed`.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// The sequence of the statement that told it to; says which of several tries failed.
    #[serde(default)]
    pub sequence: Option<u64>,
}

/// A heartbeat as a node sends it. Absent fields leave what is known unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// Health and measurements.
    pub health: Health,
    /// The whole `health` object as sent.
    pub raw_health: Map<String, Value>,
    /// The whole `metrics` object as sent.
    pub raw_metrics: Map<String, Value>,
    /// The bundle that serves traffic.
    pub active_bundle_id: Option<BundleId>,
    /// The bundle that is downloaded but not active.
    pub staged_bundle_id: Option<BundleId>,
    /// The last activation that failed.
    pub bundle_error: Option<BundleError>,
    /// Version of the proxy.
    pub version: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// Anything else.
    pub metadata: Option<Map<String, Value>>,
    /// What it can do.
    pub capabilities: Option<BTreeSet<String>>,
}

/// The last token that a node was given for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeToken {
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The last that is known of a node. Shares the node's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub node_id: NodeId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Liveness.
    pub status: NodeStatus,
    /// When it was last heard from.
    pub last_seen_at: Option<Timestamp>,
    /// The bundle that serves traffic.
    pub active_bundle_id: Option<BundleId>,
    /// When the control plane first heard that this bundle is active.
    pub active_since: Option<Timestamp>,
    /// The bundle that is downloaded but not active.
    pub staged_bundle_id: Option<BundleId>,
    /// A reported bundle that the project does not have.
    pub reported_unknown_bundle: Option<Uuid>,
    /// The last activation that failed, until another bundle is active.
    pub bundle_error: Option<BundleError>,
    /// When that was reported.
    pub bundle_error_at: Option<Timestamp>,
    /// Healthy heartbeats in a row since the active bundle became active.
    pub healthy_streak: u32,
    /// Health and measurements of the last heartbeat.
    pub health: Health,
    /// The whole `health` object of the last heartbeat.
    pub raw_health: Map<String, Value>,
    /// The whole `metrics` object of the last heartbeat.
    pub raw_metrics: Map<String, Value>,
    /// Version of the proxy.
    pub version: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// Anything else.
    pub metadata: Map<String, Value>,
    /// Number of heartbeats so far.
    pub heartbeats: u64,
    /// Its last token. Here and not in [`Node`]: all nodes renew theirs again and again, and whoever
    /// writes many nodes at once would lose the race against one of them nearly always.
    #[serde(default)]
    pub token: Option<NodeToken>,
    /// When it registered.
    pub created_at: Timestamp,
}

impl NodeReport {
    /// What is known of a node that just registered: online, nothing else.
    #[must_use]
    pub fn registered(node: &Node, registration: &Registration) -> Self {
        Self {
            node_id: node.id,
            organisation_id: node.organisation_id,
            project_id: node.project_id,
            status: if node.approved { NodeStatus::Online } else { NodeStatus::Unknown },
            last_seen_at: Some(node.registered_at),
            active_bundle_id: None,
            active_since: None,
            staged_bundle_id: None,
            reported_unknown_bundle: None,
            bundle_error: None,
            bundle_error_at: None,
            healthy_streak: 0,
            health: Health::default(),
            raw_health: Map::new(),
            raw_metrics: Map::new(),
            version: registration.version.clone(),
            ip: registration.ip.clone(),
            hostname: registration.hostname.clone(),
            metadata: registration.metadata.clone(),
            heartbeats: 0,
            token: None,
            created_at: node.created_at,
        }
    }

    /// How the node authenticates: `jwt` once it exchanged its key for a token, else `static_key`.
    #[must_use]
    pub fn auth_method(&self) -> &'static str {
        if self.token.is_some() { "jwt" } else { "static_key" }
    }

    /// The heartbeat history row that belongs to the current state.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when it does not serialise.
    pub fn history_row(&self) -> Result<LogRow> {
        Ok(LogRow {
            kind: LogKind::Heartbeat,
            id: Uuid::new_v4(),
            organisation_id: Some(self.organisation_id),
            project_id: Some(self.project_id),
            owner: self.node_id.uuid(),
            at: self.last_seen_at.unwrap_or(self.created_at),
            dedup_key: None,
            body: serde_json::json!({
                "health": self.raw_health,
                "metrics": self.raw_metrics,
                "active_bundle_id": self.active_bundle_id,
                "staged_bundle_id": self.staged_bundle_id,
            }),
        })
    }
}

impl Record for NodeReport {
    const KIND: RecordKind = RecordKind::NodeReport;
    type Id = NodeId;
    fn id(&self) -> NodeId {
        self.node_id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            state: Some(self.status.as_str().to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// The configuration that a node says it runs. Shares the node's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// The node.
    pub node_id: NodeId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The KDL text, at most 4 MiB.
    pub config_kdl: String,
    /// SHA-256 of the text.
    pub config_hash: Sha256Digest,
    /// Whether it is another one than that of the bundle that the node said it ran.
    #[serde(default)]
    pub differs: bool,
    /// When it was reported.
    pub created_at: Timestamp,
}

impl NodeConfig {
    /// The state by which stores find those that differ.
    pub const DIFFERS: &str = "differs";
}

impl Record for NodeConfig {
    const KIND: RecordKind = RecordKind::NodeConfig;
    type Id = NodeId;
    fn id(&self) -> NodeId {
        self.node_id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            state: self.differs.then(|| NodeConfig::DIFFERS.to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}
