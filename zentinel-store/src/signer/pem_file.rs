//! A key in a file, as `openssl genpkey -algorithm ed25519` writes it.

use super::KeyPair;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use std::path::Path;
use zentinel_core::port::{PublicKey, Signature, Signer};
use zentinel_core::{Error, Result, Scope};
use zeroize::Zeroizing;

/// One key for every scope, read from a file: PKCS#8 PEM, or standard base64 of the 32-byte seed.
/// It does not rotate by itself: replace the file and restart.
#[derive(Debug)]
pub struct PemFileSigner {
    pair: KeyPair,
}

impl PemFileSigner {
    /// Reads the key and gives it a public name.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](zentinel_core::Kind::Unavailable) when the file cannot be read,
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) when it holds no Ed25519 key.
    pub fn open(path: &Path, key_id: &str) -> Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| {
            Error::unavailable(format!("signing key {} cannot be read", path.display())).with_source(error)
        })?);
        let key = SigningKey::from_pkcs8_pem(&text).ok().or_else(|| from_seed(&text)).ok_or_else(|| {
            Error::invalid(format!("{} holds no Ed25519 private key", path.display()))
                .with_hint("expected PKCS#8 PEM or base64 of a 32-byte seed")
        })?;
        Ok(Self { pair: KeyPair { key_id: key_id.to_owned(), key } })
    }
}

fn from_seed(text: &str) -> Option<SigningKey> {
    let seed: [u8; 32] = STANDARD.decode(text.trim()).ok()?.try_into().ok()?;
    Some(SigningKey::from_bytes(&seed))
}

#[async_trait]
impl Signer for PemFileSigner {
    async fn sign(&self, _scope: &Scope, message: &[u8]) -> Result<Signature> {
        Ok(self.pair.sign(message))
    }

    async fn public_key(&self, _scope: &Scope, key_id: &str) -> Result<Option<PublicKey>> {
        Ok((key_id == self.pair.key_id).then(|| self.pair.public()))
    }

    async fn public_keys(&self, _scope: &Scope) -> Result<Vec<PublicKey>> {
        Ok(vec![self.pair.public()])
    }

    async fn rotate(&self, _scope: &Scope) -> Result<String> {
        Err(Error::conflict("a key file does not rotate by itself").with_hint("replace the file and restart"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::pkcs8::EncodePrivateKey as _;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

    #[tokio::test]
    async fn reads_pem_and_raw_seed_and_refuses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::from_bytes(&[9; 32]);
        let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string();
        for (name, text, ok) in [
            ("pem", pem, true),
            ("seed", format!("{}\n", STANDARD.encode([9; 32])), true),
            ("junk", "hello".into(), false),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let opened = PemFileSigner::open(&path, "sk_file");
            assert_eq!(opened.is_ok(), ok, "{name}");
            if let Ok(signer) = opened {
                let signature = signer.sign(&Scope::Instance, b"x").await.unwrap();
                let public = signer.public_key(&Scope::Instance, "sk_file").await.unwrap().unwrap();
                assert!(public.verify(b"x", &signature.bytes) && !public.verify(b"y", &signature.bytes));
            }
        }
    }
}
