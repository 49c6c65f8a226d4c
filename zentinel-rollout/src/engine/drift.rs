//! Looking for drift: what the nodes of a project run against what they should, set by set.
//!
//! A whole look begins with the fleet in memory ([`DriftWatch`]); the store is asked only about nodes that seem
//! to differ, that have an open event, or that reported another configuration. A look at single nodes follows
//! upon what they report ([`drift_job`]).

mod alert;
mod facts;
mod remedy;
mod resolve;
mod watch;

pub use watch::DriftWatch;

use super::Engine;
use crate::drift::{Verdict, severity};
use facts::Known;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{
    DRIFT_ACTIVE, DriftEvent, DriftKind, DriftResolution, Event, Node, NodeConfig, Project,
};
use zentinel_core::id::{NodeId, ProjectId};
use zentinel_core::port::{NewJob, Query, Queue, StoreExt as _};
use zentinel_core::{Changes, Error, Kind, RecordKind, Result, Scope, Stored, Timestamp};

/// Kind of the periodic job that looks at every node; every 10 s, of which each project takes part in those
/// that its `drift_check_interval` asks for.
pub const DRIFT: &str = "drift.check";
/// Kind of the job that looks at nodes which reported something else than before.
pub const DRIFT_NODES: &str = "drift.nodes";

/// The job that looks at these nodes.
#[must_use]
pub fn drift_job(nodes: &[NodeId], at: Timestamp) -> NewJob {
    NewJob::new(Queue::Maintenance, DRIFT_NODES, json!({"node_ids": nodes}), at)
}

/// Up to so many nodes, their open events are looked up one by one.
const SINGLE: usize = 16;
/// Most events in one commit.
const CHUNK: usize = 1_000;

/// What a look at one project's nodes begins with.
#[derive(Debug, Default)]
struct Look {
    ids: BTreeSet<NodeId>,
    open: BTreeMap<NodeId, Stored<DriftEvent>>,
    /// The reported configurations that differ.
    configs: BTreeMap<NodeId, NodeConfig>,
}

/// What happened to one event.
enum Step {
    Opened(DriftEvent),
    Changed(Stored<DriftEvent>, DriftEvent),
    Resolved(Stored<DriftEvent>, DriftEvent),
}

impl Engine {
    /// Looks at these nodes for drift now. Safe to call at any time by any number of engines.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn check_drift_of(&self, ids: &BTreeSet<NodeId>) -> Result<()> {
        let nodes = self.nodes(&Scope::Instance, ids).await?;
        let mut projects: BTreeMap<ProjectId, (Scope, BTreeSet<NodeId>)> = BTreeMap::new();
        for node in nodes.values() {
            let place = projects.entry(node.project_id);
            place.or_insert_with(|| (node.scope(), BTreeSet::new())).1.insert(node.id);
        }
        for (id, (scope, ids)) in projects {
            let project = self.store.fetch::<Project>(&scope, id).await?;
            let mut retry = self.retry();
            loop {
                let outcome = self.look_at_some(&project, &ids).await;
                if let Some(outcome) = retry.judge(outcome).await {
                    outcome?;
                    break;
                }
            }
        }
        Ok(())
    }

    async fn look_at_some(&self, project: &Project, ids: &BTreeSet<NodeId>) -> Result<()> {
        let scope = project.scope();
        let mut look = Look { ids: ids.clone(), ..Look::default() };
        let mut open = Vec::new();
        if ids.len() <= SINGLE {
            for id in ids {
                let query = Query::all(RecordKind::DriftEvent).owned_by(project.id).named(id.to_string());
                open.extend(self.store.list_all::<DriftEvent>(&scope, query).await?);
            }
        } else {
            let query = Query::all(RecordKind::DriftEvent).in_states(&[DRIFT_ACTIVE]);
            open = self.store.list_all::<DriftEvent>(&scope, query).await?;
            open.retain(|event| ids.contains(&event.node_id));
        }
        look.open = open.into_iter().map(|event| (event.node_id, event)).collect();
        let configs = Query::all(RecordKind::NodeConfig).with_ids(ids.iter().copied());
        let configs =
            self.store.list_all::<NodeConfig>(&scope, configs.in_states(&[NodeConfig::DIFFERS])).await?;
        look.configs = configs.into_iter().map(|config| (config.node_id, config.value)).collect();
        let drifted = self.judge_nodes(project, look).await?;
        self.remedy_all(project, drifted).await
    }

    /// Judges the nodes of a look and writes down what changed. Returns the nodes that drifted.
    async fn judge_nodes(&self, project: &Project, look: Look) -> Result<BTreeSet<NodeId>> {
        if look.ids.is_empty() {
            return Ok(BTreeSet::new());
        }
        let known = self.known(project, &look).await?;
        let now = self.clock.now();
        let mut steps = Vec::new();
        let mut drifted = BTreeSet::new();
        for id in &look.ids {
            let open = look.open.get(id);
            let Some(node) = known.nodes.get(id) else {
                steps.extend(open.map(|open| resolved(open, DriftResolution::AutoCorrected, now)));
                continue;
            };
            match known.verdict(node, self.grace(), now) {
                Verdict::Unknown | Verdict::Settling => {}
                Verdict::Unmanaged => {
                    steps.extend(open.map(|open| resolved(open, DriftResolution::AutoCorrected, now)));
                }
                Verdict::InSync => {
                    steps.extend(open.map(|open| resolved(open, known.resolution(node, open), now)));
                }
                Verdict::Drifted(kind) => {
                    drifted.insert(*id);
                    steps.extend(found(node, kind, open, &known, now));
                }
            }
        }
        self.measure(project, &look, &known, &mut steps).await?;
        let mut steps = steps.into_iter().peekable();
        while steps.peek().is_some() {
            let changes = steps
                .by_ref()
                .take(CHUNK)
                .try_fold(Changes::new(), |changes, step| written(changes, step, now))?;
            self.commit(changes).await.map_err(as_race)?;
        }
        Ok(drifted)
    }

    /// How long a change of what is expected may take to arrive.
    fn grace(&self) -> chrono::TimeDelta {
        let interval = chrono::TimeDelta::from_std(self.options.poll_interval);
        interval.unwrap_or_else(|_| chrono::TimeDelta::seconds(30)) * 2
    }

    /// Counts the lines that differ, for what is new.
    async fn measure(&self, project: &Project, look: &Look, known: &Known, steps: &mut [Step]) -> Result<()> {
        let mut pending: Vec<&mut DriftEvent> = steps
            .iter_mut()
            .filter_map(|step| match step {
                Step::Opened(event) | Step::Changed(_, event) => Some(event),
                Step::Resolved(..) => None,
            })
            .collect();
        if pending.is_empty() {
            return Ok(());
        }
        let wanted =
            pending.iter().flat_map(|event| [Some(event.expected_bundle_id), event.actual_bundle_id]);
        let sources = self.sources(&project.scope(), wanted.flatten().collect()).await?;
        let mut counted = BTreeMap::new();
        for event in &mut pending {
            let config = look.configs.get(&event.node_id).filter(|config| known.is_current(config));
            let (expected, actual) = (event.expected_bundle_id, event.actual_bundle_id);
            let stats = match (sources.get(&expected), event.kind) {
                (None, _) | (_, DriftKind::NoBundle) => None,
                (Some(expected), DriftKind::Content | DriftKind::UnknownBundle) => match config {
                    Some(config) => Some(facts::count(expected.clone(), config.config_kdl.clone()).await?),
                    None => None,
                },
                (Some(source), DriftKind::OtherBundle) => match counted.get(&(expected, actual)) {
                    Some(stats) => *stats,
                    None => {
                        let other = actual.and_then(|actual| sources.get(&actual));
                        let stats = match other {
                            Some(other) => Some(facts::count(source.clone(), other.clone()).await?),
                            None => None,
                        };
                        counted.insert((expected, actual), stats);
                        stats
                    }
                },
            };
            event.diff_stats = stats;
            event.severity = severity(event.kind, stats);
        }
        Ok(())
    }
}

/// Another engine opened the event of a node first.
fn as_race(error: Error) -> Error {
    let taken = error.kind() == Kind::Invalid && error.fields().contains_key("id");
    if taken { Error::stale("a drift event").with_source(error) } else { error }
}

fn resolved(open: &Stored<DriftEvent>, resolution: DriftResolution, now: Timestamp) -> Step {
    let mut event = open.value.clone();
    event.resolve(resolution, None, now);
    Step::Resolved(open.clone(), event)
}

/// A node drifted: a new event, or the open one as it is now.
fn found(
    node: &Node,
    kind: DriftKind,
    open: Option<&Stored<DriftEvent>>,
    known: &Known,
    now: Timestamp,
) -> Option<Step> {
    let expected = node.expected_bundle_id?;
    let report = known.reports.get(&node.id);
    let actual = report.and_then(|report| report.active_bundle_id);
    let mut event = match open {
        Some(open) => open.value.clone(),
        None => DriftEvent::open(node, expected, kind, now),
    };
    event.kind = kind;
    event.expected_bundle_id = expected;
    event.actual_bundle_id = actual;
    match open {
        None => {
            event.node_hostname = report.and_then(|report| report.hostname.clone());
            Some(Step::Opened(event))
        }
        Some(open) if open.value == event => None,
        Some(open) => {
            event.updated_at = now;
            Some(Step::Changed(open.clone(), event))
        }
    }
}

fn written(changes: Changes, step: Step, now: Timestamp) -> Result<Changes> {
    Ok(match step {
        Step::Opened(event) => changes.insert(&event)?.event(detected(&event, now)),
        Step::Changed(open, event) => changes.update(&open, &event)?,
        Step::Resolved(open, event) => changes.update(&open, &event)?.event(drift_resolved(&event, now)),
    })
}

fn detected(event: &DriftEvent, now: Timestamp) -> Event {
    let payload = json!({
        "drift_event_id": event.id,
        "node_id": event.node_id,
        "node_name": event.node_name,
        "kind": event.kind,
        "severity": event.severity,
        "expected_bundle_id": event.expected_bundle_id,
        "actual_bundle_id": event.actual_bundle_id,
        "diff_stats": event.diff_stats,
    });
    Event::new(&event.scope(), "drift.detected", payload, now)
}

/// Says to the outside that a drift ended.
fn drift_resolved(event: &DriftEvent, now: Timestamp) -> Event {
    let payload = json!({
        "drift_event_id": event.id,
        "node_id": event.node_id,
        "node_name": event.node_name,
        "resolution": event.resolution,
        "duration_seconds": event.duration_seconds(),
    });
    Event::new(&event.scope(), "drift.resolved", payload, now)
}
