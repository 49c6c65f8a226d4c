//! Registrations that are repeated because their answer was lost.
//!
//! A node that names a secret gets a key made of it, so the same secret makes the same key again:
//! who can make a node's key is that node. Nothing more than the digest of the key is stored, tries
//! at the same time cannot undo each other, and a key that was revoked or replaced does not come back.

use crate::services::Api;
use serde_json::{Value, json};
use zentinel_core::credential::NewCredential;
use zentinel_core::entity::{AuditEntry, Node, Registration};
use zentinel_core::error::Checks;
use zentinel_core::id::NodeId;
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Actor, Changes, Error, Kind, RecordKind, Result, Scope, Secret, Stored};

/// Fewest characters of a secret: 32 random bytes as unpadded base64url.
pub(super) const MIN_SECRET: usize = 43;
/// Most characters of a secret.
pub(super) const MAX_SECRET: usize = 255;

/// Who wants to register.
#[derive(Clone, Debug)]
pub(super) struct Applicant {
    /// What it says of itself.
    pub(super) registration: Registration,
    /// What it alone knows.
    pub(super) secret: Option<Secret>,
}

/// Complains of a secret that could be guessed.
pub(super) fn check(secret: &str, checks: &mut Checks) {
    let fits = (MIN_SECRET..=MAX_SECRET).contains(&secret.chars().count());
    checks.that("registration_secret", fits, "should be 43 to 255 random character(s)");
}

impl Applicant {
    /// A key for the node that is made of it.
    ///
    /// # Errors
    /// None in practice; see [`NewCredential::derive`].
    pub(super) fn key_of(&self, id: NodeId) -> Result<NewCredential> {
        match &self.secret {
            Some(secret) => NewCredential::derive(secret, &format!("zentinel node key\n{id}")),
            None => Ok(NewCredential::generate()),
        }
    }

    /// The node that this applicant made before, with its key; else why it is refused.
    ///
    /// # Errors
    /// `refusal`, those of the store.
    pub(super) async fn again(
        &self,
        api: &Api,
        scope: &Scope,
        origin: &Value,
        refusal: Error,
    ) -> Result<(Node, Secret)> {
        // The name is taken, or the token has no use left: both are so after the first try.
        let may_be_repeated = matches!(refusal.kind(), Kind::Invalid | Kind::Unauthenticated);
        if self.secret.is_none() || !may_be_repeated {
            return Err(refusal);
        }
        let query = Query::all(RecordKind::Node).named(&self.registration.name);
        let found: Vec<Stored<Node>> = api.store.list_all(scope, query).await?;
        let Some(node) = found.into_iter().next() else { return Err(refusal) };
        let key = self.key_of(node.id)?;
        if !node.key_hash.matches(&key.hash) {
            return Err(refusal);
        }
        let mut metadata = json!({"name": node.name, "ip": self.registration.ip});
        if let (Value::Object(metadata), Value::Object(origin)) = (&mut metadata, origin) {
            metadata.extend(origin.clone());
        }
        let entry = AuditEntry::new(scope, Actor::System, "node.registration_repeated", node.id, api.now());
        api.store.commit(Changes::new().audit(entry.with_metadata(metadata))).await?;
        Ok((node.value, key.raw))
    }
}
