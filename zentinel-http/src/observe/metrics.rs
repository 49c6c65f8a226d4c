//! The metrics themselves.

use super::PATIENCE;
use crate::services::Api;
use http::Method;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use zentinel_core::entity::{BundleStatus, DRIFT_ACTIVE, NodeStatus};
use zentinel_core::port::Queue;
use zentinel_core::{Error, RecordKind, Result, Scope, Timestamp};

/// How long counts of the database are shown before they are taken again, in seconds.
const FRESH: i64 = 15;

/// Counted apart; anybody can invent others.
const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Upper bounds of the buckets of request durations, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: String,
    path: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Jobs {
    queue: &'static str,
    state: &'static str,
}

/// What is counted in one router, and what is read when it is scraped.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    durations: Family<Route, Histogram>,
    /// What was counted before, found without making the labels' texts again.
    known: RwLock<HashMap<&'static str, HashMap<String, Counted>>>,
    refused: Counter,
    queue_delay: Gauge<f64, AtomicU64>,
    nodes: Family<Status, Gauge>,
    rollouts_active: Gauge,
    drift_active: Gauge,
    drift_nodes: Gauge,
    bundles: Family<Status, Gauge>,
    jobs: Family<Jobs, Gauge>,
    database_up: Gauge,
    counted_at: Mutex<Option<Timestamp>>,
}

/// The counters of one route.
#[derive(Debug)]
struct Counted {
    durations: Histogram,
    requests: Vec<(u16, Counter)>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<Answer, Counter>::default();
        let durations = Family::<Route, Histogram>::new_with_constructor(histogram as fn() -> Histogram);
        let (nodes, bundles) = (Family::default(), Family::default());
        let (rollouts_active, jobs, database_up) = (Gauge::default(), Family::default(), Gauge::default());
        registry.register("zentinel_cp_http_requests", "Requests served", requests.clone());
        registry.register(
            "zentinel_cp_http_request_duration_seconds",
            "Time from the request's head to the response's head",
            durations.clone(),
        );
        let (refused, queue_delay) = (Counter::default(), Gauge::<f64, AtomicU64>::default());
        let help = "Requests of nodes that were told to come back because the server was busy";
        registry.register("zentinel_cp_node_requests_refused", help, refused.clone());
        let help = "How long whatever is ready waits for the processor";
        registry.register("zentinel_cp_queue_delay_seconds", help, queue_delay.clone());
        registry.register("zentinel_cp_nodes_total", "Nodes by status", nodes.clone());
        registry.register("zentinel_cp_rollouts_active", "Running rollouts", rollouts_active.clone());
        let (drift_active, drift_nodes) = (Gauge::default(), Gauge::default());
        registry.register("zentinel_cp_drift_events_active", "Open drift events", drift_active.clone());
        registry.register("zentinel_cp_drift_nodes_drifted", "Drifted nodes", drift_nodes.clone());
        registry.register("zentinel_cp_bundles_total", "Bundles by status", bundles.clone());
        registry.register("zentinel_cp_jobs", "Background jobs by queue and state", jobs.clone());
        let help = "Whether the database answered when it was last asked; if not, its counts are old";
        registry.register("zentinel_cp_database_up", help, database_up.clone());
        Self {
            registry,
            requests,
            durations,
            known: RwLock::default(),
            refused,
            queue_delay,
            nodes,
            rollouts_active,
            drift_active,
            drift_nodes,
            bundles,
            jobs,
            database_up,
            counted_at: Mutex::new(None),
        }
    }

    /// Counts a request by its route, never by its path: ids would make a series each.
    pub(crate) fn request(&self, method: &Method, route: &str, status: u16, took: Duration) {
        let method = METHODS.iter().find(|known| **known == method.as_str()).unwrap_or(&"OTHER");
        if !self.count_known(method, route, status, took) {
            self.meet(method, route, status);
            self.count_known(method, route, status, took);
        }
    }

    /// False for what was never counted before.
    fn count_known(&self, method: &str, route: &str, status: u16, took: Duration) -> bool {
        let known = self.known.read();
        let Some(counted) = known.get(method).and_then(|routes| routes.get(route)) else { return false };
        let Some((_, requests)) = counted.requests.iter().find(|(of, _)| *of == status) else {
            return false;
        };
        requests.inc();
        counted.durations.observe(took.as_secs_f64());
        true
    }

    fn meet(&self, method: &'static str, route: &str, status: u16) {
        let (name, path) = (method.to_owned(), route.to_owned());
        let answer = Answer { method: name.clone(), path: path.clone(), status };
        let requests = self.requests.get_or_create_owned(&answer);
        let durations = self.durations.get_or_create_owned(&Route { method: name, path: path.clone() });
        let mut known = self.known.write();
        let of_route = known.entry(method).or_default().entry(path);
        let counted = of_route.or_insert_with(|| Counted { durations, requests: Vec::new() });
        if counted.requests.iter().all(|(of, _)| *of != status) {
            counted.requests.push((status, requests));
        }
    }

    /// Counts a node that was sent away.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// Everything in the text format 0.0.4. While the database is away its counts stay what they
    /// were: what the process itself counts is wanted most just then.
    ///
    /// # Errors
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when the text can't be written.
    pub(crate) async fn render(&self, api: &Api) -> Result<String> {
        self.count_nodes(api);
        self.queue_delay.set(api.options.pressure.delay().as_secs_f64());
        let now = api.now();
        let fresh = self.counted_at.lock().is_some_and(|at| (now - at).num_seconds() < FRESH);
        if !fresh {
            let counted = tokio::time::timeout(PATIENCE, self.count_records(api)).await;
            let problem = match counted {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(Error::unavailable("the database takes too long")),
            };
            self.database_up.set(problem.is_none().into());
            if let Some(error) = problem {
                tracing::warn!(%error, "records could not be counted");
            }
            *self.counted_at.lock() = Some(now);
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry)
            .map_err(|error| Error::internal("metrics could not be written").with_source(error))?;
        Ok(classic(&text))
    }

    fn count_nodes(&self, api: &Api) {
        let counts = api.fleet.counts(None);
        for status in [NodeStatus::Unknown, NodeStatus::Online, NodeStatus::Offline] {
            let count = counts.get(&status).copied().unwrap_or(0);
            set(&self.nodes.get_or_create(&Status { status: status.as_str() }), count);
        }
    }

    async fn count_records(&self, api: &Api) -> Result<()> {
        let rollouts = api.store.count_by_state(&Scope::Instance, RecordKind::Rollout).await?;
        set(&self.rollouts_active, rollouts.get("running").copied().unwrap_or(0));
        let drift = api.store.count_by_state(&Scope::Instance, RecordKind::DriftEvent).await?;
        let open = drift.get(DRIFT_ACTIVE).copied().unwrap_or(0);
        set(&self.drift_active, open);
        // A node has at most one open event.
        set(&self.drift_nodes, open);
        let bundles = api.store.count_by_state(&Scope::Instance, RecordKind::Bundle).await?;
        for status in [
            BundleStatus::Pending,
            BundleStatus::Compiling,
            BundleStatus::Compiled,
            BundleStatus::Failed,
            BundleStatus::Revoked,
            BundleStatus::Superseded,
        ] {
            let status = status.as_str();
            let count = bundles.get(status).copied().unwrap_or(0);
            set(&self.bundles.get_or_create(&Status { status }), count);
        }
        for queue in Queue::ALL {
            let stats = api.scheduler.stats(queue, api.now()).await?;
            for (state, count) in [
                ("due", stats.due),
                ("later", stats.later),
                ("running", stats.running),
                ("failed", stats.failed),
            ] {
                let labels = Jobs { queue: queue.name(), state };
                set(&self.jobs.get_or_create(&labels), count);
            }
        }
        Ok(())
    }
}

fn set(gauge: &Gauge, count: u64) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// OpenMetrics names a counter without its `_total`; the older format wants the whole name.
fn classic(open: &str) -> String {
    let counters: Vec<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines().filter(|line| *line != "# EOF") {
        let renamed = ["# HELP ", "# TYPE "].iter().find_map(|prefix| {
            let (name, rest) = line.strip_prefix(prefix)?.split_once(' ')?;
            counters.contains(&name).then(|| format!("{prefix}{name}_total {rest}"))
        });
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{}", renamed.as_deref().unwrap_or(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_one_name_in_the_classic_format() {
        let metrics = Metrics::new();
        metrics.request(&Method::GET, "/health", 200, Duration::from_millis(3));
        metrics.request(&Method::from_bytes(b"BREW").unwrap(), "/health", 405, Duration::ZERO);
        let mut open = String::new();
        text::encode(&mut open, &metrics.registry).unwrap();
        let text = classic(&open);
        assert!(text.contains("# TYPE zentinel_cp_http_requests_total counter\n"), "{text}");
        assert!(
            text.contains(r#"zentinel_cp_http_requests_total{method="GET",path="/health",status="200"} 1"#)
        );
        assert!(text.contains(r#"method="OTHER""#) && !text.contains("BREW") && !text.contains("# EOF"));
    }
}
