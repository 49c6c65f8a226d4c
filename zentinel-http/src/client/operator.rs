//! The operator's side of the operator API.

mod drift;
mod governance;
mod groups;
mod nodes;

pub use drift::DriftFilter;
pub use nodes::NodeFilter;

use super::explain::{ExplanationView, RolloutLogView};
use super::transport::{Transport, call};
use super::views::{
    BundleView, CreatedBundle, List, NewBundle, NewRollout, ProjectView, RolloutDetailView, RolloutView,
};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::time::Duration;
use url::Url;
use zentinel_core::entity::{BundleStatus, TargetSelector};
use zentinel_core::id::{BundleId, NodeId, RolloutId};
use zentinel_core::{Error, Kind, Result, Secret};

/// As many items per page as the server gives.
const LIMIT: u32 = 500;
/// First and longest pause between two looks at a bundle that is being compiled.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Reads a credential that the server shows once.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::from)
}

/// Speaks the operator API with an API key. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct OperatorClient {
    transport: Transport,
    api_key: Secret,
}

impl OperatorClient {
    /// A client of the control plane at `base`, which may have a path.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for anything but an HTTP URL, [`Kind::Internal`] when TLS cannot be set up.
    pub fn new(base: Url, api_key: Secret) -> Result<Self> {
        Ok(Self { transport: Transport::new(base)?, api_key })
    }

    fn url(&self, path: &[&str]) -> Result<Url> {
        let mut segments = vec!["api", "v1"];
        segments.extend(path);
        self.transport.url(&segments)
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder> {
        let url = self.url(path)?;
        Ok(self.transport.http.request(method, url).bearer_auth(self.api_key.expose()))
    }

    /// An answer of the form `{"<nouns>": […], "total": n, "next_cursor": …}`.
    async fn list<T: DeserializeOwned>(&self, path: &[&str], cursor: Option<&str>) -> Result<List<T>> {
        self.list_where(path, &[], LIMIT, cursor).await
    }

    /// As [`Self::list`], with further query parameters and another size of pages.
    async fn list_where<T: DeserializeOwned>(
        &self,
        path: &[&str],
        parameters: &[(String, String)],
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<List<T>> {
        let nouns = path.last().map(|segment| segment.replace('-', "_")).unwrap_or_default();
        self.list_as(&nouns, path, parameters, limit, cursor).await
    }

    /// As [`Self::list_where`], where the items have another name than the path.
    async fn list_as<T: DeserializeOwned>(
        &self,
        nouns: &str,
        path: &[&str],
        parameters: &[(String, String)],
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<List<T>> {
        let mut url = self.url(path)?;
        url.query_pairs_mut()
            .append_pair("limit", &limit.to_string())
            .extend_pairs(parameters)
            .extend_pairs(cursor.map(|cursor| ("cursor", cursor)));
        let request = self.transport.http.get(url).bearer_auth(self.api_key.expose());
        let mut answer: Map<String, Value> = call(request).await?;
        let items = answer.remove(nouns).unwrap_or_default();
        Ok(List {
            items: serde_json::from_value(items).map_err(misunderstood)?,
            total: answer.get("total").and_then(Value::as_u64).unwrap_or_default(),
            next_cursor: answer.get("next_cursor").and_then(Value::as_str).map(str::to_owned),
        })
    }

    fn in_project(&self, method: Method, slug: &str, rest: &[&str]) -> Result<RequestBuilder> {
        let mut path = vec!["projects", slug];
        path.extend(rest);
        self.request(method, &path)
    }

    /// One page of the projects that the key may address.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn projects(&self, cursor: Option<&str>) -> Result<List<ProjectView>> {
        self.list(&["projects"], cursor).await
    }

    /// Creates a project.
    ///
    /// # Errors
    /// `Forbidden` without `orgs:admin`, `Invalid` for a name that is taken.
    pub async fn create_project(&self, name: &str) -> Result<ProjectView> {
        let request = self.request(Method::POST, &["projects"])?;
        one(request.json(&json!({ "name": name })), "project").await
    }

    /// Hands in a configuration; it is compiled in the background.
    ///
    /// # Errors
    /// `Invalid` for a version that is taken or a field that is wrong.
    pub async fn create_bundle(&self, project_slug: &str, bundle: &NewBundle) -> Result<CreatedBundle> {
        call(self.in_project(Method::POST, project_slug, &["bundles"])?.json(bundle)).await
    }

    /// One bundle.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn bundle(&self, project_slug: &str, id: BundleId) -> Result<BundleView> {
        let id = id.to_string();
        one(self.in_project(Method::GET, project_slug, &["bundles", &id])?, "bundle").await
    }

    /// One page of the project's bundles, newest first.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn bundles(&self, project_slug: &str, cursor: Option<&str>) -> Result<List<BundleView>> {
        self.list(&["projects", project_slug, "bundles"], cursor).await
    }

    /// Waits until a bundle is compiled.
    ///
    /// # Errors
    /// [`Kind::Invalid`] with the compiler's words when it failed (its diagnostics are in the
    /// details), [`Kind::Timeout`] when it takes longer than `patience`.
    pub async fn wait_until_compiled(
        &self,
        project_slug: &str,
        id: BundleId,
        patience: Duration,
    ) -> Result<BundleView> {
        let waiting = async {
            let (mut pause, longest) = LOOKS;
            loop {
                let bundle = self.bundle(project_slug, id).await?;
                match bundle.status {
                    BundleStatus::Pending | BundleStatus::Compiling => {}
                    BundleStatus::Failed => return Err(failed(&bundle)),
                    BundleStatus::Compiled | BundleStatus::Revoked | BundleStatus::Superseded => {
                        return Ok(bundle);
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        };
        tokio::time::timeout(patience, waiting)
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the bundle is still being compiled")))
    }

    /// Withdraws a bundle.
    ///
    /// # Errors
    /// `Conflict` unless it is compiled.
    pub async fn revoke_bundle(&self, project_slug: &str, id: BundleId) -> Result<BundleView> {
        let id = id.to_string();
        one(self.in_project(Method::POST, project_slug, &["bundles", &id, "revoke"])?, "bundle").await
    }

    /// Hands a bundle to nodes without a rollout; returns how many got it.
    ///
    /// # Errors
    /// `Conflict` unless it is compiled.
    pub async fn assign_bundle(&self, project_slug: &str, id: BundleId, nodes: &[NodeId]) -> Result<u64> {
        #[derive(Deserialize)]
        struct Assigned {
            assigned: u64,
        }
        let id = id.to_string();
        let request = self.in_project(Method::POST, project_slug, &["bundles", &id, "assign"])?;
        let answer: Assigned = call(request.json(&json!({ "node_ids": nodes }))).await?;
        Ok(answer.assigned)
    }

    /// Creates a rollout, and starts it unless told otherwise.
    ///
    /// # Errors
    /// `Conflict` for a bundle that is not compiled, `Invalid` for a field that is wrong.
    pub async fn create_rollout(&self, project_slug: &str, rollout: &NewRollout) -> Result<RolloutView> {
        call(self.in_project(Method::POST, project_slug, &["rollouts"])?.json(rollout)).await
    }

    /// A rollout with its steps and nodes.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn rollout(&self, project_slug: &str, id: RolloutId) -> Result<RolloutDetailView> {
        let id = id.to_string();
        call(self.in_project(Method::GET, project_slug, &["rollouts", &id])?).await
    }

    /// Brings nodes straight back to a bundle that was recently healthy.
    ///
    /// # Errors
    /// `Conflict` when no rollout of it was completed lately, `Invalid` without a reason.
    pub async fn revert_to_bundle(
        &self,
        project_slug: &str,
        id: BundleId,
        selector: Option<&TargetSelector>,
        reason: &str,
    ) -> Result<RolloutView> {
        let id = id.to_string();
        let request = self.in_project(Method::POST, project_slug, &["bundles", &id, "revert"])?;
        call(request.json(&json!({ "target_selector": selector, "reason": reason }))).await
    }

    /// Why a rollout stands where it does.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn explain_rollout(&self, project_slug: &str, id: RolloutId) -> Result<ExplanationView> {
        let id = id.to_string();
        call(self.in_project(Method::GET, project_slug, &["rollouts", &id, "explain"])?).await
    }

    /// One page of a rollout's log, newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn rollout_log(
        &self,
        project_slug: &str,
        id: RolloutId,
        cursor: Option<&str>,
    ) -> Result<List<RolloutLogView>> {
        let id = id.to_string();
        self.list(&["projects", project_slug, "rollouts", &id, "log"], cursor).await
    }

    /// One page of the project's rollouts, newest first.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn rollouts(&self, project_slug: &str, cursor: Option<&str>) -> Result<List<RolloutView>> {
        self.list(&["projects", project_slug, "rollouts"], cursor).await
    }

    /// Steers a rollout: `start`, `pause`, `resume`, `cancel` or `rollback`.
    ///
    /// # Errors
    /// `Conflict` when its state does not allow that.
    pub async fn steer_rollout(
        &self,
        project_slug: &str,
        id: RolloutId,
        command: &str,
    ) -> Result<RolloutView> {
        let id = id.to_string();
        call(self.in_project(Method::POST, project_slug, &["rollouts", &id, command])?).await
    }
}

fn misunderstood(error: serde_json::Error) -> Error {
    Error::internal("the control plane's answer could not be understood").with_source(error)
}

/// An answer of the form `{"<noun>": {…}}`.
async fn one<T: DeserializeOwned>(request: RequestBuilder, noun: &str) -> Result<T> {
    let mut answer: Map<String, Value> = call(request).await?;
    serde_json::from_value(answer.remove(noun).unwrap_or_default()).map_err(misunderstood)
}

fn failed(bundle: &BundleView) -> Error {
    let output = bundle.compiler_output.as_deref().unwrap_or_default().trim();
    let text = format!("bundle {} does not compile: {output}", bundle.version);
    Error::invalid(text).with_details(json!({ "diagnostics": bundle.diagnostics }))
}
