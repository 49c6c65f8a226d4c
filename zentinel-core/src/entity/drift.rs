//! Drift: a node runs something else than it should.

use super::node::Node;
use crate::id::{BundleId, DriftEventId, NodeId, OrganisationId, ProjectId, RolloutId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::{Actor, Scope};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// In what way a node differs from what is expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// It runs no bundle at all.
    NoBundle,
    /// It runs another bundle of the project.
    OtherBundle,
    /// It runs a bundle that the project does not have.
    UnknownBundle,
    /// It runs the right bundle, but the configuration that it reported is another one.
    Content,
}

impl DriftKind {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoBundle => "no_bundle",
            Self::OtherBundle => "other_bundle",
            Self::UnknownBundle => "unknown_bundle",
            Self::Content => "content",
        }
    }
}

/// How much differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftSeverity {
    /// At most 5 lines.
    Low,
    /// At most 20 lines, or nobody can say how many.
    Medium,
    /// At most 50 lines.
    High,
    /// More, or no bundle at all.
    Critical,
}

impl DriftSeverity {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Lines between the expected and the actual configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffStats {
    /// Lines that only the actual one has.
    pub additions: u64,
    /// Lines that only the expected one has.
    pub deletions: u64,
    /// Lines that both have.
    pub unchanged: u64,
}

/// How a drift ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftResolution {
    /// The node came back by itself, is gone, or nothing is expected of it any more.
    AutoCorrected,
    /// An operator closed it.
    Manual,
    /// The rollout that the control plane started for it brought the node back.
    RolloutStarted,
    /// Another rollout brought the node back.
    RolloutCompleted,
}

impl DriftResolution {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AutoCorrected => "auto_corrected",
            Self::Manual => "manual",
            Self::RolloutStarted => "rollout_started",
            Self::RolloutCompleted => "rollout_completed",
        }
    }
}

/// One attempt of the control plane to bring a drifted node back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remediation {
    /// The rollout of the one node.
    pub rollout_id: RolloutId,
    /// When it was created.
    pub at: Timestamp,
}

/// A node runs something else than it should, since when, and how that ended. A node has at most one
/// open event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftEvent {
    /// Its id.
    pub id: DriftEventId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The node.
    pub node_id: NodeId,
    /// What the node was called; it may be gone by now.
    pub node_name: String,
    /// The host name that it had reported.
    pub node_hostname: Option<String>,
    /// In what way it differs.
    pub kind: DriftKind,
    /// The bundle that it should run.
    pub expected_bundle_id: BundleId,
    /// The bundle that it says it runs, if the project has it.
    pub actual_bundle_id: Option<BundleId>,
    /// How much differs.
    pub severity: DriftSeverity,
    /// The lines that differ, where both configurations are known.
    pub diff_stats: Option<DiffStats>,
    /// When it was found.
    pub detected_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// How it ended.
    pub resolution: Option<DriftResolution>,
    /// Who closed it by hand.
    pub resolved_by: Option<Actor>,
    /// What was tried to bring the node back, oldest first.
    pub remediations: Vec<Remediation>,
    /// Why it is not being brought back, where that is wanted and refused.
    pub remediation_error: Option<String>,
    /// What stores filter by: `node_id`, and `resolved_on` (a day in UTC).
    pub labels: BTreeMap<String, String>,
}

/// The state by which stores find open events.
pub const DRIFT_ACTIVE: &str = "active";
/// The state by which stores find ended events.
pub const DRIFT_RESOLVED: &str = "resolved";

impl DriftEvent {
    /// A new open event.
    #[must_use]
    pub fn open(node: &Node, expected: BundleId, kind: DriftKind, now: Timestamp) -> Self {
        Self {
            id: DriftEventId::random(),
            organisation_id: node.organisation_id,
            project_id: node.project_id,
            node_id: node.id,
            node_name: node.name.clone(),
            node_hostname: None,
            kind,
            expected_bundle_id: expected,
            actual_bundle_id: None,
            severity: DriftSeverity::Medium,
            diff_stats: None,
            detected_at: now,
            updated_at: now,
            resolved_at: None,
            resolution: None,
            resolved_by: None,
            remediations: Vec::new(),
            remediation_error: None,
            labels: BTreeMap::from([("node_id".to_owned(), node.id.to_string())]),
        }
    }

    /// Ends it.
    pub fn resolve(&mut self, resolution: DriftResolution, by: Option<Actor>, now: Timestamp) {
        self.resolved_at = Some(now);
        self.resolution = Some(resolution);
        self.resolved_by = by;
        self.updated_at = now;
        self.labels.insert("resolved_on".to_owned(), now.format("%Y-%m-%d").to_string());
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.resolved_at.is_none()
    }

    /// How long it lasted, in seconds.
    #[must_use]
    pub fn duration_seconds(&self) -> Option<i64> {
        self.resolved_at.map(|end| (end - self.detected_at).num_seconds())
    }

    /// The scope that shows this event's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for DriftEvent {
    const KIND: RecordKind = RecordKind::DriftEvent;
    type Id = DriftEventId;
    fn id(&self) -> DriftEventId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.detected_at
    }
    fn keys(&self) -> Keys {
        let open = self.is_open();
        Keys {
            // While it is open no other may be.
            natural_key: open.then(|| self.node_id.to_string()),
            state: Some(if open { DRIFT_ACTIVE } else { DRIFT_RESOLVED }.to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// Whether a project's share of drifted nodes has been complained about. Shares the project's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftAlert {
    /// The project.
    pub project_id: ProjectId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// When the outside was last told that there are too many; none while there are not.
    pub told_at: Option<Timestamp>,
    /// When the project first had too many.
    pub created_at: Timestamp,
}

impl Record for DriftAlert {
    const KIND: RecordKind = RecordKind::DriftAlert;
    type Id = ProjectId;
    fn id(&self) -> ProjectId {
        self.project_id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys::in_project(self.organisation_id, self.project_id)
    }
}
