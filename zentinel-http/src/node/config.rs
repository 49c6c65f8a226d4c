//! The configuration that a node says it runs.

use super::auth::Caller;
use super::batch::object;
use super::wire::{ConfigAck, ConfigRequest};
use crate::error::{ApiError, ApiResult};
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json};
use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use zentinel_core::entity::{Bundle, NodeConfig};
use zentinel_core::id::BundleId;
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, Error, RecordKind, Result, Sha256Digest};
use zentinel_rollout::engine::drift_job;

/// Longest configuration in bytes.
const MAX_CONFIG: usize = 4 << 20;

/// Report the configuration that runs
///
/// One per node; the newest wins. `content_drift` says whether it differs from that of the bundle
/// the node is expected to run.
#[utoipa::path(
    post, path = "/api/v1/nodes/{node_id}/config", tag = "Node API",
    params(("node_id" = uuid::Uuid, Path)), request_body = ConfigRequest,
    responses((status = 200, body = ConfigAck), ChangeRefusals),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn report(State(api): State<Api>, caller: Caller, body: Body) -> ApiResult<Json<ConfigAck>> {
    let (mut body, _) = object::<Map<String, Value>>(body, api.options.body_limit).await?;
    let config_kdl = match body.remove("config_kdl") {
        None => return Err(ApiError::bad_request("expected `config_kdl`")),
        Some(Value::String(text)) => text,
        Some(_) => return Err(Error::invalid_field("config_kdl", "is invalid").into()),
    };
    if config_kdl.len() > MAX_CONFIG {
        return Err(ApiError::framework(StatusCode::PAYLOAD_TOO_LARGE));
    }
    if config_kdl.trim().is_empty() {
        return Err(Error::invalid_field("config_kdl", "can't be blank").into());
    }
    if config_kdl.contains('\0') {
        return Err(Error::invalid_field("config_kdl", "is invalid").into());
    }
    let node = &caller.node;
    let (differs, expected) = compared(&api, &caller, Sha256Digest::of(config_kdl.as_bytes())).await?;
    let config_hash = Sha256Digest::of(config_kdl.as_bytes());
    let config = NodeConfig {
        node_id: node.id,
        organisation_id: node.organisation_id,
        project_id: node.project_id,
        config_kdl,
        config_hash,
        differs,
        created_at: api.now(),
    };
    // Looked at after this commit: what it finds begins or ends a drift event.
    let look = drift_job(&[node.id], config.created_at);
    api.store.commit(Changes::new().upsert(&config)?.job(look)).await?;
    let content_drift = expected.map(|expected| expected != config_hash);
    if content_drift == Some(true) {
        tracing::warn!(node = %node.id, "a node runs another configuration than its bundle's");
    }
    Ok(Json(ConfigAck { status: "ok".to_owned(), config_hash, content_drift }))
}

/// Whether a configuration is another one than that of the bundle that the node says it runs, and the digest of
/// the one that it should run.
async fn compared(api: &Api, caller: &Caller, found: Sha256Digest) -> Result<(bool, Option<Sha256Digest>)> {
    let node = &caller.node;
    let active = api.fleet.offer(node.id).ok().and_then(|offer| offer.active_bundle_id);
    let wanted: BTreeSet<BundleId> = [active, node.expected_bundle_id].into_iter().flatten().collect();
    if wanted.is_empty() {
        return Ok((false, None));
    }
    let query = Query::all(RecordKind::Bundle).with_ids(wanted);
    let bundles = api.store.list_all::<Bundle>(&node.scope(), query).await?;
    let hash = |id: Option<BundleId>| {
        let bundle = bundles.iter().find(|bundle| Some(bundle.id) == id)?;
        bundle.config_hash
    };
    let expected = hash(node.expected_bundle_id);
    // A node that runs no bundle of ours has a configuration of its own.
    let differs = match hash(active) {
        Some(active) => active != found,
        None => expected.is_some_and(|expected| expected != found),
    };
    Ok((differs, expected))
}
