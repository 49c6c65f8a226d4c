//! Withdrawing a bundle from every node.

use super::{Engine, tick_job};
use serde_json::json;
use zentinel_core::entity::{AuditEntry, Bundle, BundleStatus, Event, Node, Rollout};
use zentinel_core::id::BundleId;
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope};

impl Engine {
    /// Withdraws a bundle: no node is told to run it any more, rollouts of it stop.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` when it is neither compiled nor superseded.
    pub async fn revoke(&self, scope: &Scope, actor: Actor, bundle: BundleId) -> Result<Bundle> {
        let mut retry = self.retry();
        let revoked = loop {
            if let Some(outcome) = retry.judge(self.try_revoke(scope, actor, bundle).await).await {
                break outcome?;
            }
        };
        // Whoever gave the bundle out concurrently did so before the revocation was committed,
        // because that demands an unchanged bundle: one more look finds everybody.
        let mut retry = self.retry();
        loop {
            let outcome = async {
                let changes = self.clearing(&revoked, Changes::new()).await?;
                if changes.is_empty() { Ok(()) } else { self.commit(changes).await }
            };
            if let Some(outcome) = retry.judge(outcome.await).await {
                outcome?;
                return Ok(revoked);
            }
        }
    }

    async fn try_revoke(&self, scope: &Scope, actor: Actor, id: BundleId) -> Result<Bundle> {
        let read = self.store.fetch::<Bundle>(scope, id).await?;
        if !read.status.is_deployable() {
            return Err(Error::conflict("Only compiled bundles can be revoked"));
        }
        let now = self.clock.now();
        let mut bundle = read.value.clone();
        bundle.status = BundleStatus::Revoked;
        bundle.updated_at = now;
        let scope = bundle.scope();
        let mut changes = self.clearing(&bundle, Changes::new().update(&read, &bundle)?).await?;
        let open = Query::all(RecordKind::Rollout).in_states(&["pending", "running", "paused"]);
        for rollout in self.store.list_all::<Rollout>(&scope, open).await? {
            if rollout.bundle_id == id || rollout.rollback_of.is_some() {
                changes = changes.job(tick_job(rollout.id, now));
            }
        }
        let payload = json!({"bundle_id": id, "version": bundle.version});
        let changes = changes
            .audit(
                AuditEntry::new(&scope, actor, "bundle.revoked", id, now)
                    .with_metadata(json!({"version": bundle.version})),
            )
            .event(Event::new(&scope, "bundle.revoked", payload, now));
        self.commit(changes).await?;
        Ok(bundle)
    }

    /// Clears the targets of every node that is told to run the bundle.
    async fn clearing(&self, bundle: &Bundle, mut changes: Changes) -> Result<Changes> {
        let all = Query::all(RecordKind::Node);
        for read in self.store.list_all::<Node>(&bundle.scope(), all).await? {
            if read.target.as_ref().is_some_and(|target| target.bundle_id == bundle.id) {
                let mut node = read.value.clone();
                node.target = None;
                changes = changes.update(&read, &node)?;
            }
        }
        Ok(changes)
    }
}
