//! Who may bring a node into a project.

use super::joining::{origin_of, scope_of};
use super::wire::JOIN_TOKEN_HEADER;
use crate::error::{ApiError, ApiResult};
use crate::operator::auth::{Caller, authenticate, bearer, project};
use crate::services::Api;
use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{ApiScope, Project, RegistrationToken};
use zentinel_core::id::{ApiKeyId, OrganisationId};
use zentinel_core::port::{Query, StoreExt};
use zentinel_core::{Error, Kind, RecordKind, Result, Scope, Slug, Stored};

/// What lets a node in.
#[derive(Debug)]
pub(super) enum Permit {
    /// A registration token; each use is counted.
    Token(Box<Stored<RegistrationToken>>),
    /// A registration token that is used up or has ended: good for asking again what it was used for.
    Spent(Box<Stored<RegistrationToken>>),
    /// An operator's key.
    Key(ApiKeyId, Box<Project>),
    /// The project is open: the node waits for approval.
    Open(Box<Project>),
}

impl Permit {
    /// The organisation that the node will belong to.
    pub(super) fn organisation(&self) -> OrganisationId {
        match self {
            Self::Token(token) | Self::Spent(token) => token.organisation_id,
            Self::Key(_, project) | Self::Open(project) => project.organisation_id,
        }
    }

    /// The scope of the node's project.
    pub(super) fn scope(&self) -> Scope {
        match self {
            Self::Token(token) | Self::Spent(token) => scope_of(token),
            Self::Key(_, project) | Self::Open(project) => project.scope(),
        }
    }

    /// What the audit log says of it.
    pub(super) fn origin(&self) -> Value {
        match self {
            Self::Token(token) | Self::Spent(token) => origin_of(token),
            Self::Key(key, _) => json!({"api_key_id": key}),
            Self::Open(_) => json!({"open": true}),
        }
    }
}

/// Nothing lets the node in.
pub(super) fn required() -> Error {
    Error::unauthenticated("Registration token required").with_hint(
        "give a token of this project that is not revoked, expired or used up; \
         `zentinelctl node token create` issues one",
    )
}

/// Finds out what lets a node in. A registration token is looked for in the header
/// `X-Zentinel-Join-Token`, then in the body, then as a bearer token, which may also be an API key.
///
/// # Errors
/// 401 without a credential that is or was usable, 404 when it is another project's, 403 for a key without
/// `nodes:write`, 409 when several projects could be meant.
pub(super) async fn permit(
    api: &Api,
    parts: &Parts,
    slug: &str,
    body_token: Option<&str>,
) -> ApiResult<Permit> {
    let header = parts.headers.get(JOIN_TOKEN_HEADER);
    let given = match header {
        Some(value) => Some(value.to_str().map_err(|_| required())?),
        None => body_token,
    };
    if let Some(raw) = given {
        let token = unrevoked(api, raw).await?.ok_or_else(required)?;
        return by_token(api, token, slug).await;
    }
    let Some(raw) = bearer(&parts.headers) else {
        return open(api, slug).await;
    };
    if let Some(token) = unrevoked(api, raw).await? {
        return by_token(api, token, slug).await;
    }
    match authenticate(parts, api).await {
        Ok(caller) => by_key(api, &caller, slug).await,
        Err(ApiError::Domain(error)) if error.kind() == Kind::Unauthenticated => Err(required().into()),
        Err(other) => Err(other),
    }
}

/// The token with this raw value, unless an operator revoked it.
async fn unrevoked(api: &Api, raw: &str) -> Result<Option<Stored<RegistrationToken>>> {
    let hash = CredentialHash::of(raw);
    let token = api.store.find_by_key::<RegistrationToken>(&hash.text()).await?;
    Ok(token.filter(|token| token.revoked_at.is_none()))
}

/// The token's own project decides, whatever other organisations call theirs.
async fn by_token(api: &Api, token: Stored<RegistrationToken>, slug: &str) -> ApiResult<Permit> {
    let scope = Scope::Organisation(token.organisation_id);
    let project = api.store.find::<Project>(&scope, token.project_id).await?;
    let usable = token.is_usable(api.now());
    match project {
        Some(project) if project.slug.as_str() == slug => {
            let token = Box::new(token);
            Ok(if usable { Permit::Token(token) } else { Permit::Spent(token) })
        }
        _ if !usable => Err(required().into()),
        _ => Err(Error::not_found("Project not found")
            .with_hint(format!(
                "the token does not let in to a project `{slug}`; `zentinelctl project list` shows the slugs"
            ))
            .into()),
    }
}

async fn by_key(api: &Api, caller: &Caller, slug: &str) -> ApiResult<Permit> {
    caller.require(ApiScope::NodesWrite)?;
    let project = project(api, caller, slug).await?;
    Ok(Permit::Key(caller.key().id, Box::new(Project::clone(&project))))
}

/// Without a credential only an open project lets anybody in; nobody learns of the others.
async fn open(api: &Api, slug: &str) -> ApiResult<Permit> {
    let slug = Slug::parse(slug).map_err(|_| required())?;
    let query = Query::all(RecordKind::Project).named(slug.as_str());
    let projects = api.store.list_all::<Project>(&Scope::Instance, query).await?;
    let mut open = projects.into_iter().filter(|project| project.settings.open_registration);
    match (open.next(), open.next()) {
        (Some(only), None) => Ok(Permit::Open(Box::new(only.value))),
        (Some(_), Some(_)) => Err(ApiError::stated(StatusCode::CONFLICT, "Ambiguous project slug")),
        (None, _) => Err(required().into()),
    }
}
