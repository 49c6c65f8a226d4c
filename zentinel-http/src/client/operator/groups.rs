//! Groups of nodes, and nodes that are held back.

use super::super::transport::{CALL_TIMEOUT, send};
use super::super::views::{GroupView, List, NodeView};
use super::{LIMIT, OperatorClient, one};
use reqwest::Method;
use serde_json::{Value, json};
use zentinel_core::Result;
use zentinel_core::id::{BundleId, GroupId, NodeId};

impl OperatorClient {
    /// One page of the project's node groups, by name.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn node_groups(&self, project_slug: &str, cursor: Option<&str>) -> Result<List<GroupView>> {
        self.list(&["projects", project_slug, "node-groups"], cursor).await
    }

    /// Creates a node group out of its fields.
    ///
    /// # Errors
    /// `Invalid` for a field that is wrong.
    pub async fn create_node_group(&self, project_slug: &str, fields: &Value) -> Result<GroupView> {
        one(self.in_project(Method::POST, project_slug, &["node-groups"])?.json(fields), "node_group").await
    }

    /// Changes the given fields of a node group.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a field that is wrong.
    pub async fn update_node_group(
        &self,
        project_slug: &str,
        id: GroupId,
        fields: &Value,
    ) -> Result<GroupView> {
        let id = id.to_string();
        let request = self.in_project(Method::PATCH, project_slug, &["node-groups", &id])?;
        one(request.json(fields), "node_group").await
    }

    /// Names the members of a group one by one.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for a group with a selector.
    pub async fn set_group_nodes(
        &self,
        project_slug: &str,
        id: GroupId,
        nodes: &[NodeId],
    ) -> Result<GroupView> {
        let id = id.to_string();
        let request = self.in_project(Method::PUT, project_slug, &["node-groups", &id, "nodes"])?;
        one(request.json(&json!({ "node_ids": nodes })), "node_group").await
    }

    /// One page of the nodes that belong to a group now, by name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn group_nodes(
        &self,
        project_slug: &str,
        id: GroupId,
        cursor: Option<&str>,
    ) -> Result<List<NodeView>> {
        let id = id.to_string();
        let path = ["projects", project_slug, "node-groups", &id, "nodes"];
        self.list_where(&path, &[], LIMIT, cursor).await
    }

    /// Deletes a node group.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while a rollout or a template needs it.
    pub async fn delete_node_group(&self, project_slug: &str, id: GroupId) -> Result<()> {
        let id = id.to_string();
        let request = self.in_project(Method::DELETE, project_slug, &["node-groups", &id])?;
        send(request.timeout(CALL_TIMEOUT)).await.map(drop)
    }

    /// Holds a node back or lets it go: `cordon`, `uncordon` or `drain`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn hold_node(&self, project_slug: &str, id: NodeId, command: &str) -> Result<NodeView> {
        let id = id.to_string();
        one(self.in_project(Method::POST, project_slug, &["nodes", &id, command])?, "node").await
    }

    /// Pins a node to a bundle, or takes the pin off.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a bundle that the project does not have.
    pub async fn pin_node(
        &self,
        project_slug: &str,
        id: NodeId,
        bundle: Option<BundleId>,
    ) -> Result<NodeView> {
        let id = id.to_string();
        let request = self.in_project(Method::PUT, project_slug, &["nodes", &id, "pin"])?;
        one(request.json(&json!({ "bundle_id": bundle })), "node").await
    }

    /// Bounds the versions of bundles that a node may be given.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for what is no version.
    pub async fn bound_node(
        &self,
        project_slug: &str,
        id: NodeId,
        min: Option<&str>,
        max: Option<&str>,
    ) -> Result<NodeView> {
        let id = id.to_string();
        let request = self.in_project(Method::PUT, project_slug, &["nodes", &id, "version-bounds"])?;
        one(request.json(&json!({ "min": min, "max": max })), "node").await
    }
}
