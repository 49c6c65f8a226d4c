//! The public keys that bundles and statements of a project are signed with.

use super::auth::{self, AnyKey, InProject};
use crate::error::{ApiError, ApiResult};
use crate::extract::path_param;
use crate::services::Api;
use crate::wire::{Json, Refusals};
use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::Project;
use zentinel_core::port::{PublicKey, StoreExt};
use zentinel_core::{Error, Result, Scope};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show))
}

/// A public Ed25519 key.
#[derive(Debug, Serialize, ToSchema)]
struct KeyBody {
    /// `kid` in tokens, `keyid` in statements.
    #[schema(example = "sk_3q2-7wABAgMEBQYHCAkKCw")]
    key_id: String,
    #[schema(example = "ed25519")]
    algorithm: String,
    /// Standard base64 of the 32 bytes.
    public_key: String,
    active: bool,
}

impl From<&PublicKey> for KeyBody {
    fn from(key: &PublicKey) -> Self {
        Self {
            key_id: key.key_id.clone(),
            algorithm: key.algorithm.clone(),
            public_key: key.public_key.clone(),
            active: key.active,
        }
    }
}

/// The key that signs, and every key whose signatures are accepted.
#[derive(Debug, Serialize, ToSchema)]
struct KeysBody {
    /// Null until something was signed.
    signing_key: Option<KeyBody>,
    /// Newest first.
    signing_keys: Vec<KeyBody>,
}

/// The organisation whose keys the caller may see: that of an API key, or of a node of the project.
#[derive(Debug)]
struct Reader(Scope);

impl FromRequestParts<Api> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> ApiResult<Self> {
        let node_key = parts.headers.get("x-zentinel-node-key");
        let node_key = node_key.and_then(|value| value.to_str().ok());
        match (auth::bearer(&parts.headers), node_key) {
            (None, Some(key)) => {
                let hash = CredentialHash::of(key);
                let slug = path_param(parts, api, "project_slug").await?;
                Ok(Self(node_scope(api, parts, &hash, &slug).await?))
            }
            _ => {
                let at = InProject::<AnyKey>::from_request_parts(parts, api).await?;
                Ok(Self(Scope::Organisation(at.project.organisation_id)))
            }
        }
    }
}

async fn node_scope(api: &Api, parts: &Parts, hash: &CredentialHash, slug: &str) -> ApiResult<Scope> {
    let node = api.fleet.authenticate(hash).and_then(|id| api.fleet.snapshot(id));
    let node = node
        .ok_or_else(|| Error::unauthenticated("Invalid node key"))?
        .node;
    let bucket = format!("node:{}", node.id);
    api.limit(&parts.extensions, &bucket, api.options.rate_limits.node, 1)?;
    let project = api.store.find::<Project>(&node.scope(), node.project_id).await?;
    let its = project.filter(|project| project.slug.as_str() == slug);
    its.map(|project| Scope::Organisation(project.organisation_id))
        .ok_or_else(|| Error::not_found("Project not found").into())
}

/// Get the public signing keys
///
/// For operators with any key and for the project's nodes (`X-Zentinel-Node-Key`).
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/signing-key", tag = "Signing keys",
    params(("project_slug" = String, Path)),
    responses((status = 200, body = KeysBody), Refusals), security(("api_key" = []), ("node_key" = [])),
)]
async fn show(State(api): State<Api>, Reader(scope): Reader) -> ApiResult<Json<KeysBody>> {
    let keys: Result<Vec<PublicKey>> = api.signer.public_keys(&scope).await;
    let signing_keys: Vec<KeyBody> = keys?.iter().map(KeyBody::from).collect();
    Ok(Json(KeysBody {
        signing_key: signing_keys.first().map(copy),
        signing_keys,
    }))
}

fn copy(key: &KeyBody) -> KeyBody {
    KeyBody {
        key_id: key.key_id.clone(),
        algorithm: key.algorithm.clone(),
        public_key: key.public_key.clone(),
        active: key.active,
    }
}
