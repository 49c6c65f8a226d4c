use super::*;
use crate::fixture::{NEW, OLD, at, bundle};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{HealthGates, Registration};
use zentinel_core::id::{GroupId, OrganisationId, ProjectId, TypedId};
use zentinel_core::{Kind, Percent};

fn scope() -> (OrganisationId, ProjectId) {
    (OrganisationId::from_uuid(Uuid::from_u128(1)), ProjectId::from_uuid(Uuid::from_u128(2)))
}

fn edge(number: u128, name: &str, zone: Option<&str>) -> Node {
    let labels = zone.map(|zone| (ZONE_LABEL.to_owned(), zone.to_owned())).into_iter().collect();
    let registration = Registration { name: name.to_owned(), labels, ..Registration::default() };
    let key = CredentialHash::of(name);
    let mut node = Node::register(scope(), &registration, true, key, at(0)).unwrap();
    node.id = crate::fixture::node(number);
    node
}

fn plan_of(spec: &RolloutSpec, nodes: &[Node], groups: &[NodeGroup]) -> Result<Plan> {
    let candidates: Vec<Candidate<'_>> = nodes
        .iter()
        .map(|node| Candidate { node, active_bundle_id: Some(bundle(OLD)), proxy_version: None })
        .collect();
    let request =
        PlanRequest { bundle_id: bundle(NEW), bundle_version: "2.0.0", spec, groups, environment_id: None };
    plan(&request, &candidates, &Strategies::standard())
}

fn names(plan: &Plan, nodes: &[Node]) -> Vec<String> {
    let name = |target: &Target| nodes.iter().find(|node| node.id == target.node_id).unwrap().name.clone();
    plan.targets.iter().map(name).collect()
}

#[test]
fn targets_go_round_robin_over_zones_then_by_name() {
    let nodes = [
        edge(1, "e", Some("b")),
        edge(2, "a", Some("b")),
        edge(3, "d", Some("a")),
        edge(4, "c", None),
        edge(5, "b", Some("a")),
    ];
    let plan = plan_of(&RolloutSpec::default(), &nodes, &[]).unwrap();
    assert_eq!(names(&plan, &nodes), ["c", "b", "a", "d", "e"]);
    assert_eq!(plan.targets[0].previous_bundle_id, Some(bundle(OLD)));
    assert_eq!(plan.steps.len(), 5);
}

#[test]
fn nodes_of_other_environments_are_left_out_with_the_reason() {
    let (prod, dev) = (EnvironmentId::random(), EnvironmentId::random());
    let mut nodes = [edge(1, "a", None), edge(2, "b", None), edge(3, "c", None)];
    nodes[0].environment_id = Some(prod);
    nodes[1].environment_id = Some(dev);
    let candidates: Vec<Candidate<'_>> = nodes
        .iter()
        .map(|node| Candidate { node, active_bundle_id: Some(bundle(OLD)), proxy_version: None })
        .collect();
    let spec = RolloutSpec::default();
    let environment_id = Some(prod);
    let request = PlanRequest {
        bundle_id: bundle(NEW),
        bundle_version: "2.0.0",
        spec: &spec,
        groups: &[],
        environment_id,
    };
    let plan = plan(&request, &candidates, &Strategies::standard()).unwrap();
    assert_eq!(names(&plan, &nodes), ["a"]);
    let reasons: Vec<_> = plan.excluded.iter().map(|excluded| excluded.reason).collect();
    assert_eq!(reasons, [ExclusionReason::WrongEnvironment; 2]);
}

#[test]
fn pinned_and_unapproved_nodes_are_left_out_with_the_reason() {
    let mut nodes = [edge(1, "a", None), edge(2, "b", None), edge(3, "c", None)];
    nodes[0].pinned_bundle_id = Some(bundle(OLD));
    nodes[1].approved = false;
    nodes[2].pinned_bundle_id = Some(bundle(NEW));
    let plan = plan_of(&RolloutSpec::default(), &nodes, &[]).unwrap();
    assert_eq!(names(&plan, &nodes), ["c"]);
    let reasons: Vec<_> = plan.excluded.iter().map(|excluded| excluded.reason).collect();
    assert_eq!(reasons, [ExclusionReason::Pinned, ExclusionReason::PendingApproval]);
}

#[test]
fn selectors_by_label_id_and_group() {
    let nodes = [edge(1, "a", Some("x")), edge(2, "b", Some("y")), edge(3, "c", None)];
    let selected = |selector: TargetSelector, groups: &[NodeGroup]| {
        let spec = RolloutSpec { target_selector: selector, ..RolloutSpec::default() };
        plan_of(&spec, &nodes, groups).map(|plan| names(&plan, &nodes))
    };
    let labels = BTreeMap::from([(ZONE_LABEL.to_owned(), "y".to_owned())]);
    assert_eq!(selected(TargetSelector::Labels { labels }, &[]).unwrap(), ["b"]);
    let node_ids = BTreeSet::from([nodes[2].id, nodes[0].id]);
    assert_eq!(selected(TargetSelector::NodeIds { node_ids }, &[]).unwrap(), ["c", "a"]);
    let node_ids = BTreeSet::from([NodeId::random()]);
    let error = selected(TargetSelector::NodeIds { node_ids }, &[]).unwrap_err();
    assert!(error.fields().contains_key("target_selector"));

    let mut groups = [
        NodeGroup::new(scope(), "one", None, at(0)).unwrap(),
        NodeGroup::new(scope(), "two", None, at(0)).unwrap(),
    ];
    groups[0].node_ids = BTreeSet::from([nodes[0].id, nodes[1].id]);
    groups[1].node_ids = BTreeSet::from([nodes[1].id]);
    let group_ids = groups.iter().map(|group| group.id).collect();
    assert_eq!(selected(TargetSelector::Groups { group_ids }, &groups).unwrap(), ["a", "b"]);
    let group_ids = BTreeSet::from([GroupId::random()]);
    assert!(selected(TargetSelector::Groups { group_ids }, &groups).is_err());
}

#[test]
fn an_empty_selection_is_a_plan_but_not_a_rollout() {
    let labels = BTreeMap::from([("no".to_owned(), "where".to_owned())]);
    let spec = RolloutSpec { target_selector: TargetSelector::Labels { labels }, ..RolloutSpec::default() };
    let plan = plan_of(&spec, &[edge(1, "a", None)], &[]).unwrap();
    assert_eq!(plan, Plan::default());
    assert_eq!(plan.require_targets().unwrap_err().message(), "No target nodes matched the selector");
}

#[test]
fn every_field_of_a_specification_is_checked_at_once() {
    let spec = RolloutSpec {
        target_selector: TargetSelector::NodeIds { node_ids: BTreeSet::new() },
        strategy: "yolo".to_owned(),
        batch_size: 0,
        batch_percentage: Some(Percent::HALF),
        progress_deadline_seconds: 0,
        health_gates: HealthGates {
            max_cpu_percent: Some(-1.0),
            max_error_rate: Some(f64::NAN),
            ..HealthGates::default()
        },
        ..RolloutSpec::default()
    };
    let error = check_spec(&spec, &Strategies::standard()).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let fields = error.fields();
    assert!(fields["target_selector"][0].starts_with("must be {type: all}"));
    assert_eq!(
        fields["strategy"],
        ["is not a known strategy; known: all_at_once, blue_green, canary, rolling"]
    );
    assert_eq!(fields["batch_size"], ["must be greater than 0"]);
    assert_eq!(fields["batch_percentage"], ["cannot set both batch_size and batch_percentage"]);
    assert_eq!(fields["progress_deadline_seconds"], ["must be greater than 0"]);
    assert_eq!(fields["health_gates"].len(), 2);
    check_spec(&RolloutSpec::default(), &Strategies::standard()).unwrap();
}

#[test]
fn selectors_as_sent() {
    assert_eq!(target_selector(&json!({"type": "all"})).unwrap(), TargetSelector::All);
    assert!(target_selector(&json!({"type": "labels", "labels": {"a": "b"}})).is_ok());
    for bad in [
        json!(null),
        json!("all"),
        json!({}),
        json!({"type": "some"}),
        json!({"type": "all", "labels": {"a": "b"}}),
        json!({"type": "labels", "labels": {}}),
        json!({"type": "labels", "labels": {"a": 1}}),
        json!({"type": "node_ids", "node_ids": []}),
        json!({"type": "node_ids", "node_ids": ["x"]}),
        json!({"type": "groups"}),
    ] {
        let error = target_selector(&bad).unwrap_err();
        assert!(error.fields()["target_selector"][0].starts_with("must be {type: all}"), "{bad}");
    }
}

#[test]
fn gates_as_sent() {
    let gates = health_gates(&json!({"heartbeat_healthy": true, "max_error_rate": 5})).unwrap();
    assert_eq!((gates.heartbeat_healthy, gates.max_error_rate), (Some(true), Some(5.0)));
    for (bad, message) in [
        (json!({"b": 1, "a": 2}), "unknown keys: a, b"),
        (json!({"max_error_rate": "5"}), "max_error_rate must be a number"),
        (json!({"max_cpu_percent": -1}), "max_cpu_percent must be greater than or equal to 0"),
        (json!({"heartbeat_healthy": "yes"}), "heartbeat_healthy must be true or false"),
        (json!([]), "must be an object"),
    ] {
        assert_eq!(health_gates(&bad).unwrap_err().fields()["health_gates"], [message], "{bad}");
    }
}

#[test]
fn derived_ids_are_stable_and_distinct() {
    let rollout = zentinel_core::id::RolloutId::from_uuid(Uuid::from_u128(7));
    let id = derived_rollback_id(rollout);
    assert_eq!(id, derived_rollback_id(rollout));
    assert_ne!(id, derived_rollback_id(id));
    assert_eq!(id.uuid().get_version_num(), 4);
}

proptest! {
    #[test]
    fn a_plan_partitions_the_targets_whatever_the_order_of_the_candidates(
        zones in proptest::collection::vec(0_u8..5, 1..40),
        batch in 1_u32..9,
        percent in proptest::option::of(1_u8..=100),
        all in any::<bool>(),
    ) {
        let nodes: Vec<Node> = (1..).zip(&zones)
            .map(|(number, zone)| edge(number, &format!("n{}", number % 7), Some(&zone.to_string())))
            .collect();
        let spec = RolloutSpec {
            strategy: if all { "all_at_once" } else { "rolling" }.to_owned(),
            batch_size: if percent.is_some() { 1 } else { batch },
            batch_percentage: percent.map(|percent| Percent::new(percent).unwrap()),
            ..RolloutSpec::default()
        };
        let plan = plan_of(&spec, &nodes, &[]).unwrap();
        let cut: Vec<NodeId> = plan.steps.iter().flat_map(|step| step.nodes.clone()).collect();
        let order: Vec<NodeId> = plan.targets.iter().map(|target| target.node_id).collect();
        prop_assert_eq!(&cut, &order);
        prop_assert_eq!(cut.iter().collect::<BTreeSet<_>>().len(), nodes.len());
        let reversed: Vec<Node> = nodes.iter().rev().cloned().collect();
        prop_assert_eq!(plan_of(&spec, &reversed, &[]).unwrap(), plan);
    }
}
