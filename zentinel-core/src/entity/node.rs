//! Nodes, as the control plane wants them ([`Node`]). What they say is a
//! [`NodeReport`](crate::entity::NodeReport).
//!
//! The two are separate records because they have separate writers: operators and rollouts write
//! the first with optimistic revisions, heartbeats write the second in groups.

use super::selector::LabelSelector;
use super::version_bounds::VersionBounds;
use crate::credential::CredentialHash;
use crate::entity::NodeTraffic;
use crate::error::{Checks, Result};
use crate::id::{
    BundleId, EnvironmentId, GroupId, NodeId, OrganisationId, ProjectId, RolloutId, StatementId,
};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::Scope;
use crate::value::Timestamp;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Most labels of a node.
const MAX_LABELS: usize = 64;

/// Checks a label map: at most 64 entries, keys of 1 to 253 and values of at most 253 characters.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid) on `labels`.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let mut checks = Checks::new();
    checks.that("labels", labels.len() <= MAX_LABELS, format!("should have at most {MAX_LABELS} entries"));
    let fits = |text: &str| text.chars().count() <= 253 && !text.contains('\0');
    let ok = labels.iter().all(|(key, value)| !key.is_empty() && fits(key) && fits(value));
    checks.that("labels", ok, "keys should be 1 to 253 and values at most 253 character(s)");
    checks.finish()
}

/// Liveness as the control plane sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Never heard from, or not approved yet.
    #[default]
    Unknown,
    /// Heard from within the offline threshold (120 s by default).
    Online,
    /// Silent for longer.
    Offline,
}

impl NodeStatus {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

/// What a node is told to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTarget {
    /// The bundle.
    pub bundle_id: BundleId,
    /// The signed statement to hand out with it.
    pub statement_id: StatementId,
    /// The statement's sequence; only ever grows on a node.
    pub sequence: u64,
    /// The rollout that set it; none for a manual assignment.
    pub rollout_id: Option<RolloutId>,
    /// `rollback` when a rollback is in force.
    pub reason: Option<String>,
    /// Assigned by hand in spite of the node's pin. Nothing else beats a pin.
    #[serde(default)]
    pub forced: bool,
}

/// How long a replaced static key still works, in seconds.
const RETIRED_KEY_SECONDS: i64 = 300;

/// A static key that was replaced. It works a little longer, so that a node that never saw the
/// answer with its new key is not locked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKey {
    /// Digest of the old key.
    pub hash: CredentialHash,
    /// When it stops working.
    pub valid_until: Timestamp,
}

impl RetiredKey {
    /// Whether `presented` is this key and it still works: until its time is over, unless it was
    /// replaced before the last revocation.
    #[must_use]
    pub fn accepts(&self, presented: &CredentialHash, revoked_at: Option<Timestamp>, now: Timestamp) -> bool {
        let replaced_at = self.valid_until - TimeDelta::seconds(RETIRED_KEY_SECONDS);
        self.hash.matches(presented)
            && self.valid_until > now
            && revoked_at.is_none_or(|revoked_at| replaced_at >= revoked_at)
    }
}

/// What a node presents when it registers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Unique in the project: 1 to 100 characters, alphanumeric first, then also `_`, `.`, `-`.
    pub name: String,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// Version of the proxy.
    pub version: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// Anything else.
    pub metadata: Map<String, Value>,
}

impl Registration {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name`, `labels`, `capabilities`, `version` or `hostname`.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        checks.text("name", &self.name, 100);
        let mut characters = self.name.chars();
        let ok = characters.next().is_none_or(|first| first.is_ascii_alphanumeric())
            && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        checks.that(
            "name",
            ok,
            "must start with alphanumeric and contain only alphanumeric, underscore, dot, or hyphen",
        );
        checks.absorb(check_labels(&self.labels))?;
        let fits = |text: &String| text.chars().count() <= 255 && !text.contains('\0');
        let few = self.capabilities.len() <= 64 && self.capabilities.iter().all(fits);
        checks.that("capabilities", few, "should be at most 64 entries of at most 255 character(s)");
        for (field, text) in [("version", &self.version), ("hostname", &self.hostname), ("ip", &self.ip)] {
            checks.that(field, text.as_ref().is_none_or(fits), "should be at most 255 character(s)");
        }
        checks.finish()
    }
}

/// A reverse proxy, as operators and rollouts want it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Unique in the project.
    pub name: String,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// False for a node of an open registration until an operator approves it: it gets nothing.
    pub approved: bool,
    /// Its environment.
    pub environment_id: Option<EnvironmentId>,
    /// Digest of its static key.
    pub key_hash: CredentialHash,
    /// The static key before that, while it still works.
    #[serde(default)]
    pub retired_key: Option<RetiredKey>,
    /// Tokens issued before this instant are refused.
    pub tokens_valid_after: Option<Timestamp>,
    /// What it is told to run, until it does.
    pub target: Option<NodeTarget>,
    /// What it should run once no rollout touches it; the reference of drift detection.
    pub expected_bundle_id: Option<BundleId>,
    /// What it ran before the current rollout; where a rollback leads.
    pub previous_bundle_id: Option<BundleId>,
    /// An operator's pin: rollouts of other bundles leave it out.
    pub pinned_bundle_id: Option<BundleId>,
    /// The open rollout that has claimed it. At most one at a time.
    pub rollout_id: Option<RolloutId>,
    /// The rollout that last told it what to run. It is looked at when the node reports progress, even
    /// after its end: a node may activate what was withdrawn while it was at it.
    #[serde(default)]
    pub told_by: Option<RolloutId>,
    /// The slot and weight that a blue-green rollout last gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<NodeTraffic>,
    /// It is given no new bundle; what brings it back to an earlier one is no new one.
    #[serde(default)]
    pub cordoned: bool,
    /// Which versions of bundles it may be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Box<VersionBounds>>,
    /// When it registered.
    pub registered_at: Timestamp,
    /// When the record was created.
    pub created_at: Timestamp,
}

impl Node {
    /// A node that registered.
    ///
    /// # Errors
    /// As [`Registration::check`].
    pub fn register(
        scope: (OrganisationId, ProjectId),
        registration: &Registration,
        approved: bool,
        key_hash: CredentialHash,
        now: Timestamp,
    ) -> Result<Self> {
        registration.check()?;
        Ok(Self {
            id: NodeId::random(),
            organisation_id: scope.0,
            project_id: scope.1,
            name: registration.name.clone(),
            labels: registration.labels.clone(),
            capabilities: registration.capabilities.clone(),
            approved,
            environment_id: None,
            key_hash,
            retired_key: None,
            tokens_valid_after: None,
            target: None,
            expected_bundle_id: None,
            previous_bundle_id: None,
            pinned_bundle_id: None,
            rollout_id: None,
            told_by: None,
            cordoned: false,
            bounds: None,
            traffic: None,
            registered_at: now,
            created_at: now,
        })
    }

    /// Replaces the static key. The one in use works for another 300 seconds; a caller that
    /// `presented` an already retired key (because it never saw the new one) does not prolong it.
    pub fn rotate_key(&mut self, presented: &CredentialHash, new: CredentialHash, now: Timestamp) {
        let keeps = self.accepts_retired_key(presented, now);
        if !keeps {
            self.retired_key = Some(RetiredKey {
                hash: self.key_hash,
                valid_until: now + TimeDelta::seconds(RETIRED_KEY_SECONDS),
            });
        }
        self.key_hash = new;
    }

    /// Whether `presented` is the key before the current one, not yet ended, and replaced after
    /// the last revocation (`tokens_valid_after`).
    #[must_use]
    pub fn accepts_retired_key(&self, presented: &CredentialHash, now: Timestamp) -> bool {
        let retired = self.retired_key.as_ref();
        retired.is_some_and(|retired| retired.accepts(presented, self.tokens_valid_after, now))
    }

    /// The scope that shows this node's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for Node {
    const KIND: RecordKind = RecordKind::Node;
    type Id = NodeId;
    fn id(&self) -> NodeId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.name.clone()),
            lookup_key: Some(self.key_hash.text()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// A named set of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeGroup {
    /// Its id.
    pub id: GroupId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Unique in the project, 1 to 100 characters.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// `#rrggbb`.
    pub color: String,
    /// Its members, where they are named one by one.
    pub node_ids: BTreeSet<NodeId>,
    /// Its members, where they are those with certain labels at the time of asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl NodeGroup {
    /// A new group without members.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name` or `color`.
    pub fn new(
        scope: (OrganisationId, ProjectId),
        name: &str,
        color: Option<&str>,
        now: Timestamp,
    ) -> Result<Self> {
        let color = color.unwrap_or("#6366f1");
        let mut checks = Checks::new();
        checks.text("name", name, 100);
        let digits = color.strip_prefix('#').unwrap_or_default();
        checks.that(
            "color",
            digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()),
            "is invalid",
        );
        checks.finish()?;
        Ok(Self {
            id: GroupId::random(),
            organisation_id: scope.0,
            project_id: scope.1,
            name: name.to_owned(),
            description: None,
            color: color.to_owned(),
            node_ids: BTreeSet::new(),
            selector: None,
            created_at: now,
        })
    }
}

impl NodeGroup {
    /// Whether a node belongs to it.
    #[must_use]
    pub fn contains(&self, node: &Node) -> bool {
        match &self.selector {
            Some(selector) => selector.matches(&node.labels),
            None => self.node_ids.contains(&node.id),
        }
    }
}

impl Record for NodeGroup {
    const KIND: RecordKind = RecordKind::NodeGroup;
    type Id = GroupId;
    fn id(&self) -> GroupId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.name.clone()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_key_works_five_minutes_and_not_after_a_revocation() {
        let at = |seconds| Timestamp::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let key = CredentialHash::of;
        let registration = Registration { name: "edge-1".to_owned(), ..Registration::default() };
        let scope = (OrganisationId::random(), ProjectId::random());
        let mut node = Node::register(scope, &registration, true, key("first"), at(0)).unwrap();
        node.rotate_key(&key("first"), key("second"), at(10));
        assert!(node.accepts_retired_key(&key("first"), at(309)));
        assert!(!node.accepts_retired_key(&key("first"), at(310)));
        assert!(!node.accepts_retired_key(&key("second"), at(20)));

        // The answer was lost: the node rotates again with the key it has, for no longer.
        node.rotate_key(&key("first"), key("third"), at(300));
        assert_eq!(node.key_hash, key("third"));
        assert!(node.accepts_retired_key(&key("first"), at(309)));
        assert!(!node.accepts_retired_key(&key("first"), at(310)));

        node.tokens_valid_after = Some(at(301));
        assert!(!node.accepts_retired_key(&key("first"), at(302)));
    }
}
