//! What is counted and measured while nodes run.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest latency that is told apart, in microseconds.
const LONGEST: u64 = 600_000_000;

/// Requests that cost the server different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A heartbeat that says nothing new.
    Heartbeat,
    /// A heartbeat that must be written down before it is answered.
    Change,
    /// A poll answered from what the node knows already (304).
    Poll,
    /// A poll answered in full.
    Answer,
    /// Another token.
    Token,
}

impl Class {
    pub(super) const ALL: [Self; 5] = [Self::Heartbeat, Self::Change, Self::Poll, Self::Answer, Self::Token];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Change => "heartbeat with news",
            Self::Poll => "poll, unchanged (304)",
            Self::Answer => "poll, answered (200)",
            Self::Token => "token",
        }
    }
}

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// The connection broke.
    Broken,
    /// The answer did not come in time.
    Late,
    /// The run ended before the answer came.
    Open,
    /// No connection was free in time.
    Unsent,
    /// The answer could not be understood.
    Garbled,
}

impl Loss {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Broken => "connection broke",
            Self::Late => "no answer in time",
            Self::Open => "unanswered at the end",
            Self::Unsent => "no free connection in time",
            Self::Garbled => "answer not understood",
        }
    }
}

/// Latencies in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Option<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that the library accepts; without a histogram nothing is recorded.
        Self(Histogram::new_with_max(LONGEST, 3).ok())
    }
}

impl Latencies {
    pub(super) fn record(&mut self, micros: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(micros);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The latency that this share of requests did not exceed, in milliseconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| histogram.value_at_quantile(share) as f64 / 1_000.0)
    }

    pub(super) fn longest(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| histogram.max() as f64 / 1_000.0)
    }

    pub(super) fn clear(&mut self) {
        if let Some(histogram) = &mut self.0 {
            histogram.reset();
        }
    }
}

/// Everything about a stretch of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    /// All answers that were neither refusals nor losses.
    pub(super) all: Latencies,
    classes: [Latencies; Class::ALL.len()],
    /// The same answers as in `all`, from when a connection was free.
    pub(super) from_sending: Latencies,
    /// Since the progress was shown last.
    pub(super) recent: Latencies,
    /// Refusals by status.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Refusals with status 429 or 503 that said when to try again.
    pub(super) told_to_wait: u64,
    /// Shortest and longest such time, in seconds.
    pub(super) waits: Option<(u32, u32)>,
    /// Shortest and longest poll hint, in seconds.
    pub(super) hints: Option<(u32, u32)>,
    pub(super) lost: BTreeMap<Loss, u64>,
    /// Connections that could not be made.
    pub(super) unconnected: u64,
    /// Offers that were not signed as they must be, and archives that were not what was stated.
    pub(super) untrusted: u64,
    /// Archives that could not be fetched.
    pub(super) undelivered: u64,
    pub(super) activations: u64,
    pub(super) failures: u64,
}

impl Stats {
    pub(super) fn admitted(&mut self, class: Class, micros: u64, since_sent: u64) {
        self.all.record(micros);
        self.from_sending.record(since_sent);
        self.recent.record(micros);
        if let Some(latencies) = self.classes.get_mut(class as usize) {
            latencies.record(micros);
        }
    }

    pub(super) fn class(&self, class: Class) -> Option<&Latencies> {
        self.classes.get(class as usize).filter(|latencies| latencies.count() > 0)
    }

    pub(super) fn refuse(&mut self, status: u16, retry_after: Option<u32>) {
        *self.refused.entry(status).or_default() += 1;
        if let (429 | 503, Some(seconds)) = (status, retry_after) {
            self.told_to_wait += 1;
            widen(&mut self.waits, seconds);
        }
    }

    pub(super) fn hint(&mut self, seconds: u32) {
        widen(&mut self.hints, seconds);
    }

    pub(super) fn lose(&mut self, loss: Loss) {
        *self.lost.entry(loss).or_default() += 1;
    }

    /// Requests that ended, one way or another.
    pub(super) fn ended(&self) -> u64 {
        self.answered() + self.lost.values().sum::<u64>()
    }

    /// Requests that got an answer, refusals included.
    pub(super) fn answered(&self) -> u64 {
        self.all.count() + self.refused.values().sum::<u64>()
    }

    /// Requests that failed. With `patient`, being told when to come back is no failure.
    pub(super) fn errors(&self, patient: bool) -> u64 {
        let failed = self.ended() - self.all.count();
        if patient { failed.saturating_sub(self.told_to_wait) } else { failed }
    }

    /// The share of requests that failed, 0 to 1.
    pub(super) fn error_share(&self, patient: bool) -> f64 {
        self.errors(patient) as f64 / self.ended().max(1) as f64
    }

    /// Requests that ended, per second.
    pub(super) fn rate(&self, over: Duration) -> f64 {
        self.answered() as f64 / over.as_secs_f64().max(1e-9)
    }

    /// Starts over, as after a warm-up. What became of bundles is kept.
    pub(super) fn restart(&mut self) {
        let Self { untrusted, undelivered, activations, failures, .. } = *self;
        *self = Self { untrusted, undelivered, activations, failures, ..Self::default() };
    }
}

fn widen(range: &mut Option<(u32, u32)>, value: u32) {
    let (least, most) = range.unwrap_or((value, value));
    *range = Some((least.min(value), most.max(value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_losses_are_errors_unless_told_when_to_return() {
        let mut stats = Stats::default();
        stats.admitted(Class::Poll, 1_000, 900);
        stats.refuse(503, Some(7));
        stats.refuse(503, None);
        stats.refuse(404, Some(3));
        stats.lose(Loss::Broken);
        assert_eq!((stats.ended(), stats.answered()), (5, 4));
        assert_eq!((stats.errors(false), stats.errors(true)), (4, 3));
        assert_eq!(stats.waits, Some((7, 7)), "404 is no reason to wait");
        stats.activations = 3;
        stats.restart();
        assert_eq!((stats.ended(), stats.activations), (0, 3));
    }

    #[test]
    fn latencies_are_in_milliseconds_and_split() {
        let mut stats = Stats::default();
        for micros in 1..=1_000 {
            stats.admitted(Class::Change, micros * 1_000, micros);
        }
        stats.admitted(Class::Heartbeat, u64::MAX, 1);
        let changes = stats.class(Class::Change).unwrap();
        assert!((changes.quantile(0.99) - 990.0).abs() < 1.5, "{}", changes.quantile(0.99));
        assert!(stats.all.longest() >= 600_000.0, "too long to tell apart is still counted");
        assert!(stats.from_sending.longest() < 1.1, "waiting for a connection is not in it");
        assert!(stats.class(Class::Token).is_none());
    }
}
