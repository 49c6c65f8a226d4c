//! Limits of a request, and what is added to every response.

use crate::error::ApiError;
use crate::limits::RateSlot;
use crate::services::Api;
use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use zentinel_core::{Error, Kind};

/// Refuses what is not to be served, bounds size and time, turns a panic into a 500 and adds the
/// headers that every response has.
pub(super) async fn guard(api: &Api, request: Request, of_node: bool, next: Next) -> Response {
    let mut response = match admissible(api, &request, of_node) {
        Ok(()) => bounded(api, request, next).await,
        Err(refusal) => {
            if matches!(refusal, ApiError::Framework(StatusCode::PAYLOAD_TOO_LARGE, _)) {
                tokio::spawn(linger(request.into_body()));
            }
            refusal.into_response()
        }
    };
    security_headers(response.headers_mut(), of_node);
    response
}

/// Whether a request may be looked at any further.
fn admissible(api: &Api, request: &Request, of_node: bool) -> Result<(), ApiError> {
    let limit = api.options.body_limit as u64;
    if declared_length(request.headers()).is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(api.options.body_limit));
    }
    if !is_text(request.uri().path()) {
        return Err(ApiError::framework(StatusCode::NOT_FOUND));
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if (of_node || speaks_json(route)) && !wants_json(request.headers()) {
        return Err(ApiError::framework(StatusCode::NOT_ACCEPTABLE));
    }
    if of_node { api.admit() } else { Ok(()) }
}

/// How much of a body that is too large is read, and for how long.
const LINGER: (usize, Duration) = (16 << 20, Duration::from_secs(5));

/// Reads on for a while after a refusal: a connection that is closed on a caller who still sends
/// breaks before the refusal is read.
async fn linger(mut body: Body) {
    let read = async {
        let mut left = LINGER.0;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            left = match left.checked_sub(length) {
                Some(left) => left,
                None => break,
            };
        }
    };
    // The time is a limit, not a failure.
    drop(tokio::time::timeout(LINGER.1, read).await);
}

/// Whether the route is one of those that answer in JSON only.
fn speaks_json(route: &str) -> bool {
    route.contains("/api/v1/")
}

/// Whether nodes call the route.
pub(super) fn is_of_node(route: &str) -> bool {
    route.contains("/api/v1/nodes/{node_id}/") || route.ends_with("/nodes/register")
}

async fn bounded(api: &Api, mut request: Request, next: Next) -> Response {
    let limit = api.options.body_limit;
    let slot = RateSlot::default();
    request.extensions_mut().insert(slot.clone());
    let patience = patience(api, &request);
    // A body whose length is declared ends there.
    let request = match request.body().size_hint().exact() {
        Some(_) => request,
        None => request.map(|body| Body::new(Limited::new(body, limit))),
    };

    let served = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match tokio::time::timeout(patience, served).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            tracing::error!(panic = panic_text(&*panic), "a handler panicked");
            ApiError::framework(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
        Err(_) => ApiError::from(Error::new(Kind::Timeout, "The request took too long")).into_response(),
    };
    if let Some(decision) = slot.decision() {
        decision.write(response.headers_mut());
    }
    response
}

/// Whether a path decodes to UTF-8; nothing is named by anything else.
fn is_text(path: &str) -> bool {
    if !path.contains('%') {
        return true;
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut decoded) = (path.as_bytes(), Vec::with_capacity(path.len()));
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    std::str::from_utf8(&decoded).is_ok()
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How long a request may take: a long poll asks for more.
fn patience(api: &Api, request: &Request) -> Duration {
    let waits = request.uri().path().ends_with("/bundles/latest")
        && request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("wait=")));
    let extra = if waits { api.options.max_long_poll } else { Duration::ZERO };
    api.options.request_timeout + extra
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

fn wants_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    ranges.peek().is_none() || ranges.any(is_json_range)
}

fn is_json_range(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
    let json =
        matches!(media.as_str(), "*/*" | "application/*" | "application/json") || media.ends_with("+json");
    json && !refused
}

/// Adds what keeps a browser from doing anything with an answer that was not meant for one. Nodes are no
/// browsers, and call too often to be told how an answer may be shown.
fn security_headers(headers: &mut HeaderMap, of_node: bool) {
    let all = [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    let count = if of_node { 2 } else { all.len() };
    headers.reserve(count + 1);
    for (name, value) in all.into_iter().take(count) {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_decode_to_text() {
        for good in ["/a", "/%C3%A9", "/100%", "/%zz", "/%00"] {
            assert!(is_text(good), "{good}");
        }
        for bad in ["/%ff", "/%C3", "/a%C3/b"] {
            assert!(!is_text(bad), "{bad}");
        }
    }

    #[test]
    fn json_is_what_we_speak() {
        let wants = |accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            wants_json(&headers)
        };
        for accept in [
            None,
            Some("*/*"),
            Some("text/html, application/json;q=0.1"),
            Some("application/vnd.cyclonedx+json"),
            Some("text/html,application/xhtml+xml,*/*;q=0.8"),
        ] {
            assert!(wants(accept), "{accept:?}");
        }
        for accept in [Some("text/html"), Some("application/xml"), Some("application/json;q=0")] {
            assert!(!wants(accept), "{accept:?}");
        }
    }
}
