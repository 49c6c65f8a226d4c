//! Reading [`RolloutSpec::strategy_config`](zentinel_core::entity::RolloutSpec::strategy_config): every setting that is wrong
//! is named, and has its default meanwhile.

use serde_json::{Map, Value};
use zentinel_core::Percent;
use zentinel_core::error::Checks;

/// The settings of one strategy, as they are sent.
pub(super) struct Settings<'a, 'c> {
    /// What the object is called on the wire.
    field: &'static str,
    object: &'a Map<String, Value>,
    checks: &'c mut Checks,
}

impl<'a, 'c> Settings<'a, 'c> {
    /// The settings, where there are any; complains about keys that are not `known`.
    pub(super) fn open(
        config: &'a Value,
        field: &'static str,
        known: &[&str],
        checks: &'c mut Checks,
    ) -> Option<Self> {
        let object = match config {
            Value::Null => return None,
            Value::Object(object) => object,
            _ => {
                checks.that(field, false, "must be an object");
                return None;
            }
        };
        let unknown: Vec<&str> =
            object.keys().map(String::as_str).filter(|key| !known.contains(key)).take(20).collect();
        checks.that(field, unknown.is_empty(), format!("unknown keys: {}", unknown.join(", ")));
        Some(Self { field, object, checks })
    }

    /// Reads one setting; `rule` says what it must be.
    pub(super) fn set<T>(&mut self, key: &str, into: &mut T, of: impl Fn(&Value) -> Option<T>, rule: &str) {
        match self.object.get(key).filter(|value| !value.is_null()) {
            None => {}
            Some(value) => match of(value) {
                Some(value) => *into = value,
                None => self.checks.that(self.field, false, format!("{key} {rule}")),
            },
        }
    }

    /// A number within a range.
    pub(super) fn number(&mut self, key: &str, (least, most): (f64, f64), into: &mut f64) {
        let number = |value: &Value| value.as_f64().filter(|number| (least..=most).contains(number));
        self.set(key, into, number, &format!("must be a number from {least} to {most}"));
    }
}

/// A whole percentage.
pub(super) fn percent(value: &Value) -> Option<Percent> {
    Percent::new(u8::try_from(value.as_u64()?).ok()?).ok()
}

/// Rising whole percentages up to 100, at most `most` of them.
pub(super) fn rising_to_100(value: &Value, most: usize) -> Option<Vec<Percent>> {
    let steps: Vec<Percent> = value.as_array()?.iter().map(percent).collect::<Option<_>>()?;
    let rises = steps.windows(2).all(|pair| pair[0].get() < pair[1].get());
    let ends = steps.last().is_some_and(|last| last.get() == 100);
    (rises && ends && steps.len() <= most).then_some(steps)
}
