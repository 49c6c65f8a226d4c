//! Small value types that carry their own rules.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// An instant in UTC. The HTTP API shows whole seconds; storage keeps microseconds.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// A SHA-256 digest, lower-case hexadecimal on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    ///
    /// ```
    /// use zentinel_core::Sha256Digest;
    /// assert!(Sha256Digest::of(b"").to_string().starts_with("e3b0c44298fc1c14"));
    /// ```
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a digest that was computed elsewhere (for example while streaming).
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Error::invalid("digest must be 64 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|_| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// A whole percentage from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(100);
    /// Half of it.
    pub const HALF: Self = Self(50);

    /// Checks the range.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) outside 1 to 100.
    pub fn new(value: u8) -> Result<Self> {
        if (1..=100).contains(&value) {
            Ok(Self(value))
        } else {
            Err(Error::invalid("must be from 1 to 100"))
        }
    }

    /// The number, 1 to 100.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// This share of `total`, rounded down.
    #[must_use]
    pub fn floor_of(self, total: usize) -> usize {
        total * usize::from(self.0) / 100
    }

    /// This share of `total`, rounded up.
    #[must_use]
    pub fn ceil_of(self, total: usize) -> usize {
        (total * usize::from(self.0)).div_ceil(100)
    }
}

impl TryFrom<u8> for Percent {
    type Error = Error;
    fn try_from(value: u8) -> Result<Self> {
        Self::new(value)
    }
}

impl From<Percent> for u8 {
    fn from(value: Percent) -> u8 {
        value.0
    }
}

/// A URL-safe name: lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

impl Slug {
    /// Longest slug of an organisation or a project.
    pub const MAX: usize = 50;

    /// Derives a slug from a name, as the wire contract says: lower-case, every run of other
    /// characters becomes one hyphen, trimmed, cut to [`Slug::MAX`].
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) when nothing usable is left.
    ///
    /// ```
    /// use zentinel_core::Slug;
    /// assert_eq!(Slug::from_name("  Edge / EU 1 ").unwrap().as_str(), "edge-eu-1");
    /// assert!(Slug::from_name("!!!").is_err());
    /// ```
    pub fn from_name(name: &str) -> Result<Self> {
        let mut slug = String::new();
        for character in name.chars().flat_map(char::to_lowercase) {
            if character.is_ascii_lowercase() || character.is_ascii_digit() {
                slug.push(character);
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        slug.truncate(Self::MAX);
        Self::parse(slug.trim_matches('-'))
    }

    /// Accepts text that already is a slug.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) otherwise.
    pub fn parse(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let ok = bytes.len() <= Self::MAX
            && bytes.first().copied().is_some_and(plain)
            && bytes.last().copied().is_some_and(plain)
            && bytes.iter().all(|b| plain(*b) || *b == b'-');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid_field("slug", "must contain only lowercase letters, numbers, and hyphens"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Slug {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> String {
        slug.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slug({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percent_rounds_both_ways() {
        let third = Percent::new(33).unwrap();
        assert_eq!((third.floor_of(10), third.ceil_of(10)), (3, 4));
        assert!(Percent::new(0).is_err() && Percent::new(101).is_err());
    }

    proptest! {
        #[test]
        fn a_derived_slug_is_always_a_slug(name in ".{0,120}") {
            if let Ok(slug) = Slug::from_name(&name) {
                prop_assert_eq!(Slug::parse(slug.as_str()).unwrap(), slug);
            }
        }

        #[test]
        fn digests_survive_the_wire(bytes in proptest::array::uniform32(any::<u8>())) {
            let digest = Sha256Digest::from_bytes(bytes);
            prop_assert_eq!(Sha256Digest::parse(&digest.to_string()).unwrap(), digest);
        }
    }
}
