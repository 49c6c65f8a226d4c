//! Keys that live as long as the process.

use super::KeyPair;
use async_trait::async_trait;
use ed25519_dalek::SigningKey;
use parking_lot::RwLock;
use zentinel_core::port::{PublicKey, Signature, Signer};
use zentinel_core::{Result, Scope};

/// One key for every scope, kept in memory. For tests and single-process trials: nodes must pin
/// a new key after every start.
#[derive(Debug)]
pub struct MemorySigner {
    /// Oldest first; the last one signs.
    keys: RwLock<Vec<KeyPair>>,
}

impl MemorySigner {
    /// A signer with a fresh random key.
    #[must_use]
    pub fn generate() -> Self {
        Self { keys: RwLock::new(vec![KeyPair::generate()]) }
    }

    /// A signer with a known key; for reproducible test vectors.
    #[must_use]
    pub fn from_seed(key_id: impl Into<String>, seed: [u8; 32]) -> Self {
        Self {
            keys: RwLock::new(vec![KeyPair { key_id: key_id.into(), key: SigningKey::from_bytes(&seed) }]),
        }
    }
}

impl MemorySigner {
    /// Makes a known key the signing one; older ones stay accepted.
    pub fn import(&self, key_id: impl Into<String>, seed: [u8; 32]) {
        self.keys.write().push(KeyPair { key_id: key_id.into(), key: SigningKey::from_bytes(&seed) });
    }
}

#[async_trait]
impl Signer for MemorySigner {
    async fn sign(&self, _scope: &Scope, message: &[u8]) -> Result<Signature> {
        let keys = self.keys.read();
        let newest = keys.last().ok_or_else(|| zentinel_core::Error::internal("the signer has no key"))?;
        Ok(newest.sign(message))
    }

    async fn sign_all(&self, _scope: &Scope, message: &[u8]) -> Result<Vec<Signature>> {
        Ok(self.keys.read().iter().rev().map(|pair| pair.sign(message)).collect())
    }

    async fn public_key(&self, _scope: &Scope, key_id: &str) -> Result<Option<PublicKey>> {
        Ok(self.keys.read().iter().find(|pair| pair.key_id == key_id).map(KeyPair::public))
    }

    async fn public_keys(&self, _scope: &Scope) -> Result<Vec<PublicKey>> {
        Ok(self.keys.read().iter().rev().map(KeyPair::public).collect())
    }

    async fn rotate(&self, _scope: &Scope) -> Result<String> {
        let pair = KeyPair::generate();
        let key_id = pair.key_id.clone();
        self.keys.write().push(pair);
        Ok(key_id)
    }
}
