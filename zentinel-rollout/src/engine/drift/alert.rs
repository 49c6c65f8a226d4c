//! Telling the outside that too many nodes drifted.

use crate::drift::is_alarming;
use crate::engine::Engine;
use chrono::TimeDelta;
use serde_json::json;
use zentinel_core::entity::{DriftAlert, Event, Project};
use zentinel_core::port::StoreExt as _;
use zentinel_core::{Changes, Result};

/// After this the outside is told again, while it lasts.
const REPEAT: TimeDelta = TimeDelta::minutes(30);

impl Engine {
    /// Says so when the share of drifted nodes passes a limit of the project, and again every half hour while
    /// it stays beyond.
    pub(super) async fn alert(&self, project: &Project, managed: u64, drifted: u64) -> Result<()> {
        let settings = &project.settings;
        let (percentage, count) = (settings.drift_alert_threshold, settings.drift_alert_node_count);
        if percentage.is_none() && count.is_none() {
            return Ok(());
        }
        let (scope, now) = (project.scope(), self.clock.now());
        let percentage = percentage.map(zentinel_core::Percent::get);
        let alarming = is_alarming(drifted, managed, percentage, count);
        let read = self.store.find::<DriftAlert>(&scope, project.id).await?;
        let told_at = read.as_ref().and_then(|read| read.told_at);
        let told_at = match (alarming, told_at) {
            (false, None) => return Ok(()),
            (false, Some(_)) => None,
            (true, Some(at)) if now < at + REPEAT => return Ok(()),
            (true, _) => Some(now),
        };
        let alert = DriftAlert {
            project_id: project.id,
            organisation_id: project.organisation_id,
            told_at,
            created_at: read.as_ref().map_or(now, |read| read.created_at),
        };
        // Naming what was read, two engines do not both tell.
        let mut changes = match &read {
            Some(read) => Changes::new().update(read, &alert)?,
            None => Changes::new().insert(&alert)?,
        };
        if told_at.is_some() {
            let share = drifted as f64 * 100.0 / managed.max(1) as f64;
            let payload = json!({
                "project": {"id": project.id, "name": project.name, "slug": project.slug},
                "total_managed": managed,
                "drifted": drifted,
                "in_sync": managed.saturating_sub(drifted),
                "percentage": (share * 10.0).round() / 10.0,
                "threshold": {"percentage": percentage, "node_count": count},
            });
            changes = changes.event(Event::new(&scope, "drift.threshold_exceeded", payload, now));
        }
        self.commit(changes).await.map_err(super::as_race)
    }
}
