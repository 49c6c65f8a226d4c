//! Lists and maps as environment variables and flags can give them: as one text.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOr<T> {
    Text(String),
    Value(T),
}

/// A list, or a text with commas between the entries.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match TextOr::deserialize(deserializer)? {
        TextOr::Text(text) => entries(&text).map(str::to_owned).collect(),
        TextOr::Value(list) => list,
    })
}

/// A table, or a text such as `bundles:write=200,node=1000`.
pub(super) fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u32>, D::Error> {
    match TextOr::<BTreeMap<String, TextOr<u32>>>::deserialize(deserializer)? {
        TextOr::Text(text) => entries(&text)
            .map(|entry| {
                let (name, limit) = entry.split_once('=').ok_or_else(|| D::Error::custom(bad(entry)))?;
                Ok((name.trim().to_owned(), limit.trim().parse().map_err(|_| D::Error::custom(bad(entry)))?))
            })
            .collect(),
        TextOr::Value(table) => table
            .into_iter()
            .map(|(name, limit)| match limit {
                TextOr::Value(limit) => Ok((name, limit)),
                TextOr::Text(text) => Ok((name, text.parse().map_err(|_| D::Error::custom(bad(&text)))?)),
            })
            .collect(),
    }
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn bad(entry: &str) -> String {
    format!("rate_limits: `{entry}` is not of the form name=number")
}
