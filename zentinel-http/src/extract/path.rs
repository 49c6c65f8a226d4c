//! Path segments.

use crate::error::{ApiError, ApiResult};
use axum::extract::{FromRequestParts, RawPathParams};
use http::StatusCode;
use http::request::Parts;
use std::marker::PhantomData;
use uuid::Uuid;
use zentinel_core::id::TypedId;
use zentinel_core::{Error, Record};

/// The `{id}` segment as the id of an `R`. Text that is no id is answered like an unknown one.
#[derive(Debug)]
pub(crate) struct PathId<R: Record>(pub(crate) R::Id, PhantomData<R>);

impl<R: Record, S: Send + Sync> FromRequestParts<S> for PathId<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let text = path_param(parts, state, "id").await?;
        parse_id(&text)
            .map(|id| Self(id, PhantomData))
            .ok_or_else(|| Error::not_found(format!("{} not found", R::KIND.noun())).into())
    }
}

/// Accepts the hyphenated form of an id, in either case.
pub(crate) fn parse_id<I: TypedId>(text: &str) -> Option<I> {
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    hyphenated.then(|| Uuid::try_parse(text).ok().map(I::from_uuid)).flatten()
}

/// The decoded path segment with a name; empty when the segment is not UTF-8, which nothing is
/// named like.
pub(crate) async fn path_param<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> ApiResult<String> {
    let Ok(params) = RawPathParams::from_request_parts(parts, state).await else {
        return Ok(String::new());
    };
    params
        .iter()
        .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
        .ok_or_else(|| ApiError::framework(StatusCode::INTERNAL_SERVER_ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::id::NodeId;

    #[test]
    fn only_hyphenated_ids() {
        let id = NodeId::random();
        assert_eq!(parse_id(&id.to_string()), Some(id));
        assert_eq!(parse_id::<NodeId>(&id.uuid().simple().to_string()), None);
        assert_eq!(parse_id::<NodeId>(&id.uuid().urn().to_string()), None);
        assert_eq!(parse_id::<NodeId>("x"), None);
    }
}
