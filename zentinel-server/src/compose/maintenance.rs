//! Periodic work that belongs to no other crate: staleness, retention, pruning.

use async_trait::async_trait;
use chrono::TimeDelta;
use std::sync::Arc;
use zentinel_core::Result;
use zentinel_core::log::{LogKind, Retention};
use zentinel_core::port::{ClaimedJob, Clock, JobHandler, JobOutcome, Queue, Schedule, Scheduler, Store};
use zentinel_rollout::fleet::Fleet;

/// Marks silent nodes as offline.
#[derive(Debug)]
pub(super) struct StalenessHandler {
    pub(super) fleet: Arc<Fleet>,
}

#[async_trait]
impl JobHandler for StalenessHandler {
    fn kind(&self) -> &str {
        "node.staleness"
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        let gone = self.fleet.sweep().await?;
        if gone > 0 {
            tracing::info!(gone, "nodes went offline");
        }
        Ok(JobOutcome::Done)
    }
}

/// Keeps logs and finished jobs bounded.
#[derive(Debug)]
pub(super) struct RetentionHandler {
    pub(super) store: Arc<dyn Store>,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) heartbeats_kept: u32,
    pub(super) events_kept: u32,
    pub(super) jobs_kept_days: u32,
}

/// Raw service metrics are kept this many days.
const METRIC_DAYS: i64 = 7;
/// Single requests are kept this many days.
const REQUEST_LOG_DAYS: i64 = 1;
/// What was found and decided in rollouts is kept this many days.
const ROLLOUT_LOG_DAYS: i64 = 400;
/// Firewall events are kept this many days.
const WAF_EVENT_DAYS: i64 = 30;
/// The outbox keeps events this many days; whoever reads it later has missed something.
const EVENT_DAYS: i64 = 30;

#[async_trait]
impl JobHandler for RetentionHandler {
    fn kind(&self) -> &str {
        "log.retention"
    }

    async fn run(&self, _job: &ClaimedJob) -> Result<JobOutcome> {
        let now = self.clock.now();
        let newest = |kept| Retention { per_owner: Some(kept), not_before: None };
        let days = |days| Retention { per_owner: None, not_before: Some(now - TimeDelta::days(days)) };
        for (log, retention) in [
            (LogKind::Heartbeat, newest(self.heartbeats_kept)),
            (LogKind::NodeEvent, newest(self.events_kept)),
            (LogKind::Metric, days(METRIC_DAYS)),
            (LogKind::RequestLog, days(REQUEST_LOG_DAYS)),
            (LogKind::WafEvent, days(WAF_EVENT_DAYS)),
            (LogKind::RolloutLog, days(ROLLOUT_LOG_DAYS)),
            (LogKind::Event, days(EVENT_DAYS)),
        ] {
            // One log that can't be trimmed now must not keep the others from being.
            match self.store.trim_log(log, retention).await {
                Ok(dropped) => tracing::debug!(?log, dropped, "log trimmed"),
                Err(error) => tracing::warn!(?log, %error, "log not trimmed"),
            }
        }
        self.scheduler.prune(now - TimeDelta::days(self.jobs_kept_days.into())).await?;
        Ok(JobOutcome::Done)
    }
}

/// When the periodic work runs. Trimming may take minutes: it is kept out of the maintenance queue,
/// where renewing statements, the other long job, always leaves a worker for the short ones.
pub(super) fn schedules() -> Vec<Schedule> {
    let schedule =
        |name: &str, queue, cron: &str| Schedule { name: name.to_owned(), queue, cron: cron.to_owned() };
    vec![
        schedule("node.staleness", Queue::Maintenance, "*/15 * * * * *"),
        schedule("rollout.rescue", Queue::Maintenance, "*/30 * * * * *"),
        schedule("rollout.schedule", Queue::Maintenance, "*/30 * * * * *"),
        schedule("bundle.promote", Queue::Maintenance, "0 * * * * *"),
        // Each project says how often it wants to be looked at.
        schedule("drift.check", Queue::Maintenance, "*/10 * * * * *"),
        schedule("statement.renew", Queue::Maintenance, "0 7 * * * *"),
        schedule("log.retention", Queue::Default, "0 17 * * * *"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;
    use zentinel_core::entity::Event;
    use zentinel_core::id::{OrganisationId, ProjectId};
    use zentinel_core::log::LogQuery;
    use zentinel_core::port::{ManualClock, NewJob};
    use zentinel_core::{Changes, Scope, Timestamp};
    use zentinel_store::MemoryStore;

    #[tokio::test]
    async fn events_are_kept_for_thirty_days() {
        let store = Arc::new(MemoryStore::new());
        let scope = Scope::Project(OrganisationId::random(), ProjectId::random());
        let now = Timestamp::UNIX_EPOCH + TimeDelta::days(100);
        for age in [31, 29, 0] {
            let event =
                Event::new(&scope, "node.registered", json!({"age": age}), now - TimeDelta::days(age));
            store.commit(Changes::new().event(event)).await.unwrap();
        }
        let retention = RetentionHandler {
            store: store.clone(),
            scheduler: store.clone(),
            clock: Arc::new(ManualClock::new(now)),
            heartbeats_kept: 10,
            events_kept: 10,
            jobs_kept_days: 7,
        };
        let job = NewJob::new(Queue::Default, retention.kind(), json!(null), now);
        store.commit(Changes::new().job(job)).await.unwrap();
        let claimed = store.claim(Queue::Default, "test", 1, Duration::from_secs(60), now).await.unwrap();
        retention.run(&claimed[0]).await.unwrap();
        let left = store.read_log(&scope, &LogQuery::after(LogKind::Event, 0, 10)).await.unwrap();
        let ages: Vec<_> = left.iter().map(|entry| entry.row.body["payload"]["age"].as_i64()).collect();
        assert_eq!(ages, [Some(29), Some(0)]);
    }

    #[test]
    fn trimming_does_not_hold_up_staleness() {
        let queue = |name: &str| schedules().into_iter().find(|one| one.name == name).unwrap().queue;
        assert_eq!(queue("node.staleness"), Queue::Maintenance);
        assert_ne!(queue("log.retention"), queue("node.staleness"));
    }
}
