//! Bundles with their statements, read once and handed to many nodes.

use crate::services::Api;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;
use zentinel_core::entity::{Activation, Bundle, BundleStatement, NodeTarget};
use zentinel_core::id::{BundleId, StatementId, TypedId};
use zentinel_core::port::StoreExt;
use zentinel_core::statement::{Envelope, Statement};
use zentinel_core::{RecordKind, Result, Sha256Digest};
use zentinel_rollout::fleet::KnownNode;

/// Most offers that are remembered.
const CAPACITY: usize = 4_096;

/// What every node with the same target is told.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) version: String,
    pub(super) checksum: Sha256Digest,
    pub(super) size_bytes: u64,
    pub(super) storage_key: String,
    pub(super) signature: Option<String>,
    pub(super) signing_key_id: Option<String>,
    pub(super) activation: Activation,
    pub(super) compare: bool,
    pub(super) envelope: Envelope,
}

/// Offers by bundle and statement. `None` is remembered too: a bundle that cannot be handed out
/// costs no query per poll either.
#[derive(Debug, Default)]
pub(super) struct Offers {
    known: DashMap<(BundleId, StatementId), Option<Arc<Offered>>>,
    /// Grows with every change, so that nothing read before it is remembered after it.
    generation: AtomicU64,
    /// One reader at a time: a fleet that wakes up together asks the store once.
    reading: tokio::sync::Mutex<()>,
}

impl Offers {
    /// What to tell a node about its target; `None` when the bundle may not be handed out.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn find(
        &self,
        api: &Api,
        node: &KnownNode,
        target: &NodeTarget,
    ) -> Result<Option<Arc<Offered>>> {
        let name = (target.bundle_id, target.statement_id);
        if let Some(known) = self.known.get(&name) {
            return Ok(known.clone());
        }
        let _reading = self.reading.lock().await;
        if let Some(known) = self.known.get(&name) {
            return Ok(known.clone());
        }
        let generation = self.generation.load(Ordering::Acquire);
        let offered = read(api, node, target).await?.map(Arc::new);
        if self.generation.load(Ordering::Acquire) == generation {
            if self.known.len() >= CAPACITY {
                self.known.clear();
            }
            self.known.insert(name, offered.clone());
        }
        Ok(offered)
    }

    /// Forgets what is about these records.
    pub(super) fn forget(&self, kind: RecordKind, ids: &[Uuid]) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.known.retain(|(bundle, statement), _| {
            let its = if kind == RecordKind::Bundle { bundle.uuid() } else { statement.uuid() };
            !ids.contains(&its)
        });
    }

    /// Forgets everything.
    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.known.clear();
    }
}

async fn read(api: &Api, node: &KnownNode, target: &NodeTarget) -> Result<Option<Offered>> {
    let scope = node.scope();
    let bundle = api.store.find::<Bundle>(&scope, target.bundle_id).await?;
    let Some(bundle) = bundle.filter(|bundle| bundle.status.is_deployable()) else {
        return Ok(None);
    };
    let statement = api.store.find::<BundleStatement>(&scope, target.statement_id).await?;
    let Some(statement) = statement.filter(|statement| statement.bundle_id == bundle.id) else {
        tracing::warn!(bundle = %bundle.id, statement = %target.statement_id, "a target has no statement");
        return Ok(None);
    };
    let bundle = bundle.value;
    let Some((activation, compare)) = stated_way(&statement.envelope) else {
        tracing::error!(bundle = %bundle.id, statement = %statement.id, "a statement cannot be read");
        return Ok(None);
    };
    let (Some(checksum), Some(size_bytes), Some(storage_key)) =
        (bundle.checksum, bundle.size_bytes, bundle.storage_key)
    else {
        tracing::warn!(bundle = %bundle.id, "a compiled bundle has no archive");
        return Ok(None);
    };
    Ok(Some(Offered {
        version: bundle.version,
        checksum,
        size_bytes,
        storage_key,
        signature: bundle.signature,
        signing_key_id: bundle.signing_key_id,
        activation,
        compare,
        envelope: statement.value.envelope,
    }))
}

/// The statement is what a node trusts: the answer repeats what it says.
fn stated_way(envelope: &Envelope) -> Option<(Activation, bool)> {
    let payload = STANDARD.decode(&envelope.payload).ok()?;
    let statement: Statement = serde_json::from_slice(&payload).ok()?;
    Some((statement.activation, statement.compare))
}
