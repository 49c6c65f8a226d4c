use super::*;
use proptest::prelude::*;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::Registration;
use zentinel_core::id::{BundleId, OrganisationId, ProjectId, RolloutId};

const GRACE: TimeDelta = TimeDelta::seconds(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn node() -> (Node, NodeReport) {
    let registration = Registration { name: "edge-1".to_owned(), ..Registration::default() };
    let scope = (OrganisationId::random(), ProjectId::random());
    let mut node = Node::register(scope, &registration, true, CredentialHash::of("key"), at(0)).unwrap();
    let mut report = NodeReport::registered(&node, &registration);
    let bundle = BundleId::random();
    node.expected_bundle_id = Some(bundle);
    report.active_bundle_id = Some(bundle);
    report.active_since = Some(at(10));
    (node, report)
}

fn plain<'a>(node: &'a Node, report: &'a NodeReport) -> Facts<'a> {
    Facts { node, report: Some(report), config: None, expected_config: None, changed_at: None }
}

fn verdict(facts: &Facts<'_>) -> Verdict {
    judge(facts, GRACE, at(1_000))
}

#[test]
fn each_way_to_differ_has_its_name() {
    let (node, mut report) = node();
    assert_eq!(verdict(&plain(&node, &report)), Verdict::InSync);
    report.active_bundle_id = Some(BundleId::random());
    assert_eq!(verdict(&plain(&node, &report)), Verdict::Drifted(DriftKind::OtherBundle));
    report.active_bundle_id = None;
    assert_eq!(verdict(&plain(&node, &report)), Verdict::Drifted(DriftKind::NoBundle));
    report.reported_unknown_bundle = Some(uuid::Uuid::new_v4());
    assert_eq!(verdict(&plain(&node, &report)), Verdict::Drifted(DriftKind::UnknownBundle));
}

#[test]
fn a_configuration_from_before_the_activation_says_nothing() {
    let (node, report) = node();
    let (right, wrong) = (Sha256Digest::of(b"right"), Sha256Digest::of(b"wrong"));
    let of = |found, when| Facts {
        config: Some((found, at(when))),
        expected_config: Some(right),
        ..plain(&node, &report)
    };
    assert_eq!(verdict(&of(wrong, 10)), Verdict::Drifted(DriftKind::Content));
    assert_eq!(verdict(&of(wrong, 9)), Verdict::InSync);
    assert_eq!(verdict(&of(right, 10)), Verdict::InSync);
    assert_eq!(verdict(&Facts { expected_config: None, ..of(wrong, 10) }), Verdict::InSync);
}

#[test]
fn severity_goes_by_lines() {
    let of = |lines| {
        let stats = DiffStats { additions: lines, deletions: 0, unchanged: 9 };
        severity(DriftKind::OtherBundle, Some(stats)).as_str()
    };
    let found = [0, 5, 6, 20, 21, 50, 51].map(of);
    assert_eq!(found, ["low", "low", "medium", "medium", "high", "high", "critical"]);
    assert_eq!(severity(DriftKind::UnknownBundle, None), DriftSeverity::Medium);
    assert_eq!(severity(DriftKind::NoBundle, None), DriftSeverity::Critical);
    let stats = diff_stats("a\nb\nc\n", "a\nx\ny\nc\n");
    assert_eq!((stats.additions, stats.deletions, stats.unchanged), (2, 1, 2));
}

#[test]
fn either_limit_raises_the_alarm() {
    assert!(is_alarming(10, 100, Some(10), None) && !is_alarming(9, 100, Some(10), None));
    assert!(is_alarming(3, 1_000, Some(50), Some(3)), "the count too where a percentage is set");
    assert!(!is_alarming(0, 0, Some(1), Some(0)) && !is_alarming(5, 5, None, None));
}

proptest! {
    /// Nothing but an online node that no rollout touches, some time after the last change, is ever drifted;
    /// and such a node is, exactly when it runs something else.
    #[test]
    fn drift_is_never_found_where_it_cannot_be_known(
        approved: bool, expects: bool, claimed: bool, same: bool, has: bool,
        status in prop_oneof![Just(NodeStatus::Unknown), Just(NodeStatus::Online), Just(NodeStatus::Offline)],
        changed in proptest::option::of(0_i64..120), now in 0_i64..300,
    ) {
        let (mut node, mut report) = node();
        node.approved = approved;
        if !expects {
            node.expected_bundle_id = None;
        }
        node.rollout_id = claimed.then(RolloutId::random);
        report.status = status;
        if !same {
            report.active_bundle_id = has.then(BundleId::random);
        }
        let facts = Facts { changed_at: changed.map(at), ..plain(&node, &report) };
        let found = judge(&facts, GRACE, at(now));
        let settled = changed.is_none_or(|changed| now >= changed + 60);
        let judged = approved && expects && status == NodeStatus::Online;
        let wanted = judged && !same && !claimed && settled;
        prop_assert_eq!(matches!(found, Verdict::Drifted(_)), wanted, "{:?}", found);
        if wanted {
            let known = crate::fleet::KnownNode::from(node.clone());
            prop_assert!(known.is_suspect(report.active_bundle_id), "the first look must not miss it");
        }
    }

    #[test]
    fn the_lines_of_both_sides_are_all_counted(
        old in proptest::collection::vec("[ab]{0,2}", 0..12), new in proptest::collection::vec("[ab]{0,2}", 0..12),
    ) {
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let stats = diff_stats(&text(&old), &text(&new));
        prop_assert_eq!(stats.unchanged + stats.deletions, old.len() as u64);
        prop_assert_eq!(stats.unchanged + stats.additions, new.len() as u64);
        prop_assert_eq!(old == new, stats.additions + stats.deletions == 0);
    }
}
