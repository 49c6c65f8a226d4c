//! Nodes and groups of nodes.

use super::Time;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{Node, NodeGroup, NodeReport, NodeStatus};
use zentinel_core::id::TypedId;

/// A reverse proxy: what is wanted of it and what it last said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeBody {
    id: Uuid,
    #[schema(example = "edge-1")]
    name: String,
    /// `online`, `offline` or `unknown`.
    #[schema(example = "online")]
    status: &'static str,
    labels: BTreeMap<String, String>,
    capabilities: Vec<String>,
    version: Option<String>,
    ip: Option<String>,
    hostname: Option<String>,
    metadata: Map<String, Value>,
    last_seen_at: Option<Time>,
    registered_at: Time,
    inserted_at: Time,
    active_bundle_id: Option<Uuid>,
    staged_bundle_id: Option<Uuid>,
    expected_bundle_id: Option<Uuid>,
    previous_bundle_id: Option<Uuid>,
    pinned_bundle_id: Option<Uuid>,
    reported_unknown_bundle: Option<Uuid>,
    min_bundle_version: Option<String>,
    max_bundle_version: Option<String>,
    /// Whether it is given no new bundle.
    cordoned: bool,
    environment_id: Option<Uuid>,
    group_ids: Vec<Uuid>,
    rollout_id: Option<Uuid>,
    /// `static_key` or `jwt`.
    auth_method: &'static str,
    /// False until an operator approves a node of an open registration.
    approved: bool,
    /// Whether it runs something else than it should: it has an open drift event.
    drifted: bool,
    /// The last activation that failed: `{bundle_id, reason, message}`.
    bundle_error: Option<Value>,
    health: Map<String, Value>,
    metrics: Map<String, Value>,
}

impl NodeBody {
    /// Joins what is wanted with what was reported, if anything was.
    pub(crate) fn new(node: &Node, report: Option<&NodeReport>, group_ids: Vec<Uuid>, drifted: bool) -> Self {
        let status = report.map_or(NodeStatus::Unknown, |report| report.status);
        let active = report.and_then(|report| report.active_bundle_id);
        let staged = report
            .and_then(|report| report.staged_bundle_id)
            .or(node.target.as_ref().map(|target| target.bundle_id));
        Self {
            id: node.id.uuid(),
            name: node.name.clone(),
            status: status.as_str(),
            labels: node.labels.clone(),
            capabilities: node.capabilities.iter().cloned().collect(),
            version: report.and_then(|report| report.version.clone()),
            ip: report.and_then(|report| report.ip.clone()),
            hostname: report.and_then(|report| report.hostname.clone()),
            metadata: report.map(|report| report.metadata.clone()).unwrap_or_default(),
            last_seen_at: report.and_then(|report| report.last_seen_at).map(Time),
            registered_at: Time(node.registered_at),
            inserted_at: Time(node.created_at),
            active_bundle_id: active.map(TypedId::uuid),
            staged_bundle_id: staged.map(TypedId::uuid),
            expected_bundle_id: node.expected_bundle_id.map(TypedId::uuid),
            previous_bundle_id: node.previous_bundle_id.map(TypedId::uuid),
            pinned_bundle_id: node.pinned_bundle_id.map(TypedId::uuid),
            reported_unknown_bundle: report.and_then(|report| report.reported_unknown_bundle),
            min_bundle_version: node.bounds.as_ref().and_then(|bounds| bounds.min.clone()),
            max_bundle_version: node.bounds.as_ref().and_then(|bounds| bounds.max.clone()),
            cordoned: node.cordoned,
            environment_id: node.environment_id.map(TypedId::uuid),
            group_ids,
            rollout_id: node.rollout_id.map(TypedId::uuid),
            auth_method: report.map_or("static_key", NodeReport::auth_method),
            approved: node.approved,
            drifted,
            bundle_error: report
                .and_then(|report| report.bundle_error.as_ref())
                .and_then(|error| serde_json::to_value(error).ok()),
            health: report.map(|report| report.raw_health.clone()).unwrap_or_default(),
            metrics: report.map(|report| report.raw_metrics.clone()).unwrap_or_default(),
        }
    }
}

/// One node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeOne {
    pub(crate) node: NodeBody,
}

/// A page of nodes, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeList {
    pub(crate) nodes: Vec<NodeBody>,
    /// How many match in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// How many nodes there are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeStats {
    pub(crate) total: u64,
    /// Only statuses that occur.
    #[schema(example = json!({"online": 12, "offline": 1}))]
    pub(crate) by_status: BTreeMap<&'static str, u64>,
}

/// A named set of nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupBody {
    id: Uuid,
    project_id: Uuid,
    #[schema(example = "canaries")]
    name: String,
    description: Option<String>,
    #[schema(example = "#6366f1")]
    color: String,
    /// Its members, where they are named one by one.
    node_ids: Vec<Uuid>,
    /// Its members, where they are those with certain labels.
    #[schema(example = "region=eu,env in (prod)")]
    selector: Option<String>,
    inserted_at: Time,
}

impl From<&NodeGroup> for GroupBody {
    fn from(group: &NodeGroup) -> Self {
        Self {
            id: group.id.uuid(),
            project_id: group.project_id.uuid(),
            name: group.name.clone(),
            description: group.description.clone(),
            color: group.color.clone(),
            node_ids: group.node_ids.iter().map(|id| id.uuid()).collect(),
            selector: group.selector.as_ref().map(ToString::to_string),
            inserted_at: Time(group.created_at),
        }
    }
}

/// One group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupOne {
    pub(crate) node_group: GroupBody,
}

/// A page of groups, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupList {
    pub(crate) node_groups: Vec<GroupBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}
