//! Request ids, the access log and the request counters.

use super::guard::{guard, is_of_node};
use crate::extract::ClientIp;
use crate::services::Api;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, Uri};
use std::time::{Duration, Instant};
use tracing::Instrument;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes over an id of 20 to 200 visible ASCII characters, or makes one.
fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        (20..=200).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    given.filter(usable).cloned().unwrap_or_else(|| {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let mut text = Uuid::encode_buffer();
        let text = id.hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// A request as the log shows it: without query string, headers and body, which hold secrets.
struct Seen {
    id: HeaderValue,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    of_node: bool,
    client: ClientIp,
}

impl Seen {
    fn of(api: &Api, request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self {
            id: request_id(request.headers().get(REQUEST_ID)),
            method: request.method().clone(),
            uri: request.uri().clone(),
            of_node: route.as_ref().is_some_and(|route| is_of_node(route.as_str())),
            route,
            client: ClientIp::of(request.headers(), request.extensions(), &api.options.trusted_proxies),
        }
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or("unmatched", MatchedPath::as_str)
    }

    /// Nodes call all the time: only what goes wrong is worth a line. What is refused because the
    /// server is busy is counted; lines would make it busier.
    fn is_routine(&self, status: u16) -> bool {
        self.of_node && (status < 400 || status == 503)
    }

    fn log(&self, status: u16, took: Duration) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    id = self.id.to_str().unwrap_or_default(),
                    method = %self.method,
                    path = self.uri.path(),
                    route = self.route(),
                    status,
                    client = self.client.text(),
                    took_ms = took.as_secs_f64() * 1_000.0,
                    "request served",
                )
            };
        }
        if self.is_routine(status) { line!(debug) } else { line!(info) }
    }
}

/// Serves a request: everything that all of them have in common is done here. Each is logged once.
pub(crate) async fn serve(State(api): State<Api>, request: Request, next: Next) -> Response {
    let seen = Seen::of(&api, &request);
    let begun = Instant::now();
    let mut response = if seen.of_node {
        // A span costs as much as the rest of the bookkeeping.
        guard(&api, request, true, next).await
    } else {
        let span = tracing::info_span!("request", id = seen.id.to_str().unwrap_or_default());
        guard(&api, request, false, next).instrument(span).await
    };
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    seen.log(status, took);
    api.metrics().request(&seen.method, seen.route(), status, took);
    response.headers_mut().insert(REQUEST_ID, seen.id);
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
