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
/// Firewall events are kept this many days.
const WAF_EVENT_DAYS: i64 = 30;

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

/// When the periodic work runs.
pub(super) fn schedules() -> Vec<Schedule> {
    let schedule = |name: &str, cron: &str| Schedule {
        name: name.to_owned(),
        queue: Queue::Maintenance,
        cron: cron.to_owned(),
    };
    vec![
        schedule("node.staleness", "*/15 * * * * *"),
        schedule("rollout.rescue", "*/30 * * * * *"),
        schedule("statement.renew", "0 7 * * * *"),
        schedule("log.retention", "0 17 * * * *"),
    ]
}
