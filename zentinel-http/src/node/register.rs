//! Registration: a proxy becomes a node.

use super::batch::{object, object_holds_nul};
use super::credentials::public_keys;
use super::enrol::{Permit, permit, required};
use super::joining::{admit, join};
use super::memory::{Memory, Shared};
use super::repeat::{self, Applicant};
use super::wire::Registered;
use crate::error::ApiResult;
use crate::extract::{ClientIp, Field, path_param};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::extract::{Request, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;
use zentinel_core::entity::{Node, Registration};
use zentinel_core::error::Checks;
use zentinel_core::{Result, Secret};

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
    /// Random, drawn by the node before its first try and known to it alone; at least 32 bytes as
    /// base64url. With it, a registration whose answer was lost can be repeated.
    #[schema(value_type = Option<String>, min_length = 43, max_length = 255, format = Password)]
    #[serde(default)]
    registration_secret: Field<String>,
}

/// Register a node
///
/// Needs a registration token (`Authorization: Bearer`, `X-Zentinel-Join-Token` or the field
/// `registration_token`) or an API key with `nodes:write`. Where a project allows it, a node may
/// come without; it then gets nothing until an operator approves it.
///
/// A node that sent a `registration_secret` and never saw the answer sends the same request again
/// and gets the same answer, with status 200: the same node, the same key, no further use of the
/// token, which may be used up or have ended since. This holds until the node's key is replaced or
/// revoked, or the token is. With another secret, or none, the name is taken.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/register", tag = "Node API",
    params(("project_slug" = String, Path), ("X-Zentinel-Join-Token" = Option<String>, Header)),
    request_body = RegisterInput,
    responses(
        (status = 201, body = Registered),
        (status = 200, body = Registered, description = "Registered before with the same secret"),
        ChangeRefusals,
    ),
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
    let (applicant, token) = incoming.check(check_nul, client);
    let permit = permit(&api, &parts, &slug, token.as_deref()).await?;
    let checked = applicant.and_then(|applicant| applicant.registration.check().map(|()| applicant));
    let applicant = match &permit {
        Permit::Spent(_) => checked.map_err(|_| required())?,
        _ => checked?,
    };
    // Before the commit: a node that is in must not be told otherwise.
    let signing_keys = public_keys(&*api.signer, permit.organisation()).await?;
    let (status, (node, key)) = match admitted(&api, &memory, &permit, &applicant).await {
        Ok(admitted) => (StatusCode::CREATED, admitted),
        Err(refusal) => {
            let again = applicant.again(&api, &permit.scope(), &permit.origin(), refusal).await?;
            (StatusCode::OK, again)
        }
    };
    let registered = Registered {
        node_id: node.id,
        node_key: key,
        poll_interval_s: api.options.poll_interval.as_secs(),
        project_id: node.project_id,
        signing_keys,
    };
    Ok((status, Json(registered)))
}

/// Lets a new node in.
async fn admitted(
    api: &Api,
    memory: &Memory,
    permit: &Permit,
    applicant: &Applicant,
) -> Result<(Node, Secret)> {
    let (project, approved) = match permit {
        Permit::Token(token) => {
            let (node, _, key) = join(api, memory, token, applicant.clone()).await?;
            return Ok((node, key));
        }
        Permit::Spent(_) => return Err(required()),
        Permit::Key(_, project) => (project, true),
        Permit::Open(project) => (project, false),
    };
    let ids = (project.organisation_id, project.id);
    let (node, _, key) = admit(api, ids, applicant, approved, &permit.origin()).await?;
    Ok((node, key))
}

impl RegisterInput {
    /// Who wants to register, or what is wrong with it; and the token, which is looked at first.
    fn check(self, check_nul: bool, client: ClientIp) -> (Result<Applicant>, Option<String>) {
        let mut checks = Checks::new();
        let token = self.registration_token.optional("registration_token", &mut checks);
        let metadata = self.metadata.optional("metadata", &mut checks).unwrap_or_default();
        checks.that("metadata", !check_nul || !object_holds_nul(&metadata), "is invalid");
        let secret = self.registration_secret.optional("registration_secret", &mut checks);
        if let Some(secret) = &secret {
            repeat::check(secret, &mut checks);
        }
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
        let applicant = Applicant { registration, secret: secret.map(Secret::new) };
        (checks.finish().map(|()| applicant), token)
    }
}
