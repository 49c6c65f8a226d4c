//! Taking in heartbeats and noticing their absence.

use super::entry::Entry;
use super::known::KnownNode;
use super::pending::{Acknowledge, Dirty};
use super::said::Resolution;
use super::{Fleet, MAX_IDS, unknown_node};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use uuid::Uuid;
use zentinel_core::entity::{Event, Heartbeat, NodeReport, NodeStatus, NodeToken};
use zentinel_core::id::{BundleId, NodeId, TypedId};
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::{Error, Result, Timestamp};

/// Counts a heartbeat that waits for its commit, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fleet {
    /// Takes in a heartbeat and returns when the node was last heard from, which is now. If it
    /// changes something, it is durable when this returns.
    ///
    /// # Errors
    /// `NotFound` for an unknown node; `Unavailable` when the store is away or too many heartbeats
    /// wait for it: the node should send it again.
    pub async fn heartbeat(&self, id: NodeId, mut beat: Heartbeat) -> Result<Timestamp> {
        let node = self.node(id).ok_or_else(unknown_node)?;
        if self.waiting.load(Ordering::Relaxed) >= self.options.max_waiting {
            return Err(overloaded());
        }
        let known = Resolution {
            active_known: self.is_known(&node, beat.active_bundle_id).await?,
            staged_known: self.is_known(&node, beat.staged_bundle_id).await?,
        };
        let now = self.clock.now();
        let Some(durable) = self.take_in(id, &mut beat, known, now)? else {
            return Ok(now);
        };
        if self.store_away.load(Ordering::Relaxed) {
            return Err(overloaded());
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.urgent.notify_one();
        match tokio::time::timeout(self.options.max_wait, durable).await {
            Ok(Ok(outcome)) => outcome.map(|()| now),
            Ok(Err(_)) | Err(_) => Err(overloaded()),
        }
    }

    /// Notes that a node was given a token; written with its next report. Does nothing for an unknown
    /// node.
    pub fn note_token(&self, id: NodeId, token: NodeToken) {
        if let Some(mut entry) = self.nodes.get_mut(&id) {
            entry.note_token(token);
            let dirty = Dirty { report: true, ..Dirty::default() };
            self.pending.lock().add(id, dirty, self.options.max_history);
        }
    }

    pub(super) fn report_interval(&self) -> Duration {
        self.options.report_interval.min(self.options.offline_after / 2)
    }

    async fn is_known(&self, node: &KnownNode, bundle: Option<BundleId>) -> Result<bool> {
        let Some(bundle) = bundle else { return Ok(false) };
        let scope = (node.organisation_id, node.project_id);
        self.bundles.contains(&*self.store, scope, bundle).await
    }

    /// Merges the heartbeat into memory and queues its write. Returns what to wait for, if the
    /// write must be durable first.
    fn take_in(
        &self,
        id: NodeId,
        beat: &mut Heartbeat,
        known: Resolution,
        now: Timestamp,
    ) -> Result<Option<oneshot::Receiver<Result<()>>>> {
        let mut entry = self.nodes.get_mut(&id).ok_or_else(unknown_node)?;
        let merged = entry.merge(beat, known, now, &self.words);
        let mut dirty = Dirty::default();
        if self.sampling.lock().keeps(now, self.options.history_rate, rand::random()) || merged.changed {
            dirty.history.push(history_row(&entry, beat, now));
        }
        if merged.came_online {
            dirty.events.push(status_event(&entry.node, NodeStatus::Online, now));
        }
        if merged.progress {
            dirty.ticks.extend(entry.node.concerned());
        }
        dirty.drifting = merged.drifting;
        dirty.report = merged.progress || entry.is_report_due(now, self.report_interval());
        let news = merged.changed || dirty.report || !dirty.history.is_empty();
        // Under the node's lock, so that a repeated heartbeat cannot slip in between.
        let mut pending = self.pending.lock();
        dirty.urgent = merged.changed || pending.is_urgent(id);
        let durable = dirty.urgent.then(|| {
            let (acknowledge, durable): (Acknowledge, _) = oneshot::channel();
            dirty.waiters.push(acknowledge);
            durable
        });
        if news || dirty.urgent {
            pending.add(id, dirty, self.options.max_history);
        }
        drop(pending);
        drop(entry);
        if merged.offer_changed {
            self.waiters.wake(id);
        }
        Ok(durable)
    }

    /// Marks nodes offline that were silent for too long, commits that with an event each and
    /// wakes their rollouts. Returns how many. Nodes get the same patience after a restart of the
    /// control plane.
    ///
    /// # Errors
    /// Those of the store; what was found is then written later.
    pub async fn sweep(&self) -> Result<usize> {
        let now = self.clock.now();
        let before = now - self.options.offline_after;
        if self.restore.done_at().is_none_or(|loaded| loaded > before) {
            return Ok(0);
        }
        let silent = |entry: &Entry| {
            let said = &entry.said;
            said.status == NodeStatus::Online && said.last_seen_at.is_none_or(|seen| seen < before)
        };
        let suspects = self.nodes.iter().filter(|entry| silent(entry));
        let suspects: Vec<NodeId> = suspects.map(|entry| *entry.key()).collect();
        if suspects.is_empty() {
            return Ok(0);
        }
        if self.options.shared {
            // They may be talking to another replica.
            for ids in suspects.chunks(MAX_IDS) {
                self.take_reports(self.read_reports(ids).await?);
            }
        }
        let mut count = 0;
        for id in suspects {
            count += usize::from(self.declare_offline(id, before, now));
        }
        if count > 0 {
            self.flush().await?;
        }
        Ok(count)
    }

    fn declare_offline(&self, id: NodeId, before: Timestamp, now: Timestamp) -> bool {
        let Some(mut entry) = self.nodes.get_mut(&id) else {
            return false;
        };
        if !entry.go_offline(before) {
            return false;
        }
        let dirty = Dirty {
            events: vec![status_event(&entry.node, NodeStatus::Offline, now)],
            ticks: entry.node.concerned().collect(),
            report: true,
            urgent: true,
            ..Dirty::default()
        };
        self.pending.lock().add(id, dirty, self.options.max_history);
        true
    }

    /// Takes in reports that another replica wrote, where they are newer.
    pub(super) fn take_reports(&self, reports: Vec<NodeReport>) {
        for report in reports {
            let id = report.node_id;
            let Some(mut entry) = self.nodes.get_mut(&id) else {
                continue;
            };
            let offered = entry.offered();
            entry.take_newer(report, &self.words);
            let wake = entry.offered() != offered;
            drop(entry);
            if wake {
                self.waiters.wake(id);
            }
        }
    }
}

fn overloaded() -> Error {
    Error::unavailable("the report could not be stored in time; send it again")
}

fn status_event(node: &KnownNode, status: NodeStatus, now: Timestamp) -> Event {
    let payload = json!({"node_id": node.id, "node_name": node.name, "status": status});
    Event::new(&node.scope(), &format!("node.{}", status.as_str()), payload, now)
}

/// The history row of a heartbeat; takes the free-form objects out of it instead of copying them.
fn history_row(entry: &Entry, beat: &mut Heartbeat, now: Timestamp) -> LogRow {
    let Entry { node, said, .. } = entry;
    LogRow {
        kind: LogKind::Heartbeat,
        id: Uuid::new_v4(),
        organisation_id: Some(node.organisation_id),
        project_id: Some(node.project_id),
        owner: node.id.uuid(),
        at: now,
        dedup_key: None,
        body: json!({
            "health": std::mem::take(&mut beat.raw_health),
            "metrics": std::mem::take(&mut beat.raw_metrics),
            "active_bundle_id": said.active_bundle_id,
            "staged_bundle_id": said.staged_bundle_id(),
        }),
    }
}
