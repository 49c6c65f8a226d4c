//! One simulated node: what it runs, what it says, what it does with an offer. No I/O.

use super::behaviour::Behaviour;
use super::codec::Credential;
use super::traffic::Served;
use std::io::Write as _;
use zentinel_core::id::BundleId;

/// What every node of a run has in common.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    /// From a verified archive to an activation, in milliseconds.
    pub(super) apply_ms: u64,
    /// The same for slow nodes.
    pub(super) slow_ms: u64,
    /// From an activation to its crash on poisoned nodes, in milliseconds.
    pub(super) crash_ms: u64,
    /// The bundle, counted from 1 on each node, from which on nodes are not healthy.
    pub(super) misbehave_from: u32,
    /// How long flapping nodes are there and away, in milliseconds.
    pub(super) flapping: (u64, u64),
}

/// A failed activation, as heartbeats report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) bundle: BundleId,
    pub(super) sequence: u64,
    reason: &'static str,
    message: &'static str,
}

/// An offer that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) bundle: BundleId,
    pub(super) sequence: u64,
    /// Whether it undoes an earlier one: that always goes well.
    pub(super) rollback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fetching,
    Staged,
    /// Active, and about to crash.
    Doomed,
}

#[derive(Clone, Debug)]
struct Pending {
    told: Told,
    stage: Stage,
    misbehaves: bool,
}

/// What a node does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Rest,
    /// Download the archive and check it.
    Fetch,
    /// Call [`Node::proceed`] in so many milliseconds.
    Proceed(u64),
    /// Report at once; and proceed later, when there is more to come.
    Report(Option<u64>),
}

/// What the last heartbeat said, as far as the control plane must write it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    healthy: bool,
    active: Option<BundleId>,
    staged: Option<BundleId>,
    failed: Option<u64>,
}

/// One simulated node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    key: Credential,
    token: Option<Credential>,
    name: Box<str>,
    pub(super) behaviour: Behaviour,
    pub(super) etag: Option<Box<[u8]>>,
    /// The highest sequence it accepted.
    pub(super) sequence: u64,
    pub(super) active: Option<BundleId>,
    before: Option<BundleId>,
    failure: Option<Box<Failure>>,
    pending: Option<Box<Pending>>,
    told: u32,
    /// Fails its gates.
    sick: bool,
    /// Says `degraded` in one heartbeat.
    unwell: bool,
    gone: bool,
    said: Option<Said>,
    /// What it says it has served; nothing unless asked to.
    served: Option<Box<Served>>,
    /// Which of its requests were admitted after a storm.
    pub(super) admitted: u8,
    /// Requests in a row that failed.
    pub(super) failures: u8,
}

/// How much more often worse nodes fail: too little for a gate, enough for a canary analysis.
const WORSE: u64 = 3;

const WELL: &str = r#""health":{"status":"healthy","uptime_s":"#;
const UNWELL: &str = r#""health":{"status":"degraded","uptime_s":"#;

impl Node {
    pub(super) fn new(key: Credential, name: &str, behaviour: Behaviour) -> Self {
        Self {
            key,
            token: None,
            name: name.into(),
            behaviour,
            etag: None,
            sequence: 0,
            active: None,
            before: None,
            failure: None,
            pending: None,
            told: 0,
            sick: false,
            unwell: false,
            gone: false,
            said: None,
            served: None,
            admitted: 0,
            failures: 0,
        }
    }

    /// Lets it count the requests that it serves.
    pub(super) fn serving(mut self, per_second: f64, lot: u32) -> Self {
        self.served = (per_second > 0.0).then(|| Box::new(Served::new(per_second, lot)));
        self
    }

    /// How it proves who it is.
    pub(super) fn credential(&self) -> &Credential {
        self.token.as_ref().unwrap_or(&self.key)
    }

    /// Uses a token from now on, or its key again. False when no header can carry the token.
    pub(super) fn use_token(&mut self, token: Option<&str>) -> bool {
        self.token = token.and_then(|token| Credential::token(&self.key.id, token));
        self.token.is_some() || token.is_none()
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether it sends nothing at the moment.
    pub(super) fn is_away(&self, index: u32, now_ms: u64, habits: &Habits) -> bool {
        match self.behaviour {
            Behaviour::Absent => true,
            Behaviour::Flapping => {
                let (there, away) = habits.flapping;
                // Nodes do not flap in step.
                let phase = u64::from(index).wrapping_mul(7_919) % (there + away).max(1);
                (now_ms + phase) % (there + away).max(1) >= there
            }
            _ => self.gone,
        }
    }

    /// Whether it will ever be heard of again.
    pub(super) fn is_gone(&self) -> bool {
        self.gone || self.behaviour == Behaviour::Absent
    }

    /// A verified offer.
    pub(super) fn offered(&mut self, told: Told, habits: &Habits) -> Next {
        if self.pending.as_ref().is_some_and(|pending| pending.told.sequence == told.sequence) {
            return Next::Rest;
        }
        self.sequence = self.sequence.max(told.sequence);
        if self.active == Some(told.bundle) {
            self.failure = None;
            return Next::Rest;
        }
        if self.failure.as_ref().is_some_and(|failure| failure.sequence == told.sequence) {
            return Next::Rest;
        }
        if !told.rollback {
            self.told = self.told.saturating_add(1);
        }
        let misbehaves = !told.rollback && self.told >= habits.misbehave_from;
        self.pending = Some(Box::new(Pending { told, stage: Stage::Fetching, misbehaves }));
        Next::Fetch
    }

    /// The archive of this sequence is there and is what the statement says, or is not.
    pub(super) fn fetched(&mut self, sequence: u64, genuine: bool, habits: &Habits) -> Next {
        let Some(pending) = self.pending.as_mut().filter(|pending| pending.told.sequence == sequence) else {
            return Next::Rest;
        };
        if !genuine {
            // The next poll brings a fresh URL.
            self.pending = None;
            self.etag = None;
            return Next::Rest;
        }
        if pending.misbehaves && self.behaviour == Behaviour::Rejecting {
            let told = pending.told;
            return self.fail(told, "invalid_config", "this simulated node rejects bundles");
        }
        pending.stage = Stage::Staged;
        let slow = pending.misbehaves && self.behaviour == Behaviour::Slow;
        Next::Proceed(if slow { habits.slow_ms } else { habits.apply_ms })
    }

    fn fail(&mut self, told: Told, reason: &'static str, message: &'static str) -> Next {
        let Told { bundle, sequence, .. } = told;
        self.failure = Some(Box::new(Failure { bundle, sequence, reason, message }));
        self.pending = None;
        Next::Report(None)
    }

    /// The time of the step that was announced has come.
    pub(super) fn proceed(&mut self, habits: &Habits) -> Next {
        let Some(pending) = self.pending.as_mut() else { return Next::Rest };
        let told = pending.told;
        match pending.stage {
            Stage::Fetching => Next::Rest,
            Stage::Staged => {
                let misbehaves = pending.misbehaves;
                pending.stage = Stage::Doomed;
                self.before = self.active.replace(told.bundle);
                self.failure = None;
                self.sick = misbehaves && matches!(self.behaviour, Behaviour::Failing | Behaviour::Worse);
                if misbehaves && self.behaviour == Behaviour::Poisoned {
                    return Next::Report(Some(habits.crash_ms));
                }
                self.pending = None;
                self.gone = misbehaves && self.behaviour == Behaviour::Silent;
                if self.gone { Next::Rest } else { Next::Report(None) }
            }
            Stage::Doomed => {
                self.active = self.before;
                self.fail(told, "proxy_died", "the simulated proxy died of this bundle")
            }
        }
    }

    /// Whether it reports a failed activation.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Begins or ends a heartbeat's worth of illness.
    pub(super) fn waver(&mut self, falls_ill: bool) {
        self.unwell = falls_ill && !self.unwell;
    }

    /// What was said last did not arrive.
    pub(super) fn unheard(&mut self) {
        self.said = None;
    }

    /// Appends the body of a heartbeat; answers whether it says something that the control plane
    /// must write down before it answers. `dice` varies the measurements.
    pub(super) fn heartbeat(&mut self, out: &mut Vec<u8>, uptime_s: u64, dice: u32) -> bool {
        let healthy = !self.unwell;
        let staged = self.pending.as_ref().filter(|pending| pending.stage == Stage::Staged);
        let staged = staged.map(|pending| pending.told.bundle);
        let (errors, latency) = match (self.sick, self.behaviour) {
            (true, Behaviour::Worse) => (WORSE, 40),
            (true, _) => (25, 2_400),
            (_, Behaviour::Slow) if self.active.is_some() => (0, 850),
            _ => (0, 40),
        };
        out.extend_from_slice(br#"{"version":"2025.01-sim","hostname":""#);
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(if healthy { WELL } else { UNWELL }.as_bytes());
        put(out, uptime_s);
        out.extend_from_slice(br#"},"metrics":{"error_rate":"#);
        put(out, errors);
        out.push(b'.');
        put(out, u64::from(dice % 10));
        out.extend_from_slice(br#","latency_p99_ms":"#);
        put(out, latency + u64::from(dice % 17));
        out.extend_from_slice(br#","cpu_percent":"#);
        put(out, 20 + u64::from(dice % 23));
        out.extend_from_slice(br#".5,"memory_percent":48.0"#);
        if let Some(served) = &mut self.served {
            let factor = match (self.sick, self.behaviour) {
                (true, Behaviour::Worse) => WORSE,
                (true, _) => 25,
                _ => 1,
            };
            served.until(uptime_s, dice, factor);
            served.write(out);
        }
        out.push(b'}');
        bundle(out, b",\"active_bundle_id\":", self.active);
        bundle(out, b",\"staged_bundle_id\":", staged);
        if let Some(failure) = &self.failure {
            // Words of this program and digits: nothing to escape, and a Vec takes everything.
            let Failure { bundle, sequence, reason, message } = &**failure;
            let written = write!(
                out,
                r#","bundle_error":{{"bundle_id":"{bundle}","reason":"{reason}","message":"{message}","sequence":{sequence}}}"#
            );
            debug_assert!(written.is_ok());
        }
        out.extend_from_slice(br#","metadata":{}}"#);
        let failed = self.failure.as_ref().map(|failure| failure.sequence);
        let now = Some(Said { healthy, active: self.active, staged, failed });
        std::mem::replace(&mut self.said, now) != now
    }
}

fn bundle(out: &mut Vec<u8>, name: &[u8], id: Option<BundleId>) {
    // An absent field leaves what the control plane knows; a null would say the same.
    if let Some(id) = id {
        out.extend_from_slice(name);
        let written = write!(out, "\"{id}\"");
        debug_assert!(written.is_ok());
    }
}

/// Appends a number without allocating.
pub(super) fn put(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let (mut rest, mut first) = (number, digits.len());
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        first -= 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const HABITS: Habits =
        Habits { apply_ms: 1_000, slow_ms: 30_000, crash_ms: 500, misbehave_from: 2, flapping: (40, 20) };

    fn node(behaviour: Behaviour) -> Node {
        Node::new(Credential::key("id", "key").unwrap(), "sim-1", behaviour)
    }

    fn told(sequence: u64) -> Told {
        Told { bundle: BundleId::random(), sequence, rollback: false }
    }

    fn says(node: &mut Node) -> (Value, bool) {
        let mut body = Vec::new();
        let changed = node.heartbeat(&mut body, 7, 3);
        (serde_json::from_slice(&body).unwrap(), changed)
    }

    /// Lets a node activate a bundle without trouble.
    fn installed(behaviour: Behaviour) -> (Node, Told) {
        let (mut node, first) = (node(behaviour), told(1));
        assert_eq!(node.offered(first, &HABITS), Next::Fetch);
        assert_eq!(node.offered(first, &HABITS), Next::Rest, "it is at it");
        assert_eq!(node.fetched(1, true, &HABITS), Next::Proceed(1_000));
        assert_eq!(node.proceed(&HABITS), Next::Report(None));
        assert_eq!(node.active, Some(first.bundle));
        (node, first)
    }

    #[test]
    fn a_heartbeat_says_what_gates_need_and_when_it_is_news() {
        let (mut node, first) = installed(Behaviour::Healthy);
        let (body, changed) = says(&mut node);
        assert!(changed);
        assert_eq!(body["health"]["status"], "healthy");
        assert_eq!(body["active_bundle_id"], first.bundle.to_string());
        for name in ["error_rate", "latency_p99_ms", "cpu_percent", "memory_percent"] {
            assert!(body["metrics"][name].as_f64().is_some_and(|value| value < 100.0), "{name}: {body}");
        }
        assert!(!says(&mut node).1, "nothing new");
        node.waver(true);
        assert_eq!(says(&mut node).0["health"]["status"], "degraded");
        node.waver(true);
        assert!(says(&mut node).1, "well again");
        node.unheard();
        assert!(says(&mut node).1, "said again");
    }

    #[test]
    fn the_first_bundle_goes_well_and_the_second_by_behaviour() {
        for behaviour in Behaviour::ALL {
            let (mut node, first) = installed(behaviour);
            let second = told(2);
            assert_eq!(node.offered(second, &HABITS), Next::Fetch);
            let next = node.fetched(2, true, &HABITS);
            let expected = match behaviour {
                Behaviour::Rejecting => Next::Report(None),
                Behaviour::Slow => Next::Proceed(30_000),
                _ => Next::Proceed(1_000),
            };
            assert_eq!(next, expected, "{behaviour:?}");
            if behaviour == Behaviour::Rejecting {
                assert_eq!(node.active, Some(first.bundle));
                assert_eq!(says(&mut node).0["bundle_error"]["sequence"], 2);
                assert_eq!(node.offered(second, &HABITS), Next::Rest, "refused once");
                continue;
            }
            let next = node.proceed(&HABITS);
            match behaviour {
                Behaviour::Silent => assert!(next == Next::Rest && node.is_gone()),
                Behaviour::Poisoned => assert_eq!(next, Next::Report(Some(500))),
                _ => assert_eq!(next, Next::Report(None)),
            }
            let error_rate = says(&mut node).0["metrics"]["error_rate"].as_f64().unwrap();
            assert_eq!(error_rate > 20.0, behaviour == Behaviour::Failing, "{behaviour:?}");
        }
    }

    #[test]
    fn a_poisoned_node_returns_to_the_bundle_before() {
        let (mut node, first) = installed(Behaviour::Poisoned);
        let second = told(2);
        node.offered(second, &HABITS);
        node.fetched(2, true, &HABITS);
        node.proceed(&HABITS);
        assert_eq!(says(&mut node).0["active_bundle_id"], second.bundle.to_string());
        assert_eq!(node.proceed(&HABITS), Next::Report(None));
        let (body, _) = says(&mut node);
        assert_eq!(body["active_bundle_id"], first.bundle.to_string());
        assert_eq!(body["bundle_error"]["reason"], "proxy_died");
    }

    #[test]
    fn a_rollback_heals() {
        let (mut node, first) = installed(Behaviour::Failing);
        node.offered(told(2), &HABITS);
        node.fetched(2, true, &HABITS);
        node.proceed(&HABITS);
        assert_eq!(node.offered(Told { sequence: 3, rollback: true, ..first }, &HABITS), Next::Fetch);
        assert_eq!(node.fetched(3, true, &HABITS), Next::Proceed(1_000));
        node.proceed(&HABITS);
        let (body, _) = says(&mut node);
        assert!(body["metrics"]["error_rate"].as_f64().unwrap() < 1.0);
        assert_eq!(node.active, Some(first.bundle));
    }

    #[test]
    fn a_spoilt_download_is_asked_for_again() {
        let mut node = node(Behaviour::Healthy);
        node.etag = Some(Box::from(*b"\"1\""));
        let first = told(1);
        node.offered(first, &HABITS);
        assert_eq!(node.fetched(1, false, &HABITS), Next::Rest);
        assert_eq!(node.etag, None);
        assert_eq!(node.offered(first, &HABITS), Next::Fetch);
    }

    #[test]
    fn flapping_nodes_come_and_go() {
        let node = node(Behaviour::Flapping);
        let away = (0..60).filter(|now| node.is_away(5, *now, &HABITS)).count();
        assert_eq!(away, 20);
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 123, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
