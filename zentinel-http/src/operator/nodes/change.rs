//! Changing what is wanted of a node.

use crate::error::ApiResult;
use crate::extract::{Field, Input, PathId, parse_id};
use crate::node::wire::RotatedKey;
use crate::operator::auth::{InProject, NodesWrite};
use crate::operator::retrying;
use crate::services::Api;
use crate::wire::{ChangeRefusals, Json, NodeOne};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{
    AuditEntry, Bundle, Event, Node, NodeConfig, NodeGroup, NodeReport, Registration,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, RecordKind, Result, Stored, Timestamp};
use zentinel_rollout::engine::tick_job;

/// What an operator may change of a node.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NodeInput {
    /// All of its labels; at most 64.
    #[schema(value_type = Option<BTreeMap<String, String>>, example = json!({"region": "eu"}))]
    #[serde(default)]
    labels: Field<BTreeMap<String, String>>,
    /// True to let a node of an open registration take part.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    approved: Field<bool>,
    /// Its environment; null for none.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    environment_id: Field<String>,
}

/// A pin.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct PinInput {
    /// Rollouts of other bundles leave the node out; null takes the pin off.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    bundle_id: Field<String>,
}

/// Reads a node, changes it, commits it with its audit entry, and lets the fleet know.
async fn edit<T, F>(
    api: &Api,
    at: &InProject<NodesWrite>,
    id: NodeId,
    action: &str,
    change: F,
) -> ApiResult<T>
where
    F: Fn(&mut Node, Timestamp) -> Result<(Value, T)>,
{
    let change = &change;
    let made = retrying(|| async move {
        let now = api.now();
        let read = api.store.fetch::<Node>(&at.scope(), id).await?;
        let mut node = read.value.clone();
        let (changed, made) = change(&mut node, now)?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), action, id, now).with_changes(changed);
        let changes = Changes::new().update(&read, &node)?.audit(entry);
        api.store.commit(changes).await?;
        Ok(made)
    })
    .await?;
    // What was decided is in force when the caller hears of it.
    api.fleet.refresh(&[id]).await?;
    Ok(made)
}

/// As [`edit`], for answers that show the node.
pub(super) async fn edit_and_show<F>(
    api: &Api,
    at: &InProject<NodesWrite>,
    id: NodeId,
    action: &str,
    change: F,
) -> ApiResult<Json<NodeOne>>
where
    F: Fn(&mut Node, Timestamp) -> Result<Value>,
{
    edit(api, at, id, action, |node, now| Ok((change(node, now)?, ()))).await?;
    let node = super::body(api, &at.scope(), id).await?;
    Ok(Json(NodeOne { node }))
}

/// Change a node
///
/// Fields that are left out stay as they are.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/nodes/{id}", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = NodeInput,
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn update(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
    Input(input): Input<NodeInput>,
) -> ApiResult<Json<NodeOne>> {
    // An unknown node is reported before its fields are looked at.
    api.store.fetch::<Node>(&at.scope(), id.0).await?;
    let mut checks = Checks::new();
    let environment =
        crate::operator::governance::environment(&api, &at.scope(), input.environment_id, &mut checks)
            .await?;
    checks.finish()?;
    edit_and_show(&api, &at, id.0, "node.updated", |node, _| {
        let mut checks = Checks::new();
        if let Some(environment) = environment {
            node.environment_id = environment;
        }
        if let Some(labels) = input.labels.clone().change("labels", &mut checks) {
            node.labels = labels.unwrap_or_default();
            // The rules are those of a registration.
            let as_registered = Registration {
                name: node.name.clone(),
                labels: node.labels.clone(),
                ..Registration::default()
            };
            checks.absorb(as_registered.check())?;
        }
        if let Some(approved) = input.approved.clone().optional("approved", &mut checks) {
            node.approved = approved;
        }
        checks.finish()?;
        Ok(json!({
            "labels": node.labels, "approved": node.approved, "environment_id": node.environment_id,
        }))
    })
    .await
}

/// Pin a node to a bundle
#[utoipa::path(
    put, path = "/api/v1/projects/{project_slug}/nodes/{id}/pin", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = PinInput,
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn pin(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
    Input(input): Input<PinInput>,
) -> ApiResult<Json<NodeOne>> {
    // An unknown node is reported before the bundle is looked at.
    api.store.fetch::<Node>(&at.scope(), id.0).await?;
    let mut checks = Checks::new();
    checks.that("bundle_id", input.bundle_id != Field::Absent, "can't be blank");
    let text = input.bundle_id.optional("bundle_id", &mut checks);
    let bundle: Option<BundleId> = text.as_deref().and_then(parse_id);
    checks.that("bundle_id", text.is_some() == bundle.is_some(), "is invalid");
    if let Some(bundle) = bundle {
        let found = api.store.find::<Bundle>(&at.scope(), bundle).await?;
        checks.that("bundle_id", found.is_some(), "does not exist");
    }
    checks.finish()?;
    let action = if bundle.is_some() { "node.pinned" } else { "node.unpinned" };
    edit_and_show(&api, &at, id.0, action, |node, _| {
        node.pinned_bundle_id = bundle;
        Ok(json!({"pinned_bundle_id": bundle}))
    })
    .await
}

/// Revoke a node's key
///
/// Its key and its tokens stop working at once, on every replica. The node gets in again with a new
/// key from `rotate-key`, or when it is deleted and registers anew.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/{id}/revoke-key", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = NodeOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn revoke_key(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
) -> ApiResult<Json<NodeOne>> {
    edit_and_show(&api, &at, id.0, "node.key_revoked", |node, now| {
        // The digest of a key that nobody has.
        node.key_hash = NewCredential::generate().hash;
        node.retired_key = None;
        node.tokens_valid_after = Some(now);
        Ok(json!({"tokens_valid_after": now}))
    })
    .await
}

/// Replace a node's key
///
/// The new key is in this answer only; hand it to the node. The old one works for another 300
/// seconds, unless it was revoked: so a node whose key was revoked gets in again without losing
/// its name and history.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/nodes/{id}/rotate-key", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = RotatedKey), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn rotate_key(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
) -> ApiResult<Json<RotatedKey>> {
    let new = NewCredential::generate();
    let old_key_valid_until = edit(&api, &at, id.0, "node.key_rotated", |node, now| {
        let current = node.key_hash;
        node.rotate_key(&current, new.hash, now);
        let until = node.retired_key.as_ref().map_or(now, |retired| retired.valid_until);
        Ok((json!({"old_key_valid_until": until}), until))
    })
    .await?;
    Ok(Json(RotatedKey { node_key: new.raw, old_key_valid_until }))
}

/// Delete a node
///
/// Open rollouts go on without it.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/nodes/{id}", tag = "Nodes",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<Node>,
) -> ApiResult<StatusCode> {
    let (api, at) = (&api, &at);
    retrying(|| async move {
        let node = api.store.fetch::<Node>(&at.scope(), id.0).await?;
        let changes = deletion(api, at, &node).await?;
        api.store.commit(changes).await.map(drop)
    })
    .await?;
    api.fleet.forget(id.0);
    Ok(StatusCode::NO_CONTENT)
}

/// Everything that goes with a node, in one unit of work.
async fn deletion(api: &Api, at: &InProject<NodesWrite>, node: &Stored<Node>) -> Result<Changes> {
    let (scope, now) = (at.scope(), api.now());
    let mut changes = Changes::new().delete(node);
    if let Some(report) = api.store.find::<NodeReport>(&scope, node.id).await? {
        changes = changes.delete(&report);
    }
    if let Some(config) = api.store.find::<NodeConfig>(&scope, node.id).await? {
        changes = changes.delete(&config);
    }
    let groups = Query::all(RecordKind::NodeGroup);
    for group in api.store.list_all::<NodeGroup>(&scope, groups).await? {
        if group.node_ids.contains(&node.id) {
            let mut without = group.value.clone();
            without.node_ids.remove(&node.id);
            changes = changes.update(&group, &without)?;
        }
    }
    if let Some(rollout) = node.rollout_id {
        changes = changes.job(tick_job(rollout, now));
    }
    let told = json!({"node_id": node.id, "name": node.name, "project_id": node.project_id});
    let entry = AuditEntry::new(&scope, at.caller.actor(), "node.deleted", node.id, now)
        .with_changes(json!({"name": node.name}));
    Ok(changes.audit(entry).event(Event::new(&scope, "node.deleted", told, now)))
}
