//! The nodes of a project.

mod change;
mod history;
mod hold;
mod read;

use crate::services::Api;
use crate::wire::NodeBody;
use std::collections::BTreeMap;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{Node, NodeGroup, NodeReport};
use zentinel_core::id::{NodeId, TypedId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{RecordKind, Result, Scope, Stored};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(read::list))
        .routes(routes!(read::stats))
        .routes(routes!(read::show, change::update, change::delete))
        .routes(routes!(change::pin))
        .routes(routes!(hold::version_bounds))
        .routes(routes!(hold::cordon))
        .routes(routes!(hold::uncordon))
        .routes(routes!(hold::drain))
        .routes(routes!(change::revoke_key))
        .routes(routes!(change::rotate_key))
        .routes(routes!(history::events))
        .routes(routes!(history::heartbeats))
}

/// Joins nodes with what they last said and with their groups.
pub(super) async fn bodies(api: &Api, scope: &Scope, nodes: &[Stored<Node>]) -> Result<Vec<NodeBody>> {
    let every = api.store.list_all::<NodeGroup>(scope, Query::all(RecordKind::NodeGroup)).await?;
    let reports = reports(api, scope, nodes).await?;
    let drifted = super::drift::drifted(api, scope).await?;
    let body = |node: &Stored<Node>| {
        let groups = every.iter().filter(|group| group.contains(node)).map(|group| group.id.uuid()).collect();
        NodeBody::new(node, reports.get(&node.id), groups, drifted.contains(&node.id))
    };
    Ok(nodes.iter().map(body).collect())
}

/// What nodes last said: from memory, and from the store for nodes that are not there yet.
async fn reports(api: &Api, scope: &Scope, nodes: &[Stored<Node>]) -> Result<BTreeMap<NodeId, NodeReport>> {
    let mut reports: BTreeMap<NodeId, NodeReport> =
        nodes.iter().filter_map(|node| Some((node.id, api.fleet.report(node.id)?))).collect();
    let missing: Vec<NodeId> =
        nodes.iter().map(|node| node.id).filter(|id| !reports.contains_key(id)).collect();
    if !missing.is_empty() {
        let query = Query::all(RecordKind::NodeReport).with_ids(missing);
        for report in api.store.list_all::<NodeReport>(scope, query).await? {
            reports.insert(report.node_id, report.value);
        }
    }
    Ok(reports)
}

/// One node, joined.
async fn body(api: &Api, scope: &Scope, id: NodeId) -> Result<NodeBody> {
    let node = api.store.fetch::<Node>(scope, id).await?;
    let mut bodies = bodies(api, scope, &[node]).await?;
    bodies.pop().ok_or_else(|| zentinel_core::Error::not_found("Node not found"))
}
