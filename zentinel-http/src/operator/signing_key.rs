//! The public keys that bundles and statements of a project are signed with.

use super::auth::{self, AnyKey, InProject};
use crate::error::{ApiError, ApiResult};
use crate::extract::path_param;
use crate::limits::Bucket;
use crate::node;
use crate::services::Api;
use crate::token;
use crate::wire::{Json, Refusals};
use axum::extract::{FromRequestParts, State};
use http::request::Parts;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::Project;
use zentinel_core::port::{PublicKey, StoreExt};
use zentinel_core::{Error, Result, Scope};
use zentinel_rollout::fleet::KnownNode;

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
        let bearer = auth::bearer(&parts.headers).map(str::to_owned);
        let node_key = parts.headers.get("x-zentinel-node-key");
        let node_key = node_key.and_then(|value| value.to_str().ok());
        let node = match (bearer, node_key) {
            // API keys hold no dots.
            (Some(token), _) if token.contains('.') => node_of_token(parts, api, &token).await?,
            (None, Some(key)) => node_of_key(parts, api, key).await?,
            _ => {
                let at = InProject::<AnyKey>::from_request_parts(parts, api).await?;
                return Ok(Self(Scope::Organisation(at.project.organisation_id)));
            }
        };
        api.limit(&parts.extensions, Bucket::Node(node.id), api.options.rate_limits.node, 1)?;
        let slug = path_param(parts, api, "project_slug").await?;
        let project = api.store.find::<Project>(&node.scope(), node.project_id).await?;
        project
            .filter(|project| project.slug.as_str() == slug)
            .map(|project| Self(Scope::Organisation(project.organisation_id)))
            .ok_or_else(|| Error::not_found("Project not found").into())
    }
}

async fn node_of_key(parts: &Parts, api: &Api, key: &str) -> ApiResult<Arc<KnownNode>> {
    let known = node::auth::by_key(parts, api, &CredentialHash::of(key)).await?;
    Ok(known.ok_or_else(|| Error::unauthenticated("Invalid node key"))?)
}

async fn node_of_token(parts: &Parts, api: &Api, token: &str) -> ApiResult<Arc<KnownNode>> {
    let claims = token::verify(token, &*api.signer, &*api.store, api.now()).await;
    if claims.as_ref().is_err_and(token::is_guess) {
        auth::count_guess(parts, api)?;
    }
    let claims = claims?;
    let known = node::auth::by_id(api, claims.sub).await?;
    let node = known.ok_or_else(|| Error::unauthenticated("Node not found"))?;
    token::check_node(&claims, &node)?;
    Ok(node)
}

/// Get the public signing keys
///
/// For operators with any key and for the project's nodes, by key or token.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/signing-key", tag = "Signing keys",
    params(("project_slug" = String, Path)),
    responses((status = 200, body = KeysBody), Refusals), security(("api_key" = []), ("node_key" = []), ("node_token" = [])),
)]
async fn show(State(api): State<Api>, Reader(scope): Reader) -> ApiResult<Json<KeysBody>> {
    let keys: Result<Vec<PublicKey>> = api.signer.public_keys(&scope).await;
    let signing_keys: Vec<KeyBody> = keys?.iter().map(KeyBody::from).collect();
    Ok(Json(KeysBody { signing_key: signing_keys.first().map(copy), signing_keys }))
}

fn copy(key: &KeyBody) -> KeyBody {
    KeyBody {
        key_id: key.key_id.clone(),
        algorithm: key.algorithm.clone(),
        public_key: key.public_key.clone(),
        active: key.active,
    }
}
