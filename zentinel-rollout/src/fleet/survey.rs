//! What the whole fleet looks like to those who look for drift.

use super::Fleet;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::NodeStatus;
use zentinel_core::id::{NodeId, ProjectId};

/// The nodes of one project of which something is expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// How many there are.
    pub managed: u64,
    /// How many of them are not online: what they run is not known.
    pub unknown: u64,
    /// Those that seem to run something else than they should.
    pub suspects: BTreeSet<NodeId>,
}

impl Fleet {
    /// Looks at every node in memory: of all projects, or of one. Costs no query.
    #[must_use]
    pub fn survey(&self, project: Option<ProjectId>) -> BTreeMap<ProjectId, Survey> {
        let mut surveys: BTreeMap<ProjectId, Survey> = BTreeMap::new();
        for entry in &self.nodes {
            let (node, said) = (&entry.node, &entry.said);
            if project.is_some_and(|project| project != node.project_id) || !node.is_managed() {
                continue;
            }
            let survey = surveys.entry(node.project_id).or_default();
            survey.managed += 1;
            if said.status != NodeStatus::Online {
                survey.unknown += 1;
            } else if node.is_suspect(said.active_bundle_id) {
                survey.suspects.insert(node.id);
            }
        }
        surveys
    }
}
