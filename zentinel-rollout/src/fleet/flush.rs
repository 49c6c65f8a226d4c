//! Writing reports in groups.

use super::Fleet;
use super::pending::Dirty;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zentinel_core::entity::NodeReport;
use zentinel_core::id::{NodeId, RolloutId, TypedId as _};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Changes, Error, Kind, RecordKind, Result, Scope, Stored};

use crate::engine::{drift_job, tick_job};

/// First and longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often a group is put together again that another replica was faster with.
const RACES: u32 = 8;
/// How long the last write may take at shutdown.
const LAST_FLUSH: Duration = Duration::from_secs(10);

type Group = Vec<(NodeId, Dirty)>;

impl Fleet {
    /// Writes groups until `shutdown`, then what is left.
    pub(super) async fn flush_until(&self, shutdown: &CancellationToken) {
        let mut pause = RETRY.0;
        while !shutdown.is_cancelled() {
            if !self.pending.lock().has_urgent() {
                let lazily = tokio::time::sleep(self.options.flush_interval);
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = self.urgent.notified() => tokio::time::sleep(self.options.group_linger).await,
                    () = lazily => {}
                }
            }
            let flushed = self.flush().await;
            self.store_away.store(flushed.is_err(), Ordering::Relaxed);
            match flushed {
                Ok(()) => pause = RETRY.0,
                Err(error) => {
                    tracing::warn!(%error, "reports of nodes wait for the store");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
                    }
                }
            }
        }
        match tokio::time::timeout(LAST_FLUSH, self.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last reports of nodes were not written"),
            Err(_) => tracing::error!("the last reports of nodes were not written in time"),
        }
    }

    /// Writes everything that waits, group by group.
    ///
    /// # Errors
    /// Those of the store; what could not be written waits on.
    pub async fn flush(&self) -> Result<()> {
        let _one_at_a_time = self.flushing.lock().await;
        loop {
            let group = self.pending.lock().take(self.options.max_group.max(1));
            if group.is_empty() {
                return Ok(());
            }
            let mut unwritten = Unwritten { fleet: self, group };
            let outcome = self.write(&unwritten.group, true).await;
            match outcome {
                Ok(()) => acknowledge(std::mem::take(&mut unwritten.group)),
                Err(error) if error.kind().is_transient() => return Err(error),
                Err(error) => {
                    tracing::error!(?error, "a group of reports was refused; writing them one by one");
                    self.write_singly(&mut unwritten).await?;
                }
            }
            self.pending.lock().committed();
        }
    }

    /// One report that the store refuses must not hold up the others: each is written alone, the
    /// refused one without its history and events if need be.
    async fn write_singly(&self, unwritten: &mut Unwritten<'_>) -> Result<()> {
        while let Some(mut item) = unwritten.group.pop() {
            let mut outcome = self.write(std::slice::from_ref(&item), true).await;
            if outcome.as_ref().is_err_and(|error| !error.kind().is_transient()) {
                item.1.history.clear();
                outcome = self.write(std::slice::from_ref(&item), false).await;
            }
            match outcome {
                Ok(()) => acknowledge(vec![item]),
                Err(error) if error.kind().is_transient() => {
                    unwritten.group.push(item);
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(?error, node = %item.0, "a report was refused");
                    for waiter in item.1.waiters {
                        // The request may be gone; then nobody needs the answer.
                        drop(waiter.send(Err(Error::new(error.kind(), error.message().to_owned()))));
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits the newest reports of a group with all that belongs to them; again when another
    /// replica was faster with one of them.
    async fn write(&self, group: &[(NodeId, Dirty)], with_logs: bool) -> Result<()> {
        let mut races = 0;
        loop {
            match self.try_write(group, with_logs).await {
                Err(error)
                    if self.options.shared
                        && races < RACES
                        && matches!(error.kind(), Kind::Stale | Kind::NotFound) =>
                {
                    races += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_write(&self, group: &[(NodeId, Dirty)], with_logs: bool) -> Result<()> {
        let mut changes = Changes::new();
        let mut ticks: BTreeSet<RolloutId> = BTreeSet::new();
        let stored = self.stored(group).await?;
        let mut newer = Vec::new();
        let mut drifting = Vec::new();
        for (id, dirty) in group {
            // A node that was forgotten meanwhile has nothing to write.
            if dirty.report {
                let Some(report) = self.report(*id) else { continue };
                let telling = dirty.urgent || !dirty.ticks.is_empty();
                changes = match stored.get(id) {
                    // The node talks to another replica now: what it said there is in force.
                    Some(read) if read.last_seen_at > report.last_seen_at => {
                        newer.push(read.value.clone());
                        changes
                    }
                    Some(read) => {
                        if !telling {
                            changes.renewed.insert(id.uuid());
                        }
                        changes.update(read, &report)?
                    }
                    None if telling => changes.upsert(&report)?,
                    None => changes.renew(&report)?,
                };
            } else if !self.nodes.contains_key(id) {
                continue;
            }
            if with_logs {
                for row in &dirty.history {
                    changes = changes.append(row.clone());
                }
                changes.events.extend(dirty.events.iter().cloned());
            }
            ticks.extend(&dirty.ticks);
            drifting.extend(dirty.drifting.then_some(*id));
        }
        let now = self.clock.now();
        changes.jobs.extend(ticks.into_iter().map(|rollout| tick_job(rollout, now)));
        if !drifting.is_empty() {
            changes = changes.job(drift_job(&drifting, now));
        }
        if !changes.is_empty() {
            self.store.commit(changes).await?;
        }
        self.take_reports(newer);
        Ok(())
    }

    /// What the store has of a group, where other replicas write to it: an older report must not
    /// undo a newer one that was acknowledged there.
    async fn stored(&self, group: &[(NodeId, Dirty)]) -> Result<HashMap<NodeId, Stored<NodeReport>>> {
        let ids: Vec<NodeId> = group.iter().filter(|(_, dirty)| dirty.report).map(|(id, _)| *id).collect();
        if !self.options.shared || ids.is_empty() {
            return Ok(HashMap::new());
        }
        let query = Query::all(RecordKind::NodeReport).with_ids(ids);
        let reports = self.store.list_all::<NodeReport>(&Scope::Instance, query).await?;
        Ok(reports.into_iter().map(|report| (report.node_id, report)).collect())
    }
}

/// A group that is being written; whatever is left of it is queued again, also when the write
/// is abandoned.
struct Unwritten<'a> {
    fleet: &'a Fleet,
    group: Group,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if !self.group.is_empty() {
            self.fleet.pending.lock().restore(std::mem::take(&mut self.group));
        }
    }
}

fn acknowledge(group: Group) {
    for waiter in group.into_iter().flat_map(|(_, dirty)| dirty.waiters) {
        // The request may be gone; then nobody needs the answer.
        drop(waiter.send(Ok(())));
    }
}
