//! Credentials of callers and nodes, and the keys that sign.

use crate::credential::{CredentialHash, NewCredential};
use crate::error::{Checks, Error, Result};
use crate::id::{ApiKeyId, OrganisationId, ProjectId, RegistrationTokenId, SigningKeyId, TypedId, UserId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::Scope;
use crate::secret::Secret;
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! api_scopes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// What an API key may do. No scope implies another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ApiScope {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl ApiScope {
            /// Every scope.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The wire name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

api_scopes! {
    /// Read nodes and drift.
    NodesRead = "nodes:read";
    /// Delete nodes, issue registration tokens, resolve drift.
    NodesWrite = "nodes:write";
    /// Read bundles.
    BundlesRead = "bundles:read";
    /// Create, assign and revoke bundles.
    BundlesWrite = "bundles:write";
    /// Read rollouts.
    RolloutsRead = "rollouts:read";
    /// Create and steer rollouts.
    RolloutsWrite = "rollouts:write";
    /// Read proxy configuration resources.
    ServicesRead = "services:read";
    /// Write proxy configuration resources.
    ServicesWrite = "services:write";
    /// Manage API keys.
    ApiKeysAdmin = "api_keys:admin";
    /// Read the audit log.
    AuditRead = "audit:read";
    /// Make audit checkpoints.
    AuditWrite = "audit:write";
    /// Read notification channels.
    NotificationsRead = "notifications:read";
    /// Write notification channels.
    NotificationsWrite = "notifications:write";
    /// Manage organisations, projects, signing keys and members.
    OrgsAdmin = "orgs:admin";
}

impl std::str::FromStr for ApiScope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| Error::invalid_field("scopes", "has an invalid entry"))
    }
}

/// An operator's key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// The only project it may address, if bound to one.
    pub project_id: Option<ProjectId>,
    /// The person it belongs to; none for a service key.
    pub user_id: Option<UserId>,
    /// What people call it.
    pub name: String,
    /// First characters of the raw key.
    pub key_prefix: String,
    /// Digest of the raw key.
    pub key_hash: CredentialHash,
    /// What it may do; never empty.
    pub scopes: BTreeSet<ApiScope>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl ApiKey {
    /// Issues a key. The raw value is returned once and never stored.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name`, `scopes` or `expires_at`.
    pub fn issue(
        organisation_id: OrganisationId,
        project_id: Option<ProjectId>,
        user_id: Option<UserId>,
        name: &str,
        scopes: BTreeSet<ApiScope>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(Self, Secret)> {
        let mut checks = Checks::new();
        checks.text("name", name, 100);
        checks.that("scopes", !scopes.is_empty(), "can't be blank");
        checks.that("expires_at", expires_at.is_none_or(|at| at > now), "must be in the future");
        checks.finish()?;
        let credential = NewCredential::generate();
        let key = Self {
            id: ApiKeyId::random(),
            organisation_id,
            project_id,
            user_id,
            name: name.to_owned(),
            key_prefix: credential.prefix(),
            key_hash: credential.hash,
            scopes,
            last_used_at: None,
            expires_at,
            revoked_at: None,
            created_at: now,
        };
        Ok((key, credential.raw))
    }

    /// Whether it is neither revoked nor expired.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}

impl Record for ApiKey {
    const KIND: RecordKind = RecordKind::ApiKey;
    type Id = ApiKeyId;
    fn id(&self) -> ApiKeyId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            organisation_id: Some(self.organisation_id),
            project_id: self.project_id,
            owner: self.organisation_id.uuid(),
            lookup_key: Some(self.key_hash.text()),
            ..Keys::default()
        }
    }
}

/// How often a registration token may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUses {
    /// How often it was used.
    pub used: u32,
    /// How often it may be used; `None` for any number until it expires.
    pub max: Option<u32>,
}

/// Lets nodes register in a project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistrationToken {
    /// Its id.
    pub id: RegistrationTokenId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// What people call it.
    pub name: String,
    /// Digest of the raw token.
    pub token_hash: CredentialHash,
    /// Labels that every node registered with it gets; they win over the node's own.
    pub labels: BTreeMap<String, String>,
    /// How often it may be used.
    pub uses: TokenUses,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl RegistrationToken {
    /// Issues a token. The raw value is returned once and never stored.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name`, `max_uses`, `expires_at` or `labels`.
    pub fn issue(
        scope: (OrganisationId, ProjectId),
        name: &str,
        labels: BTreeMap<String, String>,
        max_uses: Option<u32>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(Self, Secret)> {
        let mut checks = Checks::new();
        checks.text("name", name, 100);
        checks.that("max_uses", max_uses != Some(0), "must be greater than 0");
        checks.that("expires_at", expires_at > now, "must be in the future");
        checks.absorb(super::node::check_labels(&labels))?;
        checks.finish()?;
        let credential = NewCredential::generate();
        let token = Self {
            id: RegistrationTokenId::random(),
            organisation_id: scope.0,
            project_id: scope.1,
            name: name.to_owned(),
            token_hash: credential.hash,
            labels,
            uses: TokenUses { used: 0, max: max_uses },
            expires_at,
            revoked_at: None,
            created_at: now,
        };
        Ok((token, credential.raw))
    }

    /// Whether it can register one more node.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none()
            && self.expires_at > now
            && self.uses.max.is_none_or(|max| self.uses.used < max)
    }
}

impl Record for RegistrationToken {
    const KIND: RecordKind = RecordKind::RegistrationToken;
    type Id = RegistrationTokenId;
    fn id(&self) -> RegistrationTokenId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            lookup_key: Some(self.token_hash.text()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// An organisation's Ed25519 key pair. The private half is sealed; see `zentinel-store`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Its id in the store.
    pub id: SigningKeyId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its public name, `sk_` and 22 characters; `kid` in tokens and statements.
    pub key_id: String,
    /// Standard base64 of the 32 public bytes.
    pub public_key: String,
    /// Standard base64 of the sealed private key.
    pub sealed_private_key: String,
    /// Whether it signs and its signatures are accepted.
    pub active: bool,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was created; the newest active key signs.
    pub created_at: Timestamp,
    /// Place in the organisation's order of keys, from 1; unique, so that two replicas cannot both
    /// make the next key. 0 for keys that have none.
    #[serde(default)]
    pub generation: u32,
}

impl SigningKey {
    /// Whether it signs and its signatures are accepted.
    #[must_use]
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.active && self.expires_at.is_none_or(|at| at > now)
    }

    /// The scope that shows this key.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Organisation(self.organisation_id)
    }
}

impl Record for SigningKey {
    const KIND: RecordKind = RecordKind::SigningKey;
    type Id = SigningKeyId;
    fn id(&self) -> SigningKeyId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            organisation_id: Some(self.organisation_id),
            owner: self.organisation_id.uuid(),
            natural_key: (self.generation > 0).then(|| format!("{:010}", self.generation)),
            lookup_key: Some(self.key_id.clone()),
            state: Some(if self.active { "active" } else { "inactive" }.to_owned()),
            ..Keys::default()
        }
    }
}
