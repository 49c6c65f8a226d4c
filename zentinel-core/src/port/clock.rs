//! Time as a port.

use crate::value::Timestamp;
use async_trait::async_trait;
use std::fmt::Debug;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Tells the time and waits.
///
/// # Contract
/// `now` never blocks. `sleep` returns no earlier than asked for.
///
/// # Testing
/// `zentinel_store::conformance::clock`.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The current instant.
    fn now(&self) -> Timestamp;
    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        // Storage keeps microseconds; what is compared must survive a round trip.
        let now = chrono::Utc::now();
        chrono::DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    async fn sleep(&self, duration: Duration) {
        futures_timer::Delay::new(duration).await;
    }
}

/// A clock that only moves when told to; for tests and simulations.
///
/// ```
/// use std::time::Duration;
/// use zentinel_core::port::{Clock, ManualClock};
/// let clock = ManualClock::new(chrono::DateTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.now().timestamp(), 5);
/// ```
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Vec<(Timestamp, Waker)>)>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, Vec::new())) }
    }

    fn state(&self) -> MutexGuard<'_, (Timestamp, Vec<(Timestamp, Waker)>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the clock and wakes whoever has slept long enough.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.0 += by;
        let now = state.0;
        state.1.retain(|(until, waker)| {
            let waits = *until > now;
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state().0
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        poll_fn(|context| {
            let mut state = self.state();
            if state.0 >= until {
                return Poll::Ready(());
            }
            state.1.push((until, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
