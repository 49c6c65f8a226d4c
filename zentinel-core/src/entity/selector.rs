//! Which nodes, said by their labels: `region=eu,env in (staging,prod),!retired`.
//!
//! Requirements are separated by commas and all must hold: `key=value`, `key!=value`, `key in (a,b)`,
//! `key notin (a,b)`, `key` (has the label) and `!key` (has it not). A node without the label satisfies `!=` and
//! `notin`. What holds spaces or one of `,=!()"` is put in double quotes, with `\` before `"` and `\`.

mod parse;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Most requirements of a selector.
const MAX_REQUIREMENTS: usize = 64;
/// Most values of a requirement.
const MAX_VALUES: usize = 256;
/// Longest key or value, in characters.
const MAX_WORD: usize = 253;

/// What must hold of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// It is there with this value.
    Is(String, String),
    /// It is not there with this value.
    IsNot(String, String),
    /// It is there with one of these values.
    In(String, BTreeSet<String>),
    /// It is not there with one of these values.
    NotIn(String, BTreeSet<String>),
    /// It is there.
    Exists(String),
    /// It is not there.
    Absent(String),
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Is(key, value) => labels.get(key) == Some(value),
            Self::IsNot(key, value) => labels.get(key) != Some(value),
            Self::In(key, values) => labels.get(key).is_some_and(|found| values.contains(found)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|found| !values.contains(found)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Is(key, _)
            | Self::IsNot(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::Absent(key) => key,
        }
    }

    fn fault(&self) -> Option<String> {
        let long = |text: &str| text.chars().count() > MAX_WORD;
        let values: Vec<&String> = match self {
            Self::Is(_, value) | Self::IsNot(_, value) => vec![value],
            Self::In(_, values) | Self::NotIn(_, values) => values.iter().collect(),
            Self::Exists(_) | Self::Absent(_) => Vec::new(),
        };
        let set = matches!(self, Self::In(..) | Self::NotIn(..));
        if self.key().is_empty() {
            Some("a label's key can't be blank".to_owned())
        } else if long(self.key()) || values.iter().any(|value| long(value)) {
            Some(format!("keys and values should be at most {MAX_WORD} character(s)"))
        } else if self.key().contains('\0') || values.iter().any(|value| value.contains('\0')) {
            Some("is invalid".to_owned())
        } else if set && !(1..=MAX_VALUES).contains(&values.len()) {
            Some(format!("`{}` needs 1 to {MAX_VALUES} values", self.key()))
        } else {
            None
        }
    }
}

/// Requirements on labels, all of which must hold; at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// A selector out of its requirements.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `selector` for none or too many, or one that cannot be.
    pub fn new(requirements: Vec<Requirement>) -> Result<Self> {
        let count = requirements.len();
        if !(1..=MAX_REQUIREMENTS).contains(&count) {
            return Err(refused(format!("should have 1 to {MAX_REQUIREMENTS} requirement(s)")));
        }
        match requirements.iter().find_map(Requirement::fault) {
            Some(fault) => Err(refused(fault)),
            None => Ok(Self(requirements)),
        }
    }

    /// Reads a selector as it is sent: its text, or a list of `{"key", "operator", "values"}` with the operators
    /// `=`, `!=`, `in`, `notin`, `exists` and `!exists`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `selector`, with the place and the reason.
    pub fn from_json(value: &Value) -> Result<Self> {
        match value {
            Value::String(text) => text.parse(),
            Value::Array(items) => {
                let requirements = items.iter().enumerate().map(|(place, item)| from_object(place, item));
                Self::new(requirements.collect::<Result<_>>()?)
            }
            _ => Err(refused("must be a text or a list of requirements")),
        }
    }

    /// The requirements.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether these labels satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

fn refused(message: impl Into<String>) -> Error {
    Error::invalid_field("selector", message.into())
}

fn from_object(place: usize, item: &Value) -> Result<Requirement> {
    #[derive(Deserialize)]
    struct Given {
        key: String,
        operator: String,
        #[serde(default)]
        values: Vec<String>,
    }
    let given: Given = serde_json::from_value(item.clone()).map_err(|_| {
        refused(format!("requirement {place}: must be {{\"key\", \"operator\", \"values\": [...]}}"))
    })?;
    let single = |values: Vec<String>| match <[String; 1]>::try_from(values) {
        Ok([value]) => Ok(value),
        Err(_) => Err(refused(format!("requirement {place}: `{}` takes one value", given.operator))),
    };
    Ok(match given.operator.as_str() {
        "=" | "==" => Requirement::Is(given.key, single(given.values)?),
        "!=" => Requirement::IsNot(given.key, single(given.values)?),
        "in" => Requirement::In(given.key, given.values.into_iter().collect()),
        "notin" => Requirement::NotIn(given.key, given.values.into_iter().collect()),
        "exists" if given.values.is_empty() => Requirement::Exists(given.key),
        "!exists" if given.values.is_empty() => Requirement::Absent(given.key),
        "exists" | "!exists" => {
            return Err(refused(format!("requirement {place}: `{}` takes no value", given.operator)));
        }
        _ => {
            let known = "=, !=, in, notin, exists, !exists";
            return Err(refused(format!("requirement {place}: the operator must be one of {known}")));
        }
    })
}

impl FromStr for LabelSelector {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(parse::requirements(text).map_err(refused)?)
    }
}

impl TryFrom<String> for LabelSelector {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<LabelSelector> for String {
    fn from(selector: LabelSelector) -> Self {
        selector.to_string()
    }
}

/// A key or value as it must be written.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(parse::is_bare) {
            return f.write_str(self.0);
        }
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| {
            values.iter().map(|value| Word(value).to_string()).collect::<Vec<_>>().join(",")
        };
        let key = Word(self.key());
        match self {
            Self::Is(_, value) => write!(f, "{key}={}", Word(value)),
            Self::IsNot(_, value) => write!(f, "{key}!={}", Word(value)),
            Self::In(_, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(_, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(_) => write!(f, "{key}"),
            Self::Absent(_) => write!(f, "!{key}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, requirement) in self.0.iter().enumerate() {
            write!(f, "{}{requirement}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
