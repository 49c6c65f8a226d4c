//! From a specification and the nodes of a project to the steps of a rollout, without side effects: the
//! preview that an operator sees is the plan that runs.
//!
//! The order of the targets is deterministic and spreads them over failure domains: round-robin over the values
//! of the label [`ZONE_LABEL`] (nodes without it are a domain of their own), within a domain as the strategy wants it
//! ([`TargetOrder`]): by name, then by id, or by lot.

mod build;
mod validate;

pub use build::{NewRollout, derived_rollback_id};
pub(crate) use build::{edited, new_step, part_id};
pub use validate::{check_spec, health_gates, target_selector};

use crate::strategy::{PlannedStep, Strategies, Strategy, TargetOrder};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use zentinel_core::entity::{
    Excluded, ExclusionReason, Node, NodeGroup, RolloutSpec, TargetSelector, is_at_least,
};
use zentinel_core::id::{BundleId, EnvironmentId, NodeId, TypedId as _};
use zentinel_core::{Error, Result, Sha256Digest};

/// The label that names a node's failure domain.
pub const ZONE_LABEL: &str = "zone";

/// A node of the project, with what it says it runs.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The node.
    pub node: &'a Node,
    /// The bundle it says it runs.
    pub active_bundle_id: Option<BundleId>,
    /// The version of its proxy, as it says.
    pub proxy_version: Option<&'a str>,
}

/// What to plan.
#[derive(Clone, Copy, Debug)]
pub struct PlanRequest<'a> {
    /// The bundle.
    pub bundle_id: BundleId,
    /// Its version.
    pub bundle_version: &'a str,
    /// What is asked for.
    pub spec: &'a RolloutSpec,
    /// The groups of the project that the selector may name.
    pub groups: &'a [NodeGroup],
    /// The only environment whose nodes take part; all where there is none.
    pub environment_id: Option<EnvironmentId>,
}

/// One node that a rollout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node_id: NodeId,
    /// What it shall run.
    pub bundle_id: BundleId,
    /// What it was brought to before, or else runs now; where a rollback leads.
    pub previous_bundle_id: Option<BundleId>,
}

/// Where a rollback of `bundle` leads on a node: to the last bundle that it was brought to, or else to the one it runs.
/// A node that runs `bundle` already does not change, so there is nowhere to go back to.
pub(crate) fn previous_bundle(
    bundle: BundleId,
    expected: Option<BundleId>,
    active: Option<BundleId>,
) -> Option<BundleId> {
    if active == Some(bundle) {
        return active;
    }
    expected.filter(|expected| *expected != bundle).or(active)
}

/// A plan: who, in which steps, and who not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The targets, in order.
    pub targets: Vec<Target>,
    /// The steps.
    pub steps: Vec<PlannedStep>,
    /// Nodes that the selector names but that are left out, by id.
    pub excluded: Vec<Excluded>,
}

impl Plan {
    /// Demands that there is a target.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid): `No target nodes matched the selector`.
    pub fn require_targets(self) -> Result<Self> {
        if self.targets.is_empty() {
            return Err(no_targets());
        }
        Ok(self)
    }
}

pub(crate) fn no_targets() -> Error {
    Error::invalid("No target nodes matched the selector")
}

/// Plans a rollout over the nodes of its project. Changes nothing; also the preview.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on a field of the specification (see [`check_spec`]), on
/// `target_selector` when it names nodes or groups that the project does not have, or when the strategy refuses.
pub fn plan(
    request: &PlanRequest<'_>,
    candidates: &[Candidate<'_>],
    strategies: &Strategies,
) -> Result<Plan> {
    check_spec(request.spec, strategies)?;
    let strategy = strategies.get(&request.spec.strategy)?;
    let (selected, excluded) = select(request, candidates)?;
    let targets: Vec<Target> = spread(selected, strategy.order())
        .into_iter()
        .map(|candidate| Target {
            node_id: candidate.node.id,
            bundle_id: request.bundle_id,
            previous_bundle_id: previous_bundle(
                request.bundle_id,
                candidate.node.expected_bundle_id,
                candidate.active_bundle_id,
            ),
        })
        .collect();
    let steps = cut(strategy.as_ref(), request.spec, &targets)?;
    Ok(Plan { targets, steps, excluded })
}

/// Lets the strategy cut, and does not believe it blindly.
pub(crate) fn cut(
    strategy: &dyn Strategy,
    spec: &RolloutSpec,
    targets: &[Target],
) -> Result<Vec<PlannedStep>> {
    let ids: Vec<NodeId> = targets.iter().map(|target| target.node_id).collect();
    let steps = strategy.plan(spec, &ids)?;
    let wanted: BTreeSet<NodeId> = ids.into_iter().collect();
    if let Some(fault) = fault_of_steps(&steps, &BTreeSet::new(), &wanted) {
        return Err(Error::internal(format!("strategy {}: {fault}", strategy.name())));
    }
    Ok(steps)
}

/// What is wrong with steps that shall bring the bundle to exactly `wanted`, after `done` have it.
pub(crate) fn fault_of_steps(
    steps: &[PlannedStep],
    done: &BTreeSet<NodeId>,
    wanted: &BTreeSet<NodeId>,
) -> Option<&'static str> {
    let mut reached = done.clone();
    for step in steps {
        let own: BTreeSet<NodeId> = step.nodes.iter().copied().collect();
        if own.is_empty() {
            return Some("a step without nodes");
        }
        if own.len() != step.nodes.len() {
            return Some("a node twice in one step");
        }
        let known = own.intersection(&reached).count();
        if known != 0 && known != own.len() {
            return Some("a step that mixes new nodes with nodes of earlier steps");
        }
        reached.extend(own);
    }
    let mut all = done.clone();
    all.extend(wanted);
    (reached != all).then_some("the steps do not contain exactly the nodes of the plan")
}

fn select<'a>(
    request: &PlanRequest<'_>,
    candidates: &[Candidate<'a>],
) -> Result<(Vec<Candidate<'a>>, Vec<Excluded>)> {
    let members = named_nodes(request, candidates)?;
    let mut selected = Vec::new();
    let mut excluded = Vec::new();
    for candidate in candidates {
        let node = candidate.node;
        let wanted = match &request.spec.target_selector {
            TargetSelector::All => true,
            TargetSelector::Labels { labels } => {
                labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            }
            TargetSelector::NodeIds { .. } | TargetSelector::Groups { .. } => members.contains(&node.id),
            TargetSelector::Selector { selector } => selector.matches(&node.labels),
        };
        if !wanted {
            continue;
        }
        match exclusion(candidate, request) {
            None => selected.push(*candidate),
            Some(reason) => excluded.push(Excluded { node_id: node.id, reason }),
        }
    }
    excluded.sort_by_key(|excluded| excluded.node_id);
    Ok((selected, excluded))
}

fn exclusion(candidate: &Candidate<'_>, request: &PlanRequest<'_>) -> Option<ExclusionReason> {
    let node = candidate.node;
    if !node.approved {
        return Some(ExclusionReason::PendingApproval);
    }
    if request.environment_id.is_some_and(|wanted| node.environment_id != Some(wanted)) {
        return Some(ExclusionReason::WrongEnvironment);
    }
    let pinned_elsewhere = node.pinned_bundle_id.is_some_and(|pin| pin != request.bundle_id);
    if pinned_elsewhere {
        return Some(ExclusionReason::Pinned);
    }
    if node.cordoned {
        return Some(ExclusionReason::Cordoned);
    }
    if node.bounds.as_ref().is_some_and(|bounds| !bounds.admits(request.bundle_version)) {
        return Some(ExclusionReason::VersionBounds);
    }
    let spec = request.spec;
    if !spec.required_capabilities.is_subset(&node.capabilities) {
        return Some(ExclusionReason::MissingCapability);
    }
    let lowest = spec.min_proxy_version.as_deref();
    let too_old = lowest.is_some_and(|lowest| !is_at_least(candidate.proxy_version, lowest));
    too_old.then_some(ExclusionReason::ProxyVersion)
}

/// The nodes that a selector lists, which must all belong to the project.
fn named_nodes(request: &PlanRequest<'_>, candidates: &[Candidate<'_>]) -> Result<BTreeSet<NodeId>> {
    let foreign = |what: &str| {
        let text = format!("names {what} that are not in this project");
        Err(Error::invalid_field("target_selector", text))
    };
    match &request.spec.target_selector {
        TargetSelector::All | TargetSelector::Labels { .. } | TargetSelector::Selector { .. } => {
            Ok(BTreeSet::new())
        }
        TargetSelector::NodeIds { node_ids } => {
            let known: BTreeSet<NodeId> = candidates.iter().map(|candidate| candidate.node.id).collect();
            if node_ids.is_subset(&known) { Ok(node_ids.clone()) } else { foreign("nodes") }
        }
        TargetSelector::Groups { group_ids } => {
            let known: BTreeMap<_, _> = request.groups.iter().map(|group| (group.id, group)).collect();
            let mut members = BTreeSet::new();
            for id in group_ids {
                match known.get(id) {
                    Some(group) => {
                        let nodes = candidates.iter().map(|candidate| candidate.node);
                        members.extend(nodes.filter(|node| group.contains(node)).map(|node| node.id));
                    }
                    None => return foreign("groups"),
                }
            }
            Ok(members)
        }
    }
}

/// A number that has nothing to do with what the node is like.
pub(crate) fn lot(node: NodeId) -> u64 {
    let digest = Sha256Digest::of(node.uuid().as_bytes());
    digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Round-robin over the failure domains.
fn spread(mut selected: Vec<Candidate<'_>>, order: TargetOrder) -> Vec<Candidate<'_>> {
    match order {
        TargetOrder::ByName => {
            selected.sort_by(|a, b| (&a.node.name, a.node.id).cmp(&(&b.node.name, b.node.id)));
        }
        TargetOrder::ByLot => selected.sort_by_key(|candidate| (lot(candidate.node.id), candidate.node.id)),
    }
    let mut zones: BTreeMap<Option<&str>, VecDeque<Candidate<'_>>> = BTreeMap::new();
    for candidate in selected {
        let zone = candidate.node.labels.get(ZONE_LABEL).map(String::as_str);
        zones.entry(zone).or_default().push_back(candidate);
    }
    let mut zones: Vec<_> = zones.into_values().collect();
    let mut ordered = Vec::new();
    while !zones.is_empty() {
        ordered.extend(zones.iter_mut().filter_map(VecDeque::pop_front));
        zones.retain(|zone| !zone.is_empty());
    }
    ordered
}

#[cfg(test)]
mod tests;
