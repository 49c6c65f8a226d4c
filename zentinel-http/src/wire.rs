//! The JSON of the operator API: what entities look like to callers.
//!
//! Timestamps have second precision, absent values are null and never left out.

mod bundle;
pub(crate) mod drift;
mod explain;
pub(crate) mod governance;
pub(crate) mod health_check;
mod key;
mod log;
mod node;
mod project;
mod rollout;

pub(crate) use bundle::{BundleBody, BundleList, BundleOne, Diagnostics, SourceBody, SourceOne};
pub(crate) use explain::{ExplanationBody, RolloutLogBody, RolloutLogList};
pub(crate) use key::{
    ApiKeyBody, ApiKeyCreated, ApiKeyList, ApiKeyOne, TokenBody, TokenCreated, TokenList, TokenOne,
};
pub(crate) use log::{
    AuditBody, AuditList, EventBody, EventList, HeartbeatList, NodeEventList, ReportedBody,
};
pub(crate) use node::{GroupBody, GroupList, GroupOne, NodeBody, NodeList, NodeOne, NodeStats};
pub(crate) use project::{ProjectBody, ProjectList, ProjectOne};
pub(crate) use rollout::{PreviewOne, RolloutBody, RolloutDetailBody, RolloutList};

use crate::error::ApiError;
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::openapi::response::Response as Documented;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};
use zentinel_core::Timestamp;

/// A JSON response.
#[derive(Clone, Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => {
                let json = HeaderValue::from_static("application/json; charset=utf-8");
                ([(CONTENT_TYPE, json)], bytes).into_response()
            }
            Err(error) => {
                tracing::error!(%error, "a response could not be written");
                ApiError::framework(StatusCode::INTERNAL_SERVER_ERROR).into_response()
            }
        }
    }
}

/// An instant in UTC with second precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-02-23T10:00:00Z")]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }
}

/// A refusal: `error` is a text, or an object of messages by field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"error": {"name": ["can't be blank"]}}))]
pub(crate) struct Failure {
    /// A text, or messages by field.
    error: Option<Value>,
    /// From the HTTP layer itself: `{"detail": "<reason phrase>"}`.
    errors: Option<Value>,
}

fn refusals(wanted: &[(u16, &str)]) -> BTreeMap<String, RefOr<Documented>> {
    wanted
        .iter()
        .map(|(status, description)| {
            let content = Content::new(Some(RefOr::<utoipa::openapi::schema::Schema>::Ref(
                Ref::from_schema_name("Failure"),
            )));
            let response =
                ResponseBuilder::new().description(*description).content("application/json", content).build();
            (status.to_string(), RefOr::T(response))
        })
        .collect()
}

const ALWAYS: &[(u16, &str)] = &[
    (400, "The request cannot be read"),
    (401, "No API key, or one that is not accepted"),
    (403, "The key lacks the scope"),
    (404, "There is no such thing, or the caller may not know of it"),
    (406, "The caller does not accept JSON"),
    (422, "A field is wrong"),
    (429, "Too many requests; see Retry-After"),
    (500, "A defect"),
    (503, "A dependency is away; try again later"),
];

/// The refusals that every operator route knows.
#[derive(Debug)]
pub(crate) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Documented>> {
        refusals(ALWAYS)
    }
}

/// Those, and what a change may meet.
#[derive(Debug)]
pub(crate) struct ChangeRefusals;

impl IntoResponses for ChangeRefusals {
    fn responses() -> BTreeMap<String, RefOr<Documented>> {
        let mut responses = refusals(ALWAYS);
        responses.extend(refusals(&[
            (409, "The state of the thing does not allow this"),
            (413, "The request is too large"),
        ]));
        responses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_whole_seconds() {
        let time = Time(chrono::DateTime::from_timestamp_micros(1_771_840_830_999_999).unwrap());
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-02-23T10:00:30Z\"");
    }
}
