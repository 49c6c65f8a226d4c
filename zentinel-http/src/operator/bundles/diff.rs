//! What changed between two bundles.

use crate::error::ApiResult;
use crate::extract::{Params, PathId, parse_id};
use crate::operator::auth::{BundlesRead, InProject};
use crate::services::Api;
use crate::wire::{Json, Refusals};
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::Error;
use zentinel_core::entity::{Bundle, BundleSource};
use zentinel_core::id::{BundleId, TypedId};
use zentinel_core::port::StoreExt;

/// The difference between two configurations.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DiffBody {
    bundle_id: Uuid,
    /// The bundle it is compared with; null for nothing at all.
    against: Option<Uuid>,
    /// What was added, removed and changed, by configuration path; null when one of the two
    /// cannot be parsed.
    changes: Option<Value>,
    /// The unified text diff.
    text: String,
}

/// A difference.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DiffOne {
    diff: DiffBody,
}

/// Compare two bundles
///
/// Without `against`, a bundle is compared with its parent: the one that was running when it was
/// compiled.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}/diff", tag = "Bundles",
    params(
        ("project_slug" = String, Path), ("id" = uuid::Uuid, Path),
        ("against" = Option<uuid::Uuid>, Query, description = "The bundle to compare with"),
    ),
    responses((status = 200, body = DiffOne), Refusals), security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn diff(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: PathId<Bundle>,
    params: Params,
) -> ApiResult<Json<DiffOne>> {
    let scope = at.scope();
    let bundle = api.store.fetch::<Bundle>(&scope, id.0).await?;
    let against = match params.get("against").filter(|text| !text.is_empty()) {
        Some(text) => {
            let id = parse_id::<BundleId>(text).ok_or_else(|| Error::not_found("Bundle not found"))?;
            Some(api.store.fetch::<BundleSource>(&scope, id).await?)
        }
        None => match bundle.parent_bundle_id {
            Some(parent) => api.store.find::<BundleSource>(&scope, parent).await?,
            None => None,
        },
    };
    let source = api.store.fetch::<BundleSource>(&scope, id.0).await?;
    let old = against.as_ref().map_or("", |source| source.config_source.as_str());
    let (old, new) = (old.to_owned(), source.value.config_source);
    // Megabytes of text take a while.
    let compared = tokio::task::spawn_blocking(move || {
        let changes = zentinel_compiler::diff::semantic(&old, &new).ok();
        (changes, zentinel_compiler::diff::text(&old, &new))
    });
    let (changes, text) =
        compared.await.map_err(|error| Error::internal("a comparison did not finish").with_source(error))?;
    let changes = changes.map(serde_json::to_value).transpose().map_err(Error::from)?;
    let diff = DiffBody {
        bundle_id: id.0.uuid(),
        against: against.map(|source| source.bundle_id.uuid()),
        changes,
        text,
    };
    Ok(Json(DiffOne { diff }))
}
