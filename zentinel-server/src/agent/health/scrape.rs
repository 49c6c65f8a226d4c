//! The proxy's Prometheus page: the counters that the formulas need, by series.

use prometheus_parse::{Labels, Scrape, Value};
use std::collections::BTreeMap;

const REQUESTS: &str = "zentinel_requests_total";
const BLOCKED: &str = "zentinel_blocked_requests_total";
const DURATION: &str = "zentinel_request_duration_seconds";
const BUILD: &str = "zentinel_build_info";

/// What a series counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counted {
    /// Answers of upstreams that are no errors.
    Answered,
    /// Answers of upstreams with a status of 500 or more.
    Failed,
    /// Errors that the proxy made itself because an upstream was away or late.
    Broken,
    /// Requests over a limit.
    Limited,
}

/// One page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Counters by series.
    pub(super) counters: BTreeMap<(Counted, String), f64>,
    /// Cumulative counts of the duration by series and upper bound in seconds.
    pub(super) buckets: BTreeMap<(String, Bound), f64>,
    gauges: BTreeMap<String, f64>,
    version: Option<String>,
}

/// An upper bound that is not NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bound(pub(super) f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Page {
    /// Reads a page. What is not of the proxy's own counters is left out. `counts_500` says whether
    /// `proxy_error_500` counts nothing but errors, among them every request to an upstream that
    /// the proxy has given up for the time being.
    pub(super) fn parse(text: &str, counts_500: bool) -> Result<Self, String> {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).map_err(|error| error.to_string())?;
        let mut page = Self::default();
        for sample in &scrape.samples {
            page.add(&sample.metric, &sample.labels, &sample.value, counts_500);
        }
        if page.counters.is_empty() && page.gauges.is_empty() && page.version.is_none() {
            return Err("the page has none of the proxy's measurements".to_owned());
        }
        Ok(page)
    }

    /// A single measurement without labels.
    pub(super) fn gauge(&self, name: &str) -> Option<f64> {
        self.gauges.get(name).copied()
    }

    /// The proxy's version.
    pub(super) fn version(&self) -> Option<String> {
        self.version.clone()
    }

    fn add(&mut self, metric: &str, labels: &Labels, value: &Value, counts_500: bool) {
        let number = match value {
            Value::Counter(number) | Value::Gauge(number) | Value::Untyped(number) => *number,
            Value::Histogram(counts) if metric == DURATION => {
                for count in counts {
                    self.bucket(labels.to_string(), count.less_than, count.count);
                }
                return;
            }
            Value::Histogram(_) | Value::Summary(_) => return,
        };
        if !number.is_finite() || number < 0.0 {
            return;
        }
        match metric {
            REQUESTS => {
                let failed = labels.get("status").is_some_and(|status| status.starts_with('5'));
                let counted = if failed { Counted::Failed } else { Counted::Answered };
                self.count(counted, labels, number);
            }
            BLOCKED => match labels.get("reason") {
                Some("proxy_error_502" | "proxy_error_503" | "proxy_error_504") => {
                    self.count(Counted::Broken, labels, number);
                }
                Some("proxy_error_500") if counts_500 => self.count(Counted::Broken, labels, number),
                Some("rate_limited") => self.count(Counted::Limited, labels, number),
                _ => {}
            },
            BUILD => self.version = labels.get("version").map(str::to_owned),
            _ if labels.is_empty() => {
                self.gauges.insert(metric.to_owned(), number);
            }
            _ => {}
        }
    }

    fn count(&mut self, counted: Counted, labels: &Labels, number: f64) {
        *self.counters.entry((counted, labels.to_string())).or_default() += number;
    }

    fn bucket(&mut self, series: String, bound: f64, count: f64) {
        if !bound.is_nan() && count.is_finite() && count >= 0.0 {
            *self.buckets.entry((series, Bound(bound))).or_default() += count;
        }
    }
}
