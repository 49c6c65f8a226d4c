//! Append-only logs: audit, events, heartbeats and what nodes send.

use crate::id::{OrganisationId, ProjectId};
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Every append-only log, and the name of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogKind {
    /// Who did what; its sequence has no gaps. Written through [`Changes::audit`](crate::Changes::audit).
    Audit,
    /// The outbox; its sequence has no gaps. Written through [`Changes::event`](crate::Changes::event).
    Event,
    /// Heartbeats of nodes; bounded.
    Heartbeat,
    /// Events that nodes report; bounded.
    NodeEvent,
    /// Request metrics that nodes report.
    Metric,
    /// Single requests that nodes report.
    RequestLog,
    /// Web application firewall events that nodes report.
    WafEvent,
    /// What was found and decided in a rollout, by rollout.
    RolloutLog,
}

impl LogKind {
    /// Every log.
    pub const ALL: [Self; 8] = [
        Self::Audit,
        Self::Event,
        Self::Heartbeat,
        Self::NodeEvent,
        Self::Metric,
        Self::RequestLog,
        Self::WafEvent,
        Self::RolloutLog,
    ];

    /// The table's name in the SQL back ends.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Audit => "audit_log",
            Self::Event => "events",
            Self::Heartbeat => "heartbeats",
            Self::NodeEvent => "node_events",
            Self::Metric => "service_metrics",
            Self::RequestLog => "request_logs",
            Self::WafEvent => "waf_events",
            Self::RolloutLog => "rollout_log",
        }
    }
}

/// An entry to append.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// Which log.
    pub kind: LogKind,
    /// Unique within the log.
    pub id: Uuid,
    /// The tenant.
    pub organisation_id: Option<OrganisationId>,
    /// The project.
    pub project_id: Option<ProjectId>,
    /// What the entry is about, usually a node; nil when nothing in particular.
    pub owner: Uuid,
    /// When it happened, to microseconds.
    pub at: Timestamp,
    /// An entry with a key that `(log, owner)` already holds is silently dropped.
    pub dedup_key: Option<String>,
    /// The entry.
    pub body: Value,
}

/// An entry as read back.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Its place in the log; grows with every commit.
    pub seq: u64,
    /// The entry.
    pub row: LogRow,
}

/// What to read of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Which log.
    pub kind: LogKind,
    /// Only entries about this.
    pub owner: Option<Uuid>,
    /// Newest entries first; otherwise in the order of the log.
    pub newest_first: bool,
    /// Only entries beyond this place, in reading order (after it, or before it when newest first).
    pub beyond: Option<u64>,
    /// Most entries to return, 1 to 500.
    pub limit: u32,
}

impl LogQuery {
    /// The newest entries of a log.
    #[must_use]
    pub fn newest(kind: LogKind, limit: u32) -> Self {
        Self { kind, owner: None, newest_first: true, beyond: None, limit }
    }

    /// The entries after a place, in order.
    #[must_use]
    pub fn after(kind: LogKind, seq: u64, limit: u32) -> Self {
        Self { kind, owner: None, newest_first: false, beyond: Some(seq), limit }
    }

    /// Only entries about `owner`.
    #[must_use]
    pub fn about(mut self, owner: Uuid) -> Self {
        self.owner = Some(owner);
        self
    }
}

/// What a trim keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Keep at most this many newest entries per owner.
    pub per_owner: Option<u32>,
    /// Drop entries from before this instant.
    pub not_before: Option<Timestamp>,
}
