//! Query parameters.

use crate::error::{ApiError, ApiResult};
use axum::extract::FromRequestParts;
use http::request::Parts;
use zentinel_core::{Error, PageRequest};

/// The query string, decoded. Unknown parameters are ignored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default())?)
    }
}

impl Params {
    fn parse(query: &str) -> Result<Self, Error> {
        let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        match pairs.iter().find(|(key, value)| key.contains('\0') || value.contains('\0')) {
            Some((key, _)) => Err(Error::invalid_field(key.replace('\0', "\u{fffd}"), "is invalid")),
            None => Ok(Self(pairs)),
        }
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    /// Whether a switch is on.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | ""))
    }

    /// `limit` and `cursor`; a limit outside 1 to 500 is the default.
    pub(crate) fn page(&self, default: u32) -> PageRequest {
        let limit = self
            .get("limit")
            .and_then(|text| text.parse().ok())
            .filter(|limit| (1..=PageRequest::MAX).contains(limit))
            .unwrap_or(default);
        let cursor = self.get("cursor").filter(|cursor| !cursor.is_empty());
        PageRequest::first(limit).after(cursor.map(str::to_owned))
    }

    /// The entries of `name[key]=value`. Keys may hold any character but a closing bracket at
    /// their end.
    pub(crate) fn map(&self, name: &str) -> Vec<(String, String)> {
        self.0
            .iter()
            .filter_map(|(key, value)| {
                let key = key.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
                Some((key.to_owned(), value.clone()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_out_of_range_are_the_default() {
        let limit = |query| Params::parse(query).unwrap().page(50).limit;
        assert_eq!(limit("limit=7"), 7);
        for query in ["", "limit=0", "limit=501", "limit=-1", "limit=x", "limit=99999999999999999999"] {
            assert_eq!(limit(query), 50, "{query}");
        }
    }

    #[test]
    fn labels_keep_dots_and_slashes() {
        let params = Params::parse("labels[a.b%2Fc-d]=x&labels%5Bregion%5D=eu&labels=no").unwrap();
        let expected = [("a.b/c-d", "x"), ("region", "eu")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(params.map("labels"), expected);
    }

    #[test]
    fn nul_is_refused() {
        assert!(Params::parse("status=a%00b").is_err());
    }
}
