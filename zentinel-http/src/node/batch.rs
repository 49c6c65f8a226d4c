//! Bodies that nodes send, parsed straight from their bytes.

use crate::error::{ApiError, ApiResult};
use crate::extract::read_body;
use axum::body::Body;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zentinel_core::Error;

/// Most items of one list.
pub(super) const MAX_ITEMS: usize = 1_000;

/// Reads a JSON object of at most `limit` bytes; an empty body is an empty object.
///
/// # Errors
/// 413 beyond the limit, 400 for anything but a JSON object.
pub(super) async fn object<T: DeserializeOwned>(body: Body, limit: usize) -> ApiResult<(T, bool)> {
    let bytes = read_body(body, limit).await?;
    let parsed = parse(&bytes)?;
    Ok((parsed, may_hold_nul(&bytes)))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    let bytes = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => b"{}",
        Some(b'{') => bytes,
        Some(_) => return Err(ApiError::bad_request("the request body must be a JSON object")),
    };
    // serde_json refuses more than 128 levels by itself.
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the request body is not JSON: {error}")))
}

/// PostgreSQL's text cannot hold U+0000. In JSON it can only be written as this escape, so that
/// values are searched only when it occurs.
fn may_hold_nul(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|six| six == b"\\u0000")
}

/// Whether a value holds U+0000 anywhere.
pub(super) fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(object) => object_holds_nul(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a key or a value of an object holds U+0000.
pub(super) fn object_holds_nul(object: &Map<String, Value>) -> bool {
    object.iter().any(|(key, value)| key.contains('\0') || holds_nul(value))
}

/// Refuses a list that is too long.
///
/// # Errors
/// 413.
pub(super) fn bounded<T>(items: &[T], what: &str) -> ApiResult<()> {
    if items.len() > MAX_ITEMS {
        let text = format!("At most {MAX_ITEMS} {what} per call");
        return Err(ApiError::stated(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(())
}

/// The object of one item.
///
/// # Errors
/// What is wrong with it.
pub(super) fn item(value: Value, check_nul: bool) -> Result<Map<String, Value>, Error> {
    let Value::Object(object) = value else {
        return Err(Error::invalid("item must be an object"));
    };
    if check_nul && object_holds_nul(&object) {
        return Err(Error::invalid("item must not hold U+0000"));
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_objects_are_read() {
        assert_eq!(parse::<Value>(b" \n").unwrap(), json!({}));
        assert_eq!(parse::<Value>(b" {\"a\": 1}").unwrap(), json!({"a": 1}));
        for text in ["[]", "1", "{", "\u{feff}{}", "null"] {
            assert!(parse::<Value>(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse::<Value>(deep.as_bytes()).is_err());
    }

    #[test]
    fn nul_is_found_in_keys_and_values() {
        let text = br#"{"a": [{"b\u0000": 1}]}"#;
        assert!(may_hold_nul(text) && holds_nul(&parse(text).unwrap()));
        let escaped = br#"{"a": "\\u0000"}"#;
        assert!(may_hold_nul(escaped) && !holds_nul(&parse(escaped).unwrap()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ignored = parse::<Value>(&bytes);
        }

        #[test]
        fn nul_never_slips_through(text in "[a-z\u{0}]{0,8}") {
            let bytes = serde_json::to_vec(&json!({"k": text})).unwrap();
            prop_assert_eq!(may_hold_nul(&bytes), text.contains('\0'));
        }
    }
}
