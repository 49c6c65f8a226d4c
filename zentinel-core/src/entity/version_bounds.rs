//! Which versions of bundles a node may be given.

use crate::error::{Checks, Result};
use crate::id::BundleId;
use semver::Version;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// The lowest and the highest version, both included, by semantic versioning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionBounds {
    /// The lowest version.
    pub min: Option<String>,
    /// The highest version.
    pub max: Option<String>,
    /// A bundle that the node was told to run and may not be given since the bounds are these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barred: Option<BundleId>,
}

impl VersionBounds {
    /// Bounds; none at all where neither end is given.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `min` or `max` for what is no version, or when the lowest is
    /// above the highest.
    pub fn new(min: Option<String>, max: Option<String>) -> Result<Option<Self>> {
        let mut checks = Checks::new();
        let mut read = |name: &str, text: &Option<String>| {
            let version = text.as_deref().map(Version::parse);
            let fits = version.as_ref().is_none_or(std::result::Result::is_ok);
            checks.that(name, fits, "must be a semantic version such as 1.4.0");
            version.and_then(std::result::Result::ok)
        };
        let (low, high) = (read("min", &min), read("max", &max));
        if let (Some(low), Some(high)) = (&low, &high) {
            checks.that("max", low.cmp_precedence(high) != Ordering::Greater, "must not be below min");
        }
        checks.finish()?;
        Ok((min.is_some() || max.is_some()).then_some(Self { min, max, barred: None }))
    }

    /// Whether a bundle of this version may be given. A version that is no semantic one may not.
    #[must_use]
    pub fn admits(&self, version: &str) -> bool {
        let Ok(version) = Version::parse(version) else {
            return false;
        };
        let at_least = |bound: &Option<String>, refused: Ordering| match bound.as_deref().map(Version::parse)
        {
            None => true,
            Some(Ok(bound)) => version.cmp_precedence(&bound) != refused,
            Some(Err(_)) => false,
        };
        at_least(&self.min, Ordering::Less) && at_least(&self.max, Ordering::Greater)
    }
}

/// Whether a proxy's version is this one or later; not, where either cannot be read.
#[must_use]
pub fn is_at_least(version: Option<&str>, lowest: &str) -> bool {
    let read = |text: &str| Version::parse(text).ok();
    match (version.and_then(read), read(lowest)) {
        (Some(version), Some(lowest)) => version.cmp_precedence(&lowest) != Ordering::Less,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_included() {
        let bounds = |min: &str, max: &str| {
            let end = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            VersionBounds::new(end(min), end(max)).unwrap().unwrap()
        };
        let within = bounds("1.2.0", "2.0.0");
        for (version, admitted) in [
            ("1.1.9", false),
            ("1.2.0-rc.1", false),
            ("1.2.0", true),
            ("1.10.0", true),
            ("2.0.0", true),
            ("2.0.0+build", true),
            ("2.0.1", false),
            ("git-12345678", false),
            ("1.5", false),
        ] {
            assert_eq!(within.admits(version), admitted, "{version}");
        }
        assert!(bounds("1.0.0", "").admits("9.0.0") && bounds("", "1.0.0").admits("0.1.0"));
        assert_eq!(VersionBounds::new(None, None).unwrap(), None);
        assert!(VersionBounds::new(Some("2.0.0".to_owned()), Some("1.0.0".to_owned())).is_err());
        assert!(VersionBounds::new(Some("two".to_owned()), None).is_err());
        assert!(is_at_least(Some("26.2.0"), "26.1.9") && !is_at_least(None, "1.0.0"));
        assert!(!is_at_least(Some("26.1.0"), "26.2.0"));
    }
}
