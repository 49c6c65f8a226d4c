//! Nodes, their keys and what lets them in.

use super::super::transport::{CALL_TIMEOUT, call, send};
use super::super::views::{
    CreatedRegistrationToken, List, NewRegistrationToken, NodeView, RegistrationTokenView, ReportedView,
};
use super::{LIMIT, OperatorClient, one};
use crate::node::wire::RotatedKey;
use reqwest::Method;
use std::collections::BTreeMap;
use zentinel_core::Result;
use zentinel_core::entity::NodeStatus;
use zentinel_core::id::{NodeId, RegistrationTokenId};

/// Which nodes to list; every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFilter {
    /// The one of that name.
    pub name: Option<String>,
    /// Those of that status.
    pub status: Option<NodeStatus>,
    /// Those that have all of these labels.
    pub labels: BTreeMap<String, String>,
}

impl NodeFilter {
    fn parameters(&self) -> Vec<(String, String)> {
        let name = self.name.iter().map(|name| ("name".to_owned(), name.clone()));
        let status = self.status.iter().map(|status| ("status".to_owned(), status.as_str().to_owned()));
        let labels = self.labels.iter().map(|(key, value)| (format!("labels[{key}]"), value.clone()));
        name.chain(status).chain(labels).collect()
    }
}

impl OperatorClient {
    /// One page of the project's nodes, by name.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn nodes(&self, project_slug: &str, cursor: Option<&str>) -> Result<List<NodeView>> {
        self.list(&["projects", project_slug, "nodes"], cursor).await
    }

    /// One node.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn node(&self, project_slug: &str, id: NodeId) -> Result<NodeView> {
        let id = id.to_string();
        one(self.in_project(Method::GET, project_slug, &["nodes", &id])?, "node").await
    }

    /// Deletes a node; its credentials end at once.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_node(&self, project_slug: &str, id: NodeId) -> Result<()> {
        let id = id.to_string();
        let request = self.in_project(Method::DELETE, project_slug, &["nodes", &id])?;
        send(request.timeout(CALL_TIMEOUT)).await.map(drop)
    }

    /// One page of the nodes that a filter lets through, by name.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn nodes_where(
        &self,
        project_slug: &str,
        filter: &NodeFilter,
        cursor: Option<&str>,
    ) -> Result<List<NodeView>> {
        self.list_where(&["projects", project_slug, "nodes"], &filter.parameters(), LIMIT, cursor).await
    }

    /// What a node last reported, newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn node_events(
        &self,
        project_slug: &str,
        id: NodeId,
        limit: u32,
    ) -> Result<List<ReportedView>> {
        let id = id.to_string();
        let path = ["projects", project_slug, "nodes", &id, "events"];
        self.list_where(&path, &[], limit, None).await
    }

    /// A node's last heartbeats, newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn node_heartbeats(
        &self,
        project_slug: &str,
        id: NodeId,
        limit: u32,
    ) -> Result<List<ReportedView>> {
        let id = id.to_string();
        let path = ["projects", project_slug, "nodes", &id, "heartbeats"];
        self.list_where(&path, &[], limit, None).await
    }

    /// Replaces a node's key. The new one is shown this once; the old one works for another 300 seconds.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn rotate_node_key(&self, project_slug: &str, id: NodeId) -> Result<RotatedKey> {
        let id = id.to_string();
        call(self.in_project(Method::POST, project_slug, &["nodes", &id, "rotate-key"])?).await
    }

    /// Ends a node's key and its tokens at once.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn revoke_node_key(&self, project_slug: &str, id: NodeId) -> Result<NodeView> {
        let id = id.to_string();
        one(self.in_project(Method::POST, project_slug, &["nodes", &id, "revoke-key"])?, "node").await
    }

    /// Issues a registration token.
    ///
    /// # Errors
    /// `Invalid` for a field that is wrong.
    pub async fn create_registration_token(
        &self,
        project_slug: &str,
        token: &NewRegistrationToken,
    ) -> Result<CreatedRegistrationToken> {
        let request = self.in_project(Method::POST, project_slug, &["registration-tokens"])?;
        one(request.json(token), "registration_token").await
    }

    /// One page of the project's registration tokens, newest first.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn registration_tokens(
        &self,
        project_slug: &str,
        cursor: Option<&str>,
    ) -> Result<List<RegistrationTokenView>> {
        self.list(&["projects", project_slug, "registration-tokens"], cursor).await
    }

    /// Ends a registration token; nodes that used it stay.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn revoke_registration_token(
        &self,
        project_slug: &str,
        id: RegistrationTokenId,
    ) -> Result<RegistrationTokenView> {
        let id = id.to_string();
        let path = ["registration-tokens", &id, "revoke"];
        one(self.in_project(Method::POST, project_slug, &path)?, "registration_token").await
    }
}
