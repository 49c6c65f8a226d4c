//! Signed, expiring download URLs for blob back ends that cannot presign themselves.

use crate::error::{Error, Result};
use crate::value::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use url::Url;

/// Signs and checks URLs `…/blobs/{key}?expires={unix seconds}&signature={base64url}` with
/// HMAC-SHA256 over `GET\n{key}\n{expires}`.
#[derive(Clone)]
pub struct UrlSigner {
    key: [u8; 32],
}

impl UrlSigner {
    /// A signer with a secret key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    fn mac(&self, key: &str, expires: i64) -> Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key)
            .map_err(|error| Error::internal("URL signing key is unusable").with_source(error))?;
        mac.update(format!("GET\n{key}\n{expires}").as_bytes());
        Ok(mac)
    }

    /// The URL below `base` under which `key` may be read until `expires`.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when `base` cannot carry a path.
    pub fn sign(&self, base: &Url, key: &str, expires: Timestamp) -> Result<Url> {
        let mut url = base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::internal("the public URL cannot carry a path"))?
            .pop_if_empty()
            .push("blobs")
            .extend(key.split('/'));
        let expires = expires.timestamp();
        let signature = URL_SAFE_NO_PAD.encode(self.mac(key, expires)?.finalize().into_bytes());
        url.query_pairs_mut()
            .clear()
            .append_pair("expires", &expires.to_string())
            .append_pair("signature", &signature);
        Ok(url)
    }

    /// Checks a signature, in constant time, and its expiry.
    ///
    /// # Errors
    /// [`Kind::Forbidden`](crate::Kind::Forbidden) when it is wrong or has expired.
    pub fn verify(&self, key: &str, expires: i64, signature: &str, now: Timestamp) -> Result<()> {
        let given =
            URL_SAFE_NO_PAD.decode(signature).map_err(|_| Error::forbidden("Invalid download signature"))?;
        self.mac(key, expires)?
            .verify_slice(&given)
            .map_err(|_| Error::forbidden("Invalid download signature"))?;
        if expires < now.timestamp() {
            return Err(Error::forbidden("Download URL has expired").with_hint("poll again for a fresh URL"));
        }
        Ok(())
    }
}

impl fmt::Debug for UrlSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlSigner(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta};
    use std::collections::HashMap;

    #[test]
    fn accepts_its_own_urls_and_nothing_else() {
        let signer = UrlSigner::new([7; 32]);
        let now = DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000);
        let base = Url::parse("http://127.0.0.1:4000/cp/").unwrap();
        let url = signer.sign(&base, "bundles/a/b.tar.zst", now + TimeDelta::seconds(60)).unwrap();
        assert_eq!(url.path(), "/cp/blobs/bundles/a/b.tar.zst");
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        let expires: i64 = query["expires"].parse().unwrap();
        signer.verify("bundles/a/b.tar.zst", expires, &query["signature"], now).unwrap();
        for (key, at, late) in [
            ("bundles/a/c.tar.zst", expires, 0),
            ("bundles/a/b.tar.zst", expires + 1, 0),
            ("bundles/a/b.tar.zst", expires, 61),
        ] {
            assert!(signer.verify(key, at, &query["signature"], now + TimeDelta::seconds(late)).is_err());
        }
        assert!(
            UrlSigner::new([8; 32]).verify("bundles/a/b.tar.zst", expires, &query["signature"], now).is_err()
        );
    }
}
