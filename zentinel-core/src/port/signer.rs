//! Ed25519 signatures.

use crate::error::Result;
use crate::scope::Scope;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// A signature and the key that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The key's id.
    pub key_id: String,
    /// 64 bytes.
    pub bytes: Vec<u8>,
}

/// A public Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// The key's id (`kid`).
    pub key_id: String,
    /// `ed25519`.
    pub algorithm: String,
    /// Standard base64 of the 32 raw bytes.
    pub public_key: String,
    /// Whether signatures of this key are accepted.
    pub active: bool,
}

impl PublicKey {
    /// Wraps raw key bytes.
    #[must_use]
    pub fn new(key_id: impl Into<String>, raw: &[u8; 32]) -> Self {
        Self {
            key_id: key_id.into(),
            algorithm: "ed25519".to_owned(),
            public_key: STANDARD.encode(raw),
            active: true,
        }
    }

    /// The 32 raw bytes, if the text is well-formed.
    #[must_use]
    pub fn raw(&self) -> Option<[u8; 32]> {
        STANDARD.decode(&self.public_key).ok()?.try_into().ok()
    }

    /// Strictly checks a signature over `message`; false for an inactive or malformed key.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = self.raw().and_then(|raw| ed25519_dalek::VerifyingKey::from_bytes(&raw).ok());
        let signature = ed25519_dalek::Signature::from_slice(signature).ok();
        match (self.active, key, signature) {
            (true, Some(key), Some(signature)) => key.verify_strict(message, &signature).is_ok(),
            _ => false,
        }
    }
}

/// Signs for a tenant.
///
/// # Contract
/// `sign` uses the newest active key of the scope's organisation and makes one when there is
/// none. Keys rotate: `public_keys` lists every key whose signatures are still accepted, and
/// `sign_all` signs with each of them, so that whoever knows one of them can check. Private keys
/// never leave the implementation.
///
/// # Errors
/// `Unavailable` when the keys cannot be reached, `Forbidden` for a scope without a tenant where
/// keys are per tenant.
///
/// # Testing
/// `zentinel_store::conformance::signer`.
#[async_trait]
pub trait Signer: Debug + Send + Sync + 'static {
    /// Signs `message`.
    async fn sign(&self, scope: &Scope, message: &[u8]) -> Result<Signature>;
    /// Signs `message` with every active key, newest first; never empty. The default signs with
    /// the newest one alone, which is right where there is one key.
    async fn sign_all(&self, scope: &Scope, message: &[u8]) -> Result<Vec<Signature>> {
        Ok(vec![self.sign(scope, message).await?])
    }
    /// The public key with an id, inactive ones included; `None` when unknown.
    async fn public_key(&self, scope: &Scope, key_id: &str) -> Result<Option<PublicKey>>;
    /// Every active public key of the scope's organisation, newest first.
    async fn public_keys(&self, scope: &Scope) -> Result<Vec<PublicKey>>;
    /// Makes a new key the signing one; older ones stay accepted. Returns its id.
    async fn rotate(&self, scope: &Scope) -> Result<String>;
}
