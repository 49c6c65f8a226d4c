//! Keys per organisation, sealed in the store.

use super::{KeyPair, MasterKey};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey as DalekKey;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use zentinel_core::entity::{AuditEntry, SigningKey};
use zentinel_core::id::{OrganisationId, SigningKeyId};
use zentinel_core::port::{
    Clock, Notice, NoticeStream, PublicKey, Query, Signature, Signer, Store, StoreExt as _,
};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope};

/// One or more keys per organisation, sealed in the store under a [`MasterKey`]. The first call
/// for an organisation makes its key. Opened keys are remembered until a key record changes.
pub struct SealedSigner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    master: MasterKey,
    cache: Mutex<Cache>,
    /// Held while an organisation's first key is made, so that concurrent callers agree on it.
    making: tokio::sync::Mutex<()>,
}

struct Cache {
    /// Newest first.
    by_organisation: HashMap<OrganisationId, Arc<Vec<Key>>>,
    notices: NoticeStream,
}

/// A key record with its opened private half.
struct Key {
    record: SigningKey,
    pair: KeyPair,
}

impl Key {
    fn signs(&self, now: zentinel_core::Timestamp) -> bool {
        self.record.active && self.record.expires_at.is_none_or(|at| at > now)
    }

    fn public(&self) -> PublicKey {
        PublicKey { active: self.record.active, ..self.pair.public() }
    }
}

impl SealedSigner {
    /// A signer over a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, master: MasterKey) -> Self {
        let cache = Mutex::new(Cache { by_organisation: HashMap::new(), notices: store.watch() });
        Self { store, clock, master, cache, making: tokio::sync::Mutex::new(()) }
    }

    /// The organisation's keys, newest first; maybe none.
    async fn keys(&self, organisation: OrganisationId) -> Result<Arc<Vec<Key>>> {
        {
            let mut cache = self.cache.lock();
            cache.drop_stale();
            if let Some(keys) = cache.by_organisation.get(&organisation) {
                return Ok(Arc::clone(keys));
            }
        }
        let query = Query::all(RecordKind::SigningKey).owned_by(organisation);
        let records = self.store.list_all::<SigningKey>(&Scope::Organisation(organisation), query).await?;
        let keys = records.into_iter().map(|stored| self.open(stored.value)).collect::<Result<Vec<_>>>()?;
        let keys = Arc::new(keys);
        if !keys.is_empty() {
            self.cache.lock().by_organisation.insert(organisation, Arc::clone(&keys));
        }
        Ok(keys)
    }

    fn open(&self, record: SigningKey) -> Result<Key> {
        let sealed = STANDARD.decode(&record.sealed_private_key).unwrap_or_default();
        let seed = self.master.open(&context(&record), &sealed)?;
        let seed: [u8; 32] = seed
            .as_slice()
            .try_into()
            .map_err(|_| Error::internal("a sealed signing key has the wrong length"))?;
        Ok(Key { pair: KeyPair { key_id: record.key_id.clone(), key: DalekKey::from_bytes(&seed) }, record })
    }

    /// The organisation's keys of which at least one signs, made if needed; and the time of asking.
    async fn usable_keys(
        &self,
        organisation: OrganisationId,
    ) -> Result<(Arc<Vec<Key>>, zentinel_core::Timestamp)> {
        let now = self.clock.now();
        let keys = self.keys(organisation).await?;
        if keys.iter().any(|key| key.signs(now)) {
            return Ok((keys, now));
        }
        let _held = self.making.lock().await;
        let keys = self.keys(organisation).await?;
        if !keys.iter().any(|key| key.signs(now)) {
            self.make(organisation).await?;
        }
        Ok((self.keys(organisation).await?, now))
    }

    async fn make(&self, organisation: OrganisationId) -> Result<String> {
        let pair = KeyPair::generate();
        let now = self.clock.now();
        let mut record = SigningKey {
            id: SigningKeyId::random(),
            organisation_id: organisation,
            key_id: pair.key_id.clone(),
            public_key: pair.public().public_key,
            sealed_private_key: String::new(),
            active: true,
            expires_at: None,
            created_at: now,
        };
        record.sealed_private_key =
            STANDARD.encode(self.master.seal(&context(&record), pair.key.as_bytes())?);
        let scope = Scope::Organisation(organisation);
        let audit = AuditEntry::new(&scope, Actor::System, "signing_key.created", &record.key_id, now);
        self.store.commit(Changes::new().insert(&record)?.audit(audit)).await?;
        self.cache.lock().by_organisation.remove(&organisation);
        Ok(record.key_id)
    }
}

/// The place that a sealed key is bound to.
fn context(record: &SigningKey) -> String {
    format!("signing_keys/{}/{}/private_key", record.organisation_id, record.key_id)
}

impl Cache {
    /// Forgets every key when a key record changed anywhere.
    fn drop_stale(&mut self) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(notice)) = self.notices.poll_next_unpin(&mut context) {
            if matches!(notice, Notice::Lagged | Notice::Records { kind: RecordKind::SigningKey, .. }) {
                self.by_organisation.clear();
            }
        }
    }
}

fn tenant(scope: &Scope) -> Result<OrganisationId> {
    scope.organisation().ok_or_else(|| Error::forbidden("signing keys belong to organisations"))
}

#[async_trait]
impl Signer for SealedSigner {
    async fn sign(&self, scope: &Scope, message: &[u8]) -> Result<Signature> {
        let (keys, now) = self.usable_keys(tenant(scope)?).await?;
        let key = keys.iter().find(|key| key.signs(now));
        key.map(|key| key.pair.sign(message))
            .ok_or_else(|| Error::unavailable("the signing key just changed"))
    }

    async fn public_key(&self, scope: &Scope, key_id: &str) -> Result<Option<PublicKey>> {
        let keys = self.keys(tenant(scope)?).await?;
        Ok(keys.iter().find(|key| key.record.key_id == key_id).map(Key::public))
    }

    async fn public_keys(&self, scope: &Scope) -> Result<Vec<PublicKey>> {
        let (keys, _) = self.usable_keys(tenant(scope)?).await?;
        Ok(keys.iter().filter(|key| key.record.active).map(Key::public).collect())
    }

    async fn rotate(&self, scope: &Scope) -> Result<String> {
        self.make(tenant(scope)?).await
    }
}

impl std::fmt::Debug for SealedSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSigner").field("store", &self.store).finish_non_exhaustive()
    }
}
