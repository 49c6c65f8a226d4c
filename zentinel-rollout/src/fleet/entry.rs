//! One node in memory, and how a heartbeat changes it.

use super::known::KnownNode;
use super::offer::Offer;
use super::said::{Resolution, Said, Words};
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{Heartbeat, NodeReport, NodeStatus, NodeToken};
use zentinel_core::{Revision, Timestamp};

/// One node.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: Arc<KnownNode>,
    pub(super) revision: Revision,
    pub(super) said: Said,
    /// When the report was last handed over for writing.
    written_at: Timestamp,
    /// Whether the last heartbeat carried an activation failure: a node that repeats it with
    /// every heartbeat reports one failure, not many.
    failure_repeats: bool,
}

/// What a heartbeat did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// It must be committed before it is acknowledged.
    pub(super) changed: bool,
    /// The node was offline or never heard from.
    pub(super) came_online: bool,
    /// A rollout that waits for this node should look again.
    pub(super) progress: bool,
    /// A poll is answered differently now.
    pub(super) offer_changed: bool,
    /// It runs another bundle than before, and no rollout has to do with that.
    pub(super) drifting: bool,
}

/// Healthy heartbeats in a row that open the heartbeat gate.
const GATE_STREAK: u32 = 2;

impl Entry {
    pub(super) fn new(node: Arc<KnownNode>, revision: Revision, report: NodeReport, words: &Words) -> Self {
        Self {
            written_at: report.last_seen_at.unwrap_or(report.created_at),
            node,
            revision,
            said: Said::of(report, words),
            failure_repeats: false,
        }
    }

    /// Counts the report as written some time within the last `interval`: those of nodes that return
    /// together would otherwise fall due together.
    pub(super) fn spread_write(&mut self, now: Timestamp, interval: Duration) {
        let ago = interval.mul_f64(rand::random());
        self.written_at = self.written_at.max(now - ago);
    }

    /// Everything that it last said.
    pub(super) fn report(&self) -> NodeReport {
        self.said.report(&self.node)
    }

    /// Replaces the report if `other` is from a later heartbeat (of another replica).
    pub(super) fn take_newer(&mut self, mut other: NodeReport, words: &Words) {
        let token = self.said.token.max(other.token);
        let newer = other.last_seen_at > self.said.last_seen_at
            || (other.last_seen_at == self.said.last_seen_at
                && other.status == NodeStatus::Offline
                && self.said.status == NodeStatus::Online);
        if newer {
            other.token = token;
            self.said = Said::of(other, words);
        } else {
            self.said.token = token;
        }
    }

    /// The node was given a token.
    pub(super) fn note_token(&mut self, token: NodeToken) {
        self.said.token = self.said.token.max(Some(token));
    }

    /// What a poll is answered.
    pub(super) fn offer(&self) -> Offer {
        Offer::of(&self.node, self.said.active_bundle_id)
    }

    /// The etag of that.
    pub(super) fn offered(&self) -> u64 {
        Offer::stamp(&self.node, self.said.active_bundle_id)
    }

    /// Whether the report should be written although nothing in it is news: for a rollout that judges
    /// nodes by it, or because it was not for `interval`. If so, it counts as written.
    pub(super) fn is_report_due(&mut self, now: Timestamp, interval: Duration) -> bool {
        let awaited = self.node.is_claimed() || self.node.due(self.said.active_bundle_id).is_some();
        let due = awaited || self.written_at + interval <= now;
        if due {
            self.written_at = now;
        }
        due
    }

    /// Takes in a heartbeat.
    pub(super) fn merge(
        &mut self,
        beat: &mut Heartbeat,
        known: Resolution,
        now: Timestamp,
        words: &Words,
    ) -> Merged {
        let offered = self.offered();
        let came_online = self.said.status != NodeStatus::Online;
        self.said.status = NodeStatus::Online;
        let repeats = std::mem::replace(&mut self.failure_repeats, beat.bundle_error.is_some());
        let active = self.said.active_bundle_id;
        let changed = self.said.merge(beat, known, repeats, now, words) || came_online;
        let other = self.said.active_bundle_id != active;
        Merged {
            changed,
            came_online,
            progress: changed || self.said.healthy_streak == GATE_STREAK,
            offer_changed: self.offered() != offered,
            drifting: other && self.node.expected_bundle_id.is_some() && !self.node.is_claimed(),
        }
    }

    /// Marks the node offline if it was last heard from before `before`; false otherwise.
    pub(super) fn go_offline(&mut self, before: Timestamp) -> bool {
        let silent = self.said.last_seen_at.is_none_or(|seen| seen < before);
        if self.said.status != NodeStatus::Online || !silent {
            return false;
        }
        self.said.status = NodeStatus::Offline;
        self.said.healthy_streak = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use zentinel_core::credential::CredentialHash;
    use zentinel_core::entity::{BundleError, Health, Node, NodeTarget, Registration};
    use zentinel_core::id::{BundleId, OrganisationId, ProjectId, StatementId};

    const KNOWN: Resolution = Resolution { active_known: true, staged_known: true };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds)
    }

    fn node() -> Node {
        let registration = Registration { name: "edge-1".to_owned(), ..Registration::default() };
        let scope = (OrganisationId::random(), ProjectId::random());
        Node::register(scope, &registration, true, CredentialHash::of("key"), at(0)).unwrap()
    }

    fn entry() -> Entry {
        let node = node();
        let registration = Registration {
            version: Some("1".to_owned()),
            hostname: Some("host".to_owned()),
            ..Registration::default()
        };
        let report = NodeReport::registered(&node, &registration);
        Entry::new(Arc::new(node.into()), Revision(1), report, &Words::default())
    }

    impl Entry {
        fn hears(&mut self, mut beat: Heartbeat, now: Timestamp) -> Merged {
            self.merge(&mut beat, KNOWN, now, &Words::default())
        }
    }

    fn healthy() -> Heartbeat {
        let health = Health { status: Some("healthy".to_owned()), ..Health::default() };
        Heartbeat { health, ..Heartbeat::default() }
    }

    #[test]
    fn absent_fields_keep_what_is_known_except_measurements() {
        let mut entry = entry();
        let mut full = healthy();
        full.health.error_rate = Some(1.0);
        full.metadata = json!({"rack": 7}).as_object().cloned();
        full.raw_health = json!({"status": "healthy", "cpu_percent": 12.5}).as_object().cloned().unwrap();
        full.raw_metrics = json!({"error_rate": 1.0}).as_object().cloned().unwrap();
        let merged = entry.hears(full, at(10));
        assert!(merged.changed, "the health verdict changed");
        let report = entry.report();
        assert_eq!(report.health.cpu_percent, Some(12.5));
        assert_eq!((report.raw_metrics["error_rate"].as_f64(), report.heartbeats), (Some(1.0), 1));

        let merged = entry.hears(healthy(), at(20));
        assert!(!merged.changed && merged.progress, "the second healthy heartbeat opens gates");
        let report = entry.report();
        assert_eq!((report.version.as_deref(), report.hostname.as_deref()), (Some("1"), Some("host")));
        assert_eq!(report.metadata["rack"], 7);
        assert_eq!(report.health.error_rate, None, "unknown, not old");
        assert!(report.raw_metrics.is_empty());
        let merged = entry.hears(healthy(), at(30));
        assert_eq!(merged, Merged::default(), "still alive");
    }

    #[test]
    fn another_bundle_voids_streak_and_failure() {
        let mut entry = entry();
        let (old, new) = (BundleId::random(), BundleId::random());
        let mut failure = BundleError {
            bundle_id: new,
            reason: "invalid_config".to_owned(),
            message: "no".to_owned(),
            sequence: Some(7),
        };
        let beat = |active, failure: Option<&BundleError>| Heartbeat {
            active_bundle_id: Some(active),
            bundle_error: failure.cloned(),
            ..healthy()
        };
        assert!(entry.hears(beat(old, None), at(1)).changed);
        assert!(entry.hears(beat(old, Some(&failure)), at(2)).changed);
        assert!(!entry.hears(beat(old, Some(&failure)), at(3)).changed, "repeated, not new");
        assert_eq!((entry.report().bundle_error_at, entry.report().healthy_streak), (Some(at(2)), 3));
        entry.hears(beat(old, None), at(4));
        assert_eq!(entry.report().bundle_error.as_ref(), Some(&failure));
        assert!(entry.hears(beat(old, Some(&failure)), at(5)).changed, "it failed again");
        assert_eq!(entry.report().bundle_error_at, Some(at(5)));
        failure.sequence = Some(8);
        assert!(entry.hears(beat(old, Some(&failure)), at(5)).changed, "told again, failed again");
        assert!(entry.hears(beat(new, None), at(6)).changed);
        assert_eq!((entry.report().bundle_error.as_ref(), entry.report().healthy_streak), (None, 1));
        assert_eq!(entry.report().active_since, Some(at(6)));
    }

    #[test]
    fn a_report_that_nobody_waits_for_is_written_now_and_then() {
        let mut entry = entry();
        let interval = Duration::from_secs(30);
        assert!(!entry.is_report_due(at(29), interval), "written when it registered");
        assert!(entry.is_report_due(at(30), interval) && !entry.is_report_due(at(31), interval));
        let mut node = node();
        node.rollout_id = Some(zentinel_core::id::RolloutId::random());
        entry.node = Arc::new(node.into());
        assert!(entry.is_report_due(at(31), interval) && entry.is_report_due(at(31), interval));
    }

    #[test]
    fn an_offer_stands_until_the_bundle_runs() {
        let mut entry = entry();
        let bundle = BundleId::random();
        let mut node = node();
        node.target = Some(NodeTarget {
            bundle_id: bundle,
            statement_id: StatementId::random(),
            sequence: 7,
            rollout_id: None,
            reason: None,
            forced: false,
        });
        entry.node = Arc::new(node.clone().into());
        assert_eq!(entry.offer().etag, 7);
        let beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
        assert!(entry.hears(beat, at(1)).offer_changed);
        assert_eq!((entry.offer().etag, entry.offer().target), (0, None));
        node.approved = false;
        entry.node = Arc::new(node.into());
        let other = Heartbeat { active_bundle_id: Some(BundleId::random()), ..healthy() };
        entry.hears(other, at(2));
        assert_eq!(entry.offer().target, None, "nothing for a node that is not approved");
    }

    #[test]
    fn silence_ends_at_the_next_heartbeat() {
        let mut entry = entry();
        assert!(!entry.go_offline(at(0)));
        assert!(entry.go_offline(at(1)) && !entry.go_offline(at(1)));
        let merged = entry.hears(healthy(), at(200));
        assert!(merged.came_online && merged.changed);
        assert_eq!(entry.report().last_seen_at, Some(at(200)));
    }
}
