//! Records out of a plan. Every id but the rollout's own is derived from it, so that building twice gives the same.

use super::{Plan, Target, cut, no_targets};
use crate::decision::Rollback;
use crate::strategy::{PlannedStep, Strategies};
use crate::transition::State;
use uuid::{Builder, Uuid};
use zentinel_core::entity::{
    Approval, ApprovalState, NodeProgress, Rollout, RolloutNode, RolloutSpec, RolloutState, RolloutStep,
    StepState, Waiting,
};
use zentinel_core::id::{
    BundleId, NodeId, OrganisationId, ProjectId, RolloutId, RolloutNodeId, StepId, TypedId,
};
use zentinel_core::{Actor, Result, Sha256Digest, Timestamp};

/// What a rollout is created from, besides its plan.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRollout {
    /// The id it gets.
    pub id: RolloutId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The bundle.
    pub bundle_id: BundleId,
    /// What is asked for.
    pub spec: RolloutSpec,
    /// Who asks.
    pub created_by: Actor,
}

impl NewRollout {
    /// The pending rollout with its steps and nodes.
    #[must_use]
    pub fn build(self, plan: Plan, now: Timestamp) -> State {
        let rollout = Rollout {
            id: self.id,
            organisation_id: self.organisation_id,
            project_id: self.project_id,
            bundle_id: self.bundle_id,
            spec: self.spec,
            state: RolloutState::Pending,
            rollback_of: None,
            rolled_back_by: None,
            excluded: plan.excluded,
            started_at: None,
            completed_at: None,
            paused_at: None,
            unavailable_grace: None,
            error: None,
            waiting: Waiting { summary: "Waiting to be started.".to_owned(), ..Waiting::default() },
            next_tick_at: None,
            created_by: self.created_by,
            created_at: now,
            updated_at: now,
            environment_id: None,
            scheduled_at: None,
            starts_by_itself: false,
            queued: false,
            supersedes: false,
            approval: Approval::default(),
            freeze_override: None,
            revert: None,
            template_id: None,
            promoted_from: None,
            requested_by: None,
            traffic: None,
        };
        let steps: Vec<RolloutStep> =
            (0_u32..).zip(plan.steps).map(|(index, step)| new_step(&rollout, index, step, now)).collect();
        let nodes: Vec<RolloutNode> =
            plan.targets.iter().map(|target| new_node(&rollout, target, now)).collect();
        State::new(rollout, steps, nodes)
    }
}

impl State {
    /// The pending rollback rollout of `original`; start it with [`Command::Start`](crate::Command::Start).
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) when `rollback` names no node or its strategy is not known.
    pub fn rollback(
        original: &Rollout,
        rollback: &Rollback,
        strategies: &Strategies,
        created_by: Actor,
        now: Timestamp,
    ) -> Result<Self> {
        let targets: Vec<Target> = rollback
            .nodes
            .iter()
            .map(|restore| Target {
                node_id: restore.node_id,
                bundle_id: restore.bundle_id,
                previous_bundle_id: Some(original.bundle_id),
            })
            .collect();
        let bundle_id = most_frequent(&targets).ok_or_else(no_targets)?;
        let strategy = strategies.get(&rollback.spec.strategy)?;
        let steps = cut(strategy.as_ref(), &rollback.spec, &targets)?;
        let new = NewRollout {
            id: rollback.rollout_id,
            organisation_id: original.organisation_id,
            project_id: original.project_id,
            bundle_id,
            spec: rollback.spec.clone(),
            created_by,
        };
        let plan = Plan { targets, steps, excluded: Vec::new() };
        let exempt = if rollback.reason == "operator" { "rollback" } else { "auto_rollback" };
        let state = new.build(plan, now).undoing(original.id);
        // What is under way is not held up by approvals or freeze windows on the way back.
        Ok(edited(state, |rollout| {
            rollout.environment_id = original.environment_id;
            rollout.approval.state = ApprovalState::Approved;
            rollout.approval.exempt = Some(exempt.to_owned());
        }))
    }
}

/// A rollout with other fields than its state.
pub(crate) fn edited(state: State, edit: impl FnOnce(&mut Rollout)) -> State {
    let (mut rollout, steps, nodes) = state.into_parts();
    edit(&mut rollout);
    State::new(rollout, steps, nodes.into_values())
}

fn most_frequent(targets: &[Target]) -> Option<BundleId> {
    let mut counts = std::collections::BTreeMap::<BundleId, usize>::new();
    for target in targets {
        *counts.entry(target.bundle_id).or_default() += 1;
    }
    counts.into_iter().max_by_key(|&(_, count)| count).map(|(bundle, _)| bundle)
}

/// The id of the rollout that undoes `rollout`. There is exactly one.
#[must_use]
pub fn derived_rollback_id(rollout: RolloutId) -> RolloutId {
    derived(rollout, "rollback", Uuid::nil().as_bytes())
}

/// An id that follows from the rollout's. It has the form of a version 4 UUID.
fn derived<T: TypedId>(rollout: RolloutId, what: &str, which: &[u8]) -> T {
    let mut seed = rollout.uuid().as_bytes().to_vec();
    seed.extend_from_slice(what.as_bytes());
    seed.extend_from_slice(which);
    let digest = Sha256Digest::of(&seed);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    T::from_uuid(Builder::from_random_bytes(bytes).into_uuid())
}

pub(crate) fn new_step(rollout: &Rollout, index: u32, step: PlannedStep, now: Timestamp) -> RolloutStep {
    let id: StepId = derived(rollout.id, "step", &index.to_be_bytes());
    RolloutStep {
        id,
        organisation_id: rollout.organisation_id,
        project_id: rollout.project_id,
        rollout_id: rollout.id,
        index,
        node_ids: step.nodes,
        state: StepState::Pending,
        deployment_slot: step.slot,
        traffic_weight: step.weight,
        shifted_at: None,
        started_at: None,
        entered_at: None,
        paused_ms: 0,
        failing_since: None,
        completed_at: None,
        error: None,
        created_at: now,
    }
}

/// The id of a node's part in a rollout.
pub(crate) fn part_id(rollout: RolloutId, node: NodeId) -> RolloutNodeId {
    derived(rollout, "node", node.uuid().as_bytes())
}

fn new_node(rollout: &Rollout, target: &Target, now: Timestamp) -> RolloutNode {
    let node_id: NodeId = target.node_id;
    let id = part_id(rollout.id, node_id);
    RolloutNode {
        id,
        organisation_id: rollout.organisation_id,
        project_id: rollout.project_id,
        rollout_id: rollout.id,
        node_id,
        bundle_id: target.bundle_id,
        previous_bundle_id: target.previous_bundle_id,
        state: NodeProgress::Pending,
        staged_at: None,
        activated_at: None,
        verified_at: None,
        lagging: false,
        error: None,
        served_before: None,
        last_report_at: None,
        created_at: now,
    }
}
