//! Opaque bearer credentials: API keys, node keys, registration tokens.
//!
//! The raw value is 32 random bytes as unpadded base64url (43 characters), shown once.
//! Only `base64(SHA-256(raw))` is stored.

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// What is stored of a credential.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CredentialHash(String);

impl CredentialHash {
    /// Hashes a raw credential as presented by a caller.
    #[must_use]
    pub fn of(raw: &str) -> Self {
        Self(STANDARD.encode(Sha256::digest(raw.as_bytes())))
    }

    /// The stored text: standard base64 with padding.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
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
        let raw = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
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
        assert_eq!(credential.hash.as_str().len(), 44);
        assert!(!format!("{credential:?}").contains(credential.raw.expose()));
    }
}
