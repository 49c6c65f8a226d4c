//! One field of a request body.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zentinel_core::error::Checks;

/// A field that remembers how it was given, so that every wrong field of a body can be named at
/// once. Use it with `#[serde(default)]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Field<T> {
    /// Not given.
    #[default]
    Absent,
    /// Given as null.
    Null,
    /// Given with a value of another type.
    Wrong,
    /// Given.
    Given(T),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Null => Self::Null,
            value => serde_json::from_value(value).map_or(Self::Wrong, Self::Given),
        })
    }
}

impl<T> Field<T> {
    /// The value; complains when it is absent, null or of another type.
    pub(crate) fn required(self, name: &str, checks: &mut Checks) -> Option<T> {
        checks.that(name, !matches!(self, Self::Absent | Self::Null), "can't be blank");
        self.optional(name, checks)
    }

    /// The value, if given; complains when it is of another type.
    pub(crate) fn optional(self, name: &str, checks: &mut Checks) -> Option<T> {
        checks.that(name, !matches!(self, Self::Wrong), "is invalid");
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Null | Self::Wrong => None,
        }
    }

    /// For partial updates: `None` to leave it, `Some(None)` to clear it.
    pub(crate) fn change(self, name: &str, checks: &mut Checks) -> Option<Option<T>> {
        checks.that(name, !matches!(self, Self::Wrong), "is invalid");
        match self {
            Self::Given(value) => Some(Some(value)),
            Self::Null => Some(None),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// Whether anything but null was given.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self, Self::Given(_) | Self::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Body {
        text: Field<String>,
        number: Field<u32>,
    }

    #[test]
    fn tells_absent_null_wrong_and_given_apart() {
        let body: Body = serde_json::from_value(json!({"text": 5, "number": -1})).unwrap();
        let mut checks = Checks::new();
        assert_eq!(body.text.required("text", &mut checks), None);
        assert_eq!(body.number.optional("number", &mut checks), None);
        let error = checks.finish().unwrap_err();
        assert_eq!(error.fields()["text"], ["is invalid"]);
        assert_eq!(error.fields()["number"], ["is invalid"]);

        let body: Body = serde_json::from_value(json!({"text": null})).unwrap();
        let mut checks = Checks::new();
        assert_eq!(body.text.clone().change("text", &mut checks), Some(None));
        assert_eq!(body.number.change("number", &mut checks), None);
        assert_eq!(body.text.required("text", &mut checks), None);
        assert_eq!(checks.finish().unwrap_err().fields()["text"], ["can't be blank"]);
    }
}
