//! Closing drift events by hand.

use super::drift_resolved;
use crate::engine::Engine;
use serde_json::json;
use zentinel_core::entity::{AuditEntry, DRIFT_ACTIVE, DriftEvent, DriftResolution};
use zentinel_core::id::{DriftEventId, ProjectId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope};

impl Engine {
    /// Closes an event by hand. A node that still differs gets a new one at the next look.
    ///
    /// # Errors
    /// `NotFound`: `Drift event not found`; `Conflict` when it is closed already.
    pub async fn resolve_drift(&self, scope: &Scope, actor: Actor, id: DriftEventId) -> Result<DriftEvent> {
        let mut retry = self.retry();
        loop {
            let outcome = self.try_resolve(scope, actor, id).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return outcome;
            }
        }
    }

    async fn try_resolve(&self, scope: &Scope, actor: Actor, id: DriftEventId) -> Result<DriftEvent> {
        let read = self.store.fetch::<DriftEvent>(scope, id).await?;
        if !read.is_open() {
            return Err(Error::conflict("Drift event already resolved"));
        }
        let now = self.clock.now();
        let mut event = read.value.clone();
        event.resolve(DriftResolution::Manual, Some(actor), now);
        let entry = AuditEntry::new(&event.scope(), actor, "drift.resolved", id, now)
            .with_metadata(json!({"node_id": event.node_id, "node_name": event.node_name}));
        let changes = Changes::new().update(&read, &event)?.audit(entry).event(drift_resolved(&event, now));
        self.commit(changes).await?;
        Ok(event)
    }

    /// Closes every open event of a project by hand, in one commit. Returns how many.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn resolve_all_drift(&self, scope: &Scope, actor: Actor, project: ProjectId) -> Result<u64> {
        let mut retry = self.retry();
        loop {
            let outcome = self.try_resolve_all(scope, actor, project).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return outcome;
            }
        }
    }

    async fn try_resolve_all(&self, scope: &Scope, actor: Actor, project: ProjectId) -> Result<u64> {
        let query = Query::all(RecordKind::DriftEvent).in_states(&[DRIFT_ACTIVE]);
        let open = self.store.list_all::<DriftEvent>(scope, query).await?;
        if open.is_empty() {
            return Ok(0);
        }
        let now = self.clock.now();
        let count = open.len() as u64;
        let entry = AuditEntry::new(scope, actor, "drift.bulk_resolved", project, now)
            .with_metadata(json!({"resolved_count": count}));
        let mut changes = Changes::new().audit(entry);
        for read in open {
            let mut event = read.value.clone();
            event.resolve(DriftResolution::Manual, Some(actor), now);
            changes = changes.update(&read, &event)?.event(drift_resolved(&event, now));
        }
        self.commit(changes).await?;
        Ok(count)
    }
}
