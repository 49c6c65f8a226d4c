//! Signer back ends: keys in memory, in a PEM file, or sealed in the store per organisation.

mod memory;
mod pem_file;
#[cfg(feature = "sealed-signer")]
mod seal;
#[cfg(feature = "sealed-signer")]
mod sealed;

pub use memory::MemorySigner;
pub use pem_file::PemFileSigner;
#[cfg(feature = "sealed-signer")]
pub use seal::MasterKey;
#[cfg(feature = "sealed-signer")]
pub use sealed::SealedSigner;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use zentinel_core::port::{PublicKey, Signature};

/// A private key with its public name.
struct KeyPair {
    key_id: String,
    key: SigningKey,
}

impl KeyPair {
    /// Draws a key and a name: `sk_` and 16 random bytes as base64url.
    fn generate() -> Self {
        Self { key_id: new_key_id(), key: SigningKey::from_bytes(&rand::random()) }
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature { key_id: self.key_id.clone(), bytes: self.key.sign(message).to_bytes().to_vec() }
    }

    fn public(&self) -> PublicKey {
        PublicKey::new(self.key_id.clone(), &self.key.verifying_key().to_bytes())
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

fn new_key_id() -> String {
    format!("sk_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()))
}
