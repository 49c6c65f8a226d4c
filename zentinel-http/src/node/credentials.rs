//! A node's own credentials, and the keys it trusts.

use super::auth::{Caller, Proof};
use super::wire::{RotatedKey, SigningKeys, TokenAnswer};
use crate::error::ApiResult;
use crate::services::Api;
use crate::token::{self, FAILED};
use crate::wire::{ChangeRefusals, Json, Refusals};
use axum::extract::State;
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{AuditEntry, Node, NodeToken};
use zentinel_core::id::OrganisationId;
use zentinel_core::port::{PublicKey, Signer, StoreExt};
use zentinel_core::{Actor, Changes, Error, Kind, Result, Scope, Stored};

/// How often a lost race for the node's record is run again.
const RACES: usize = 6;

/// Exchange a credential for a token
///
/// The static key always gets one. A token renews itself for at most 30 days after the last
/// exchange of the static key.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/token", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)),
    responses((status = 200, body = TokenAnswer), ChangeRefusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn token(State(api): State<Api>, caller: Caller) -> ApiResult<Json<TokenAnswer>> {
    let now = api.now();
    let chain = match &caller.proof {
        Proof::Key(_) => now.timestamp(),
        Proof::Token(claims) if claims.may_renew(now) => claims.chn,
        Proof::Token(_) => {
            let text = format!("{FAILED}: the token was renewed for 30 days; exchange the node key");
            return Err(Error::unauthenticated(text).into());
        }
    };
    let mut race = 0;
    let issued = loop {
        let read = proven(&api, &caller).await?;
        let issued = token::issue(&*api.signer, &read, chain, api.now(), api.options.token_ttl).await?;
        // No token for a credential that is revoked meanwhile.
        if commit(&api, Changes::new().check(&read), &mut race).await? {
            break issued;
        }
    };
    let times = NodeToken { issued_at: issued.issued_at, expires_at: issued.expires_at };
    api.fleet.note_token(caller.node.id, times);
    Ok(Json(TokenAnswer {
        expires_in: issued.claims.exp - issued.claims.iat,
        token: issued.token,
        token_type: "Bearer".to_owned(),
        expires_at: issued.expires_at,
    }))
}

/// Replace the static key
///
/// The old key works for another 300 seconds, so that a lost answer locks nobody out. A token does
/// not suffice: whoever stole one could make himself a key that never ends.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/key/rotate", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)),
    responses((status = 200, body = RotatedKey), ChangeRefusals),
    security(("node_key" = [])),
)]
pub(super) async fn rotate(State(api): State<Api>, caller: Caller) -> ApiResult<Json<RotatedKey>> {
    let Proof::Key(presented) = &caller.proof else {
        return Err(Error::forbidden("Key rotation needs the node's static key").into());
    };
    let (now, new) = (api.now(), NewCredential::generate());
    let mut race = 0;
    let node = loop {
        let read = proven(&api, &caller).await?;
        let mut changed = read.value.clone();
        changed.rotate_key(presented, new.hash, now);
        let entry = AuditEntry::new(&read.scope(), Actor::Node(read.id), "node.key_rotated", read.id, now);
        if commit(&api, Changes::new().update(&read, &changed)?.audit(entry), &mut race).await? {
            break changed;
        }
    };
    api.fleet.refresh(&[node.id]).await?;
    let retired = node.retired_key.map_or(now, |retired| retired.valid_until);
    Ok(Json(RotatedKey { node_key: new.raw, old_key_valid_until: retired }))
}

/// Get the public signing keys
///
/// So that a node learns of a new key while an old one that it pinned is still accepted.
#[utoipa::path(
    get, path = "/api/v1/nodes/{node_id}/signing-keys", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)),
    responses((status = 200, body = SigningKeys), Refusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn signing_keys(State(api): State<Api>, caller: Caller) -> ApiResult<Json<SigningKeys>> {
    let signing_keys = public_keys(&*api.signer, caller.node.organisation_id).await?;
    Ok(Json(SigningKeys { signing_keys }))
}

/// The accepted keys of an organisation; its first one is made when there is none.
///
/// # Errors
/// Those of the signer.
pub(super) async fn public_keys(signer: &dyn Signer, organisation: OrganisationId) -> Result<Vec<PublicKey>> {
    let scope = Scope::Organisation(organisation);
    let keys = signer.public_keys(&scope).await?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    signer.rotate(&scope).await?;
    signer.public_keys(&scope).await
}

/// The caller's record as it is now, which still accepts what the caller showed. Memory may not
/// have heard of a revocation yet, and whoever holds a revoked key must not get a new one for it.
///
/// # Errors
/// `Unauthenticated` when the node is gone or refuses the proof; those of the store.
async fn proven(api: &Api, caller: &Caller) -> Result<Stored<Node>> {
    let node: Option<Stored<Node>> = api.store.find(&caller.node.scope(), caller.node.id).await?;
    let node = node.ok_or_else(|| Error::unauthenticated("Node not found"))?;
    caller.proof.check(&node, api.now())?;
    Ok(node)
}

/// Commits a change of a record that was just read; false when somebody else was faster and it is
/// to be read again.
///
/// # Errors
/// Those of the store; `Stale` after too many lost races.
async fn commit(api: &Api, changes: Changes, race: &mut usize) -> Result<bool> {
    match api.store.commit(changes).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::Stale && *race < RACES => {
            *race += 1;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
