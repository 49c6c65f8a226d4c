//! One node in memory, and how a heartbeat changes it.

use super::offer::Offer;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use zentinel_core::entity::{Heartbeat, Node, NodeReport, NodeStatus, NodeToken};
use zentinel_core::id::{BundleId, TypedId};
use zentinel_core::{Revision, Timestamp};

/// One node. The free-form objects of its report are kept as JSON text: parsed, they would take
/// more memory than everything else together.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: Arc<Node>,
    pub(super) revision: Revision,
    /// Without the free-form objects.
    pub(super) report: Arc<NodeReport>,
    /// `[raw_health, raw_metrics]`; empty when both are.
    raw: Box<str>,
    /// Empty when there is none.
    metadata: Box<str>,
    /// When the report was last handed over for writing.
    written_at: Timestamp,
    /// Whether the last heartbeat carried an activation failure: a node that repeats it with
    /// every heartbeat reports one failure, not many.
    failure_repeats: bool,
}

/// Whether the bundles that a heartbeat names exist in the node's project.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resolution {
    pub(super) active_known: bool,
    pub(super) staged_known: bool,
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
    pub(super) fn new(node: Arc<Node>, revision: Revision, report: NodeReport) -> Self {
        let mut entry = Self {
            written_at: report.last_seen_at.unwrap_or(report.created_at),
            node,
            revision,
            report: Arc::new(report),
            raw: Box::default(),
            metadata: Box::default(),
            failure_repeats: false,
        };
        entry.fold();
        entry
    }

    /// Counts the report as written some time within the last `interval`: those of nodes that return
    /// together would otherwise fall due together.
    pub(super) fn spread_write(&mut self, now: Timestamp, interval: Duration) {
        let ago = interval.mul_f64(rand::random());
        self.written_at = self.written_at.max(now - ago);
    }

    /// Moves the free-form objects of the report into their compact form.
    fn fold(&mut self) {
        let report = Arc::make_mut(&mut self.report);
        self.raw = fold_raw(&report.raw_health, &report.raw_metrics);
        self.metadata = fold_map(&report.metadata);
        report.raw_health = Map::new();
        report.raw_metrics = Map::new();
        report.metadata = Map::new();
    }

    /// The report with its free-form objects.
    pub(super) fn full_report(&self) -> NodeReport {
        let mut report = NodeReport::clone(&self.report);
        if !self.raw.is_empty() {
            let raw = serde_json::from_str::<(Map<String, Value>, Map<String, Value>)>(&self.raw);
            (report.raw_health, report.raw_metrics) = raw.unwrap_or_default();
        }
        if !self.metadata.is_empty() {
            report.metadata = serde_json::from_str(&self.metadata).unwrap_or_default();
        }
        report
    }

    /// Replaces the report if `other` is from a later heartbeat (of another replica).
    pub(super) fn take_newer(&mut self, mut other: NodeReport) {
        let token = self.report.token.max(other.token);
        let newer = other.last_seen_at > self.report.last_seen_at
            || (other.last_seen_at == self.report.last_seen_at
                && other.status == NodeStatus::Offline
                && self.report.status == NodeStatus::Online);
        if newer {
            other.token = token;
            self.report = Arc::new(other);
            self.fold();
        } else {
            self.keep_token(token);
        }
    }

    /// The node was given a token.
    pub(super) fn note_token(&mut self, token: NodeToken) {
        self.keep_token(self.report.token.max(Some(token)));
    }

    fn keep_token(&mut self, token: Option<NodeToken>) {
        if self.report.token != token {
            Arc::make_mut(&mut self.report).token = token;
        }
    }

    /// What a poll is answered.
    pub(super) fn offer(&self) -> Offer {
        Offer::of(&self.node, &self.report)
    }

    /// The etag of that.
    pub(super) fn offered(&self) -> u64 {
        Offer::stamp(&self.node, &self.report)
    }

    /// Whether the report should be written although nothing in it is news: for a rollout that judges
    /// nodes by it, or because it was not for `interval`. If so, it counts as written.
    pub(super) fn is_report_due(&mut self, now: Timestamp, interval: Duration) -> bool {
        let awaited = self.node.rollout_id.is_some() || Offer::due(&self.node, &self.report).is_some();
        let due = awaited || self.written_at + interval <= now;
        if due {
            self.written_at = now;
        }
        due
    }

    /// Takes in a heartbeat. Absent fields leave what is known unchanged, except measurements:
    /// those are of this heartbeat or unknown.
    pub(super) fn merge(&mut self, beat: &mut Heartbeat, known: Resolution, now: Timestamp) -> Merged {
        let offered = self.offered();
        let was_healthy = self.report.health.is_healthy();
        self.raw = fold_raw(&beat.raw_health, &beat.raw_metrics);
        if let Some(metadata) = beat.metadata.take() {
            self.metadata = fold_map(&metadata);
        }
        let failure_repeats = std::mem::replace(&mut self.failure_repeats, beat.bundle_error.is_some());
        let report = Arc::make_mut(&mut self.report);
        let mut merged = Merged { came_online: report.status != NodeStatus::Online, ..Merged::default() };
        report.status = NodeStatus::Online;
        report.last_seen_at = Some(report.last_seen_at.map_or(now, |seen| seen.max(now)));
        report.heartbeats += 1;
        replace(&mut report.version, beat.version.take());
        replace(&mut report.ip, beat.ip.take());
        replace(&mut report.hostname, beat.hostname.take());

        let mut changed = merged.came_online;
        let active = report.active_bundle_id;
        changed |= merge_bundles(report, beat, known, now);
        if let Some(failure) = beat.bundle_error.take() {
            let same = report.bundle_error.as_ref() == Some(&failure);
            if !same || !failure_repeats {
                report.bundle_error = Some(failure);
                report.bundle_error_at = Some(now);
                changed = true;
            }
        }
        report.health = std::mem::take(&mut beat.health);
        let fallback = |key: &str| beat.raw_health.get(key).and_then(Value::as_f64);
        report.health.cpu_percent = report.health.cpu_percent.or_else(|| fallback("cpu_percent"));
        report.health.memory_percent = report.health.memory_percent.or_else(|| fallback("memory_percent"));
        let healthy = report.health.is_healthy();
        report.healthy_streak = if healthy { report.healthy_streak.saturating_add(1) } else { 0 };

        merged.changed = changed || healthy != was_healthy;
        merged.progress = merged.changed || report.healthy_streak == GATE_STREAK;
        let other = report.active_bundle_id != active;
        merged.offer_changed = self.offered() != offered;
        merged.drifting = other && self.node.expected_bundle_id.is_some() && self.node.rollout_id.is_none();
        merged
    }

    /// Marks the node offline if it was last heard from before `before`; false otherwise.
    pub(super) fn go_offline(&mut self, before: Timestamp) -> bool {
        let silent = self.report.last_seen_at.is_none_or(|seen| seen < before);
        if self.report.status != NodeStatus::Online || !silent {
            return false;
        }
        let report = Arc::make_mut(&mut self.report);
        report.status = NodeStatus::Offline;
        report.healthy_streak = 0;
        true
    }
}

/// Takes in the bundles that a heartbeat names; says whether that changed anything.
fn merge_bundles(report: &mut NodeReport, beat: &Heartbeat, known: Resolution, now: Timestamp) -> bool {
    let mut unknown = None;
    let before = (report.active_bundle_id, report.staged_bundle_id, report.reported_unknown_bundle);
    if let Some(active) = beat.active_bundle_id {
        if known.active_known {
            set_active(report, Some(active), now);
        } else {
            unknown = Some(active.uuid());
            set_active(report, None, now);
        }
    }
    match beat.staged_bundle_id {
        Some(staged) if known.staged_known => report.staged_bundle_id = Some(staged),
        Some(staged) => unknown = unknown.or(Some(staged.uuid())),
        None => {}
    }
    if report.staged_bundle_id == report.active_bundle_id {
        report.staged_bundle_id = None;
    }
    if beat.active_bundle_id.is_some() || unknown.is_some() {
        report.reported_unknown_bundle = unknown;
    }
    let after: (Option<BundleId>, Option<BundleId>, Option<Uuid>) =
        (report.active_bundle_id, report.staged_bundle_id, report.reported_unknown_bundle);
    before != after
}

/// Another bundle is active: what was counted and complained about the old one is void.
fn set_active(report: &mut NodeReport, active: Option<BundleId>, now: Timestamp) {
    if report.active_bundle_id == active {
        return;
    }
    report.active_bundle_id = active;
    report.active_since = active.map(|_| now);
    report.healthy_streak = 0;
    report.bundle_error = None;
    report.bundle_error_at = None;
}

fn replace(known: &mut Option<String>, reported: Option<String>) {
    if reported.is_some() && *known != reported {
        *known = reported;
    }
}

fn fold_raw(health: &Map<String, Value>, metrics: &Map<String, Value>) -> Box<str> {
    if health.is_empty() && metrics.is_empty() {
        return Box::default();
    }
    serde_json::to_string(&(health, metrics)).unwrap_or_default().into_boxed_str()
}

fn fold_map(map: &Map<String, Value>) -> Box<str> {
    if map.is_empty() {
        return Box::default();
    }
    serde_json::to_string(map).unwrap_or_default().into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use zentinel_core::credential::CredentialHash;
    use zentinel_core::entity::{BundleError, Health, NodeTarget, Registration};
    use zentinel_core::id::{OrganisationId, ProjectId, StatementId};

    const KNOWN: Resolution = Resolution { active_known: true, staged_known: true };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds)
    }

    fn entry() -> Entry {
        let registration = Registration {
            name: "edge-1".to_owned(),
            version: Some("1".to_owned()),
            hostname: Some("host".to_owned()),
            ..Registration::default()
        };
        let scope = (OrganisationId::random(), ProjectId::random());
        let node = Node::register(scope, &registration, true, CredentialHash::of("key"), at(0)).unwrap();
        let report = NodeReport::registered(&node, &registration);
        Entry::new(Arc::new(node), Revision(1), report)
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
        let merged = entry.merge(&mut full, KNOWN, at(10));
        assert!(merged.changed, "the health verdict changed");
        let report = entry.full_report();
        assert_eq!(report.health.cpu_percent, Some(12.5));
        assert_eq!((report.raw_metrics["error_rate"].as_f64(), report.heartbeats), (Some(1.0), 1));

        let merged = entry.merge(&mut healthy(), KNOWN, at(20));
        assert!(!merged.changed && merged.progress, "the second healthy heartbeat opens gates");
        let report = entry.full_report();
        assert_eq!((report.version.as_deref(), report.hostname.as_deref()), (Some("1"), Some("host")));
        assert_eq!(report.metadata["rack"], 7);
        assert_eq!(report.health.error_rate, None, "unknown, not old");
        assert!(report.raw_metrics.is_empty());
        let merged = entry.merge(&mut healthy(), KNOWN, at(30));
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
        assert!(entry.merge(&mut beat(old, None), KNOWN, at(1)).changed);
        assert!(entry.merge(&mut beat(old, Some(&failure)), KNOWN, at(2)).changed);
        assert!(!entry.merge(&mut beat(old, Some(&failure)), KNOWN, at(3)).changed, "repeated, not new");
        assert_eq!((entry.report.bundle_error_at, entry.report.healthy_streak), (Some(at(2)), 3));
        entry.merge(&mut beat(old, None), KNOWN, at(4));
        assert_eq!(entry.report.bundle_error.as_ref(), Some(&failure));
        assert!(entry.merge(&mut beat(old, Some(&failure)), KNOWN, at(5)).changed, "it failed again");
        assert_eq!(entry.report.bundle_error_at, Some(at(5)));
        failure.sequence = Some(8);
        assert!(
            entry.merge(&mut beat(old, Some(&failure)), KNOWN, at(5)).changed,
            "told again, failed again"
        );
        assert!(entry.merge(&mut beat(new, None), KNOWN, at(6)).changed);
        assert_eq!((entry.report.bundle_error.as_ref(), entry.report.healthy_streak), (None, 1));
        assert_eq!(entry.report.active_since, Some(at(6)));
    }

    #[test]
    fn a_report_that_nobody_waits_for_is_written_now_and_then() {
        let mut entry = entry();
        let interval = Duration::from_secs(30);
        assert!(!entry.is_report_due(at(29), interval), "written when it registered");
        assert!(entry.is_report_due(at(30), interval) && !entry.is_report_due(at(31), interval));
        let mut node = Node::clone(&entry.node);
        node.rollout_id = Some(zentinel_core::id::RolloutId::random());
        entry.node = Arc::new(node);
        assert!(entry.is_report_due(at(31), interval) && entry.is_report_due(at(31), interval));
    }

    #[test]
    fn an_offer_stands_until_the_bundle_runs() {
        let mut entry = entry();
        let bundle = BundleId::random();
        let mut node = Node::clone(&entry.node);
        node.target = Some(NodeTarget {
            bundle_id: bundle,
            statement_id: StatementId::random(),
            sequence: 7,
            rollout_id: None,
            reason: None,
            forced: false,
        });
        entry.node = Arc::new(node.clone());
        assert_eq!(entry.offer().etag, 7);
        let mut beat = Heartbeat { active_bundle_id: Some(bundle), ..healthy() };
        assert!(entry.merge(&mut beat, KNOWN, at(1)).offer_changed);
        assert_eq!((entry.offer().etag, entry.offer().target), (0, None));
        node.approved = false;
        entry.node = Arc::new(node);
        let mut other = Heartbeat { active_bundle_id: Some(BundleId::random()), ..healthy() };
        entry.merge(&mut other, KNOWN, at(2));
        assert_eq!(entry.offer().target, None, "nothing for a node that is not approved");
    }

    #[test]
    fn silence_ends_at_the_next_heartbeat() {
        let mut entry = entry();
        assert!(!entry.go_offline(at(0)));
        assert!(entry.go_offline(at(1)) && !entry.go_offline(at(1)));
        let merged = entry.merge(&mut healthy(), KNOWN, at(200));
        assert!(merged.came_online && merged.changed);
        assert_eq!(entry.report.last_seen_at, Some(at(200)));
    }
}
