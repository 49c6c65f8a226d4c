//! Who calls the operator API, and what they may do.
//!
//! The order of checks is the contract's: authentication, rate limit, scope, project.

use super::credentials::Credential;
use crate::error::{ApiError, ApiResult};
use crate::extract::{ClientIp, path_param};
use crate::services::Api;
use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use std::marker::PhantomData;
use std::sync::Arc;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{ApiKey, ApiScope, Project};
use zentinel_core::id::ProjectId;
use zentinel_core::{Actor, Error, Scope, Slug};

/// What a route demands of its caller.
pub(crate) trait Access: Send + Sync + 'static {
    /// The scope, if one is needed.
    const SCOPE: Option<ApiScope>;
    /// What a request costs of the scope's limit.
    const COST: u32 = 1;
}

macro_rules! access {
    ($($(#[$doc:meta])* $name:ident = $scope:expr, $cost:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name;
        impl Access for $name {
            const SCOPE: Option<ApiScope> = $scope;
            const COST: u32 = $cost;
        }
    )*};
}

access! {
    /// Any active key.
    AnyKey = None, 1;
    NodesRead = Some(ApiScope::NodesRead), 1;
    NodesWrite = Some(ApiScope::NodesWrite), 1;
    BundlesRead = Some(ApiScope::BundlesRead), 1;
    BundlesWrite = Some(ApiScope::BundlesWrite), 1;
    /// A new bundle is compiled and stored.
    BundlesCreate = Some(ApiScope::BundlesWrite), 5;
    /// A configuration is parsed and checked while the caller waits.
    BundlesValidate = Some(ApiScope::BundlesWrite), 10;
    RolloutsRead = Some(ApiScope::RolloutsRead), 1;
    RolloutsWrite = Some(ApiScope::RolloutsWrite), 1;
    /// A new rollout is planned over the fleet.
    RolloutsCreate = Some(ApiScope::RolloutsWrite), 3;
    KeysAdmin = Some(ApiScope::ApiKeysAdmin), 1;
    AuditRead = Some(ApiScope::AuditRead), 1;
    OrgsAdmin = Some(ApiScope::OrgsAdmin), 1;
}

/// An authenticated operator.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The key that was presented.
    pub(crate) key: Arc<Credential>,
}

impl Caller {
    /// The key's record.
    pub(crate) fn key(&self) -> &ApiKey {
        &self.key.key
    }

    /// Who is recorded in the audit log.
    pub(crate) fn actor(&self) -> Actor {
        Actor::ApiKey(self.key().id)
    }

    /// Who answers for what the key does: the person it belongs to, else the key itself.
    pub(crate) fn person(&self) -> Actor {
        self.key().user_id.map_or_else(|| self.actor(), Actor::User)
    }

    /// Everything the key may see.
    pub(crate) fn scope(&self) -> Scope {
        let key = self.key();
        match key.project_id {
            Some(project) => Scope::Project(key.organisation_id, project),
            None => Scope::Organisation(key.organisation_id),
        }
    }

    /// Whether the key may do what a scope covers.
    pub(crate) fn holds(&self, scope: ApiScope) -> bool {
        holds(self.key(), scope)
    }

    /// Demands a scope.
    ///
    /// # Errors
    /// 403 with the contract's text.
    pub(crate) fn require(&self, scope: ApiScope) -> Result<(), Error> {
        if self.holds(scope) {
            Ok(())
        } else {
            let text = format!("Insufficient scope. Required: {}", scope.as_str());
            Err(Error::forbidden(text))
        }
    }
}

/// A key stored without scopes, from before they were mandatory, has all but `orgs:admin`.
fn holds(key: &ApiKey, scope: ApiScope) -> bool {
    if key.scopes.is_empty() { scope != ApiScope::OrgsAdmin } else { key.scopes.contains(&scope) }
}

/// An operator on a route that is not about one project.
#[derive(Debug)]
pub(crate) struct Operator<A: Access> {
    /// Who it is.
    pub(crate) caller: Caller,
    access: PhantomData<A>,
}

impl<A: Access> FromRequestParts<Api> for Operator<A> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> ApiResult<Self> {
        let caller = authenticate(parts, api).await?;
        let key = caller.key();
        let name = A::SCOPE.map_or("default", ApiScope::as_str);
        let bucket = format!("key:{}:{name}", key.id);
        let limit = api.options.rate_limits.of(name);
        api.limit(&parts.extensions, bucket, limit, A::COST)?;
        if let Some(scope) = A::SCOPE {
            caller.require(scope)?;
        }
        Ok(Self { caller, access: PhantomData })
    }
}

/// An operator on a route of one project.
#[derive(Debug)]
pub(crate) struct InProject<A: Access> {
    /// Who it is.
    pub(crate) caller: Caller,
    /// The project of the path. Its `last_sequence` may be out of date.
    pub(crate) project: Arc<Project>,
    access: PhantomData<A>,
}

impl<A: Access> InProject<A> {
    /// The scope of every query of the request.
    pub(crate) fn scope(&self) -> Scope {
        self.project.scope()
    }

    /// The two ids that new records carry.
    pub(crate) fn ids(&self) -> (zentinel_core::id::OrganisationId, ProjectId) {
        (self.project.organisation_id, self.project.id)
    }
}

impl<A: Access> FromRequestParts<Api> for InProject<A> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> ApiResult<Self> {
        let Operator { caller, .. } = Operator::<A>::from_request_parts(parts, api).await?;
        let slug = path_param(parts, api, "project_slug").await?;
        let project = project(api, &caller, &slug).await?;
        Ok(Self { caller, project, access: PhantomData })
    }
}

/// The project that a slug names for a caller.
///
/// # Errors
/// 404, whether there is none, it belongs to somebody else, or the key is bound to another one.
pub(crate) async fn project(api: &Api, caller: &Caller, slug: &str) -> Result<Arc<Project>, Error> {
    let unknown = || Error::not_found("Project not found");
    let slug = Slug::parse(slug).map_err(|_| unknown())?;
    let key = caller.key();
    let project = api.credentials().project(api, key.organisation_id, &slug).await?.ok_or_else(unknown)?;
    match key.project_id {
        Some(bound) if bound != project.id => Err(unknown()),
        _ => Ok(project),
    }
}

/// The token of `Authorization: Bearer <token>`; the scheme in any case.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A wrong credential costs a query or a signature check: an address may not try without end.
///
/// # Errors
/// 429 for an address that keeps guessing.
pub(crate) fn count_guess(parts: &Parts, api: &Api) -> ApiResult<()> {
    let client = ClientIp::of_parts(parts, api);
    let bucket = format!("guess:{}", client.subscriber());
    api.limit(&parts.extensions, bucket, api.options.rate_limits.default, 1)
}

/// Finds out who calls.
///
/// # Errors
/// 401 with the contract's texts; 429 for an address that keeps guessing.
pub(crate) async fn authenticate(parts: &Parts, api: &Api) -> ApiResult<Caller> {
    let token =
        bearer(&parts.headers).ok_or_else(|| Error::unauthenticated("Missing Authorization header"))?;
    let hash = CredentialHash::of(token);
    match api.credentials().api_key(api, &hash).await? {
        Some(key) => {
            key.touch(api);
            Ok(Caller { key })
        }
        None => {
            count_guess(parts, api)?;
            Err(Error::unauthenticated("Invalid or expired API key").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_scheme_is_read_in_any_case() {
        let token = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        for value in ["Bearer abc", "bearer abc", "BEARER abc"] {
            assert_eq!(token(value).as_deref(), Some("abc"), "{value}");
        }
        for value in ["Bearer", "Bearer ", "Basic abc", "abc", ""] {
            assert_eq!(token(value), None, "{value}");
        }
    }
}
