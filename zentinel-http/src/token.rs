//! Node tokens: compact JWS, EdDSA, signed with the organisation's key.
//!
//! A token is a fast, short-lived stand-in for a node's static key. It is renewed with itself for
//! at most 30 days after the last exchange of the static key (claim `chn`), so that a stolen
//! token dies.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Once;
use std::time::Duration;
use zentinel_core::entity::{Node, SigningKey};
use zentinel_core::id::{NodeId, OrganisationId, ProjectId};
use zentinel_core::port::{Signer, Store, StoreExt};
use zentinel_core::{Error, Kind, Result, Scope, Secret, Timestamp};
use zentinel_rollout::fleet::KnownNode;

/// How long a token may be renewed with itself, in seconds: 30 days.
pub(crate) const CHAIN_SECONDS: i64 = 30 * 24 * 3_600;
/// How far a token's `iat` may be ahead of this server's clock, in seconds.
const MAX_CLOCK_SKEW: i64 = 60;
/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 4_096;
/// The text for a token whose time is over.
const EXPIRED: &str = "Token expired";
/// The text for a token whose key is not used any more.
const DEACTIVATED: &str = "Signing key has been deactivated";
/// The text for everything that has no text of its own.
pub(crate) const FAILED: &str = "Authentication failed";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Claims {
    /// The node.
    pub(crate) sub: NodeId,
    /// Its project.
    pub(crate) prj: ProjectId,
    /// Its organisation.
    pub(crate) org: OrganisationId,
    /// When it was issued, unix seconds.
    pub(crate) iat: i64,
    /// When it ends, unix seconds.
    pub(crate) exp: i64,
    /// When the static key was exchanged, unix seconds: the root of the chain of renewals.
    pub(crate) chn: i64,
    /// The signing key, as in the header.
    pub(crate) kid: String,
}

impl Claims {
    /// Whether the holder may still renew the token with itself.
    #[must_use]
    pub(crate) fn may_renew(&self, now: Timestamp) -> bool {
        now.timestamp() - self.chn <= CHAIN_SECONDS
    }
}

/// A token with its claims.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// The compact JWS.
    pub(crate) token: Secret,
    /// What it says.
    pub(crate) claims: Claims,
    /// When it was issued, to the second.
    pub(crate) issued_at: Timestamp,
    /// When it ends, to the second.
    pub(crate) expires_at: Timestamp,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
}

/// Issues a token for `node`. `chain` is the root of the chain it belongs to (unix seconds).
///
/// # Errors
/// Those of the signer; [`Kind::Unavailable`] when the organisation has no key and none can be made.
pub(crate) async fn issue(
    signer: &dyn Signer,
    node: &Node,
    chain: i64,
    now: Timestamp,
    ttl: Duration,
) -> Result<Issued> {
    let scope = Scope::Organisation(node.organisation_id);
    let iat = now.timestamp();
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let mut claims = Claims {
        sub: node.id,
        prj: node.project_id,
        org: node.organisation_id,
        iat,
        exp: iat.saturating_add(ttl),
        chn: chain,
        kid: current_key(signer, &scope).await.map_err(no_key)?,
    };
    // The key may be rotated between asking for its name and signing with it.
    for _ in 0..4 {
        let input = signing_input(&claims)?;
        let signature = signer.sign(&scope, input.as_bytes()).await.map_err(no_key)?;
        if signature.key_id == claims.kid {
            let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.bytes));
            return Ok(Issued {
                token: Secret::new(token),
                issued_at: instant(iat)?,
                expires_at: instant(claims.exp)?,
                claims,
            });
        }
        claims.kid = signature.key_id;
    }
    Err(Error::unavailable("The signing key is being rotated; try again"))
}

fn instant(seconds: i64) -> Result<Timestamp> {
    DateTime::from_timestamp(seconds, 0).ok_or_else(|| Error::internal("token time is out of range"))
}

fn signing_input(claims: &Claims) -> Result<String> {
    let header = serde_json::to_vec(&Header { alg: "EdDSA", kid: &claims.kid })?;
    let claims = serde_json::to_vec(claims)?;
    Ok(format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)))
}

/// The id of the key that signs for `scope`; signing makes the first one.
async fn current_key(signer: &dyn Signer, scope: &Scope) -> Result<String> {
    if let Some(newest) = signer.public_keys(scope).await?.into_iter().next() {
        return Ok(newest.key_id);
    }
    Ok(signer.sign(scope, b"zentinel:first-key").await?.key_id)
}

fn no_key(error: Error) -> Error {
    if matches!(error.kind(), Kind::Forbidden | Kind::NotFound) {
        Error::unavailable("No signing key configured for this organization. Contact your administrator.")
            .with_source(error)
    } else {
        error
    }
}

/// What is read of the claims before anything is known to be true.
#[derive(Deserialize)]
struct RawClaims {
    sub: Option<Value>,
    prj: Option<Value>,
    org: Option<Value>,
    iat: Option<Value>,
    exp: Option<Value>,
    chn: Option<Value>,
}

fn id<T: std::str::FromStr>(value: Option<&Value>) -> Option<T> {
    value?.as_str()?.parse().ok()
}

/// Whether a refused token looks made up rather than out of date. Out-of-date tokens come in
/// crowds, for instance when a site is back after a day, and must not be taken for guesses.
pub(crate) fn is_guess(error: &Error) -> bool {
    error.kind() == Kind::Unauthenticated && !matches!(error.message(), EXPIRED | DEACTIVATED)
}

fn failed() -> Error {
    Error::unauthenticated(FAILED)
}

/// Verifies a token up to the question whether its node exists and still is in its project.
///
/// # Errors
/// [`Kind::Unauthenticated`] with the contract's text; those of the signer and the store.
pub(crate) async fn verify(
    token: &str,
    signer: &dyn Signer,
    store: &dyn Store,
    now: Timestamp,
) -> Result<Claims> {
    let claims = verify_signature(token, signer, now).await?;
    check_tenancy(tenancy(store, &claims.kid).await?, &claims)?;
    Ok(claims)
}

/// The part of [`verify`] that asks no store: [`check_tenancy`] is the rest.
///
/// # Errors
/// [`Kind::Unauthenticated`] with the contract's text; those of the signer.
pub(crate) async fn verify_signature(token: &str, signer: &dyn Signer, now: Timestamp) -> Result<Claims> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(failed());
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| failed())?;
    let kid = header.kid.ok_or_else(failed)?;
    // Keys are kept per organisation. The unverified `org` only says where to look: a token that
    // lies about it finds no key, or a key that did not sign it.
    let hint: RawClaims = insecure_decode_claims(token).map_err(|_| failed())?;
    let organisation = id::<OrganisationId>(hint.org.as_ref()).ok_or_else(failed)?;
    let scope = Scope::Organisation(organisation);
    let key = signer
        .public_key(&scope, &kid)
        .await?
        .ok_or_else(|| Error::unauthenticated("Unknown signing key"))?;
    if !key.active {
        return Err(Error::unauthenticated(DEACTIVATED));
    }
    let raw = key.raw().ok_or_else(failed)?;
    let claims = check_signature(token, &raw)?;
    check_claims(&claims, organisation, kid, now)
}

fn check_signature(token: &str, raw_key: &[u8; 32]) -> Result<RawClaims> {
    // Otherwise the library panics when a program links it with two cryptographic back ends.
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        if jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().is_err() {
            tracing::debug!("the program has chosen its own back end for tokens");
        }
    });
    let mut validation = Validation::new(Algorithm::EdDSA);
    // Time comes from the clock port, and the texts are the contract's: claims are checked below.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    jsonwebtoken::decode::<RawClaims>(token, &DecodingKey::from_ed_der(raw_key), &validation)
        .map(|data| data.claims)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => Error::unauthenticated("Invalid token signature"),
            _ => failed(),
        })
}

fn check_claims(
    raw: &RawClaims,
    organisation: OrganisationId,
    kid: String,
    now: Timestamp,
) -> Result<Claims> {
    let seconds = |value: &Option<Value>| value.as_ref().and_then(Value::as_i64);
    let now = now.timestamp();
    let exp = seconds(&raw.exp).ok_or_else(failed)?;
    if exp <= now {
        return Err(Error::unauthenticated(EXPIRED));
    }
    let sub = id(raw.sub.as_ref()).ok_or_else(failed)?;
    let prj = id(raw.prj.as_ref()).ok_or_else(failed)?;
    let iat = seconds(&raw.iat).filter(|iat| *iat <= now + MAX_CLOCK_SKEW).ok_or_else(failed)?;
    // A token without a root is its own.
    let chn = seconds(&raw.chn).unwrap_or(iat);
    Ok(Claims { sub, prj, org: organisation, iat, exp, chn, kid })
}

/// Whose a signing key is, and when it ends in unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tenancy {
    organisation_id: OrganisationId,
    expires_at: Option<i64>,
}

/// Whose a key is that the store keeps; `None` for one that is kept elsewhere.
///
/// # Errors
/// Those of the store.
pub(crate) async fn tenancy(store: &dyn Store, kid: &str) -> Result<Option<Tenancy>> {
    let key = store.find_by_key::<SigningKey>(kid).await?;
    Ok(key.map(|key| Tenancy {
        organisation_id: key.organisation_id,
        expires_at: key.expires_at.map(|at| at.timestamp()),
    }))
}

/// Where keys are kept in the store, their tenant and expiry are there too.
///
/// # Errors
/// [`Kind::Unauthenticated`] for the key of another tenant, and one that had ended.
pub(crate) fn check_tenancy(tenancy: Option<Tenancy>, claims: &Claims) -> Result<()> {
    let holds = |key: Tenancy| {
        key.organisation_id == claims.org && key.expires_at.is_none_or(|ended| ended >= claims.iat)
    };
    if tenancy.is_none_or(holds) { Ok(()) } else { Err(failed()) }
}

/// Checks a verified token against the node it names, as the node is now.
///
/// # Errors
/// [`Kind::Unauthenticated`] with the contract's text.
pub(crate) fn check_node(claims: &Claims, node: &KnownNode) -> Result<()> {
    let issued = instant(claims.iat)?;
    let revoked = node.tokens_valid_after.is_some_and(|after| issued < after);
    if node.organisation_id != claims.org || node.project_id != claims.prj || revoked {
        return Err(failed());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zentinel_core::credential::CredentialHash;
    use zentinel_core::entity::Registration;
    use zentinel_store::MemoryStore;
    use zentinel_store::signer::MemorySigner;

    fn at(seconds: i64) -> Timestamp {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn node() -> Node {
        let registration = Registration { name: "edge".to_owned(), ..Registration::default() };
        let scope = (OrganisationId::random(), ProjectId::random());
        Node::register(scope, &registration, true, CredentialHash::of("key"), at(0)).unwrap()
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_issued_is_verified_until_it_ends() {
        let (signer, store, node) = (MemorySigner::generate(), MemoryStore::new(), node());
        let issued = wait(issue(&signer, &node, 7, at(1_000), Duration::from_secs(60))).unwrap();
        let check = |now| wait(verify(issued.token.expose(), &signer, &store, at(now)));
        assert_eq!(check(1_059).unwrap(), issued.claims);
        assert_eq!(check(940).unwrap().chn, 7);
        assert_eq!(check(939).unwrap_err().message(), FAILED);
        let expired = check(1_060).unwrap_err();
        assert_eq!(expired.message(), EXPIRED);
        assert!(!is_guess(&expired) && is_guess(&failed()));
        check_node(&issued.claims, &node.clone().into()).unwrap();
        let mut moved = node.clone();
        moved.project_id = ProjectId::random();
        check_node(&issued.claims, &moved.into()).unwrap_err();
        let mut revoked = node;
        revoked.tokens_valid_after = Some(at(1_000));
        check_node(&issued.claims, &revoked.clone().into()).unwrap();
        revoked.tokens_valid_after = Some(at(1_001));
        check_node(&issued.claims, &revoked.clone().into()).unwrap_err();
    }

    #[test]
    fn a_chain_ends_after_thirty_days() {
        let (signer, node) = (MemorySigner::generate(), node());
        let claims = wait(issue(&signer, &node, 1_000, at(1_000), Duration::from_secs(60))).unwrap().claims;
        assert!(claims.may_renew(at(1_000 + CHAIN_SECONDS)));
        assert!(!claims.may_renew(at(1_001 + CHAIN_SECONDS)));
    }

    proptest! {
        #[test]
        fn nothing_made_up_is_accepted(token in "[A-Za-z0-9_.-]{0,200}") {
            let error = wait(verify(&token, &MemorySigner::generate(), &MemoryStore::new(), at(0))).unwrap_err();
            prop_assert!(is_guess(&error));
        }

        #[test]
        fn any_altered_byte_is_refused(place in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
            let (signer, store, node) = (MemorySigner::from_seed("sk_test", [5; 32]), MemoryStore::new(), node());
            let issued = wait(issue(&signer, &node, 0, at(0), Duration::from_secs(60))).unwrap();
            let mut token = issued.token.expose().to_owned();
            let place = place.index(token.len());
            token.replace_range(place..=place, &with);
            let verified = wait(verify(&token, &signer, &store, at(1)));
            prop_assert_eq!(verified.is_ok(), token == issued.token.expose());
        }
    }
}
