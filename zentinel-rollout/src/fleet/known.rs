//! What is kept of a node's record.

use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{Node, NodeTarget, NodeTraffic, RetiredKey};
use zentinel_core::id::{BundleId, NodeId, OrganisationId, ProjectId, RolloutId};
use zentinel_core::{Scope, Timestamp};

/// What the node path needs of a node's record, which takes a quarter of what the record would:
/// there is one for every node of the fleet, for as long as the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Its id.
    pub id: NodeId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Unique in the project.
    pub name: Box<str>,
    /// False until an operator approves it: it gets nothing.
    pub approved: bool,
    /// Tokens issued before this instant are refused.
    pub tokens_valid_after: Option<Timestamp>,
    /// What it should run once no rollout touches it.
    pub expected_bundle_id: Option<BundleId>,
    /// The slot and weight that a blue-green rollout gave it.
    pub traffic: Option<NodeTraffic>,
    key_hash: CredentialHash,
    retired_key: Option<Box<RetiredKey>>,
    plan: Option<Box<Plan>>,
}

/// What most nodes have nothing of at most times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    target: Option<Box<NodeTarget>>,
    pinned_bundle_id: Option<BundleId>,
    /// What its version bounds forbid of what it was told.
    barred: Option<BundleId>,
    rollout_id: Option<RolloutId>,
    told_by: Option<RolloutId>,
}

impl From<Node> for KnownNode {
    fn from(node: Node) -> Self {
        let plan = Plan {
            target: node.target.map(Box::new),
            pinned_bundle_id: node.pinned_bundle_id,
            barred: node.bounds.and_then(|bounds| bounds.barred),
            rollout_id: node.rollout_id,
            told_by: node.told_by,
        };
        Self {
            id: node.id,
            organisation_id: node.organisation_id,
            project_id: node.project_id,
            name: node.name.into(),
            approved: node.approved,
            tokens_valid_after: node.tokens_valid_after,
            expected_bundle_id: node.expected_bundle_id,
            traffic: node.traffic,
            key_hash: node.key_hash,
            retired_key: node.retired_key.map(Box::new),
            plan: (plan != Plan::default()).then(|| Box::new(plan)),
        }
    }
}

impl KnownNode {
    /// Its project's.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }

    /// What it is told to run, until it does.
    #[must_use]
    pub fn target(&self) -> Option<&NodeTarget> {
        self.plan.as_ref()?.target.as_deref()
    }

    /// An operator's pin.
    #[must_use]
    pub fn pinned_bundle_id(&self) -> Option<BundleId> {
        self.plan.as_ref()?.pinned_bundle_id
    }

    /// Whether a static key is the node's: its current one, or the one before while that still works.
    #[must_use]
    pub fn accepts(&self, key: &CredentialHash, now: Timestamp) -> bool {
        let retired = self.retired_key.as_ref();
        self.key_hash.matches(key)
            || retired.is_some_and(|retired| retired.accepts(key, self.tokens_valid_after, now))
    }

    /// Whether something is expected of it.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.approved && self.expected_bundle_id.is_some()
    }

    /// Whether it seems to run another bundle than it should, when it says that it runs `active`. Says nothing
    /// about its configuration, nor about how long that is so.
    pub(crate) fn is_suspect(&self, active: Option<BundleId>) -> bool {
        self.is_managed() && !self.is_claimed() && active != self.expected_bundle_id
    }

    /// The static keys that may still work.
    pub(super) fn keys(&self) -> impl Iterator<Item = &CredentialHash> {
        let retired = self.retired_key.as_ref().map(|retired| &retired.hash);
        std::iter::once(&self.key_hash).chain(retired)
    }

    /// Whether an open rollout has claimed it.
    pub(super) fn is_claimed(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.rollout_id.is_some())
    }

    /// The rollouts that the node's progress matters to: the one that has claimed it, or one that has
    /// ended and left it a target to converge to; and the one that told it last, which may have been
    /// withdrawn while the node was at it.
    pub(super) fn concerned(&self) -> impl Iterator<Item = RolloutId> {
        let plan = self.plan.as_deref();
        let waiting = plan.and_then(|plan| plan.rollout_id.or_else(|| plan.target.as_ref()?.rollout_id));
        waiting.into_iter().chain(plan.and_then(|plan| plan.told_by))
    }

    /// The target that the node is to be told, when it says that it runs `active`.
    pub(super) fn due(&self, active: Option<BundleId>) -> Option<&NodeTarget> {
        let plan = self.plan.as_deref()?;
        let target = plan.target.as_deref()?;
        let pinned_elsewhere = plan.pinned_bundle_id.is_some_and(|pinned| pinned != target.bundle_id);
        let withheld = pinned_elsewhere || plan.barred == Some(target.bundle_id);
        let wanted = self.approved && active != Some(target.bundle_id);
        (wanted && (target.forced || !withheld)).then_some(target)
    }
}
