//! Creating bundles, handing them out, withdrawing them.

use crate::error::{ApiResult, TAKEN, taken_also_on};
use crate::extract::{Field, Input, PathId, parse_id};
use crate::operator::auth::{BundlesCreate, BundlesValidate, BundlesWrite, InProject};
use crate::operator::retrying;
use crate::services::Api;
use crate::wire::{BundleBody, BundleOne, ChangeRefusals, Diagnostics, Json};
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_compiler::bundle::{NewBundle, create as new_bundle};
use zentinel_core::entity::{
    ApiScope, AuditEntry, Bundle, BundleOrigin, BundleSbom, BundleSource, BundleStatus, ExtraFile, RiskLevel,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{NodeId, TypedId};
use zentinel_core::port::{Diagnostic, Query, StoreExt};
use zentinel_core::{Actor, Changes, Error, Kind, Record, Result, Scope, Stored};

/// Most nodes that one assignment may name.
const MAX_NODES: usize = 10_000;

/// A bundle to compile.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct BundleInput {
    /// Unique in the project.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "1.4.0", required = true)]
    #[serde(default)]
    version: Field<String>,
    /// KDL text, at most 4 MiB.
    #[schema(value_type = String, example = "listeners { }", required = true)]
    #[serde(default)]
    config_source: Field<String>,
    /// Files beside it.
    #[schema(value_type = Option<Vec<FileInput>>)]
    #[serde(default)]
    files: Field<Vec<FileInput>>,
    /// The author's own judgement; the compiler only raises it.
    #[schema(value_type = Option<String>, example = "low")]
    #[serde(default)]
    risk_level: Field<RiskLevel>,
    /// A commit or another reference, for the record.
    #[schema(value_type = Option<String>, max_length = 255)]
    #[serde(default)]
    source_ref: Field<String>,
    #[schema(value_type = Option<String>, max_length = 255)]
    #[serde(default)]
    source_branch: Field<String>,
    #[schema(value_type = Option<String>, max_length = 255)]
    #[serde(default)]
    source_repo: Field<String>,
}

/// A file beside the configuration.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct FileInput {
    /// Relative, with `/`.
    #[schema(example = "ca/root.pem")]
    path: String,
    /// Standard base64.
    content: String,
}

/// A new bundle.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BundleCreated {
    id: Uuid,
    version: String,
    #[schema(example = "pending")]
    status: &'static str,
    project_id: Uuid,
}

fn reference(name: &str, field: Field<String>, checks: &mut Checks) -> Option<String> {
    let text = field.optional(name, checks)?;
    let fits = text.chars().count() <= 255;
    checks.that(name, fits, "should be at most 255 character(s)");
    Some(text)
}

/// Create a bundle
///
/// It is compiled in the background; see its `status` and `diagnostics`. A version whose compile
/// failed can be handed in again: the failed bundle is deleted for the new one.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/bundles", tag = "Bundles",
    params(("project_slug" = String, Path)), request_body = BundleInput,
    responses((status = 201, body = BundleCreated), ChangeRefusals), security(("api_key" = ["bundles:write"])),
)]
pub(super) async fn create(
    State(api): State<Api>,
    at: InProject<BundlesCreate>,
    Input(input): Input<BundleInput>,
) -> ApiResult<(StatusCode, Json<BundleCreated>)> {
    let mut checks = Checks::new();
    let version = input.version.required("version", &mut checks);
    let config_source = input.config_source.required("config_source", &mut checks);
    let risk_level = input.risk_level.optional("risk_level", &mut checks);
    let files = input.files.optional("files", &mut checks).unwrap_or_default();
    let origin = BundleOrigin {
        source_type: "api".to_owned(),
        source_ref: reference("source_ref", input.source_ref, &mut checks),
        source_branch: reference("source_branch", input.source_branch, &mut checks),
        source_repo: reference("source_repo", input.source_repo, &mut checks),
    };
    checks.finish()?;
    let new = NewBundle {
        version: version.unwrap_or_default(),
        config_source: config_source.unwrap_or_default(),
        files: files.into_iter().map(file).collect(),
        risk_level: risk_level.unwrap_or_default(),
        generated: false,
        origin,
        author: Some(at.caller.person()),
    };
    let (api, at, new) = (&api, &at, &new);
    let bundle = retrying(|| async move {
        let (bundle, changes) = new_bundle(at.ids(), at.caller.actor(), new.clone(), api.now())?;
        let freed = free_version(api, at, &bundle.version).await?;
        match api.store.commit(freed.and(changes)).await {
            Ok(_) => Ok(bundle),
            // Somebody else deleted the failed one.
            Err(error) if error.kind() == Kind::NotFound => Err(Error::stale("Bundle")),
            Err(error) => Err(taken_also_on(error, "project_id")),
        }
    })
    .await?;
    let created = BundleCreated {
        id: bundle.id.uuid(),
        version: bundle.version,
        status: bundle.status.as_str(),
        project_id: bundle.project_id.uuid(),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// What deletes the bundle that failed to compile under a version; nothing where none holds it.
async fn free_version(api: &Api, at: &InProject<BundlesCreate>, version: &str) -> Result<Changes> {
    let named = Query::all(Bundle::KIND).owned_by(at.project.id).named(version);
    let Some(holder) = api.store.list::<Bundle>(&at.scope(), named).await?.items.pop() else {
        return Ok(Changes::new());
    };
    if holder.status == BundleStatus::Failed {
        return deletion(api, &at.scope(), at.caller.actor(), &holder).await;
    }
    let held = json!({"id": holder.id, "version": holder.version, "status": holder.status});
    let error = Error::invalid_field("version", TAKEN)
        .with_details(json!({ "bundle": held }))
        .with_hint("choose another version; that of a bundle that failed to compile can be used again");
    Err(taken_also_on(error, "project_id"))
}

/// What deletes a bundle with everything that belongs to it.
async fn deletion(api: &Api, scope: &Scope, actor: Actor, bundle: &Stored<Bundle>) -> Result<Changes> {
    let mut changes = Changes::new().delete(bundle);
    if let Some(source) = api.store.find::<BundleSource>(scope, bundle.id).await? {
        changes = changes.delete(&source);
    }
    if let Some(sbom) = api.store.find::<BundleSbom>(scope, bundle.id).await? {
        changes = changes.delete(&sbom);
    }
    let entry = AuditEntry::new(scope, actor, "bundle.deleted", bundle.id, api.now())
        .with_changes(json!({"version": bundle.version, "status": bundle.status}));
    Ok(changes.audit(entry))
}

fn file(input: FileInput) -> ExtraFile {
    ExtraFile { path: input.path, content: input.content }
}

/// A configuration to look at.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ValidateInput {
    /// KDL text, at most 4 MiB.
    #[schema(value_type = String, required = true)]
    #[serde(default)]
    config_source: Field<String>,
}

/// Validate a configuration
///
/// Says what a bundle of it would be refused or warned for. Stores nothing. One is validated at a
/// time: 503 when the turn has not come after five seconds.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/bundles/validate", tag = "Bundles",
    params(("project_slug" = String, Path)), request_body = ValidateInput,
    responses((status = 200, body = Diagnostics), ChangeRefusals), security(("api_key" = ["bundles:write"])),
)]
pub(super) async fn validate(
    State(api): State<Api>,
    _at: InProject<BundlesValidate>,
    Input(input): Input<ValidateInput>,
) -> ApiResult<Json<Diagnostics>> {
    let mut checks = Checks::new();
    let text = input.config_source.required("config_source", &mut checks);
    let text = text.unwrap_or_default();
    let most = zentinel_compiler::source::SourceLimits::default().config_bytes;
    checks.that("config_source", text.len() <= most, format!("should be at most {most} byte(s)"));
    checks.finish()?;
    let found = in_turn(&api, text).await?;
    Ok(Json(Diagnostics::new(&found)))
}

/// How long a caller waits for its turn to validate.
const VALIDATE_PATIENCE: Duration = Duration::from_secs(5);

/// Validates when it is the caller's turn. A caller that goes away does not end what it began: the
/// turn is over when the work is.
async fn in_turn(api: &Api, text: String) -> Result<Vec<Diagnostic>> {
    let busy = || Error::unavailable("Other configurations are being validated; try again");
    let turn = tokio::time::timeout(VALIDATE_PATIENCE, api.validating().acquire_owned()).await;
    let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let (validator, limit) = (Arc::clone(&api.validator), api.options.request_timeout);
    let work = tokio::spawn(async move {
        let _turn = turn;
        tokio::time::timeout(limit, validator.validate(&text, false)).await
    });
    match work.await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err(Error::new(Kind::Timeout, "The request took too long")),
        Err(defect) => Err(Error::internal("a validation ended unexpectedly").with_source(defect)),
    }
}

/// Delete a bundle
///
/// Only one that is pending or failed.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/bundles/{id}", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["bundles:write"])),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    at: InProject<BundlesWrite>,
    id: PathId<Bundle>,
) -> ApiResult<StatusCode> {
    let (api, at) = (&api, &at);
    retrying(|| async move {
        let scope = at.scope();
        let bundle = api.store.fetch::<Bundle>(&scope, id.0).await?;
        if !matches!(bundle.status, BundleStatus::Pending | BundleStatus::Failed) {
            return Err(Error::conflict("Only pending or failed bundles can be deleted"));
        }
        let changes = deletion(api, &scope, at.caller.actor(), &bundle).await?;
        api.store.commit(changes).await.map(drop)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Nodes to give a bundle to.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct AssignInput {
    #[schema(value_type = Option<Vec<Uuid>>, max_items = 10_000)]
    #[serde(default)]
    node_ids: Field<Vec<String>>,
    /// Whether pins are overridden; needs the scope `rollouts:write` too.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    force: Field<bool>,
}

/// A node that was not given the bundle.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SkippedBody {
    node_id: Uuid,
    /// `not_found`, `pending_approval`, `pinned` or `in_rollout`.
    reason: String,
}

/// What an assignment did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AssignedBody {
    /// How many nodes were given the bundle.
    assigned: usize,
    skipped: Vec<SkippedBody>,
}

/// Assign a bundle to nodes
///
/// Without a rollout: no steps, no gates.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/bundles/{id}/assign", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = AssignInput,
    responses((status = 200, body = AssignedBody), ChangeRefusals), security(("api_key" = ["bundles:write"])),
)]
pub(super) async fn assign(
    State(api): State<Api>,
    at: InProject<BundlesWrite>,
    id: PathId<Bundle>,
    Input(input): Input<AssignInput>,
) -> ApiResult<Json<AssignedBody>> {
    api.store.fetch::<Bundle>(&at.scope(), id.0).await?;
    let mut checks = Checks::new();
    let texts = input.node_ids.optional("node_ids", &mut checks).unwrap_or_default();
    let force = input.force.optional("force", &mut checks).unwrap_or_default();
    checks.that("node_ids", texts.len() <= MAX_NODES, "should have at most 10000 item(s)");
    let well_formed = texts.iter().all(|text| parse_id::<NodeId>(text).is_some());
    checks.that("node_ids", well_formed, "is invalid");
    checks.finish()?;
    if force {
        at.caller.require(ApiScope::RolloutsWrite)?;
    }
    let nodes: BTreeSet<NodeId> = texts.iter().filter_map(|text| parse_id(text)).collect();
    let nodes: Vec<NodeId> = nodes.into_iter().collect();
    let done = api.engine.assign(&at.scope(), at.caller.actor(), id.0, &nodes, force).await?;
    api.fleet.refresh(&done.assigned).await?;
    let skipped =
        done.skipped.into_iter().map(|(node_id, reason)| SkippedBody { node_id: node_id.uuid(), reason });
    Ok(Json(AssignedBody { assigned: done.assigned.len(), skipped: skipped.collect() }))
}

/// Revoke a bundle
///
/// Nodes that were told to fetch it are told no longer; running rollouts of it fail.
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/bundles/{id}/revoke", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = BundleOne), ChangeRefusals), security(("api_key" = ["bundles:write"])),
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    at: InProject<BundlesWrite>,
    id: PathId<Bundle>,
) -> ApiResult<Json<BundleOne>> {
    let bundle = api.engine.revoke(&at.scope(), at.caller.actor(), id.0).await?;
    let bundle = BundleBody::from(&bundle);
    Ok(Json(BundleOne { bundle }))
}
