//! Letting in no more node requests than can be answered soon.
//!
//! When every node comes back at once, a server that takes everything in answers everything late, and
//! nodes that gave up waiting ask again. So the wait for the processor is measured, and what would
//! have to wait too long is told to come back at an instant of its own.

use crate::error::ApiError;
use crate::services::Api;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How often the wait is measured.
const PERIOD: Duration = Duration::from_millis(10);
/// Shortest time, in seconds, over which those who are sent away are spread.
const SPREAD: u64 = 10;

/// How far the server is behind: how long whatever is ready waits until it runs. Clones share it.
///
/// It stays zero, and nobody is sent away, unless [`Pressure::watch`] runs.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicU64>);

impl Pressure {
    /// Measures for as long as it is polled. Run it as a task of the runtime that serves.
    pub async fn watch(&self) {
        let mut delay = Duration::ZERO;
        loop {
            let due = Instant::now() + PERIOD;
            tokio::time::sleep_until(due).await;
            // Rises at once and falls slowly: between two bursts nobody has caught up yet.
            delay = due.elapsed().max(delay * 15 / 16);
            self.0.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// The wait.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// From 0, while the wait is no more than half of `most`, to 1, once it is all of it. Always 0
    /// without a `most`.
    fn share(&self, most: Duration) -> f64 {
        if most.is_zero() {
            return 0.0;
        }
        (2.0 * self.delay().as_secs_f64() / most.as_secs_f64() - 1.0).clamp(0.0, 1.0)
    }
}

impl Api {
    /// How busy the server is, from 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        self.options.pressure.share(self.options.max_queue_delay)
    }

    /// Lets a node's request in, or not: the busier the server, the fewer.
    ///
    /// # Errors
    /// 503 with a `Retry-After` that differs from caller to caller.
    pub(crate) fn admit(&self) -> Result<(), ApiError> {
        let load = self.load();
        if load == 0.0 || !rand::random_bool(load) {
            return Ok(());
        }
        self.metrics().refused();
        let spread = self.options.poll_interval.as_secs().max(SPREAD);
        Err(ApiError::Busy(rand::random_range(1..=spread)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(delay: Duration) -> Pressure {
        let pressure = Pressure::default();
        pressure.0.store(delay.as_micros() as u64, Ordering::Relaxed);
        pressure
    }

    #[test]
    fn refusals_begin_at_half_of_the_wait_that_is_allowed() {
        let share = |delay| behind(Duration::from_millis(delay)).share(Duration::from_millis(100));
        assert_eq!((share(0), share(50), share(100), share(900)), (0.0, 0.0, 1.0, 1.0));
        assert!((share(75) - 0.5).abs() < 1e-9);
        assert_eq!(behind(Duration::from_secs(9)).share(Duration::ZERO), 0.0, "without a limit");
    }

    #[tokio::test]
    async fn a_runtime_that_is_held_up_shows() {
        let pressure = Pressure::default();
        let measuring = pressure.clone();
        let task = tokio::spawn(async move { measuring.watch().await });
        tokio::time::sleep(PERIOD).await;
        std::thread::sleep(Duration::from_millis(120));
        tokio::time::sleep(PERIOD).await;
        assert!(pressure.delay() >= Duration::from_millis(80), "{:?}", pressure.delay());
        task.abort();
    }
}
