//! One item of a batch, field by field.

use chrono::DateTime;
use serde_json::{Map, Value};
use uuid::Uuid;
use zentinel_core::error::Checks;
use zentinel_core::{Error, Result, Timestamp};

/// Most characters of a text in a measurement or log entry.
pub(super) const MAX_TEXT: usize = 8_192;

/// Reads fields and remembers what is wrong with them.
#[derive(Debug)]
pub(super) struct Item {
    fields: Map<String, Value>,
    checks: Checks,
}

impl Item {
    /// An item to read.
    pub(super) fn new(fields: Map<String, Value>) -> Self {
        Self { fields, checks: Checks::new() }
    }

    /// Takes a field; null is absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// Complains about a field unless `ok`.
    pub(super) fn that(&mut self, name: &str, ok: bool, message: &str) {
        self.checks.that(name, ok, message);
    }

    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let parsed = parse(&value);
        self.checks.that(name, parsed.is_some(), "is invalid");
        parsed
    }

    /// Complains when a mandatory field is not there.
    pub(super) fn demand(&mut self, name: &str) {
        let present = self.fields.get(name).is_some_and(|value| !value.is_null());
        self.checks.that(name, present, "can't be blank");
    }

    /// A UUID.
    pub(super) fn uuid(&mut self, name: &str) -> Option<Uuid> {
        self.parsed(name, |value| Uuid::try_parse(value.as_str()?).ok())
    }

    /// An RFC 3339 instant, kept to the microsecond.
    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.parsed(name, |value| {
            let at = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
            DateTime::from_timestamp_micros(at.timestamp_micros())
        })
    }

    /// A whole number that is not negative.
    pub(super) fn count(&mut self, name: &str) -> Option<i64> {
        let number = self.parsed(name, Value::as_i64)?;
        self.checks.that(name, number >= 0, "must be greater than or equal to 0");
        Some(number)
    }

    /// A text of at most `most` characters.
    pub(super) fn text(&mut self, name: &str, most: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => {
                let fits = text.len() <= most || text.chars().count() <= most;
                self.checks.that(name, fits, format!("should be at most {most} character(s)"));
                Some(text)
            }
            _ => {
                self.checks.that(name, false, "is invalid");
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word(&mut self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        self.parsed(name, |value| {
            let given = value.as_str()?;
            words.iter().copied().find(|word| *word == given)
        })
    }

    /// An object; empty when absent.
    pub(super) fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.take(name) {
            None => Map::new(),
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.checks.that(name, false, "is invalid");
                Map::new()
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every complaint.
    pub(super) fn finish(self) -> Result<()> {
        self.checks.finish()
    }
}

/// What is wrong with an item, in one line.
pub(super) fn complaint(error: &Error) -> String {
    error.message().to_owned()
}
