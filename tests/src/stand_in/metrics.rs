//! The proxy's metrics: its names, labels and rules of what counts where.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const BOUNDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(String, String, u16), u64>,
    durations: BTreeMap<(String, String), Histogram>,
    blocked: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Metrics {
    /// An answer came from an upstream.
    pub fn answered(&self, route: &str, method: &str, status: u16, took: Duration) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (route, method) = (route.to_owned(), method.to_owned());
        *counts.requests.entry((route.clone(), method.clone(), status)).or_default() += 1;
        let histogram = counts.durations.entry((route, method)).or_default();
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(took.as_secs_f64() <= bound);
        }
        histogram.count += 1;
        histogram.sum += took.as_secs_f64();
    }

    /// The proxy answered with an error of its own. The successful answers of builtin handlers count
    /// here too, as 500.
    pub fn proxy_error(&self, status: u16) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.blocked.entry(format!("proxy_error_{status}")).or_default() += 1;
    }

    /// The text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from("# TYPE zentinel_up gauge\nzentinel_up 1\n");
        text.push_str("# TYPE zentinel_build_info gauge\nzentinel_build_info{version=\"0.6.45\"} 1\n");
        write(&mut text, &counts).expect("a string takes everything");
        text
    }
}

fn write(text: &mut String, counts: &Counts) -> std::fmt::Result {
    writeln!(text, "# TYPE zentinel_requests_total counter")?;
    for ((route, method, status), count) in &counts.requests {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        writeln!(text, "zentinel_requests_total{{{labels}}} {count}")?;
    }
    writeln!(text, "# TYPE zentinel_blocked_requests_total counter")?;
    for (reason, count) in &counts.blocked {
        writeln!(text, "zentinel_blocked_requests_total{{reason=\"{reason}\"}} {count}")?;
    }
    writeln!(text, "# TYPE zentinel_request_duration_seconds histogram")?;
    let name = "zentinel_request_duration_seconds";
    for ((route, method), histogram) in &counts.durations {
        let labels = format!("method=\"{method}\",route=\"{route}\"");
        for (bound, count) in BOUNDS.iter().zip(histogram.buckets) {
            writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
        }
        writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", histogram.count)?;
        writeln!(text, "{name}_sum{{{labels}}} {}", histogram.sum)?;
        writeln!(text, "{name}_count{{{labels}}} {}", histogram.count)?;
    }
    Ok(())
}
