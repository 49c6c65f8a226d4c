//! Opaque bearer credentials: API keys, node keys, registration tokens.
//!
//! The raw value is 32 random bytes as unpadded base64url (43 characters), shown once.
//! Only `base64(SHA-256(raw))` is stored.

use crate::error::{Error, Result};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// What is stored of a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialHash([u8; 32]);

impl CredentialHash {
    /// Hashes a raw credential as presented by a caller.
    #[must_use]
    pub fn of(raw: &str) -> Self {
        Self(Sha256::digest(raw.as_bytes()).into())
    }

    /// Whether both are of the same credential; takes as long wherever they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The digest itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The stored text: standard base64 with padding.
    #[must_use]
    pub fn text(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl From<CredentialHash> for String {
    fn from(hash: CredentialHash) -> Self {
        hash.text()
    }
}

impl TryFrom<String> for CredentialHash {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for CredentialHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Error::invalid("a credential's digest is not base64 of 32 bytes"))
    }
}

impl fmt::Debug for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialHash(…)")
    }
}

/// A new credential: the raw value for its owner, the hash for the store.
#[derive(Clone, Debug)]
pub struct NewCredential {
    /// Shown once, never stored.
    pub raw: Secret,
    /// Stored.
    pub hash: CredentialHash,
}

impl NewCredential {
    /// Draws 32 bytes from the operating system's generator.
    #[must_use]
    pub fn generate() -> Self {
        Self::of_bytes(&rand::random::<[u8; 32]>())
    }

    /// The credential that a secret makes for a purpose, always the same one: HMAC-SHA256 of the
    /// purpose. As hard to guess as the secret, which does not follow from it.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the secret cannot be a key.
    pub fn derive(secret: &Secret, purpose: &str) -> Result<Self> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
            .map_err(|error| Error::internal("a secret is unusable").with_source(error))?;
        mac.update(purpose.as_bytes());
        Ok(Self::of_bytes(&mac.finalize().into_bytes()))
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let raw = URL_SAFE_NO_PAD.encode(bytes);
        let hash = CredentialHash::of(&raw);
        Self { raw: Secret::new(raw), hash }
    }

    /// The first eight characters, kept so that people can tell keys apart.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.raw.expose().chars().take(8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_is_the_contracts() {
        let credential = NewCredential::generate();
        assert_eq!(credential.raw.expose().len(), 43);
        assert_eq!(credential.hash, CredentialHash::of(credential.raw.expose()));
        assert_eq!(credential.hash.text().len(), 44);
        let stored = serde_json::to_string(&credential.hash).unwrap();
        assert_eq!(stored, format!("\"{}\"", credential.hash.text()));
        assert_eq!(serde_json::from_str::<CredentialHash>(&stored).unwrap(), credential.hash);
        assert!(serde_json::from_str::<CredentialHash>("\"c2hvcnQ=\"").is_err());
        assert!(!format!("{credential:?}").contains(credential.raw.expose()));
    }

    #[test]
    fn a_secret_makes_one_credential_for_each_purpose() {
        let derive = |secret, purpose| {
            NewCredential::derive(&Secret::new(secret), purpose).unwrap().raw.expose().to_owned()
        };
        // HMAC-SHA256 as `openssl dgst -sha256 -hmac secret` has it.
        assert_eq!(derive("secret", "a"), "QEjESRGRYEP_YmiV_3jFJidkaFtsuaA84HiGqe_7kkw");
        assert_ne!(derive("secret", "a"), derive("secret", "b"));
        assert_ne!(derive("secret", "a"), derive("secreT", "a"));
        let hash = CredentialHash::of;
        assert!(hash("a").matches(&hash("a")) && !hash("a").matches(&hash("b")));
    }
}
