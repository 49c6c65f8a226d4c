//! What travels between nodes and the control plane. Server and client share these types.

use chrono::SecondsFormat;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use url::Url;
use utoipa::ToSchema;
use zentinel_core::entity::{Activation, BundleError, NodeTraffic, Slot};
use zentinel_core::id::{BundleId, NodeId, ProjectId};
use zentinel_core::port::PublicKey;
use zentinel_core::statement::Envelope;
use zentinel_core::{Secret, Sha256Digest, Timestamp};

/// Response header of a poll: seconds until the node should ask again. A 304 has no body to say it in.
pub const POLL_AFTER_HEADER: &str = "x-zentinel-poll-after";
/// Request header that carries a registration token.
pub const JOIN_TOKEN_HEADER: &str = "x-zentinel-join-token";
/// Request header that carries a node's static key.
pub const NODE_KEY_HEADER: &str = "x-zentinel-node-key";

/// What a node says when it registers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegisterRequest {
    /// Unique in the project: 1 to 100 characters, alphanumeric first, then also `_`, `.`, `-`.
    pub name: String,
    /// For selectors. Labels of the registration token win.
    pub labels: BTreeMap<String, String>,
    /// What the node can do.
    pub capabilities: BTreeSet<String>,
    /// Version of the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The node's address; the caller's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The node's host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Anything else.
    pub metadata: Map<String, Value>,
    /// Random, of the node's own, at least 43 characters: with it, a registration whose answer was
    /// lost can be repeated.
    #[serde(with = "told_in_confidence", skip_serializing_if = "Option::is_none")]
    pub registration_secret: Option<Secret>,
}

/// The answer to a registration. The key is shown this once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Registered {
    /// The node's id.
    #[schema(value_type = Uuid)]
    pub node_id: NodeId,
    /// The node's static key.
    #[serde(with = "shown_once")]
    #[schema(value_type = String)]
    pub node_key: Secret,
    /// How often to poll, in seconds.
    pub poll_interval_s: u64,
    /// The project the node belongs to; its statements name it.
    #[schema(value_type = Uuid)]
    pub project_id: ProjectId,
    /// The keys to pin: statements and archives are signed by one of them.
    #[schema(value_type = Vec<SigningKeyView>)]
    pub signing_keys: Vec<PublicKey>,
}

/// A public Ed25519 key, as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SigningKey)]
pub(crate) struct SigningKeyView {
    /// The key's id (`kid`).
    pub key_id: String,
    /// `ed25519`.
    pub algorithm: String,
    /// Standard base64 of the 32 raw bytes.
    pub public_key: String,
    /// Whether signatures of this key are accepted.
    pub active: bool,
}

/// The organisation's public keys.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SigningKeys {
    /// Accepted keys, newest first.
    #[schema(value_type = Vec<SigningKeyView>)]
    pub signing_keys: Vec<PublicKey>,
}

/// A heartbeat. Absent fields leave what the control plane knows unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HeartbeatRequest {
    /// `status` is `healthy` or anything else; further entries are kept.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object, example = json!({"status": "healthy", "uptime_s": 86_400}))]
    pub health: Value,
    /// Numbers `error_rate`, `latency_p99_ms`, `cpu_percent`, `memory_percent`; list `circuit_breakers`;
    /// `traffic`, the counts that canary analysis compares: `epoch` (another number: counted anew), `requests`, `errors` and
    /// `latency` (13 numbers: requests up to 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000 ms and beyond) since the
    /// epoch began, and the same three under `recent` for the last while.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object, example = json!({"error_rate": 0.4, "latency_p99_ms": 83, "traffic": {"epoch": 1, "requests": 250, "errors": 1,
        "latency": [0, 40, 120, 60, 20, 8, 1, 0, 0, 0, 0, 0, 0],
        "recent": {"requests": 250, "errors": 1, "latency": [0, 40, 120, 60, 20, 8, 1, 0, 0, 0, 0, 0, 0]}}}))]
    pub metrics: Value,
    /// The bundle that serves traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub active_bundle_id: Option<BundleId>,
    /// The bundle that is downloaded but not active.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub staged_bundle_id: Option<BundleId>,
    /// Version of the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The node's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The node's host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// What the node can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<BTreeSet<String>>,
    /// The last activation that failed: `{bundle_id, reason, message}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub bundle_error: Option<BundleError>,
}

impl HeartbeatRequest {
    /// A heartbeat that says `status` (`healthy` opens the heartbeat gate) and nothing else.
    #[must_use]
    pub fn with_status(status: &str) -> Self {
        Self { health: serde_json::json!({ "status": status }), ..Self::default() }
    }

    /// Adds a measurement, for example `error_rate`.
    #[must_use]
    pub fn measuring(mut self, name: &str, value: f64) -> Self {
        if !self.metrics.is_object() {
            self.metrics = Value::Object(Map::new());
        }
        self.metrics[name] = value.into();
        self
    }

    /// Says which bundle serves traffic.
    #[must_use]
    pub fn running(mut self, bundle_id: Option<BundleId>) -> Self {
        self.active_bundle_id = bundle_id;
        self
    }
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatAck {
    /// `ok`.
    pub status: String,
    /// The node.
    #[schema(value_type = Uuid)]
    pub node_id: NodeId,
    /// When the control plane heard it.
    #[serde(serialize_with = "whole_seconds")]
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
    /// `blue` or `green`: the slot that the last blue-green rollout gave the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slot: Option<Slot>,
    /// The weight 0 to 100 that the node shall have now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_weight: Option<u8>,
}

impl HeartbeatAck {
    /// The slot and weight that the node shall have; `None` where the answer says nothing about it.
    #[must_use]
    pub fn traffic(&self) -> Option<NodeTraffic> {
        Some(NodeTraffic { slot: self.slot?, weight: self.traffic_weight?.min(100) })
    }
}

/// A poll's answer when there is nothing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoUpdate {
    /// Always true.
    pub no_update: bool,
    /// When to ask again, in seconds.
    pub poll_after_s: u64,
    /// `blue` or `green`: the slot that the last blue-green rollout gave the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slot: Option<Slot>,
    /// The weight 0 to 100 that the node shall have now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_weight: Option<u8>,
}

/// A poll's answer when the node should run another bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BundleOffer {
    /// The bundle to run.
    #[schema(value_type = Uuid)]
    pub bundle_id: BundleId,
    /// What people call it.
    pub version: String,
    /// SHA-256 of the archive, lower-case hexadecimal.
    #[schema(value_type = String)]
    pub checksum: Sha256Digest,
    /// Length of the archive in bytes.
    pub size_bytes: u64,
    /// Where to GET the archive, for a limited time.
    #[schema(value_type = String)]
    pub download_url: Url,
    /// The weight 0 to 100 that the last blue-green rollout gave the node, when there was one.
    pub traffic_weight: Option<u8>,
    /// `blue` or `green`: its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub slot: Option<Slot>,
    /// When to ask again, in seconds.
    pub poll_after_s: u64,
    /// The signed statement (DSSE envelope) that a node checks before it downloads. This control
    /// plane always sends one.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub statement: Option<Envelope>,
    /// Standard base64 of the Ed25519 signature over the archive.
    #[serde(default)]
    pub signature: Option<String>,
    /// The key that made it.
    #[serde(default)]
    pub signing_key_id: Option<String>,
    /// `ed25519`.
    #[serde(default)]
    pub signature_alg: String,
    /// `reload` or `restart`: what activating takes.
    #[serde(default)]
    #[schema(value_type = String)]
    pub activation: Activation,
    /// There where `activation` is `restart` only because nothing is known of what the node runs: a node that
    /// can compare the bundle with what it serves decides by that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
    /// `rollback` when a rollback is in force.
    #[serde(default)]
    pub reason: Option<String>,
    /// The answer's `ETag`, for the next poll; not part of the body.
    #[serde(skip)]
    pub etag: Option<String>,
}

/// Either answer of a poll.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PollAnswer {
    /// Something to run.
    Update(Box<BundleOffer>),
    /// Nothing to do.
    NoUpdate(NoUpdate),
}

/// A node token.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenAnswer {
    /// The JWT.
    #[serde(with = "shown_once")]
    #[schema(value_type = String)]
    pub token: Secret,
    /// `Bearer`.
    pub token_type: String,
    /// When it ends.
    #[serde(serialize_with = "whole_seconds")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Its life in seconds.
    pub expires_in: i64,
}

/// A node's new static key, shown this once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RotatedKey {
    /// The new key.
    #[serde(with = "shown_once")]
    #[schema(value_type = String)]
    pub node_key: Secret,
    /// When the old key stops working.
    #[serde(serialize_with = "whole_seconds")]
    #[schema(value_type = String, format = DateTime)]
    pub old_key_valid_until: Timestamp,
}

/// Something that happened on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeEvent {
    /// `config_reload`, `bundle_switch`, `error`, `startup`, `shutdown`, `warning` or `info`.
    pub event_type: String,
    /// `debug`, `info` (the default), `warn` or `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// For a person.
    pub message: String,
    /// The details.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// When, by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub occurred_at: Option<Timestamp>,
    /// Makes a repeated call add nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// Several events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventsRequest {
    /// At most 1000; stored all or none.
    pub events: Vec<NodeEvent>,
}

/// The answer to reported events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventsAck {
    /// `ok`.
    pub status: String,
    /// How many were accepted.
    pub count: u64,
}

/// The configuration a node runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigRequest {
    /// KDL text, at most 4 MiB.
    pub config_kdl: String,
}

/// The answer to a reported configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigAck {
    /// `ok`.
    pub status: String,
    /// SHA-256 of the text, lower-case hexadecimal.
    #[schema(value_type = String)]
    pub config_hash: Sha256Digest,
    /// Whether the text differs from that of the bundle the node is expected to run; null when
    /// nothing is expected.
    pub content_drift: Option<bool>,
}

/// An item of a batch that was refused; the others were stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rejected {
    /// The list it was in: `metrics`, `request_logs` or `events`.
    pub list: String,
    /// Its place in that list, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub error: String,
}

/// Measurements and single requests. See the contract for the items' fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MetricsRequest {
    /// Rollups per service and period; at most 1000.
    #[schema(value_type = Vec<Object>)]
    pub metrics: Vec<Value>,
    /// Single requests; at most 1000.
    #[schema(value_type = Vec<Object>)]
    pub request_logs: Vec<Value>,
}

/// The answer to measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsAck {
    /// `ok`.
    pub status: String,
    /// How many rollups were accepted.
    pub metrics_ingested: u64,
    /// How many requests were accepted.
    pub logs_ingested: u64,
    /// What was refused, and why.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// Web application firewall events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WafEventsRequest {
    /// At most 1000.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Value>,
}

/// The answer to firewall events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WafEventsAck {
    /// `ok`.
    pub status: String,
    /// How many were accepted.
    pub events_ingested: u64,
    /// What was refused, and why.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// Serialises an instant as the API shows it: UTC, whole seconds, `Z`.
pub(crate) fn whole_seconds<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// What a node tells the control plane alone.
mod told_in_confidence {
    use super::{Deserialize, Deserializer, Secret, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        secret: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::expose).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::from))
    }
}

/// The few answers that carry a credential to its owner.
mod shown_once {
    use super::{Deserialize, Deserializer, Secret, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::from)
    }
}
