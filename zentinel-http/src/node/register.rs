//! Registration: a proxy becomes a node.

use super::batch::{object, object_holds_nul};
use super::credentials::public_keys;
use super::enrol::{Permit, permit};
use super::joining::{admit, join};
use super::memory::Shared;
use super::wire::Registered;
use crate::error::ApiResult;
use crate::extract::{ClientIp, Field, path_param};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::extract::{Request, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;
use zentinel_core::Result;
use zentinel_core::entity::Registration;
use zentinel_core::error::Checks;

/// Largest registration in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// What a node says when it registers.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct RegisterInput {
    /// Unique in the project: alphanumeric first, then also `_`, `.`, `-`.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "edge-1", required = true)]
    #[serde(default)]
    name: Field<String>,
    /// For selectors; at most 64. Labels of the registration token win.
    #[schema(value_type = Option<BTreeMap<String, String>>, example = json!({"region": "eu"}))]
    #[serde(default)]
    labels: Field<BTreeMap<String, String>>,
    /// What the node can do; at most 64.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default)]
    capabilities: Field<BTreeSet<String>>,
    /// Version of the proxy.
    #[schema(value_type = Option<String>, max_length = 255)]
    #[serde(default)]
    version: Field<String>,
    /// The node's address; the caller's when absent.
    #[schema(value_type = Option<String>, max_length = 255)]
    #[serde(default)]
    ip: Field<String>,
    /// The node's host name.
    #[schema(value_type = Option<String>, max_length = 255)]
    #[serde(default)]
    hostname: Field<String>,
    /// Anything else.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    metadata: Field<Map<String, Value>>,
    /// What lets the node in, unless a header carries it.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    registration_token: Field<String>,
}

/// Register a node
///
/// Needs a registration token (`Authorization: Bearer`, `X-Zentinel-Join-Token` or the field
/// `registration_token`) or an API key with `nodes:write`. Where a project allows it, a node may
/// come without; it then gets nothing until an operator approves it.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/register", tag = "Node API",
    params(("project_slug" = String, Path), ("X-Zentinel-Join-Token" = Option<String>, Header)),
    request_body = RegisterInput,
    responses((status = 201, body = Registered), ChangeRefusals),
    security((), ("api_key" = ["nodes:write"])),
)]
pub(super) async fn register(
    State(api): State<Api>,
    Shared(memory): Shared,
    request: Request,
) -> ApiResult<(StatusCode, Json<Registered>)> {
    let (mut parts, body) = request.into_parts();
    let client = ClientIp::of_parts(&parts, &api);
    let bucket = format!("register:{}", client.subscriber());
    api.limit(&parts.extensions, bucket, api.options.rate_limits.registration, 1)?;
    let slug = path_param(&mut parts, &api, "project_slug").await?;
    let (incoming, check_nul) = object::<RegisterInput>(body, MAX_BYTES).await?;
    let (registration, token) = incoming.check(check_nul, client);
    let permit = permit(&api, &parts, &slug, token.as_deref()).await?;
    let registration = registration?;
    registration.check()?;
    // Before the commit: a node that is in must not be told otherwise.
    let signing_keys = public_keys(&*api.signer, permit.organisation()).await?;
    let (node, _, key) = match permit {
        Permit::Token(token) => join(&api, &memory, &token, registration).await?,
        Permit::Key(key, project) => {
            let scope = (project.organisation_id, project.id);
            let origin = json!({"api_key_id": key});
            admit(&api, scope, &registration, true, &origin).await?
        }
        Permit::Open(project) => {
            let scope = (project.organisation_id, project.id);
            admit(&api, scope, &registration, false, &json!({"open": true})).await?
        }
    };
    let registered = Registered {
        node_id: node.id,
        node_key: key,
        poll_interval_s: api.options.poll_interval.as_secs(),
        project_id: node.project_id,
        signing_keys,
    };
    Ok((StatusCode::CREATED, Json(registered)))
}

impl RegisterInput {
    /// The registration, or what is wrong with it; and the token, which is looked at first.
    fn check(self, check_nul: bool, client: ClientIp) -> (Result<Registration>, Option<String>) {
        let mut checks = Checks::new();
        let token = self.registration_token.optional("registration_token", &mut checks);
        let metadata = self.metadata.optional("metadata", &mut checks).unwrap_or_default();
        checks.that("metadata", !check_nul || !object_holds_nul(&metadata), "is invalid");
        let given_ip = self.ip.optional("ip", &mut checks);
        let registration = Registration {
            name: self.name.required("name", &mut checks).unwrap_or_default(),
            labels: self.labels.optional("labels", &mut checks).unwrap_or_default(),
            capabilities: self.capabilities.optional("capabilities", &mut checks).unwrap_or_default(),
            version: self.version.optional("version", &mut checks),
            ip: given_ip.or_else(|| client.0.map(|address| address.to_string())),
            hostname: self.hostname.optional("hostname", &mut checks),
            metadata,
        };
        (checks.finish().map(|()| registration), token)
    }
}
