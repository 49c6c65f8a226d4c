//! Request bodies.

use crate::error::{ApiError, ApiResult};
use crate::services::Api;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zentinel_core::Error;

/// A JSON object (an empty body is an empty object). Forms are read as objects of texts; bodies
/// of any other type are not looked at.
#[derive(Debug)]
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for Input<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let content_type = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        let bytes = read_body(body, api.options.body_limit).await?;
        let object = Value::Object(object(&content_type, &bytes)?);
        serde_json::from_value(object).map(Self).map_err(|error| ApiError::bad_request(error.to_string()))
    }
}

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// 413 when it is larger, 400 when the caller breaks off.
pub(crate) async fn read_body(body: Body, limit: usize) -> ApiResult<Bytes> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if is_too_long(&*error) => Err(ApiError::too_large(limit)),
        Err(_) => Err(ApiError::bad_request("the request body ended early")),
    }
}

/// The limit may be that of the guard, wrapped on its way here.
fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}

fn object(content_type: &str, bytes: &[u8]) -> ApiResult<Map<String, Value>> {
    let mime = content_type.split(';').next().unwrap_or_default().trim();
    let looks_like_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let object = match mime {
        _ if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
        // `curl -d` calls everything a form.
        "application/x-www-form-urlencoded" if !looks_like_json => form(bytes),
        "" | "application/json" | "text/json" | "application/x-www-form-urlencoded" => json(bytes)?,
        other if other.ends_with("+json") => json(bytes)?,
        _ => Map::new(),
    };
    refuse_nul(&object)?;
    Ok(object)
}

fn form(bytes: &[u8]) -> Map<String, Value> {
    url::form_urlencoded::parse(bytes)
        .map(|(key, value)| (key.into_owned(), Value::from(value.into_owned())))
        .collect()
}

fn json(bytes: &[u8]) -> ApiResult<Map<String, Value>> {
    // serde_json refuses more than 128 levels by itself.
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::bad_request("the request body must be a JSON object")),
        Err(error) => Err(ApiError::bad_request(format!("the request body is not JSON: {error}"))),
    }
}

/// PostgreSQL's text cannot hold U+0000, so that no field accepts it.
fn refuse_nul(object: &Map<String, Value>) -> ApiResult<()> {
    let mut bad = object
        .iter()
        .filter(|(key, value)| key.contains('\0') || holds_nul(value))
        .map(|(key, _)| key.replace('\0', "\u{fffd}"));
    match bad.next() {
        None => Ok(()),
        Some(first) => Err(bad
            .fold(Error::invalid_field(first, "is invalid"), |error, key| error.with_field(key, "is invalid"))
            .into()),
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn reads_json_forms_and_nothing_else() {
        let read = |mime, text: &str| Value::Object(object(mime, text.as_bytes()).unwrap());
        assert_eq!(read("application/json; charset=utf-8", r#"{"a":1}"#), json!({"a": 1}));
        assert_eq!(read("", r#" {"a":1}"#), json!({"a": 1}));
        assert_eq!(read("application/x-www-form-urlencoded", "a=1&b=x+y"), json!({"a": "1", "b": "x y"}));
        assert_eq!(read("application/x-www-form-urlencoded", r#"{"a":1}"#), json!({"a": 1}));
        assert_eq!(read("text/plain", r#"{"a":1}"#), json!({}));
        assert_eq!(read("application/json", "  "), json!({}));
    }

    #[test]
    fn refuses_what_is_no_object() {
        for text in ["[]", "1", "{", "{\"a\":}", "\u{feff}{}"] {
            let error = object("application/json", text.as_bytes()).unwrap_err();
            assert!(matches!(error, ApiError::Framework(StatusCode::BAD_REQUEST, _)), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(object("application/json", deep.as_bytes()).is_err());
    }

    #[test]
    fn nul_is_named_by_its_field() {
        let error = object("application/json", br#"{"a":{"b":["x\u0000"]},"c":"ok"}"#).unwrap_err();
        let ApiError::Domain(error) = error else { panic!("{error:?}") };
        assert_eq!(error.fields().keys().collect::<Vec<_>>(), ["a"]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ignored = object("application/json", &bytes);
            let _ignored = object("application/x-www-form-urlencoded", &bytes);
        }
    }
}
