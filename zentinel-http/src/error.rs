//! The one place where an error becomes a status and a body.
//!
//! | Situation | Body |
//! |---|---|
//! | business error | `{"error": "<text>"}`, details merged in |
//! | validation | `{"error": {"<field>": ["<message>"]}}` |
//! | the request itself is unusable, no route, a defect | `{"errors": {"detail": "<reason phrase>"}}` |

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use zentinel_core::{Error, Kind};

/// Result of a handler.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// Seconds after which a caller may try again when a dependency is away.
const RETRY_AFTER_SECONDS: u64 = 5;

const BUSY: &str = "The control plane is busy. Try again after the time in Retry-After.";

/// What a handler answers when it cannot do what was asked.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// An error of the domain.
    Domain(Error),
    /// A business error whose status is the contract's choice.
    Stated(StatusCode, Cow<'static, str>),
    /// The server has too much to do: the caller may come back after so many seconds.
    Busy(u64),
    /// The HTTP layer's own answer; the message says more than the reason phrase.
    Framework(StatusCode, Option<Cow<'static, str>>),
}

impl ApiError {
    /// A business error with a status of its own.
    pub(crate) fn stated(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Stated(status, text.into())
    }

    /// The HTTP layer's own answer.
    pub(crate) fn framework(status: StatusCode) -> Self {
        Self::Framework(status, None)
    }

    /// A body of more than `limit` bytes: 413.
    pub(crate) fn too_large(limit: usize) -> Self {
        let text = format!("the request body is larger than {limit} bytes, the limit of this server");
        Self::Framework(StatusCode::PAYLOAD_TOO_LARGE, Some(text.into()))
    }

    /// A body that cannot be read: 400 with an explanation.
    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Framework(StatusCode::BAD_REQUEST, Some(message.into()))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::Domain(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Domain(error) => domain(&error),
            Self::Stated(status, text) => answer(status, &json!({ "error": text }), None),
            Self::Busy(seconds) => {
                let body = json!({ "error": BUSY, "retry_after": seconds });
                answer(StatusCode::SERVICE_UNAVAILABLE, &body, Some(seconds))
            }
            Self::Framework(status, message) => framework(status, message.as_deref()),
        }
    }
}

fn domain(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match error.kind() {
        Kind::Internal => {
            tracing::error!(error = ?error, "request failed");
            return framework(status, None);
        }
        Kind::Unavailable | Kind::Timeout => tracing::warn!(error = ?error, "a dependency is away"),
        _ => {}
    }
    let mut body = Map::new();
    let text = if error.fields().is_empty() { Value::from(error.message()) } else { json!(error.fields()) };
    body.insert("error".to_owned(), text);
    if let Some(hint) = error.hint() {
        body.insert("hint".to_owned(), hint.into());
    }
    match error.details() {
        Some(Value::Object(details)) => {
            for (key, value) in details {
                body.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Some(other) => {
            body.insert("details".to_owned(), other.clone());
        }
        None => {}
    }
    let retry = body.get("retry_after").and_then(Value::as_u64);
    answer(status, &Value::Object(body), retry)
}

fn framework(status: StatusCode, message: Option<&str>) -> Response {
    let mut errors = Map::new();
    errors.insert("detail".to_owned(), reason(status).into());
    if let Some(message) = message {
        errors.insert("message".to_owned(), message.into());
    }
    answer(status, &json!({ "errors": errors }), None)
}

/// The reason phrase, with the name that clients of this API know for 413.
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        other => other.canonical_reason().unwrap_or("Error"),
    }
}

fn answer(status: StatusCode, body: &Value, retry_after: Option<u64>) -> Response {
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, retry_after.unwrap_or(RETRY_AFTER_SECONDS).into());
        }
        _ => {}
    }
    response
}

/// The message of a taken unique key.
pub(crate) const TAKEN: &str = "has already been taken";

/// Reports a taken name on `column` too, the first column of the unique index, as the contract
/// says.
pub(crate) fn taken_also_on(error: Error, column: &'static str) -> Error {
    let taken = error.fields().values().flatten().any(|message| message == TAKEN);
    if taken && !error.fields().contains_key(column) { error.with_field(column, TAKEN) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn parts(error: impl Into<ApiError>) -> (u16, http::HeaderMap, Value) {
        let response = error.into().into_response();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn business_errors_carry_their_details() {
        let error = Error::conflict("Freeze window active").with_details(json!({"freeze_window": {"id": 1}}));
        let (status, _, body) = parts(error).await;
        assert_eq!(status, 409);
        assert_eq!(body, json!({"error": "Freeze window active", "freeze_window": {"id": 1}}));
    }

    #[tokio::test]
    async fn field_errors_are_an_object() {
        let (status, _, body) = parts(Error::invalid_field("name", "can't be blank")).await;
        assert_eq!((status, body), (422, json!({"error": {"name": ["can't be blank"]}})));
    }

    #[tokio::test]
    async fn a_defect_says_nothing_about_itself() {
        let (status, _, body) = parts(Error::internal("secret table is broken")).await;
        assert_eq!((status, body), (500, json!({"errors": {"detail": "Internal Server Error"}})));
    }

    #[tokio::test]
    async fn retries_and_challenges_have_headers() {
        let (_, headers, _) = parts(Error::unavailable("The database is away")).await;
        assert_eq!(headers[RETRY_AFTER], "5");
        let limited =
            Error::new(Kind::RateLimited, "rate_limit_exceeded").with_details(json!({"retry_after": 42}));
        let (status, headers, _) = parts(limited).await;
        assert_eq!((status, &headers[RETRY_AFTER]), (429, &HeaderValue::from_static("42")));
        let (_, headers, _) = parts(Error::unauthenticated("Missing Authorization header")).await;
        assert_eq!(headers[WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn a_taken_name_is_reported_on_the_index_column() {
        let error = taken_also_on(Error::invalid_field("version", TAKEN), "project_id");
        assert_eq!(error.fields()["project_id"], [TAKEN]);
        let other = taken_also_on(Error::invalid_field("version", "can't be blank"), "project_id");
        assert!(!other.fields().contains_key("project_id"));
    }
}
