use super::*;
use crate::fixture::{NEW, OLD, at, bundle, node};
use zentinel_core::entity::{Health, NodeStatus};

/// A node that activated the new bundle a minute ago and is well.
fn well() -> NodeFacts {
    NodeFacts {
        exists: true,
        name: "edge-1".to_owned(),
        status: NodeStatus::Online,
        last_seen_at: Some(at(60)),
        active_bundle_id: Some(bundle(NEW)),
        active_since: Some(at(0)),
        healthy_streak: 2,
        health: Health {
            status: Some("healthy".to_owned()),
            error_rate: Some(1.0),
            latency_p99_ms: Some(80.0),
            cpu_percent: Some(30.0),
            memory_percent: Some(0.0),
            traffic: None,
        },
        ..NodeFacts::default()
    }
}

fn all() -> HealthGates {
    HealthGates {
        heartbeat_healthy: Some(true),
        max_error_rate: Some(1.0),
        max_latency_ms: Some(100.0),
        max_cpu_percent: Some(90.0),
        max_memory_percent: Some(90.0),
    }
}

fn judge_at(gates: &Gates, facts: &NodeFacts, second: i64) -> Option<Objection> {
    gates.judge(&Sample { node_id: node(1), bundle_id: bundle(NEW), facts, now: at(second) })
}

fn judge(facts: &NodeFacts) -> Option<Objection> {
    judge_at(&Gates::of(&all()), facts, 60)
}

#[test]
fn a_limit_is_inclusive() {
    assert_eq!(judge(&well()), None);
}

#[test]
fn each_metric_fails_above_its_limit_and_is_unknown_when_missing_or_not_a_number() {
    type Field = fn(&mut Health) -> &mut Option<f64>;
    let fields: [(&str, Field); 4] = [
        ("max_error_rate", |health| &mut health.error_rate),
        ("max_latency_ms", |health| &mut health.latency_p99_ms),
        ("max_cpu_percent", |health| &mut health.cpu_percent),
        ("max_memory_percent", |health| &mut health.memory_percent),
    ];
    for (gate, field) in fields {
        for value in [None, Some(f64::NAN), Some(f64::INFINITY), Some(-1.0)] {
            let mut facts = well();
            *field(&mut facts.health) = value;
            let objection = judge(&facts).unwrap();
            assert_eq!(objection.gate, gate);
            assert!(matches!(objection.verdict, Verdict::Unknown { .. }), "{gate} {value:?}");
        }
        let mut facts = well();
        *field(&mut facts.health) = Some(100.5);
        let objection = judge(&facts).unwrap();
        assert_eq!(objection.gate, gate);
        assert!(matches!(objection.verdict, Verdict::Fail { value: Some(100.5), limit: Some(_) }));
    }
}

#[test]
fn the_heartbeat_gate_needs_two_healthy_beats() {
    for (status, streak, expected) in [
        (None, 9, Some(false)),
        (Some("healthy"), 1, Some(false)),
        (Some("healthy"), 2, None),
        (Some("degraded"), 9, Some(true)),
        (Some("HEALTHY"), 9, Some(true)),
    ] {
        let mut facts = well();
        facts.health.status = status.map(str::to_owned);
        facts.healthy_streak = streak;
        let fails = judge(&facts).map(|objection| matches!(objection.verdict, Verdict::Fail { .. }));
        assert_eq!(fails, expected, "{status:?} {streak}");
    }
}

#[test]
fn nothing_passes_on_what_is_not_known() {
    type Spoil = fn(&mut NodeFacts);
    let cases: [(&str, Spoil); 8] = [
        ("deleted", |facts| facts.exists = false),
        ("offline", |facts| facts.status = NodeStatus::Offline),
        ("never heard from", |facts| facts.status = NodeStatus::Unknown),
        ("another bundle", |facts| facts.active_bundle_id = Some(bundle(OLD))),
        ("no bundle", |facts| facts.active_bundle_id = None),
        ("no report", |facts| facts.last_seen_at = None),
        ("unknown since when", |facts| facts.active_since = None),
        ("only the announcing report", |facts| facts.active_since = facts.last_seen_at),
    ];
    for (case, spoil) in cases {
        let mut facts = well();
        spoil(&mut facts);
        let verdict = judge(&facts).unwrap().verdict;
        assert!(matches!(verdict, Verdict::Unknown { .. }), "{case}");
    }
}

#[test]
fn a_report_is_stale_after_three_poll_intervals() {
    let gates = Gates::of(&all());
    assert_eq!(judge_at(&gates, &well(), 150), None);
    assert!(judge_at(&gates, &well(), 151).is_some());
    let fast = Gates::of(&all()).polled_every(Duration::from_secs(1));
    assert_eq!(judge_at(&fast, &well(), 63), None);
    assert!(judge_at(&fast, &well(), 64).is_some());
}

#[test]
fn an_absent_gate_is_not_checked() {
    let none = Gates::of(&HealthGates { heartbeat_healthy: Some(false), ..HealthGates::default() });
    assert_eq!(none.names().count(), 0);
    assert_eq!(judge_at(&none, &NodeFacts::deleted(), 60), None);
}

#[test]
fn a_failing_gate_is_named_before_an_unknown_one() {
    let mut facts = well();
    facts.health.error_rate = None;
    facts.health.cpu_percent = Some(99.0);
    assert_eq!(judge(&facts).unwrap().gate, "max_cpu_percent");
}
