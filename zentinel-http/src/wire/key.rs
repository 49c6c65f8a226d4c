//! API keys and registration tokens. Raw values appear in the answer to their creation only.

use super::Time;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;
use zentinel_core::entity::{ApiKey, RegistrationToken};
use zentinel_core::id::TypedId;
use zentinel_core::{Secret, Timestamp};

/// An operator's key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKeyBody {
    id: Uuid,
    #[schema(example = "ci")]
    name: String,
    /// The first eight characters.
    #[schema(example = "p3J0k2aQ")]
    key_prefix: String,
    #[schema(example = json!(["bundles:read", "bundles:write"]))]
    scopes: Vec<&'static str>,
    /// Stored without scopes, from before they were mandatory: it may do everything but `orgs:admin`.
    legacy_full_access: bool,
    project_id: Option<Uuid>,
    last_used_at: Option<Time>,
    expires_at: Option<Time>,
    revoked_at: Option<Time>,
    inserted_at: Time,
}

impl From<&ApiKey> for ApiKeyBody {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.uuid(),
            name: key.name.clone(),
            key_prefix: key.key_prefix.clone(),
            scopes: key.scopes.iter().map(|scope| scope.as_str()).collect(),
            legacy_full_access: key.scopes.is_empty(),
            project_id: key.project_id.map(TypedId::uuid),
            last_used_at: key.last_used_at.map(Time),
            expires_at: key.expires_at.map(Time),
            revoked_at: key.revoked_at.map(Time),
            inserted_at: Time(key.created_at),
        }
    }
}

/// A new key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKeyCreated {
    id: Uuid,
    name: String,
    /// The key itself; it is never shown again.
    key: String,
    key_prefix: String,
    scopes: Vec<&'static str>,
    project_id: Option<Uuid>,
    expires_at: Option<Time>,
    inserted_at: Time,
}

impl ApiKeyCreated {
    pub(crate) fn new(key: &ApiKey, raw: &Secret) -> Self {
        Self {
            id: key.id.uuid(),
            name: key.name.clone(),
            key: raw.expose().to_owned(),
            key_prefix: key.key_prefix.clone(),
            scopes: key.scopes.iter().map(|scope| scope.as_str()).collect(),
            project_id: key.project_id.map(TypedId::uuid),
            expires_at: key.expires_at.map(Time),
            inserted_at: Time(key.created_at),
        }
    }
}

/// One key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKeyOne {
    pub(crate) api_key: ApiKeyBody,
}

/// A page of keys, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKeyList {
    pub(crate) api_keys: Vec<ApiKeyBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}

/// Lets nodes register in a project.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenBody {
    id: Uuid,
    #[schema(example = "rack 12")]
    name: String,
    /// Labels that every node registered with it gets.
    labels: BTreeMap<String, String>,
    /// How often it was used.
    uses: u32,
    /// How often it may be used; null for any number of times.
    max_uses: Option<u32>,
    /// Whether it can register one more node.
    usable: bool,
    expires_at: Time,
    revoked_at: Option<Time>,
    inserted_at: Time,
}

impl TokenBody {
    pub(crate) fn new(token: &RegistrationToken, now: Timestamp) -> Self {
        Self {
            id: token.id.uuid(),
            name: token.name.clone(),
            labels: token.labels.clone(),
            uses: token.uses.used,
            max_uses: token.uses.max,
            usable: token.is_usable(now),
            expires_at: Time(token.expires_at),
            revoked_at: token.revoked_at.map(Time),
            inserted_at: Time(token.created_at),
        }
    }
}

/// A new token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCreatedBody {
    #[serde(flatten)]
    body: TokenBody,
    /// The token itself; it is never shown again.
    token: String,
}

/// The answer to its creation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCreated {
    registration_token: TokenCreatedBody,
}

impl TokenCreated {
    pub(crate) fn new(token: &RegistrationToken, raw: &Secret, now: Timestamp) -> Self {
        Self {
            registration_token: TokenCreatedBody {
                body: TokenBody::new(token, now),
                token: raw.expose().to_owned(),
            },
        }
    }
}

/// One token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenOne {
    pub(crate) registration_token: TokenBody,
}

/// A page of tokens, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenList {
    pub(crate) registration_tokens: Vec<TokenBody>,
    /// How many there are in all.
    pub(crate) total: u64,
    /// Where the next page begins.
    pub(crate) next_cursor: Option<String>,
}
