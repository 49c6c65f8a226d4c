//! Which bundles a project has, as far as heartbeats asked.

use parking_lot::RwLock;
use std::collections::HashMap;
use zentinel_core::entity::Bundle;
use zentinel_core::id::{BundleId, OrganisationId, ProjectId, TypedId};
use zentinel_core::port::Store;
use zentinel_core::record::Record;
use zentinel_core::{Result, Scope};

/// Most remembered answers; then it starts over.
const CAPACITY: usize = 50_000;

/// Remembers the store's answers, so that a bundle costs one query per replica and not one per
/// heartbeat.
#[derive(Debug, Default)]
pub(super) struct KnownBundles {
    answers: RwLock<HashMap<(ProjectId, BundleId), bool>>,
    /// One reader at a time: a fleet that comes back together asks the store once.
    reading: tokio::sync::Mutex<()>,
}

impl KnownBundles {
    /// Whether the project has the bundle, if that is remembered.
    fn recall(&self, project: ProjectId, bundle: BundleId) -> Option<bool> {
        self.answers.read().get(&(project, bundle)).copied()
    }

    /// Whether the project has the bundle.
    pub(super) async fn contains(
        &self,
        store: &dyn Store,
        scope: (OrganisationId, ProjectId),
        bundle: BundleId,
    ) -> Result<bool> {
        if let Some(known) = self.recall(scope.1, bundle) {
            return Ok(known);
        }
        let _reading = self.reading.lock().await;
        if let Some(known) = self.recall(scope.1, bundle) {
            return Ok(known);
        }
        let found = store.get(&Scope::Project(scope.0, scope.1), Bundle::KIND, bundle.uuid()).await?;
        let mut answers = self.answers.write();
        if answers.len() >= CAPACITY {
            answers.clear();
        }
        answers.insert((scope.1, bundle), found.is_some());
        Ok(found.is_some())
    }

    /// Bundles changed: what was unknown may exist now.
    pub(super) fn forget_unknown(&self) {
        let any = self.answers.read().values().any(|known| !known);
        if any {
            self.answers.write().retain(|_, known| *known);
        }
    }
}
