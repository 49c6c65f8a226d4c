//! The table of settings, for `--check` and the documentation.

use super::Settings;
use super::load::FAMILIAR;
use serde_json::Value;
use zentinel_core::Result;

/// One effective setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path, for example `database.pool_size`.
    pub path: String,
    /// Its environment variables.
    pub environment: Vec<String>,
    /// Its value as shown; secrets redacted.
    pub value: String,
}

impl Settings {
    /// Every setting with its effective value, secrets redacted, ordered by path.
    ///
    /// # Errors
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when the settings don't serialise.
    pub fn table(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        flatten("", &serde_json::to_value(self)?, &mut entries);
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }
}

fn flatten(path: &str, value: &Value, entries: &mut Vec<Entry>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, entries);
            }
        }
        _ => {
            let systematic = format!("ZENTINEL__{}", path.to_uppercase().replace('.', "__"));
            let familiar =
                FAMILIAR.iter().filter(|(_, setting)| *setting == path).map(|(name, _)| (*name).to_owned());
            let value = match value {
                Value::Null => "unset".to_owned(),
                Value::String(text) if text.is_empty() => "unset".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let environment = familiar.chain([systematic]).collect();
            entries.push(Entry { path: path.to_owned(), environment, value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_setting_with_its_default() {
        let documented = include_str!("../../docs/settings.md");
        for entry in Settings::default().table().unwrap() {
            let start = format!("| `{}` | `{}` |", entry.path, entry.value);
            assert!(documented.contains(&start), "docs/settings.md lacks a row that starts with: {start}");
        }
    }
}
