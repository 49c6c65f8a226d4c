//! Rate limits: fixed windows of a minute.

use crate::error::ApiError;
use crate::services::Api;
use dashmap::{DashMap, Entry};
use http::{Extensions, HeaderMap, HeaderName};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use zentinel_core::id::NodeId;
use zentinel_core::{Error, Kind, Timestamp};

/// Length of a window in seconds; windows begin at full minutes of the epoch.
const WINDOW: i64 = 60;

/// How a request stands against its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateDecision {
    /// Whether the request may go on.
    pub(crate) allowed: bool,
    /// The limit per window.
    pub(crate) limit: u32,
    /// What is left of it.
    pub(crate) remaining: u32,
    /// When the window ends, in Unix seconds.
    pub(crate) reset: i64,
    /// Seconds until then, at least 1.
    pub(crate) retry_after: i64,
}

impl RateDecision {
    /// The contract's refusal.
    pub(crate) fn refusal(&self) -> Error {
        Error::new(Kind::RateLimited, "rate_limit_exceeded").with_details(json!({
            "message": format!("Rate limit exceeded. Try again after {}.", self.reset),
            "retry_after": self.retry_after,
        }))
    }

    /// Adds the three headers.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut put = |name: &'static str, value: i64| {
            headers.insert(HeaderName::from_static(name), value.into());
        };
        put("x-ratelimit-limit", self.limit.into());
        put("x-ratelimit-remaining", self.remaining.into());
        put("x-ratelimit-reset", self.reset);
    }
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bucket {
    /// The requests of one node: by far the most, hence without a text of its own.
    Node(NodeId),
    /// Anything else.
    Named(String),
}

impl From<String> for Bucket {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

/// Most buckets of one window.
const CAPACITY: usize = 250_000;

/// Counts what callers use.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// To (window, used).
    used: DashMap<Bucket, (i64, u32)>,
    swept: AtomicI64,
    /// Buckets that there may be before something is dropped.
    capacity: usize,
    /// About how many there are: asking the map costs a lock per shard.
    buckets: AtomicUsize,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::holding(CAPACITY)
    }
}

impl Limiter {
    fn holding(capacity: usize) -> Self {
        Self { used: DashMap::new(), swept: AtomicI64::new(0), capacity, buckets: AtomicUsize::new(0) }
    }

    /// Takes `cost` from a bucket, or refuses and takes nothing.
    pub(crate) fn check(&self, bucket: Bucket, limit: u32, cost: u32, now: Timestamp) -> RateDecision {
        let now = now.timestamp();
        let window = now.div_euclid(WINDOW);
        self.sweep(window);
        let mut entry = match self.used.entry(bucket) {
            Entry::Occupied(entry) => entry.into_ref(),
            Entry::Vacant(entry) => {
                self.buckets.fetch_add(1, Ordering::Relaxed);
                entry.insert((window, 0))
            }
        };
        if entry.0 != window {
            *entry = (window, 0);
        }
        let wanted = entry.1.saturating_add(cost);
        let allowed = wanted <= limit;
        if allowed {
            entry.1 = wanted;
        }
        let reset = (window + 1) * WINDOW;
        RateDecision {
            allowed,
            limit,
            remaining: limit.saturating_sub(entry.1),
            reset,
            retry_after: (reset - now).max(1),
        }
    }

    /// Forgets earlier windows, once per window and when there are too many buckets. Where that
    /// does not make room, buckets that were used once go, and in the end all.
    fn sweep(&self, window: i64) {
        let full = self.buckets.load(Ordering::Relaxed) >= self.capacity;
        if self.swept.swap(window, Ordering::Relaxed) == window && !full {
            return;
        }
        self.used.retain(|_, (of, _)| *of == window);
        // Half is free afterwards, so that not every new bucket has to look at all others.
        let crowded = || full && self.used.len() > self.capacity / 2;
        if crowded() {
            tracing::warn!(buckets = self.used.len(), "too many callers to count; forgetting some");
            self.used.retain(|_, (_, used)| *used > 1);
        }
        if crowded() {
            self.used.clear();
        }
        self.buckets.store(self.used.len(), Ordering::Relaxed);
    }
}

/// Where the decision about a request waits for the middleware that writes its headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateSlot(Arc<Mutex<Option<RateDecision>>>);

impl RateSlot {
    /// The decision, if one was made.
    pub(crate) fn decision(&self) -> Option<RateDecision> {
        *self.0.lock()
    }
}

impl Api {
    /// Takes `cost` from a bucket; the response then carries the headers.
    ///
    /// # Errors
    /// 429 when the bucket is empty.
    pub(crate) fn limit(
        &self,
        extensions: &Extensions,
        bucket: impl Into<Bucket>,
        limit: u32,
        cost: u32,
    ) -> Result<(), ApiError> {
        let decision = self.limiter().check(bucket.into(), limit, cost, self.now());
        if let Some(slot) = extensions.get::<RateSlot>() {
            *slot.0.lock() = Some(decision);
        }
        if decision.allowed { Ok(()) } else { Err(decision.refusal().into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn named(name: &str) -> Bucket {
        Bucket::Named(name.to_owned())
    }

    fn at(seconds: i64) -> Timestamp {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_window_is_a_minute_of_the_epoch() {
        let limiter = Limiter::default();
        let first = limiter.check(named("a"), 3, 2, at(119));
        assert_eq!((first.allowed, first.remaining, first.reset, first.retry_after), (true, 1, 120, 1));
        let refused = limiter.check(named("a"), 3, 2, at(119));
        assert_eq!((refused.allowed, refused.remaining), (false, 1));
        assert!(limiter.check(named("a"), 3, 1, at(119)).allowed);
        assert!(limiter.check(named("b"), 3, 1, at(119)).allowed);
        assert!(limiter.check(named("a"), 3, 3, at(120)).allowed);
    }

    #[test]
    fn old_windows_are_forgotten() {
        let limiter = Limiter::default();
        for bucket in 0..1_000 {
            limiter.check(named(&bucket.to_string()), 1, 1, at(0));
        }
        limiter.check(named("new"), 1, 1, at(60));
        assert_eq!(limiter.used.len(), 1);
    }

    #[test]
    fn buckets_do_not_grow_without_end() {
        let limiter = Limiter::holding(100);
        let check = |bucket: &str| limiter.check(named(bucket), 5, 1, at(5)).allowed;
        assert!((0..5).all(|_| check("busy")));
        for bucket in 0..1_000 {
            assert!(check(&bucket.to_string()));
            assert!(limiter.used.len() <= 100);
        }
        assert!(!check("busy"), "a flood of others resets nobody's count");
        for bucket in 0..1_000 {
            assert!(check(&format!("twice-{bucket}")) && check(&format!("twice-{bucket}")));
            assert!(limiter.used.len() <= 100);
        }
    }

    #[test]
    fn parallel_callers_never_exceed_the_limit() {
        let limiter = Limiter::default();
        let allowed = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100).filter(|_| limiter.check(named("a"), 250, 1, at(5)).allowed).count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
        });
        assert_eq!(allowed, 250);
    }
}
