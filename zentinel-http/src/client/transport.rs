//! One HTTP call: URLs, time limits, and what a refusal means.

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;
use zentinel_core::error::FieldErrors;
use zentinel_core::{Error, Kind, Result};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take in all, unless it is a long poll.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a download may be silent. Calls have a limit as a whole: a long poll is silent for long.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer of the API that is read.
const MAX_ANSWER: usize = 32 << 20;
/// Largest refusal that is read.
const MAX_REFUSAL: usize = 1 << 20;

/// The server's address and a connection pool.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    base: Url,
    /// For calls; each sets its limit.
    pub(super) http: Client,
    /// For archives, which may take long but not fall silent.
    pub(super) downloads: Client,
}

impl Transport {
    pub(super) fn new(base: Url) -> Result<Self> {
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(Error::invalid("the control plane's URL must begin with http:// or https://"));
        }
        let client = || {
            Client::builder()
                .user_agent(concat!("zentinel-http/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .redirect(Policy::none())
        };
        let failed = |error| Error::internal("the HTTP client could not be set up").with_source(error);
        let http = client().build().map_err(failed)?;
        let downloads = client().read_timeout(READ_TIMEOUT).build().map_err(failed)?;
        Ok(Self { base, http, downloads })
    }

    /// The URL of a path below the server's address, segment by segment.
    pub(super) fn url(&self, segments: &[&str]) -> Result<Url> {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.path_segments_mut()
            .map_err(|()| Error::invalid("the control plane's URL cannot carry a path"))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }
}

/// Sends a request; refusals become errors.
pub(super) async fn send(request: RequestBuilder) -> Result<Response> {
    let response = request.send().await.map_err(|error| failed(&error))?;
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    let headers = response.headers().clone();
    let body = read(response, MAX_REFUSAL).await.unwrap_or_default();
    Err(refusal(status, &headers, &body))
}

/// Sends a request and reads its JSON answer.
pub(super) async fn call<T: DeserializeOwned>(request: RequestBuilder) -> Result<T> {
    answer(send(request.timeout(CALL_TIMEOUT)).await?).await
}

/// Reads a JSON answer.
pub(super) async fn answer<T: DeserializeOwned>(response: Response) -> Result<T> {
    let body = read(response, MAX_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| {
        Error::internal("the control plane's answer could not be understood").with_source(error)
    })
}

async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(Error::new(Kind::TooLarge, "the control plane's answer is too large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A call that got no answer.
pub(super) fn failed(error: &reqwest::Error) -> Error {
    // The URL of a download carries a signature: it is not for logs.
    let place = error.url().map(|url| format!("{}{}", url.origin().ascii_serialization(), url.path()));
    let place = place.unwrap_or_else(|| "the control plane".to_owned());
    let (kind, what) = if error.is_timeout() {
        (Kind::Timeout, "did not answer in time")
    } else if error.is_builder() || error.is_request() && !error.is_connect() && error.is_redirect() {
        (Kind::Malformed, "cannot be asked")
    } else if error.is_connect() {
        (Kind::Unavailable, "cannot be reached")
    } else {
        (Kind::Unavailable, "broke off")
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Error::new(kind, format!("{place} {what}: {cause}"))
}

fn kind(status: StatusCode) -> Kind {
    match status.as_u16() {
        400 | 405 | 406 | 415 => Kind::Malformed,
        401 => Kind::Unauthenticated,
        403 => Kind::Forbidden,
        404 | 410 => Kind::NotFound,
        409 => Kind::Conflict,
        413 | 416 => Kind::TooLarge,
        422 => Kind::Invalid,
        429 => Kind::RateLimited,
        408 | 502..=504 => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

/// The error that a refusal stands for: the server's words, the rest of the body as details, and
/// `retry_after` (seconds) when the server names a time.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let kind = kind(status);
    let mut body = serde_json::from_slice::<Map<String, Value>>(body).unwrap_or_default();
    let mut error = match body.remove("error") {
        Some(Value::String(text)) => Error::new(kind, text),
        Some(Value::Object(fields)) => {
            let fields = field_errors(fields);
            if kind == Kind::Invalid {
                Error::invalid_fields(fields)
            } else {
                Error::new(kind, format!("refused with status {status}"))
            }
        }
        _ => Error::new(kind, framework_text(status, body.remove("errors"))),
    };
    if let Some(Value::String(hint)) = body.remove("hint") {
        error = error.with_hint(hint);
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    if let Some(seconds) = seconds {
        body.insert("retry_after".to_owned(), seconds.into());
    }
    body.insert("status".to_owned(), status.as_u16().into());
    error.with_details(Value::Object(body))
}

fn framework_text(status: StatusCode, errors: Option<Value>) -> String {
    let text = |name: &str| errors.as_ref()?.get(name)?.as_str().map(str::to_owned);
    text("message").or_else(|| text("detail")).unwrap_or_else(|| format!("refused with status {status}"))
}

fn field_errors(fields: Map<String, Value>) -> FieldErrors {
    let messages = |value: Value| match value {
        Value::Array(items) => items
            .into_iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect(),
        Value::String(text) => vec![text],
        other => vec![other.to_string()],
    };
    fields.into_iter().map(|(field, value)| (field, messages(value))).collect()
}

/// How long the server asked to wait before the call is tried again, if it did.
#[must_use]
pub fn retry_after(error: &Error) -> Option<Duration> {
    let seconds = error.details()?.get("retry_after")?.as_u64()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn refused(status: u16, body: &str) -> Error {
        refusal(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn refusals_keep_what_the_server_said() {
        let error = refused(409, r#"{"error":"Bundle must be compiled before rollout","hint":"wait"}"#);
        assert_eq!((error.kind(), error.hint()), (Kind::Conflict, Some("wait")));
        assert_eq!(error.message(), "Bundle must be compiled before rollout");
        let error = refused(422, r#"{"error":{"name":["can't be blank"]}}"#);
        assert_eq!(error.fields()["name"], ["can't be blank"]);
        let error = refused(400, r#"{"errors":{"detail":"Bad Request","message":"the body is not JSON"}}"#);
        assert_eq!((error.kind(), error.message()), (Kind::Malformed, "the body is not JSON"));
        assert_eq!(refused(502, "<html>").kind(), Kind::Unavailable);
    }

    #[test]
    fn the_time_to_wait_is_surfaced() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("42"));
        let error = refusal(StatusCode::TOO_MANY_REQUESTS, &headers, br#"{"error":"rate_limit_exceeded"}"#);
        assert_eq!(retry_after(&error), Some(Duration::from_secs(42)));
        assert_eq!(retry_after(&refused(404, "{}")), None);
    }

    #[test]
    fn urls_keep_the_servers_path_and_escape_names() {
        let transport = Transport::new(Url::parse("https://example.test/fleet/?x=1").unwrap()).unwrap();
        let url = transport.url(&["api", "v1", "projects", "a/../b"]).unwrap();
        assert_eq!(url.as_str(), "https://example.test/fleet/api/v1/projects/a%2F..%2Fb");
        assert!(Transport::new(Url::parse("file:///tmp").unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn no_refusal_panics(status in 400_u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let status = StatusCode::from_u16(status).unwrap();
            let error = refusal(status, &HeaderMap::new(), &body);
            prop_assert!(!error.message().is_empty());
        }
    }
}
