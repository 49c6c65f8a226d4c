//! Drift: what a node should run against what it says it runs. Pure.
//!
//! Nothing is drift while the node is silent, while a rollout has to do with it, or shortly after something
//! else began to be expected of it.

use chrono::TimeDelta;
use similar::{ChangeTag, TextDiff};
use std::time::Duration;
use zentinel_core::entity::{DiffStats, DriftKind, DriftSeverity, Node, NodeReport, NodeStatus};
use zentinel_core::{Sha256Digest, Timestamp};

/// What is known of one node.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What is wanted of it.
    pub node: &'a Node,
    /// What it last said, if anything.
    pub report: Option<&'a NodeReport>,
    /// The digest of the configuration that it last reported, and when that was.
    pub config: Option<(Sha256Digest, Timestamp)>,
    /// The digest of the expected bundle's configuration.
    pub expected_config: Option<Sha256Digest>,
    /// When something else was last expected of it, or a rollout last let go of it.
    pub changed_at: Option<Timestamp>,
}

/// What is found of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is expected of it.
    Unmanaged,
    /// It is silent: what it runs is not known.
    Unknown,
    /// A rollout has to do with it, or the last change is too young.
    Settling,
    /// It runs what it should.
    InSync,
    /// It runs something else.
    Drifted(DriftKind),
}

/// Judges one node. `grace` is how long a change of what is expected may take to arrive.
#[must_use]
pub fn judge(facts: &Facts<'_>, grace: TimeDelta, now: Timestamp) -> Verdict {
    let node = facts.node;
    let (true, Some(expected)) = (node.approved, node.expected_bundle_id) else {
        return Verdict::Unmanaged;
    };
    let Some(report) = facts.report.filter(|report| report.status == NodeStatus::Online) else {
        return Verdict::Unknown;
    };
    let differs = match report.active_bundle_id {
        None if report.reported_unknown_bundle.is_some() => Some(DriftKind::UnknownBundle),
        None => Some(DriftKind::NoBundle),
        Some(active) if active != expected => Some(DriftKind::OtherBundle),
        Some(_) => differs_inside(facts, report).then_some(DriftKind::Content),
    };
    let Some(kind) = differs else {
        return Verdict::InSync;
    };
    // A claim says that the rollout is open; it knows better what the node should run right now.
    let young = facts.changed_at.is_some_and(|at| now < at + grace);
    if node.rollout_id.is_some() || young { Verdict::Settling } else { Verdict::Drifted(kind) }
}

/// Whether the node reported another configuration than its bundle's since it runs that bundle. What it
/// reported before is about an earlier one.
fn differs_inside(facts: &Facts<'_>, report: &NodeReport) -> bool {
    let (Some((found, at)), Some(expected)) = (facts.config, facts.expected_config) else {
        return false;
    };
    found != expected && report.active_since.is_none_or(|since| at >= since)
}

/// How bad it is: critical for a node without a bundle, otherwise by the lines that differ; medium where
/// nobody can say how many those are.
#[must_use]
pub fn severity(kind: DriftKind, stats: Option<DiffStats>) -> DriftSeverity {
    if kind == DriftKind::NoBundle {
        return DriftSeverity::Critical;
    }
    match stats.map(|stats| stats.additions + stats.deletions) {
        Some(51..) => DriftSeverity::Critical,
        Some(21..=50) => DriftSeverity::High,
        Some(6..=20) | None => DriftSeverity::Medium,
        Some(0..=5) => DriftSeverity::Low,
    }
}

/// How long the search for the shortest difference may take before a longer one is good enough.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts the lines that differ.
#[must_use]
pub fn diff_stats(expected: &str, actual: &str) -> DiffStats {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(expected, actual);
    let mut stats = DiffStats::default();
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => stats.additions += 1,
            ChangeTag::Delete => stats.deletions += 1,
            ChangeTag::Equal => stats.unchanged += 1,
        }
    }
    stats
}

/// Whether so many drifted nodes are too many; each limit counts by itself.
#[must_use]
pub fn is_alarming(drifted: u64, managed: u64, percentage: Option<u8>, count: Option<u32>) -> bool {
    let by_share = percentage.is_some_and(|limit| managed > 0 && drifted * 100 >= managed * u64::from(limit));
    let by_count = count.is_some_and(|limit| drifted >= u64::from(limit));
    drifted > 0 && (by_share || by_count)
}

#[cfg(test)]
mod tests;
