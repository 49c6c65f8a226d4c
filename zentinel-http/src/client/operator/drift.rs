//! Drift events.

use super::super::transport::{CALL_TIMEOUT, call, send};
use super::super::views::{DriftStatsView, DriftView, List};
use super::{LIMIT, OperatorClient, one};
use reqwest::Method;
use serde::Deserialize;
use zentinel_core::id::{DriftEventId, NodeId};
use zentinel_core::{Error, Kind, Result};

/// Which drift events; every given condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriftFilter {
    /// `active` or `resolved` ones.
    pub status: Option<String>,
    /// Those of this node.
    pub node_id: Option<NodeId>,
}

impl OperatorClient {
    /// One page of drift events, newest first.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn drift_events(
        &self,
        project_slug: &str,
        filter: &DriftFilter,
        cursor: Option<&str>,
    ) -> Result<List<DriftView>> {
        let status = filter.status.iter().map(|status| ("status".to_owned(), status.clone()));
        let node = filter.node_id.iter().map(|id| ("node_id".to_owned(), id.to_string()));
        let parameters: Vec<(String, String)> = status.chain(node).collect();
        self.list_as("drift_events", &["projects", project_slug, "drift"], &parameters, LIMIT, cursor).await
    }

    /// One drift event.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn drift_event(&self, project_slug: &str, id: DriftEventId) -> Result<DriftView> {
        let id = id.to_string();
        one(self.in_project(Method::GET, project_slug, &["drift", &id])?, "drift_event").await
    }

    /// How many nodes drifted.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn drift_stats(&self, project_slug: &str) -> Result<DriftStatsView> {
        call(self.in_project(Method::GET, project_slug, &["drift", "stats"])?).await
    }

    /// Closes a drift event.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is closed already.
    pub async fn resolve_drift(&self, project_slug: &str, id: DriftEventId) -> Result<DriftView> {
        let id = id.to_string();
        one(self.in_project(Method::POST, project_slug, &["drift", &id, "resolve"])?, "drift_event").await
    }

    /// Closes every open drift event; answers how many.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn resolve_all_drift(&self, project_slug: &str) -> Result<u64> {
        #[derive(Deserialize)]
        struct Resolved {
            resolved_count: u64,
        }
        let request = self.in_project(Method::POST, project_slug, &["drift", "resolve-all"])?;
        Ok(call::<Resolved>(request).await?.resolved_count)
    }

    /// Every drift event as a file, piece by piece.
    ///
    /// # Errors
    /// Those of every call and of `write`; an answer that breaks off is `Unavailable`.
    pub async fn export_drift(
        &self,
        project_slug: &str,
        parameters: &[(&str, String)],
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut url = self.url(&["projects", project_slug, "drift", "export"])?;
        url.query_pairs_mut().extend_pairs(parameters);
        let request = self.transport.http.get(url).bearer_auth(self.api_key.expose());
        let mut answer = send(request.timeout(CALL_TIMEOUT * 10)).await?;
        let broke = |error| Error::new(Kind::Unavailable, "the export broke off").with_source(error);
        while let Some(piece) = answer.chunk().await.map_err(broke)? {
            write(&piece)?;
        }
        Ok(())
    }
}
