//! The periodic look at every node.

use super::{DRIFT, Look};
use crate::engine::Engine;
use crate::fleet::{Fleet, Survey};
use async_trait::async_trait;
use chrono::TimeDelta;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use zentinel_core::entity::{DRIFT_ACTIVE, DriftEvent, NodeConfig, Project};
use zentinel_core::id::ProjectId;
use zentinel_core::port::{ClaimedJob, JobHandler, JobOutcome, Query, StoreExt as _};
use zentinel_core::{Kind, RecordKind, Result, Scope, Stored, Timestamp};

/// Runs [`DRIFT`] jobs: looks at the fleet in memory, and asks the store about what stands out.
#[derive(Debug)]
pub struct DriftWatch {
    engine: Arc<Engine>,
    fleet: Arc<Fleet>,
    /// When this replica last looked at each project.
    looked: Mutex<HashMap<ProjectId, Timestamp>>,
}

impl DriftWatch {
    /// A watch over a fleet.
    #[must_use]
    pub fn new(engine: Arc<Engine>, fleet: Arc<Fleet>) -> Self {
        Self { engine, fleet, looked: Mutex::new(HashMap::new()) }
    }

    /// Looks at every project whose interval is over. Two queries as long as nothing stands out.
    ///
    /// # Errors
    /// Those of the store; a project that fails does not keep the others from being looked at.
    pub async fn look(&self) -> Result<()> {
        let (engine, now) = (&self.engine, self.engine.clock.now());
        let mut projects =
            engine.store.list_all::<Project>(&Scope::Instance, Query::all(RecordKind::Project)).await?;
        projects.retain(|project| self.is_due(project, now));
        if projects.is_empty() {
            return Ok(());
        }
        let mut looks = self.looks().await?;
        let mut surveys = self.fleet.survey(None);
        let mut failed = None;
        for project in projects {
            let survey = surveys.remove(&project.id).unwrap_or_default();
            let look = looks.remove(&project.id).unwrap_or_default();
            match self.look_at(&project, survey, look).await {
                Ok(()) => {}
                // Another replica looks as well; the next look sees what it found.
                Err(error) if error.kind() == Kind::Stale => {}
                Err(error) => {
                    tracing::warn!(project = %project.slug, %error, "not looked at for drift");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What stands out in the store, by project.
    async fn looks(&self) -> Result<BTreeMap<ProjectId, Look>> {
        let store = &self.engine.store;
        let mut looks: BTreeMap<ProjectId, Look> = BTreeMap::new();
        let open = Query::all(RecordKind::DriftEvent).in_states(&[DRIFT_ACTIVE]);
        for event in store.list_all::<DriftEvent>(&Scope::Instance, open).await? {
            let look = looks.entry(event.project_id).or_default();
            look.ids.insert(event.node_id);
            look.open.insert(event.node_id, event);
        }
        let configs = Query::all(RecordKind::NodeConfig).in_states(&[NodeConfig::DIFFERS]);
        for config in store.list_all::<NodeConfig>(&Scope::Instance, configs).await? {
            let look = looks.entry(config.project_id).or_default();
            look.ids.insert(config.node_id);
            look.configs.insert(config.node_id, config.value);
        }
        Ok(looks)
    }

    async fn look_at(&self, project: &Stored<Project>, survey: Survey, mut look: Look) -> Result<()> {
        look.ids.extend(&survey.suspects);
        let drifted = self.engine.judge_nodes(project, look).await?;
        self.engine.alert(project, survey.managed, drifted.len() as u64).await?;
        self.engine.remedy_all(project, drifted).await
    }

    fn is_due(&self, project: &Project, now: Timestamp) -> bool {
        let interval = TimeDelta::seconds(i64::from(project.settings.drift_check_interval));
        let mut looked = self.looked.lock();
        // The job comes every ten seconds, give or take.
        let slack = TimeDelta::seconds(2);
        let due = looked.get(&project.id).is_none_or(|at| now + slack >= *at + interval);
        if due {
            looked.insert(project.id, now);
        }
        due
    }
}

#[async_trait]
impl JobHandler for DriftWatch {
    fn kind(&self) -> &str {
        DRIFT
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        self.look().await?;
        Ok(JobOutcome::Done)
    }
}
