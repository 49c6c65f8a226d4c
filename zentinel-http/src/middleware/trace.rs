//! Request ids, the access log and the request counters.

use crate::extract::ClientIp;
use crate::services::Api;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use std::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes over an id of 20 to 200 visible ASCII characters, or makes one.
fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        (20..=200).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    given.filter(usable).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// Logs each request once, without query strings, headers and bodies: they hold secrets.
pub(crate) async fn trace(State(api): State<Api>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers().get(REQUEST_ID));
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let client = ClientIp::of(&parts, &api.options.trusted_proxies);
    let request = Request::from_parts(parts, body);
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());

    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = begun.elapsed();
    let status = response.status().as_u16();
    span.in_scope(|| {
        tracing::info!(
            %method, path, route, status,
            client = client.text(),
            took_ms = took.as_secs_f64() * 1_000.0,
            "request served",
        );
    });
    api.metrics().request(&method, &route, status, took);
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sensible_ids_are_taken_over() {
        let given = HeaderValue::from_static("abcdefghij0123456789");
        assert_eq!(request_id(Some(&given)), given);
        for bad in ["short", "with a space 0123456789", ""] {
            let made = request_id(Some(&HeaderValue::from_static(bad)));
            assert_eq!(made.len(), 36, "{bad}");
        }
        let long = HeaderValue::from_str(&"x".repeat(201)).unwrap();
        assert_eq!(request_id(Some(&long)).len(), 36);
        assert_eq!(request_id(None).len(), 36);
    }
}
