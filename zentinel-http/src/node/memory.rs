//! What the node API keeps in memory: verified tokens, and bundles with their statements.
//!
//! What the store says it changed is forgotten before the next use.

use super::joining::Joining;
use super::offers::Offers;
use crate::error::{ApiError, ApiResult};
use crate::services::Api;
use crate::token::{self, Claims, Tenancy};
use axum::extract::FromRequestParts;
use dashmap::DashMap;
use futures_util::{FutureExt, StreamExt};
use http::StatusCode;
use http::request::Parts;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zentinel_core::id::ProjectId;
use zentinel_core::port::{Notice, NoticeStream};
use zentinel_core::{RecordKind, Result, Sha256Digest, Timestamp};

/// Most tokens that are remembered.
const MAX_TOKENS: usize = 100_000;
/// Most signing keys whose tenant is remembered.
const MAX_KEYS: usize = 10_000;
/// How long a verification holds, in seconds: it covers signers whose keys are not in the store.
const RECHECK: i64 = 300;
/// Number of locks for registrations.
const GATES: usize = 16;

/// A token that was verified.
#[derive(Clone, Debug)]
struct Verified {
    claims: Arc<Claims>,
    generation: u64,
    checked_at: i64,
}

/// The memory of one router. Shared by its node routes.
#[derive(Default)]
pub(super) struct Memory {
    /// By digest, so that no token is kept.
    tokens: DashMap<Sha256Digest, Verified>,
    /// Grows with every change of a signing key.
    keys: AtomicU64,
    /// Whose the keys are that signed tokens, and the generation in which that was read. Locked while
    /// the store is asked: nodes that return together ask it once.
    tenancies: tokio::sync::Mutex<HashMap<String, (u64, Option<Tenancy>)>>,
    /// What polls are answered with.
    pub(super) offers: Offers,
    /// Blocked requests that no event has told of yet, and when the last one was published.
    pub(super) blocked: DashMap<ProjectId, (Option<Timestamp>, u64)>,
    /// Nodes that join with one token come one after another instead of racing for it.
    gates: [tokio::sync::Mutex<()>; GATES],
    /// Nodes that wait for their turn to join.
    pub(super) joining: Joining,
    /// Nothing is remembered before the first use, so nothing is missed before it.
    notices: Mutex<Option<NoticeStream>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

impl Memory {
    /// Forgets what changed since the last call.
    pub(super) fn catch_up(&self, api: &Api) {
        let mut notices = self.notices.lock();
        let notices = notices.get_or_insert_with(|| api.store.watch());
        while let Some(next) = notices.next().now_or_never() {
            match next {
                Some(Notice::Records { kind, ids, .. }) => match kind {
                    RecordKind::SigningKey => {
                        self.keys.fetch_add(1, Ordering::AcqRel);
                    }
                    RecordKind::Bundle | RecordKind::BundleStatement => self.offers.forget(kind, &ids),
                    _ => {}
                },
                Some(Notice::Events | Notice::Jobs) => {}
                Some(Notice::Lagged) => self.forget_all(),
                None => {
                    // First, so that what is read afterwards is not missed when it changes.
                    *notices = api.store.watch();
                    self.forget_all();
                    break;
                }
            }
        }
    }

    fn forget_all(&self) {
        self.keys.fetch_add(1, Ordering::AcqRel);
        self.offers.forget_all();
    }

    /// What a token says, if it was verified and nothing has changed since.
    pub(super) fn verified(&self, token: &Sha256Digest, now: Timestamp) -> Option<Arc<Claims>> {
        let known = self.tokens.get(token)?;
        let fresh = known.generation == self.key_generation() && now.timestamp() - known.checked_at < RECHECK;
        fresh.then(|| Arc::clone(&known.claims))
    }

    /// To be read before a verification and handed to [`Memory::remember`].
    pub(super) fn key_generation(&self) -> u64 {
        self.keys.load(Ordering::Acquire)
    }

    /// Whose a signing key is, as [`token::tenancy`]; read anew when it may have changed since
    /// `generation`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn tenancy(&self, api: &Api, kid: &str, generation: u64) -> Result<Option<Tenancy>> {
        let mut known = self.tenancies.lock().await;
        if let Some((_, tenancy)) = known.get(kid).filter(|(of, _)| *of >= generation) {
            return Ok(*tenancy);
        }
        let tenancy = token::tenancy(&*api.store, kid).await?;
        if known.len() >= MAX_KEYS {
            known.clear();
        }
        known.insert(kid.to_owned(), (generation, tenancy));
        Ok(tenancy)
    }

    /// Remembers a verified token.
    pub(super) fn remember(&self, token: Sha256Digest, claims: Arc<Claims>, generation: u64, now: Timestamp) {
        let now = now.timestamp();
        if self.tokens.len() >= MAX_TOKENS {
            let current = self.key_generation();
            self.tokens.retain(|_, known| known.claims.exp > now && known.generation == current);
            if self.tokens.len() >= MAX_TOKENS {
                self.tokens.clear();
            }
        }
        let verified = Verified { claims, generation, checked_at: now };
        self.tokens.insert(token, verified);
    }

    /// Drops a token that has ended.
    pub(super) fn drop_token(&self, token: &Sha256Digest) {
        self.tokens.remove(token);
    }

    /// The lock that registrations with one token share.
    pub(super) fn gate(&self, id: uuid::Uuid) -> &tokio::sync::Mutex<()> {
        let place = usize::from(id.as_bytes()[15]) % GATES;
        &self.gates[place]
    }
}

/// The memory of the router that serves a request.
#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Arc<Memory>);

impl FromRequestParts<Api> for Shared {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> ApiResult<Self> {
        Self::of(parts)
    }
}

impl Shared {
    pub(super) fn of(parts: &Parts) -> ApiResult<Self> {
        parts
            .extensions
            .get::<Arc<Memory>>()
            .map(|memory| Self(Arc::clone(memory)))
            .ok_or_else(|| ApiError::framework(StatusCode::INTERNAL_SERVER_ERROR))
    }
}
