//! Encryption at rest: AES-256-GCM under a master key.
//!
//! Layout of a sealed value: `version (1 byte, 1) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. The
//! additional data binds the value to its record and field, so that sealed values cannot be
//! swapped between rows.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use zentinel_core::{Error, Result};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const VERSION: u8 = 1;

/// The key that seals secrets at rest.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// Wraps 32 secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the key from a file of 32 raw bytes, or draws one and writes it with mode 0600. Two
    /// processes that start at once agree on one key.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](zentinel_core::Kind::Unavailable) when the file can be neither read
    /// nor made, [`Kind::Invalid`](zentinel_core::Kind::Invalid) when it is not 32 bytes long.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("master key file {} cannot be used", path.display()))
                .with_source(error)
        };
        let draft = path.with_extension(format!("new-{}", std::process::id()));
        if !path.exists() {
            let fresh = Zeroizing::new(rand::random::<[u8; 32]>());
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)
                .map_err(failed)?;
            file.write_all(&*fresh).and_then(|()| file.sync_all()).map_err(failed)?;
            // A hard link fails when the name is taken, so the first writer wins.
            let linked = std::fs::hard_link(&draft, path);
            std::fs::remove_file(&draft).map_err(failed)?;
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(33));
        std::fs::File::open(path).and_then(|file| file.take(33).read_to_end(&mut bytes)).map_err(failed)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| Error::invalid(format!("master key file {} must hold 32 bytes", path.display())))?;
        Ok(Self(key))
    }

    /// A further secret derived from this key for one purpose (HMAC-SHA256 of the purpose).
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.0);
        let mut derived = [0; 32];
        derived.copy_from_slice(aws_lc_rs::hmac::sign(&key, purpose.as_bytes()).as_ref());
        derived
    }

    fn cipher(&self) -> Result<LessSafeKey> {
        let key = Zeroizing::new(self.derive("seal"));
        UnboundKey::new(&AES_256_GCM, &*key)
            .map(LessSafeKey::new)
            .map_err(|_| Error::internal("the master key cannot be used"))
    }

    /// Seals `plain` for the place that `context` names.
    ///
    /// # Errors
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when the cipher fails.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = plain.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| Error::internal("sealing failed"))?;
        Ok([&[VERSION], nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`MasterKey::seal`] made for the same place.
    ///
    /// # Errors
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when the key, the place or the bytes differ.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let failed = || {
            Error::internal(format!("the secret at {context} cannot be opened"))
                .with_hint("was the master key changed or lost?")
        };
        let (version, rest) = sealed.split_first().ok_or_else(failed)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or_else(failed)?;
        if *version != VERSION {
            return Err(failed());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self
            .cipher()?
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut plain)
            .map_err(|_| failed())?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    proptest! {
        #[test]
        fn opens_only_what_it_sealed_for_the_same_place(plain: Vec<u8>, flip in 0usize..64) {
            let key = MasterKey::from_bytes([1; 32]);
            let sealed = key.seal("a/b", &plain).unwrap();
            prop_assert_eq!(&*key.open("a/b", &sealed).unwrap(), &plain);
            prop_assert!(key.open("a/c", &sealed).is_err());
            prop_assert!(MasterKey::from_bytes([2; 32]).open("a/b", &sealed).is_err());
            let mut broken = sealed.clone();
            let at = flip % broken.len();
            broken[at] ^= 1;
            prop_assert!(key.open("a/b", &broken).is_err());
            prop_assert!(key.open("a/b", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn the_file_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        let again = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(first.derive("x"), again.derive("x"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(MasterKey::load_or_create(&path).is_err());
    }
}
