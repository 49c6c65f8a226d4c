//! Keys per organisation, sealed in the store.

use super::{KeyPair, MasterKey};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
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
use zentinel_core::{Actor, Changes, Error, Kind, RecordKind, Result, Scope, Timestamp};

const MASTER_HINT: &str = "start with the master key that the signing keys were sealed with \
    (signing.master_key_file, by default master.key in the data directory)";

/// How long opened keys are remembered: a notice may be lost with the connection that carries it.
const REMEMBERED: TimeDelta = TimeDelta::seconds(60);

/// How often making a key starts over because another replica made one at the same time.
const TRIES: usize = 16;

/// One or more keys per organisation, sealed in the store under a [`MasterKey`]. The first call
/// for an organisation makes its key; replicas that do so at once agree on one. Opened keys are
/// remembered for a minute, or until a key record changes.
///
/// A key that the master key does not open is skipped and logged: others may still sign, and its
/// public half, which the record holds, stays accepted.
pub struct SealedSigner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    master: MasterKey,
    cache: Mutex<Cache>,
    /// Held while an organisation's first key is made, so that concurrent callers agree on it.
    making: tokio::sync::Mutex<()>,
}

struct Cache {
    by_organisation: HashMap<OrganisationId, Entry>,
    notices: NoticeStream,
    /// Counts how often everything was forgotten: what was read before is not remembered after.
    epoch: u64,
}

struct Entry {
    /// Newest first.
    keys: Arc<Vec<Key>>,
    read_at: Timestamp,
}

/// A key record with its private half, if that could be opened.
struct Key {
    record: SigningKey,
    pair: Option<KeyPair>,
}

impl Key {
    fn public(&self) -> PublicKey {
        PublicKey {
            key_id: self.record.key_id.clone(),
            algorithm: "ed25519".to_owned(),
            public_key: self.record.public_key.clone(),
            active: self.record.active,
        }
    }
}

impl SealedSigner {
    /// A signer over a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, master: MasterKey) -> Self {
        let notices = store.watch();
        let cache = Mutex::new(Cache { by_organisation: HashMap::new(), notices, epoch: 0 });
        Self { store, clock, master, cache, making: tokio::sync::Mutex::new(()) }
    }

    /// Checks before serving that the master key is the one that the stored keys were sealed with.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) when there are keys and it opens none of
    /// them; those of the store.
    pub async fn check(&self) -> Result<()> {
        let query = Query::all(RecordKind::SigningKey);
        let records = self.store.list_all::<SigningKey>(&Scope::Instance, query).await?;
        if records.is_empty() || records.iter().any(|record| self.open(record).is_ok()) {
            return Ok(());
        }
        let count = records.len();
        Err(Error::invalid(format!("the master key opens none of the {count} signing key(s) in the store"))
            .with_hint(MASTER_HINT))
    }

    /// The organisation's keys, newest first; maybe none.
    async fn keys(&self, organisation: OrganisationId) -> Result<Arc<Vec<Key>>> {
        let now = self.clock.now();
        let epoch = {
            let mut cache = self.cache.lock();
            cache.drop_stale(&*self.store);
            if let Some(entry) = cache.by_organisation.get(&organisation)
                && (TimeDelta::zero()..REMEMBERED).contains(&(now - entry.read_at))
            {
                return Ok(Arc::clone(&entry.keys));
            }
            cache.epoch
        };
        let keys = self.records(organisation).await?.into_iter().map(|record| {
            let pair = self.open(&record);
            if let Err(error) = &pair {
                tracing::error!(key_id = record.key_id, %organisation, %error, "signing key skipped");
            }
            Key { pair: pair.ok(), record }
        });
        let keys: Arc<Vec<_>> = Arc::new(keys.collect());
        let mut cache = self.cache.lock();
        if !keys.is_empty() && cache.epoch == epoch {
            cache.by_organisation.insert(organisation, Entry { keys: Arc::clone(&keys), read_at: now });
        }
        Ok(keys)
    }

    /// The organisation's key records, newest first.
    async fn records(&self, organisation: OrganisationId) -> Result<Vec<SigningKey>> {
        let query = Query::all(RecordKind::SigningKey).owned_by(organisation);
        let records = self.store.list_all::<SigningKey>(&Scope::Organisation(organisation), query).await?;
        let mut records: Vec<_> = records.into_iter().map(|stored| stored.value).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.generation));
        Ok(records)
    }

    fn open(&self, record: &SigningKey) -> Result<KeyPair> {
        let sealed = STANDARD.decode(&record.sealed_private_key).unwrap_or_default();
        let seed = self.master.open(&context(record), &sealed)?;
        let seed: [u8; 32] = seed
            .as_slice()
            .try_into()
            .map_err(|_| Error::internal("a sealed signing key has the wrong length"))?;
        let pair = KeyPair { key_id: record.key_id.clone(), key: DalekKey::from_bytes(&seed) };
        if pair.public().public_key != record.public_key {
            return Err(Error::internal("a signing key is not the one its record shows"));
        }
        Ok(pair)
    }

    /// The organisation's current keys, newest first, made if there is none.
    async fn current_keys(&self, organisation: OrganisationId) -> Result<(Arc<Vec<Key>>, Timestamp)> {
        let now = self.clock.now();
        let keys = self.keys(organisation).await?;
        if keys.iter().any(|key| key.record.is_current(now)) {
            return Ok((keys, now));
        }
        let _held = self.making.lock().await;
        let keys = self.keys(organisation).await?;
        if !keys.iter().any(|key| key.record.is_current(now)) {
            self.make(organisation, true).await?;
        }
        Ok((self.keys(organisation).await?, now))
    }

    /// Signs with current keys that open, newest first.
    async fn signatures(&self, scope: &Scope, message: &[u8], most: usize) -> Result<Vec<Signature>> {
        let (keys, now) = self.current_keys(tenant(scope)?).await?;
        let pairs = keys.iter().filter(|key| key.record.is_current(now)).filter_map(|key| key.pair.as_ref());
        let signatures: Vec<_> = pairs.take(most).map(|pair| pair.sign(message)).collect();
        if signatures.is_empty() {
            return Err(
                Error::internal("no signing key of the organisation can be opened").with_hint(MASTER_HINT)
            );
        }
        Ok(signatures)
    }

    /// Makes the organisation's next key; with `first`, only unless there is a current one by now.
    /// Returns the id of the key that is current then.
    async fn make(&self, organisation: OrganisationId, first: bool) -> Result<String> {
        for _ in 0..TRIES {
            let (now, records) = (self.clock.now(), self.records(organisation).await?);
            let current = |record: &&SigningKey| record.is_current(now);
            if let Some(made) = records.iter().find(current).filter(|_| first) {
                self.cache.lock().forget();
                return Ok(made.key_id.clone());
            }
            let newest = records.iter().map(|record| record.generation).max().unwrap_or(0);
            match self.insert(organisation, newest.saturating_add(1), now).await {
                // Another replica made that generation meanwhile.
                Err(error) if error.kind() == Kind::Invalid => {}
                made => {
                    self.cache.lock().forget();
                    return made;
                }
            }
        }
        Err(Error::stale("the signing key"))
    }

    async fn insert(&self, organisation: OrganisationId, generation: u32, now: Timestamp) -> Result<String> {
        let pair = KeyPair::generate();
        let mut record = SigningKey {
            id: SigningKeyId::random(),
            organisation_id: organisation,
            key_id: pair.key_id.clone(),
            public_key: pair.public().public_key,
            sealed_private_key: String::new(),
            active: true,
            expires_at: None,
            created_at: now,
            generation,
        };
        record.sealed_private_key =
            STANDARD.encode(self.master.seal(&context(&record), pair.key.as_bytes())?);
        let scope = Scope::Organisation(organisation);
        let audit = AuditEntry::new(&scope, Actor::System, "signing_key.created", &record.key_id, now);
        self.store.commit(Changes::new().insert(&record)?.audit(audit)).await?;
        Ok(record.key_id)
    }
}

/// The place that a sealed key is bound to.
fn context(record: &SigningKey) -> String {
    format!("signing_keys/{}/{}/private_key", record.organisation_id, record.key_id)
}

impl Cache {
    /// Forgets every key when a key record changed anywhere, or may have.
    fn drop_stale(&mut self, store: &dyn Store) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(notice) = self.notices.poll_next_unpin(&mut context) {
            match notice {
                Some(Notice::Lagged | Notice::Records { kind: RecordKind::SigningKey, .. }) => self.forget(),
                Some(_) => {}
                None => {
                    self.notices = store.watch();
                    self.forget();
                    break;
                }
            }
        }
    }

    fn forget(&mut self) {
        self.by_organisation.clear();
        self.epoch += 1;
    }
}

fn tenant(scope: &Scope) -> Result<OrganisationId> {
    scope.organisation().ok_or_else(|| Error::forbidden("signing keys belong to organisations"))
}

#[async_trait]
impl Signer for SealedSigner {
    async fn sign(&self, scope: &Scope, message: &[u8]) -> Result<Signature> {
        let newest = self.signatures(scope, message, 1).await?.pop();
        newest.ok_or_else(|| Error::internal("the organisation has no signing key"))
    }

    async fn sign_all(&self, scope: &Scope, message: &[u8]) -> Result<Vec<Signature>> {
        self.signatures(scope, message, usize::MAX).await
    }

    async fn public_key(&self, scope: &Scope, key_id: &str) -> Result<Option<PublicKey>> {
        let keys = self.keys(tenant(scope)?).await?;
        Ok(keys.iter().find(|key| key.record.key_id == key_id).map(Key::public))
    }

    async fn public_keys(&self, scope: &Scope) -> Result<Vec<PublicKey>> {
        let (keys, now) = self.current_keys(tenant(scope)?).await?;
        Ok(keys.iter().filter(|key| key.record.is_current(now)).map(Key::public).collect())
    }

    async fn rotate(&self, scope: &Scope) -> Result<String> {
        self.make(tenant(scope)?, false).await
    }
}

impl std::fmt::Debug for SealedSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSigner").field("store", &self.store).finish_non_exhaustive()
    }
}
