//! Archives by signed URL, for blob stores that cannot presign URLs of their own.

mod range;

use crate::error::{ApiError, ApiResult};
use crate::extract::{Params, path_param};
use crate::services::Api;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use range::{Selection, select};
use std::ops::Range;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use zentinel_core::port::BlobStore;
use zentinel_core::{Error, Kind, Sha256Digest};

/// How much of a blob is in memory at once.
const CHUNK: u64 = 1 << 20;

/// `GET` and `HEAD` of `/blobs/{key}?expires=…&signature=…`. Not in the document: nobody builds
/// such a URL.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().route("/blobs/{*key}", get(serve))
}

async fn serve(State(api): State<Api>, params: Params, request: Request) -> ApiResult<Response> {
    let (mut parts, _) = request.into_parts();
    let unknown = || ApiError::framework(StatusCode::NOT_FOUND);
    let signer = api.url_signer.as_ref().ok_or_else(unknown)?;
    let key = path_param(&mut parts, &api, "key").await?;
    let expires: i64 = params
        .get("expires")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::forbidden("Invalid download signature"))?;
    signer.verify(&key, expires, params.get("signature").unwrap_or_default(), api.now())?;
    let meta = match api.blobs.head(&key).await {
        Ok(meta) => meta.ok_or_else(unknown)?,
        // A key that no blob can have.
        Err(error) if error.kind() == Kind::Invalid => return Err(unknown()),
        Err(error) => return Err(error.into()),
    };
    let etag = etag(&key, meta.size);
    let selection = choose(&parts.headers, &etag, meta.size);
    let mut response = match selection {
        Selection::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Selection::Unsatisfiable => {
            let mut response = ApiError::framework(StatusCode::RANGE_NOT_SATISFIABLE).into_response();
            insert(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{}", meta.size));
            response
        }
        Selection::Whole => content(&api, &key, 0..meta.size, parts.method == Method::HEAD),
        Selection::Part(part) => {
            let described = format!("bytes {}-{}/{}", part.start, part.end - 1, meta.size);
            let mut response = content(&api, &key, part, parts.method == Method::HEAD);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            insert(response.headers_mut(), CONTENT_RANGE, &described);
            response
        }
    };
    let headers = response.headers_mut();
    insert(headers, ETAG, &etag);
    insert(headers, ACCEPT_RANGES, "bytes");
    insert(headers, CACHE_CONTROL, "private, no-transform");
    Ok(response)
}

/// A blob never changes, so its key identifies its content.
fn etag(key: &str, size: u64) -> String {
    let digest = Sha256Digest::of(key.as_bytes()).to_string();
    let short = digest.get(..32).unwrap_or_default();
    format!("\"{size:x}-{short}\"")
}

fn choose(headers: &HeaderMap, etag: &str, size: u64) -> Selection {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let known = text(IF_NONE_MATCH).is_some_and(|value| {
        value.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
    });
    if known {
        return Selection::NotModified;
    }
    let current = text(IF_RANGE).is_none_or(|value| value == etag);
    match text(RANGE).filter(|_| current) {
        Some(range) => select(range, size),
        None => Selection::Whole,
    }
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A part of a blob, read piece by piece while it is sent.
fn content(api: &Api, key: &str, part: Range<u64>, head_only: bool) -> Response {
    let length = part.end - part.start;
    let body = if head_only {
        Body::empty()
    } else {
        let source = (Arc::clone(&api.blobs), key.to_owned(), part);
        Body::from_stream(stream::try_unfold(source, next_piece))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(CONTENT_LENGTH, length.into());
    response
}

type Source = (Arc<dyn BlobStore>, String, Range<u64>);

async fn next_piece((blobs, key, rest): Source) -> Result<Option<(Bytes, Source)>, Error> {
    if rest.is_empty() {
        return Ok(None);
    }
    let end = rest.end.min(rest.start + CHUNK);
    let piece = blobs.get(&key, Some(rest.start..end)).await.inspect_err(|error| {
        tracing::warn!(%error, "a download broke off");
    })?;
    if piece.is_empty() {
        return Err(Error::unavailable("the archive ended early"));
    }
    let rest = rest.start + piece.len() as u64..rest.end;
    Ok(Some((piece, (blobs, key, rest))))
}
