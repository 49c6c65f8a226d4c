//! From two scrapes to rates.

use super::scrape::{Bound, Counted, Page};
use super::traffic::Tally;
use crate::agent::proxy::ProcessId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use zentinel_core::entity::Traffic;

/// What a window must not mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The release that serves.
    pub(super) sequence: u64,
    /// The process that counts.
    pub(super) process: Option<ProcessId>,
}

/// What happened in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// Share of failed requests in percent; 0 without requests.
    pub(super) error_percent: f64,
    /// 99th percentile of the upstreams' latency in milliseconds; 0 without requests.
    pub(super) p99_ms: f64,
    /// Requests per second.
    pub(super) per_second: f64,
}

/// The scrape at which the window began, and what came out last.
#[derive(Debug)]
pub(super) struct Window {
    shortest: Duration,
    base: Option<Base>,
    last: Option<Rates>,
    tally: Tally,
}

#[derive(Debug)]
struct Base {
    key: Key,
    at: Instant,
    counters: BTreeMap<(Counted, String), f64>,
    buckets: BTreeMap<(String, Bound), f64>,
}

impl Window {
    /// Windows are at least this long; asked sooner, the last one's rates hold.
    pub(super) fn new(shortest: Duration) -> Self {
        Self { shortest, base: None, last: None, tally: Tally::new() }
    }

    /// What was served in all windows so far.
    pub(super) fn traffic(&self) -> Traffic {
        self.tally.report()
    }

    /// Takes a scrape; the rates since the one before, if there are any yet. Without a key nothing
    /// is measured.
    pub(super) fn take(&mut self, key: Option<Key>, page: &Page, now: Instant) -> Option<Rates> {
        let Some(key) = key else {
            (self.base, self.last) = (None, None);
            return None;
        };
        match &mut self.base {
            Some(base) if base.key.sequence == key.sequence => {
                if base.key.process != key.process {
                    // A new process counts from nothing.
                    base.counters.clear();
                    base.buckets.clear();
                    base.key = key;
                }
                let length = now.duration_since(base.at);
                if length < self.shortest {
                    return self.last;
                }
                self.last = Some(base.rates(page, length, &mut self.tally, now));
            }
            _ => self.last = None,
        }
        let (counters, buckets) = (page.counters.clone(), page.buckets.clone());
        self.base = Some(Base { key, at: now, counters, buckets });
        self.last
    }
}

impl Base {
    fn rates(&self, page: &Page, length: Duration, tally: &mut Tally, now: Instant) -> Rates {
        let (mut errors, mut total) = (0.0, 0.0);
        for (series, now) in &page.counters {
            let grown = grown(self.counters.get(series), *now);
            total += grown;
            if matches!(series.0, Counted::Failed | Counted::Broken) {
                errors += grown;
            }
        }
        let mut buckets: BTreeMap<Bound, f64> = BTreeMap::new();
        for (series, now) in &page.buckets {
            *buckets.entry(series.1).or_default() += grown(self.buckets.get(series), *now);
        }
        tally.add(total, errors, &buckets, now);
        Rates {
            error_percent: if total > 0.0 { 100.0 * errors / total } else { 0.0 },
            p99_ms: 1_000.0 * quantile(0.99, &buckets),
            per_second: total / length.as_secs_f64().max(f64::EPSILON),
        }
    }
}

/// How much a counter grew. One that is smaller than before began anew.
fn grown(before: Option<&f64>, now: f64) -> f64 {
    before.map_or(now, |before| if now >= *before { now - before } else { now })
}

/// A quantile of a histogram of cumulative counts, as Prometheus interpolates it: linear within a bucket;
/// beyond the last finite bound, that bound.
fn quantile(share: f64, buckets: &BTreeMap<Bound, f64>) -> f64 {
    let Some(total) = buckets.last_key_value().map(|(_, count)| *count).filter(|total| *total > 0.0) else {
        return 0.0;
    };
    let wanted = share * total;
    let (mut below, mut lower) = (0.0, 0.0);
    for (Bound(upper), count) in buckets {
        if *count >= wanted {
            if !upper.is_finite() || *count <= below {
                return lower;
            }
            return lower + (upper - lower) * (wanted - below) / (count - below);
        }
        (below, lower) = (*count, if upper.is_finite() { *upper } else { lower });
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page as the proxy writes it.
    fn page(ok: u32, failed: u32, blocked: &[(&str, u32)], slow: u32) -> Page {
        let mut text = format!(
            "# TYPE zentinel_requests_total counter\n\
             zentinel_requests_total{{method=\"GET\",route=\"all\",status=\"200\"}} {ok}\n\
             zentinel_requests_total{{method=\"GET\",route=\"all\",status=\"500\"}} {failed}\n\
             # TYPE zentinel_blocked_requests_total counter\n\
             # TYPE zentinel_request_duration_seconds histogram\n"
        );
        for (reason, count) in blocked {
            text.push_str(&format!("zentinel_blocked_requests_total{{reason=\"{reason}\"}} {count}\n"));
        }
        let all = ok + failed;
        for (bound, count) in
            [("0.005", all - slow), ("0.01", all - slow), ("0.25", all), ("0.5", all), ("+Inf", all)]
        {
            let series = "zentinel_request_duration_seconds_bucket{method=\"GET\",route=\"all\",le=";
            text.push_str(&format!("{series}\"{bound}\"}} {count}\n"));
        }
        text.push_str(&format!(
            "zentinel_request_duration_seconds_count{{method=\"GET\",route=\"all\"}} {all}\n"
        ));
        text.push_str("zentinel_build_info{version=\"0.6.45\"} 1\nzentinel_open_connections 7\n");
        Page::parse(&text, false).unwrap()
    }

    fn key(sequence: u64, pid: i32) -> Option<Key> {
        Some(Key { sequence, process: Some(ProcessId { pid, started: 1 }) })
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.001, "{found} is not {expected}");
    }

    #[test]
    fn rates_follow_the_formulas() {
        let mut now = Instant::now();
        let mut window = Window::new(Duration::from_secs(1));
        let first = page(100, 5, &[("proxy_error_503", 1), ("proxy_error_500", 50)], 2);
        assert_eq!(
            (first.version().as_deref(), first.gauge("zentinel_open_connections")),
            (Some("0.6.45"), Some(7.0))
        );
        assert_eq!(window.take(key(1, 10), &first, now), None, "one scrape is no window");
        now += Duration::from_secs(10);
        let blocked =
            [("proxy_error_503", 3), ("proxy_error_500", 900), ("rate_limited", 8), ("geo_blocked", 9)];
        let rates = window.take(key(1, 10), &page(180, 15, &blocked, 4), now).unwrap();
        // 80 answered, 10 failed, 2 broken and 8 limited.
        close(rates.error_percent, 12.0);
        close(rates.per_second, 10.0);
        // 88 of 90 up to 5 ms, the others between 10 and 250 ms: the 89.1st.
        close(rates.p99_ms, 10.0 + 240.0 * (89.1 - 88.0) / 2.0);
    }

    #[test]
    fn counters_that_begin_anew_do_not_disturb() {
        let mut now = Instant::now();
        let mut window = Window::new(Duration::from_secs(1));
        window.take(key(1, 10), &page(1_000, 900, &[], 0), now);
        now += Duration::from_secs(10);
        // The same process says less than before.
        let rates = window.take(key(1, 10), &page(40, 10, &[], 0), now).unwrap();
        close(rates.error_percent, 20.0);
        now += Duration::from_secs(10);
        // A new process has already more than the old one had.
        let rates = window.take(key(1, 11), &page(90, 10, &[], 0), now).unwrap();
        close(rates.error_percent, 10.0);
        close(rates.per_second, 10.0);
    }

    #[test]
    fn windows_end_where_another_release_begins() {
        let mut now = Instant::now();
        let mut window = Window::new(Duration::from_secs(5));
        window.take(key(1, 10), &page(0, 0, &[], 0), now);
        now += Duration::from_secs(10);
        close(window.take(key(1, 10), &page(10, 10, &[], 0), now).unwrap().error_percent, 50.0);
        now += Duration::from_secs(10);
        assert_eq!(window.take(key(2, 10), &page(20, 20, &[], 0), now), None, "nothing from before");
        now += Duration::from_secs(1);
        assert_eq!(window.take(key(2, 10), &page(20, 20, &[], 0), now), None, "too short to say anything");
        now += Duration::from_secs(4);
        let idle = window.take(key(2, 10), &page(20, 20, &[], 0), now).unwrap();
        assert_eq!(idle, Rates { error_percent: 0.0, p99_ms: 0.0, per_second: 0.0 });
        now += Duration::from_secs(1);
        assert_eq!(window.take(key(2, 10), &page(99, 99, &[], 0), now), Some(idle), "asked too soon");
        assert_eq!(window.take(None, &page(99, 99, &[], 0), now), None);
    }

    #[test]
    fn quantiles_stay_within_the_histogram() {
        let histogram = |counts: &[(f64, f64)]| counts.iter().map(|(b, c)| (Bound(*b), *c)).collect();
        close(quantile(0.99, &histogram(&[])), 0.0);
        close(quantile(0.99, &histogram(&[(0.1, 0.0), (f64::INFINITY, 0.0)])), 0.0);
        close(quantile(0.99, &histogram(&[(0.1, 100.0), (f64::INFINITY, 100.0)])), 0.099);
        close(quantile(0.99, &histogram(&[(0.1, 1.0), (10.0, 1.0), (f64::INFINITY, 100.0)])), 10.0);
    }

    #[test]
    fn a_page_of_something_else_is_no_page() {
        assert!(Page::parse("<html>hello</html>", false).is_err());
        assert!(Page::parse("", false).is_err());
        assert!(Page::parse("zentinel_up 1\nnonsense{\n", false).is_ok());
    }

    #[test]
    fn an_upstream_that_the_proxy_gave_up_counts_where_nothing_else_is_counted_as_500() {
        let text = "# TYPE zentinel_blocked_requests_total counter\n\
                    zentinel_blocked_requests_total{reason=\"proxy_error_500\"} 35\n\
                    zentinel_up 1\n";
        let counted = |counts_500| Page::parse(text, counts_500).unwrap().counters.into_values().sum::<f64>();
        assert_eq!((counted(false), counted(true)), (0.0, 35.0));
    }
}
