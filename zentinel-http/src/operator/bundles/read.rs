//! Looking at bundles.

use crate::error::{ApiError, ApiResult};
use crate::extract::{Params, PathId};
use crate::operator::auth::{BundlesRead, InProject};
use crate::operator::listing::page_of;
use crate::services::Api;
use crate::wire::{BundleBody, BundleList, BundleOne, ChangeRefusals, Json, Refusals, SourceBody, SourceOne};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use std::error::Error as _;
use utoipa::ToSchema;
use zentinel_core::entity::{AuditEntry, Bundle, BundleSbom, BundleSource, BundleStatus};
use zentinel_core::id::BundleId;
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Changes, Error, Kind, RecordKind, Result};

/// Page size of bundles.
const LIMIT: u32 = 50;

/// List bundles
///
/// Newest first.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles", tag = "Bundles",
    params(
        ("project_slug" = String, Path),
        ("status" = Option<String>, Query, description = "Only bundles in this state"),
        ("limit" = Option<u32>, Query, description = "1 to 500; 50 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = BundleList), Refusals), security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn list(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    params: Params,
) -> ApiResult<Json<BundleList>> {
    let mut query = Query::all(RecordKind::Bundle).page(params.page(LIMIT));
    if let Some(status) = params.get("status").filter(|status| !status.is_empty()) {
        query = query.in_states(&[status]);
    }
    let page = page_of::<Bundle>(&api, &at.scope(), query).await?;
    Ok(Json(BundleList {
        bundles: page.items.iter().map(|bundle| BundleBody::from(&bundle.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Show a bundle
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = BundleOne), Refusals), security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn show(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: PathId<Bundle>,
) -> ApiResult<Json<BundleOne>> {
    let bundle = api.store.fetch::<Bundle>(&at.scope(), id.0).await?;
    let bundle = BundleBody::from(&bundle.value);
    Ok(Json(BundleOne { bundle }))
}

/// Where an archive can be had.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DownloadBody {
    /// Valid for an hour.
    download_url: String,
    /// SHA-256 of the archive.
    checksum: Option<String>,
    /// Its length in bytes.
    size: Option<u64>,
}

/// The key of a bundle's archive, if it may be handed out.
fn archive_key(bundle: &Bundle) -> Result<&str> {
    match bundle.status {
        BundleStatus::Revoked => Err(Error::conflict("Bundle has been revoked")),
        status if !status.is_deployable() => Err(Error::conflict("Bundle is not yet compiled")),
        _ => bundle.storage_key.as_deref().ok_or_else(|| Error::internal("a compiled bundle has no archive")),
    }
}

/// Get a download URL
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}/download", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = DownloadBody), ChangeRefusals), security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn download(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: PathId<Bundle>,
) -> ApiResult<Json<DownloadBody>> {
    let bundle = api.store.fetch::<Bundle>(&at.scope(), id.0).await?;
    let key = archive_key(&bundle)?;
    let now = api.now();
    let url = api.blobs.presign_get(key, now, now + api.options.presign_validity).await?;
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "bundle.downloaded", bundle.id, now);
    api.store.commit(Changes::new().audit(entry)).await?;
    Ok(Json(DownloadBody {
        download_url: url.into(),
        checksum: bundle.checksum.map(|digest| digest.to_string()),
        size: bundle.size_bytes,
    }))
}

/// What became of a check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VerificationBody {
    /// The stored archive has the recorded digest and a valid signature by an active key.
    verified: bool,
    /// It has a signature.
    signed: bool,
    /// The key that made it.
    key_id: Option<String>,
}

/// Verify a bundle's stored archive
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}/verify", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = VerificationBody), ChangeRefusals), security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn verify(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: PathId<Bundle>,
) -> ApiResult<Json<VerificationBody>> {
    let bundle = api.store.fetch::<Bundle>(&at.scope(), id.0).await?;
    let checked = zentinel_compiler::bundle::verify(&bundle, &*api.blobs, &*api.signer).await;
    let checked = checked.map_err(|error| unverifiable(bundle.id, error))?;
    Ok(Json(VerificationBody { verified: checked.verified, signed: checked.signed, key_id: checked.key_id }))
}

/// An archive that cannot be read is a 500 in the contract; while the object store is away, the
/// caller is told to try again.
fn unverifiable(bundle: BundleId, error: Error) -> ApiError {
    const TEXT: &str = "Failed to retrieve bundle for verification";
    let cause = error.source().and_then(|cause| cause.downcast_ref::<Error>());
    let away = cause.is_some_and(|cause| cause.kind().is_transient());
    match error.kind() {
        Kind::Internal if away => Error::unavailable(TEXT).with_source(error).into(),
        Kind::Internal => {
            tracing::error!(error = ?error, %bundle, "an archive could not be verified");
            ApiError::stated(StatusCode::INTERNAL_SERVER_ERROR, TEXT)
        }
        _ => error.into(),
    }
}

/// Get the software bill of materials
///
/// CycloneDX 1.5.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}/sbom", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, content_type = "application/vnd.cyclonedx+json", body = serde_json::Value),
        Refusals,
    ),
    security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn sbom(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: Result<PathId<Bundle>, ApiError>,
) -> ApiResult<Response> {
    let scope = at.scope();
    let Ok(id) = id else { return Err(Error::not_found("Not found").into()) };
    let bundle = api.store.find::<Bundle>(&scope, id.0).await?;
    let sbom = api.store.find::<BundleSbom>(&scope, id.0).await?;
    let (Some(bundle), Some(sbom)) = (bundle, sbom) else {
        return Err(Error::not_found("Not found").into());
    };
    let mut response = Json(&sbom.document).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.cyclonedx+json"));
    let disposition = format!("attachment; filename=\"sbom-{}.json\"", file_name(&bundle.version));
    if let Ok(value) = HeaderValue::from_str(&disposition) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// A version as a part of a file name.
fn file_name(version: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    version.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

/// Get what a bundle was made from
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/bundles/{id}/source", tag = "Bundles",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = SourceOne), Refusals), security(("api_key" = ["bundles:read"])),
)]
pub(super) async fn source(
    State(api): State<Api>,
    at: InProject<BundlesRead>,
    id: PathId<Bundle>,
) -> ApiResult<Json<SourceOne>> {
    let source = api.store.fetch::<BundleSource>(&at.scope(), id.0).await?;
    let source = SourceBody::from(source.value);
    Ok(Json(SourceOne { source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_cannot_break_out_of_the_header() {
        assert_eq!(file_name("1.4.0-rc.1+x"), "1.4.0-rc.1+x");
        assert_eq!(file_name("a\"; b/../é"), "a___b_..__");
    }
}
