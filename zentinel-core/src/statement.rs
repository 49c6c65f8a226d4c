//! The signed statement: what binds an archive to one project, one place in the order of
//! deployments and a period of time.
//!
//! The envelope is [DSSE](https://github.com/secure-systems-lab/dsse) version 1: an Ed25519
//! signature over the pre-authentication encoding
//! `"DSSEv1" SP len(type) SP type SP len(payload) SP payload`, lengths in ASCII decimal.
//! The payload is the compact JSON of [`Statement`], fields in the order of the struct. A node
//! that checks it refuses another project's bundle, an older sequence and a stale statement:
//! what [TUF](https://theupdateframework.io/) calls mix-and-match, rollback and freeze attacks.
//!
//! Keys rotate without stranding a node. Every active key signs, so a node that knows only an old
//! key still finds its signature; and the payload lists the active keys, so the old key vouches
//! for the new ones, which the node trusts from then on in place of those it knew.

use crate::entity::Activation;
use crate::error::{Error, Result};
use crate::id::{BundleId, ProjectId};
use crate::port::{PublicKey, Signer};
use crate::scope::Scope;
use crate::value::{Sha256Digest, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The payload type of a statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.zentinel.bundle-statement.v1+json";

/// What is stated about a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Version of this layout; 1.
    pub v: u32,
    /// The project whose nodes may run the bundle.
    pub project_id: ProjectId,
    /// The bundle.
    pub bundle_id: BundleId,
    /// Place in the project's order of deployments; a node never goes back.
    pub sequence: u64,
    /// SHA-256 of the archive.
    pub archive_sha256: Sha256Digest,
    /// Length of the archive in bytes.
    pub archive_size: u64,
    /// What activating it takes.
    pub activation: Activation,
    /// Whether `activation` is `restart` only for want of knowledge about what the nodes run: a node that can
    /// compare the bundle with what it serves decides by that. Left out where false, and one that does not
    /// know the field restarts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds; a node refuses to start activating afterwards.
    pub expires_at: i64,
    /// The active public keys when it was issued, newest first: what a node that accepts the
    /// statement trusts from now on. [`Statement::sign`] fills it in.
    #[serde(default)]
    pub keys: Vec<PublicKey>,
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    /// The id of the key.
    pub keyid: String,
    /// Standard base64 of the 64 signature bytes.
    pub sig: String,
}

/// A DSSE envelope, as it travels in the poll answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`PAYLOAD_TYPE`].
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// Standard base64 of the payload bytes.
    pub payload: String,
    /// At least one signature; one for each key that was active.
    pub signatures: Vec<EnvelopeSignature>,
}

/// What a node already knows when it checks a statement.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// The node's project.
    pub project_id: ProjectId,
    /// The highest sequence the node has accepted; 0 at first.
    pub last_sequence: u64,
    /// The node's time.
    pub now: Timestamp,
    /// How far the node's clock may be off, in seconds.
    pub clock_skew_seconds: i64,
}

/// The bytes that are signed.
#[must_use]
pub fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Statement {
    /// Signs the statement, with the active keys filled in, with each of the keys that `signer`
    /// has for `scope`.
    ///
    /// # Errors
    /// Those of the signer.
    pub async fn sign(&self, signer: &dyn Signer, scope: &Scope) -> Result<Envelope> {
        let keys = signer.public_keys(scope).await?;
        let payload = serde_json::to_vec(&Self { keys, ..self.clone() })?;
        let signatures = signer.sign_all(scope, &pre_authentication_encoding(&payload)).await?;
        let signatures = signatures.into_iter().map(|signature| EnvelopeSignature {
            keyid: signature.key_id,
            sig: STANDARD.encode(signature.bytes),
        });
        Ok(Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: signatures.collect(),
        })
    }

    /// What a node trusts after accepting this statement: the well-formed keys it lists, or
    /// `None` when it lists none and the node keeps what it has.
    #[must_use]
    pub fn vouched_keys(&self) -> Option<Vec<PublicKey>> {
        let usable = self.keys.iter().filter(|key| key.active && key.raw().is_some());
        let keys: Vec<_> = usable.cloned().collect();
        (!keys.is_empty()).then_some(keys)
    }
}

impl Envelope {
    /// Checks the signatures against pinned keys and returns the statement, unchecked otherwise.
    /// One good signature of one pinned key is enough; those of other keys are passed over.
    ///
    /// # Errors
    /// [`Kind::Forbidden`](crate::Kind::Forbidden) when no pinned key signed it,
    /// [`Kind::Malformed`](crate::Kind::Malformed) when it cannot be read.
    pub fn open(&self, pinned: &[PublicKey]) -> Result<Statement> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(Error::malformed("statement has an unknown payload type"));
        }
        let payload = STANDARD
            .decode(&self.payload)
            .map_err(|_| Error::malformed("statement payload is not base64"))?;
        let signed = pre_authentication_encoding(&payload);
        let genuine = self.signatures.iter().any(|signature| {
            let key = pinned.iter().find(|key| key.key_id == signature.keyid);
            let bytes = STANDARD.decode(&signature.sig).unwrap_or_default();
            key.is_some_and(|key| key.verify(&signed, &bytes))
        });
        if !genuine {
            return Err(Error::forbidden("statement is not signed by a trusted key"));
        }
        serde_json::from_slice(&payload).map_err(|_| Error::malformed("statement payload is not a statement"))
    }

    /// Opens the envelope and checks everything a node must check before it downloads. The node
    /// then pins [`Statement::vouched_keys`] in place of `pinned`.
    ///
    /// # Errors
    /// As [`Envelope::open`]; [`Kind::Forbidden`](crate::Kind::Forbidden) for another project, an
    /// older sequence, or a statement from the future or past its expiry.
    pub fn verify(&self, pinned: &[PublicKey], expect: &Expectation) -> Result<Statement> {
        let statement = self.open(pinned)?;
        let now = expect.now.timestamp();
        let refuse = |reason: &'static str| Err(Error::forbidden(reason));
        if statement.v != 1 {
            return refuse("statement has an unknown version");
        }
        if statement.project_id != expect.project_id {
            return refuse("statement is for another project");
        }
        if statement.sequence < expect.last_sequence {
            return refuse("statement is older than one this node has accepted");
        }
        if statement.issued_at > now + expect.clock_skew_seconds {
            return refuse("statement is from the future");
        }
        if statement.expires_at + expect.clock_skew_seconds < now {
            return refuse("statement has expired");
        }
        Ok(statement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_cannot_compare_read_restart() {
        let statement = |compare| Statement {
            v: 1,
            project_id: ProjectId::random(),
            bundle_id: BundleId::random(),
            sequence: 1,
            archive_sha256: Sha256Digest::of(b""),
            archive_size: 0,
            activation: Activation::Restart,
            compare,
            issued_at: 0,
            expires_at: 0,
            keys: Vec::new(),
        };
        let said = serde_json::to_value(statement(true)).unwrap();
        assert_eq!((&said["activation"], &said["compare"]), (&"restart".into(), &true.into()));
        let known = serde_json::to_value(statement(false)).unwrap();
        assert_eq!(known.get("compare"), None, "statements stay what they were");
        assert!(!serde_json::from_value::<Statement>(known).unwrap().compare);
    }

    #[test]
    fn encoding_is_dsse() {
        let encoded = pre_authentication_encoding(b"{}");
        assert_eq!(
            String::from_utf8(encoded).unwrap(),
            "DSSEv1 49 application/vnd.zentinel.bundle-statement.v1+json 2 {}"
        );
    }
}
