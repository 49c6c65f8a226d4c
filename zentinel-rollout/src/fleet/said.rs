//! What a node last said, and how a heartbeat changes it.

use parking_lot::Mutex;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;
use zentinel_core::Timestamp;
use zentinel_core::entity::{BundleError, Health, Heartbeat, NodeReport, NodeStatus, NodeToken, Traffic};
use zentinel_core::id::{BundleId, TypedId};

use super::known::KnownNode;

/// Most shared texts; nodes may say anything.
const MOST_WORDS: usize = 1_000;

/// Texts that nodes have in common, such as versions: each is kept once.
#[derive(Debug, Default)]
pub(super) struct Words(Mutex<HashSet<Arc<str>>>);

impl Words {
    fn share(&self, text: &str) -> Arc<str> {
        let mut words = self.0.lock();
        if let Some(known) = words.get(text) {
            return Arc::clone(known);
        }
        if words.len() >= MOST_WORDS {
            words.clear();
        }
        let word: Arc<str> = text.into();
        words.insert(Arc::clone(&word));
        word
    }
}

/// Whether the bundles that a heartbeat names exist in the node's project.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resolution {
    pub(super) active_known: bool,
    pub(super) staged_known: bool,
}

/// A [`NodeReport`] in a third of its memory. The free-form objects are JSON text: parsed, they would
/// take more than everything else together.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: NodeStatus,
    pub(super) last_seen_at: Option<Timestamp>,
    pub(super) active_bundle_id: Option<BundleId>,
    pub(super) healthy_streak: u32,
    active_since: Option<Timestamp>,
    heartbeats: u64,
    health: Measured,
    version: Option<Arc<str>>,
    ip: Option<Box<str>>,
    hostname: Option<Box<str>>,
    created_at: Timestamp,
    /// The last token that it was given.
    pub(super) token: Option<NodeToken>,
    rare: Option<Box<Rare>>,
    /// `[raw_health, raw_metrics]`; empty when both are.
    raw: Box<str>,
    /// Empty when there is none.
    metadata: Box<str>,
}

/// What most nodes have nothing of at most times.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rare {
    staged_bundle_id: Option<BundleId>,
    reported_unknown_bundle: Option<Uuid>,
    bundle_error: Option<BundleError>,
    bundle_error_at: Option<Timestamp>,
}

/// A [`Health`] whose unknown measurements are no numbers.
#[derive(Debug)]
struct Measured {
    status: Option<Arc<str>>,
    error_rate: f64,
    latency_p99_ms: f64,
    cpu_percent: f64,
    memory_percent: f64,
    traffic: Option<Box<Traffic>>,
}

impl Measured {
    fn of(health: Health, words: &Words) -> Self {
        let of = |number: Option<f64>| number.unwrap_or(f64::NAN);
        Self {
            status: health.status.as_deref().map(|status| words.share(status)),
            error_rate: of(health.error_rate),
            latency_p99_ms: of(health.latency_p99_ms),
            cpu_percent: of(health.cpu_percent),
            memory_percent: of(health.memory_percent),
            traffic: health.traffic,
        }
    }

    fn health(&self) -> Health {
        let of = |number: f64| (!number.is_nan()).then_some(number);
        Health {
            status: self.status.as_deref().map(str::to_owned),
            error_rate: of(self.error_rate),
            latency_p99_ms: of(self.latency_p99_ms),
            cpu_percent: of(self.cpu_percent),
            memory_percent: of(self.memory_percent),
            traffic: self.traffic.clone(),
        }
    }
}

impl Said {
    pub(super) fn of(report: NodeReport, words: &Words) -> Self {
        let rare = Rare {
            staged_bundle_id: report.staged_bundle_id,
            reported_unknown_bundle: report.reported_unknown_bundle,
            bundle_error: report.bundle_error,
            bundle_error_at: report.bundle_error_at,
        };
        Self {
            status: report.status,
            last_seen_at: report.last_seen_at,
            active_bundle_id: report.active_bundle_id,
            healthy_streak: report.healthy_streak,
            active_since: report.active_since,
            heartbeats: report.heartbeats,
            health: Measured::of(report.health, words),
            version: report.version.map(|version| words.share(&version)),
            ip: report.ip.map(String::into_boxed_str),
            hostname: report.hostname.map(String::into_boxed_str),
            created_at: report.created_at,
            token: report.token,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
            raw: fold_raw(&report.raw_health, &report.raw_metrics),
            metadata: fold_map(&report.metadata),
        }
    }

    /// All of it, as the store has it.
    pub(super) fn report(&self, node: &KnownNode) -> NodeReport {
        let rare = self.rare.as_deref().cloned().unwrap_or_default();
        let (raw_health, raw_metrics) = match &*self.raw {
            "" => Default::default(),
            raw => serde_json::from_str::<(Map<String, Value>, Map<String, Value>)>(raw).unwrap_or_default(),
        };
        let metadata = match &*self.metadata {
            "" => Map::new(),
            metadata => serde_json::from_str(metadata).unwrap_or_default(),
        };
        NodeReport {
            node_id: node.id,
            organisation_id: node.organisation_id,
            project_id: node.project_id,
            status: self.status,
            last_seen_at: self.last_seen_at,
            active_bundle_id: self.active_bundle_id,
            active_since: self.active_since,
            staged_bundle_id: rare.staged_bundle_id,
            reported_unknown_bundle: rare.reported_unknown_bundle,
            bundle_error: rare.bundle_error,
            bundle_error_at: rare.bundle_error_at,
            healthy_streak: self.healthy_streak,
            health: self.health.health(),
            raw_health,
            raw_metrics,
            version: self.version.as_deref().map(str::to_owned),
            ip: self.ip.as_deref().map(str::to_owned),
            hostname: self.hostname.as_deref().map(str::to_owned),
            metadata,
            heartbeats: self.heartbeats,
            created_at: self.created_at,
            token: self.token,
        }
    }

    /// Whether the node calls itself healthy.
    pub(super) fn is_healthy(&self) -> bool {
        self.health.status.as_deref() == Some("healthy")
    }

    /// The last activation that failed, and when that was reported.
    pub(super) fn failure(&self) -> Option<(&BundleError, Option<Timestamp>)> {
        let rare = self.rare.as_ref()?;
        Some((rare.bundle_error.as_ref()?, rare.bundle_error_at))
    }

    pub(super) fn staged_bundle_id(&self) -> Option<BundleId> {
        self.rare.as_ref()?.staged_bundle_id
    }

    /// Takes in a heartbeat, except whether it was awaited. Absent fields leave what is known unchanged,
    /// except measurements: those are of this heartbeat or unknown. Says whether anything changed that
    /// must not be lost; `repeats` means that the last heartbeat carried a failure too.
    pub(super) fn merge(
        &mut self,
        beat: &mut Heartbeat,
        known: Resolution,
        repeats: bool,
        now: Timestamp,
        words: &Words,
    ) -> bool {
        self.raw = fold_raw(&beat.raw_health, &beat.raw_metrics);
        if let Some(metadata) = beat.metadata.take() {
            self.metadata = fold_map(&metadata);
        }
        self.last_seen_at = Some(self.last_seen_at.map_or(now, |seen| seen.max(now)));
        self.heartbeats += 1;
        if let Some(version) = beat.version.take().filter(|said| self.version.as_deref() != Some(said)) {
            self.version = Some(words.share(&version));
        }
        replace(&mut self.ip, beat.ip.take());
        replace(&mut self.hostname, beat.hostname.take());

        let mut changed = self.merge_bundles(beat, known, now);
        if let Some(failure) = beat.bundle_error.take() {
            let rare = self.rare.get_or_insert_default();
            if rare.bundle_error.as_ref() != Some(&failure) || !repeats {
                rare.bundle_error = Some(failure);
                rare.bundle_error_at = Some(now);
                changed = true;
            }
        }
        let was_healthy = self.is_healthy();
        let fallback = |key: &str| beat.raw_health.get(key).and_then(Value::as_f64);
        let mut health = std::mem::take(&mut beat.health);
        health.cpu_percent = health.cpu_percent.or_else(|| fallback("cpu_percent"));
        health.memory_percent = health.memory_percent.or_else(|| fallback("memory_percent"));
        let status = self.health.status.take().filter(|known| health.status.as_deref() == Some(known));
        self.health = match status {
            Some(status) => {
                health.status = None;
                Measured { status: Some(status), ..Measured::of(health, words) }
            }
            None => Measured::of(health, words),
        };
        let healthy = self.is_healthy();
        self.healthy_streak = if healthy { self.healthy_streak.saturating_add(1) } else { 0 };
        changed || healthy != was_healthy
    }

    /// Takes in the bundles that a heartbeat names; says whether that changed anything.
    fn merge_bundles(&mut self, beat: &Heartbeat, known: Resolution, now: Timestamp) -> bool {
        let rare = self.rare.as_deref();
        let before = (
            self.active_bundle_id,
            rare.and_then(|rare| rare.staged_bundle_id),
            rare.and_then(|rare| rare.reported_unknown_bundle),
        );
        let (mut staged, mut unknown) = (before.1, None);
        if let Some(active) = beat.active_bundle_id {
            unknown = (!known.active_known).then(|| active.uuid());
            self.set_active(known.active_known.then_some(active), now);
        }
        match beat.staged_bundle_id {
            Some(named) if known.staged_known => staged = Some(named),
            Some(named) => unknown = unknown.or(Some(named.uuid())),
            None => {}
        }
        if staged == self.active_bundle_id {
            staged = None;
        }
        if beat.active_bundle_id.is_none() && unknown.is_none() {
            unknown = before.2;
        }
        if (staged, unknown) != (before.1, before.2) {
            let rare = self.rare.get_or_insert_default();
            (rare.staged_bundle_id, rare.reported_unknown_bundle) = (staged, unknown);
            if **rare == Rare::default() {
                self.rare = None;
            }
        }
        before != (self.active_bundle_id, staged, unknown)
    }

    /// Another bundle is active: what was counted and complained about the old one is void.
    fn set_active(&mut self, active: Option<BundleId>, now: Timestamp) {
        if self.active_bundle_id == active {
            return;
        }
        self.active_bundle_id = active;
        self.active_since = active.map(|_| now);
        self.healthy_streak = 0;
        if let Some(rare) = &mut self.rare {
            rare.bundle_error = None;
            rare.bundle_error_at = None;
            if **rare == Rare::default() {
                self.rare = None;
            }
        }
    }
}

fn replace(known: &mut Option<Box<str>>, said: Option<String>) {
    if said.is_some() && known.as_deref() != said.as_deref() {
        *known = said.map(String::into_boxed_str);
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
    use zentinel_core::entity::{Node, Registration};
    use zentinel_core::id::{OrganisationId, ProjectId};

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn nothing_of_a_report_is_lost() {
        let registration = Registration { name: "edge-1".to_owned(), ..Registration::default() };
        let scope = (OrganisationId::random(), ProjectId::random());
        let now = Timestamp::UNIX_EPOCH;
        let node = Node::register(scope, &registration, true, CredentialHash::of("key"), now).unwrap();
        let empty = NodeReport::registered(&node, &registration);
        let full = NodeReport {
            active_bundle_id: Some(BundleId::random()),
            active_since: Some(now),
            staged_bundle_id: Some(BundleId::random()),
            reported_unknown_bundle: Some(Uuid::new_v4()),
            bundle_error: Some(BundleError {
                bundle_id: BundleId::random(),
                reason: "bad".to_owned(),
                message: "very".to_owned(),
                sequence: Some(3),
            }),
            bundle_error_at: Some(now),
            healthy_streak: 7,
            health: Health {
                status: Some("healthy".to_owned()),
                error_rate: Some(0.0),
                latency_p99_ms: None,
                cpu_percent: Some(0.1),
                memory_percent: None,
                traffic: Some(Box::default()),
            },
            raw_health: object(json!({"status": "healthy"})),
            raw_metrics: object(json!({"error_rate": 0.0, "x": [1, "é"]})),
            version: Some("1".to_owned()),
            ip: Some("::1".to_owned()),
            hostname: Some("host".to_owned()),
            metadata: object(json!({"rack": 7})),
            heartbeats: u64::MAX,
            token: Some(NodeToken { issued_at: now, expires_at: now }),
            ..empty.clone()
        };
        let (known, words) = (KnownNode::from(node), Words::default());
        for report in [empty, full] {
            assert_eq!(Said::of(report.clone(), &words).report(&known), report);
        }
    }

    #[test]
    fn what_nodes_have_in_common_is_kept_once() {
        let words = Words::default();
        assert!(Arc::ptr_eq(&words.share("26.2.0"), &words.share("26.2.0")));
        for number in 0..3_000 {
            assert_eq!(&*words.share(&number.to_string()), number.to_string());
        }
        assert!(words.0.lock().len() <= MOST_WORDS);
    }
}
