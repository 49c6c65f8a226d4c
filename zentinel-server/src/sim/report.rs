//! What is shown while nodes run, and in the end.

mod table;

use super::cli::Options;
use super::engine::Engine;
use super::process::Usage;
use super::register::Enrolled;
use super::stats::{Class, Latencies, Stats};
use crate::cli::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A line that is redrawn on a terminal.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(hidden: bool) -> Self {
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn registered(&self, done: usize, of: usize) {
        if done.is_multiple_of(100) || done == of {
            self.0.set_message(format!("registered {done} of {of}"));
            self.0.tick();
        }
    }

    /// Shows the last stretch of time.
    pub(super) fn show(&self, engine: &mut Engine, over: Duration, patient: bool) {
        let stats = &mut engine.stats;
        let rate = stats.recent.count() as f64 / over.as_secs_f64().max(1e-9);
        let (middle, high) = (stats.recent.quantile(0.5), stats.recent.quantile(0.99));
        let errors = stats.errors(patient);
        stats.recent.clear();
        let total = engine.nodes.len();
        let running: Vec<_> = engine
            .running
            .values()
            .filter(|(_, count)| *count > 0)
            .map(|(version, count)| format!("{version} {count}"))
            .collect();
        let running = if running.is_empty() { "no bundle".to_owned() } else { running.join(", ") };
        self.0.set_message(format!(
            "{rate:7.0} req/s  p50 {middle:.1} ms  p99 {high:.1} ms  errors {errors}  {total} nodes: {running}"
        ));
        self.0.tick();
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// All answers, without the wait for a connection that nodes share here and would not elsewhere.
const FROM_SENDING: &str = "all, from sending";

/// Latencies of one kind of request, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl From<&Latencies> for Latency {
    fn from(from: &Latencies) -> Self {
        Self {
            count: from.count(),
            p50: from.quantile(0.5),
            p90: from.quantile(0.9),
            p99: from.quantile(0.99),
            p999: from.quantile(0.999),
            max: from.longest(),
        }
    }
}

/// What failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Errors {
    /// Of all requests, 0 to 1.
    pub(super) share: f64,
    /// By status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Refusals that said when to come back.
    pub(super) told_to_wait: u64,
    /// Shortest and longest such time in seconds.
    pub(super) wait_seconds: Option<(u32, u32)>,
    /// By reason.
    pub(super) lost: BTreeMap<&'static str, u64>,
    pub(super) connections_refused: u64,
    /// Offers and archives that were not what a node may trust.
    pub(super) untrusted: u64,
    pub(super) downloads_failed: u64,
}

/// How registering went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Registration {
    pub(super) nodes: usize,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
}

impl From<Enrolled> for Registration {
    fn from(from: Enrolled) -> Self {
        let seconds = from.took.as_secs_f64();
        Self { nodes: from.nodes, seconds, per_second: from.nodes as f64 / seconds.max(1e-9) }
    }
}

/// What a process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Used {
    pub(super) cpu_us_per_request: f64,
    pub(super) user_us_per_request: f64,
    pub(super) system_us_per_request: f64,
    /// Of one processor, in percent.
    pub(super) cpu_percent: f64,
    pub(super) rss_mib_before: f64,
    pub(super) rss_mib: f64,
    pub(super) rss_mib_peak: f64,
}

impl Used {
    fn between(before: Usage, after: Usage, requests: u64, over: Duration) -> Self {
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / requests.max(1) as f64;
        let cpu = after.cpu().saturating_sub(before.cpu());
        let mib = |kib: u64| kib as f64 / 1_024.0;
        Self {
            cpu_us_per_request: per_request(cpu),
            user_us_per_request: per_request(after.user.saturating_sub(before.user)),
            system_us_per_request: per_request(after.system.saturating_sub(before.system)),
            cpu_percent: cpu.as_secs_f64() / over.as_secs_f64().max(1e-9) * 100.0,
            rss_mib_before: mib(before.rss_kib),
            rss_mib: mib(after.rss_kib),
            rss_mib_peak: mib(after.peak_kib),
        }
    }
}

/// How all nodes returned at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Storm {
    pub(super) within_seconds: f64,
    /// Nodes whose heartbeat and poll were admitted.
    pub(super) returned: usize,
    pub(super) of: usize,
    /// When the last of them was.
    pub(super) last_after_seconds: f64,
}

/// What became of bundles.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Bundles {
    pub(super) activations: u64,
    pub(super) failures_reported: u64,
    /// Nodes by the version they run.
    pub(super) running: BTreeMap<String, usize>,
    pub(super) running_none: usize,
}

/// The summary of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) nodes: usize,
    pub(super) connections: u32,
    pub(super) seconds: f64,
    /// Answered requests per second.
    pub(super) per_second: f64,
    pub(super) answered: u64,
    /// From the instant each was due.
    pub(super) latency_ms: BTreeMap<&'static str, Latency>,
    pub(super) errors: Errors,
    /// Shortest and longest poll hint in seconds.
    pub(super) poll_hint_seconds: Option<(u32, u32)>,
    pub(super) behaviours: BTreeMap<&'static str, usize>,
    pub(super) bundles: Bundles,
    pub(super) registration: Option<Registration>,
    pub(super) storm: Option<Storm>,
    pub(super) server: Option<Used>,
    pub(super) simulator: Option<Used>,
}

impl Report {
    pub(super) fn of(
        engine: &Engine,
        options: &Options,
        over: Duration,
        before: (Option<Usage>, Option<Usage>),
        after: (Option<Usage>, Option<Usage>),
    ) -> Self {
        let stats = &engine.stats;
        let used = |before: Option<Usage>, after: Option<Usage>| {
            Some(Used::between(before?, after?, stats.answered(), over))
        };
        let mut behaviours = BTreeMap::new();
        for node in &engine.nodes {
            *behaviours.entry(node.behaviour.name()).or_default() += 1;
        }
        Self {
            nodes: engine.nodes.len(),
            connections: options.connections(),
            seconds: over.as_secs_f64(),
            per_second: stats.rate(over),
            answered: stats.answered(),
            latency_ms: latencies(stats),
            errors: errors(stats, options.storm.is_some()),
            poll_hint_seconds: stats.hints,
            behaviours,
            bundles: bundles(engine),
            registration: None,
            storm: options.storm.map(|storm| Storm {
                within_seconds: storm.0.as_secs_f64(),
                returned: engine.returned.0,
                of: engine.expected(),
                last_after_seconds: engine.returned.1.unwrap_or_default().as_secs_f64(),
            }),
            server: used(before.0, after.0),
            simulator: used(before.1, after.1),
        }
    }

    /// Prints it as a table or as JSON.
    pub(super) fn print(&self, output: &Output) {
        let details = serde_json::to_value(self).unwrap_or_default();
        output.event("summary", details, || table::of(self));
    }
}

fn latencies(stats: &Stats) -> BTreeMap<&'static str, Latency> {
    let classes = Class::ALL.iter().filter_map(|class| Some((class.name(), stats.class(*class)?.into())));
    classes.chain([("all", (&stats.all).into()), (FROM_SENDING, (&stats.from_sending).into())]).collect()
}

fn errors(stats: &Stats, patient: bool) -> Errors {
    Errors {
        share: stats.error_share(patient),
        refused: stats.refused.clone(),
        told_to_wait: stats.told_to_wait,
        wait_seconds: stats.waits,
        lost: stats.lost.iter().map(|(loss, count)| (loss.name(), *count)).collect(),
        connections_refused: stats.unconnected,
        untrusted: stats.untrusted,
        downloads_failed: stats.undelivered,
    }
}

fn bundles(engine: &Engine) -> Bundles {
    let mut running = BTreeMap::new();
    for (version, count) in engine.running.values().filter(|(_, count)| *count > 0) {
        *running.entry(version.clone()).or_default() += *count;
    }
    Bundles {
        activations: engine.stats.activations,
        failures_reported: engine.stats.failures,
        running,
        running_none: engine.nodes.iter().filter(|node| node.active.is_none()).count(),
    }
}
