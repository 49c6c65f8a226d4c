//! Which node calls.
//!
//! A bearer token takes precedence over the static key. Either must belong to the node that the
//! path names.

use super::memory::{Memory, Shared};
use super::wire::NODE_KEY_HEADER;
use crate::error::{ApiError, ApiResult};
use crate::extract::{parse_id, path_param};
use crate::limits::Bucket;
use crate::operator::auth::{bearer, count_guess};
use crate::services::Api;
use crate::token::{self, Claims};
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::sync::Arc;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::Node;
use zentinel_core::id::NodeId;
use zentinel_core::port::StoreExt;
use zentinel_core::{Error, Kind, Result, Sha256Digest, Timestamp};
use zentinel_rollout::fleet::KnownNode;

const MISSING: &str =
    "Missing authentication. Provide Authorization: Bearer <token> or X-Zentinel-Node-Key header.";

/// What a node showed.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Its static key, by digest.
    Key(CredentialHash),
    /// A token.
    Token(Arc<Claims>),
}

impl Proof {
    /// Demands that a node accepts what was shown.
    ///
    /// # Errors
    /// 401 with the contract's texts.
    pub(super) fn check(&self, node: &Node, now: Timestamp) -> Result<()> {
        match self {
            Self::Key(hash) if node.key_hash.matches(hash) || node.accepts_retired_key(hash, now) => Ok(()),
            Self::Key(_) => Err(unknown_key()),
            Self::Token(claims) => token::check_node(claims, &node.clone().into()),
        }
    }
}

fn unknown_key() -> Error {
    Error::unauthenticated("Invalid node key")
}

/// An authenticated node.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What is wanted of it.
    pub(super) node: Arc<KnownNode>,
    /// What it showed.
    pub(super) proof: Proof,
    /// The router's memory.
    pub(super) memory: Arc<Memory>,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> ApiResult<Self> {
        let Shared(memory) = Shared::of(parts)?;
        memory.catch_up(api);
        let (node, proof) = match bearer(&parts.headers) {
            Some(token) => by_token(parts, api, &memory, token).await?,
            None => by_header(parts, api).await?,
        };
        let text = path_param(parts, api, "node_id").await?;
        let named: NodeId = parse_id(&text).ok_or_else(|| Error::not_found("Node not found"))?;
        if named != node.id {
            return Err(Error::forbidden("Node id mismatch").into());
        }
        api.limit(&parts.extensions, Bucket::Node(named), api.options.rate_limits.node, 1)?;
        Ok(Self { node, proof, memory })
    }
}

async fn by_header(parts: &Parts, api: &Api) -> ApiResult<(Arc<KnownNode>, Proof)> {
    let key = parts.headers.get(NODE_KEY_HEADER).ok_or_else(|| Error::unauthenticated(MISSING))?;
    let hash = CredentialHash::of(key.to_str().map_err(|_| unknown_key())?);
    let node = by_key(parts, api, &hash).await?.ok_or_else(unknown_key)?;
    Ok((node, Proof::Key(hash)))
}

async fn by_token(
    parts: &Parts,
    api: &Api,
    memory: &Memory,
    raw: &str,
) -> ApiResult<(Arc<KnownNode>, Proof)> {
    let now = api.now();
    let digest = Sha256Digest::of(raw.as_bytes());
    let claims = match memory.verified(&digest, now) {
        Some(claims) if claims.exp > now.timestamp() => claims,
        Some(_) => {
            memory.drop_token(&digest);
            return Err(Error::unauthenticated("Token expired").into());
        }
        None => {
            let generation = memory.key_generation();
            let verified = verify(api, memory, raw, generation).await;
            if verified.as_ref().is_err_and(token::is_guess) {
                count_guess(parts, api)?;
            }
            let claims = Arc::new(verified?);
            memory.remember(digest, Arc::clone(&claims), generation, now);
            claims
        }
    };
    let node = by_id(api, claims.sub).await?.ok_or_else(|| Error::unauthenticated("Node not found"))?;
    token::check_node(&claims, &node)?;
    Ok((node, Proof::Token(claims)))
}

/// As [`token::verify`], but asks the store once for each key and not once for each token.
async fn verify(api: &Api, memory: &Memory, raw: &str, generation: u64) -> Result<Claims> {
    let claims = token::verify_signature(raw, &*api.signer, api.now()).await?;
    let tenancy = memory.tenancy(api, &claims.kid, generation).await?;
    token::check_tenancy(tenancy, &claims)?;
    Ok(claims)
}

/// The node from memory; from the store when another replica has just let it in.
///
/// # Errors
/// 503 while the fleet is being restored; those of the store.
pub(crate) async fn by_id(api: &Api, id: NodeId) -> ApiResult<Option<Arc<KnownNode>>> {
    if let Some(known) = api.fleet.node(id) {
        return Ok(Some(known));
    }
    let _turn = api.single_read().await?;
    if api.fleet.node(id).is_none() {
        api.fleet.refresh(&[id]).await?;
    }
    Ok(api.fleet.node(id))
}

/// The node with a static key from memory; from the store when another replica may have issued it a
/// moment ago.
///
/// # Errors
/// 503 while the fleet is being restored; 429 for an address that keeps guessing; those of the store.
pub(crate) async fn by_key(
    parts: &Parts,
    api: &Api,
    key: &CredentialHash,
) -> ApiResult<Option<Arc<KnownNode>>> {
    let known = || api.fleet.authenticate(key);
    if let Some(known) = known() {
        return Ok(Some(known));
    }
    let _turn = api.single_read().await?;
    if let Some(known) = known() {
        return Ok(Some(known));
    }
    // While the fleet is being restored, nobody can be told from a guess without a query.
    if api.fleet.is_restored() {
        count_guess(parts, api)?;
    }
    let Some(node) = api.store.find_by_key::<Node>(&key.text()).await? else { return Ok(None) };
    api.fleet.refresh(&[node.id]).await?;
    Ok(known())
}

/// A node that was deleted while it was served.
pub(super) fn gone(error: Error) -> Error {
    if error.kind() == Kind::NotFound { Error::unauthenticated("Node not found") } else { error }
}
