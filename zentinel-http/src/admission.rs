//! Letting in no more node requests than can be answered soon.
//!
//! When every node comes back at once, a server that takes everything in answers everything late, and
//! nodes that gave up waiting ask again. So the wait for the processor is measured, and what would
//! have to wait too long is told to come back at an instant of its own.

use crate::error::{ApiError, ApiResult};
use crate::services::Api;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use zentinel_core::{Error, Kind};
use zentinel_rollout::fleet::SingleRead;

/// How often the wait is measured.
const PERIOD: Duration = Duration::from_millis(10);
/// Between the returns of two callers who were sent away: 10,000 a second, a fraction of what one
/// processor answers, so that those who return do not have to be sent away again.
const APART: Duration = Duration::from_micros(100);
/// Shortest time after which everybody may come back, whatever the poll interval.
const LATEST: Duration = Duration::from_secs(30);

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

/// When those who were sent away may come back: one after another.
#[derive(Debug, Default)]
pub(crate) struct Appointments(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    /// The first instant that nobody was told yet.
    free: Option<Instant>,
    /// How many were told to come back once something is done.
    afterwards: u32,
}

impl Appointments {
    /// Whole seconds until the next free instant.
    fn next(&self, now: Instant, most: Duration) -> u64 {
        let mut given = self.0.lock();
        let free = given.free.map_or(now, |free| free.max(now));
        if free - now <= most {
            given.free = Some(free + APART);
        }
        seconds(free - now, most)
    }

    /// Whole seconds until the next free instant after something that is done in `wait`. Estimates change: each
    /// caller's instant goes by the newest one.
    fn after(&self, wait: Duration, most: Duration) -> u64 {
        let mut given = self.0.lock();
        given.afterwards = given.afterwards.saturating_add(1);
        seconds(wait + APART * given.afterwards, most)
    }
}

/// What a caller is told. Beyond `most` nothing is kept free: whoever is left is spread over the second half of it.
fn seconds(after: Duration, most: Duration) -> u64 {
    let after = if after > most { most.mul_f64(rand::random_range(0.5..=1.0)) } else { after };
    // The header knows seconds only; not everybody of the same one is told the same.
    (after.as_secs_f64() + rand::random_range(0.0..1.0)).ceil().max(1.0) as u64
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
        Err(self.busy())
    }

    /// Sends a node away until an instant of its own.
    fn busy(&self) -> ApiError {
        self.metrics().refused();
        ApiError::Busy(self.appointments().next(Instant::now(), self.latest()))
    }

    fn latest(&self) -> Duration {
        LATEST.max(self.options.poll_interval)
    }

    /// What a node is told whose report could not be stored in time; other errors stay what they are.
    pub(crate) fn unstored(&self, error: Error) -> ApiError {
        if error.kind() == Kind::Unavailable { self.busy() } else { error.into() }
    }

    /// Leave to read a node from the store that is not known.
    ///
    /// # Errors
    /// 503 while all nodes are being read and some are read singly as well.
    pub(crate) async fn single_read(&self) -> ApiResult<SingleRead<'_>> {
        self.fleet.single_read().await.map_err(|left| {
            self.metrics().refused();
            ApiError::Busy(self.appointments().after(left, self.latest()))
        })
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

    #[test]
    fn everybody_gets_an_appointment_of_his_own() {
        let (appointments, most, now) = (Appointments::default(), Duration::from_secs(30), Instant::now());
        let mut told = [0; 40];
        for _ in 0..100_000 {
            told[appointments.next(now, most) as usize] += 1;
        }
        assert_eq!(told.iter().sum::<usize>(), 100_000);
        assert!(told[0] == 0 && told[12..].iter().all(|told| *told == 0), "{told:?}");
        assert!(told[2..10].iter().all(|told| (9_000..=11_000).contains(told)), "{told:?}");
        // They are at it, and so many more come that there is no end to it.
        let now = now + Duration::from_secs(8);
        let last = (0..400_000).map(|_| appointments.next(now, most)).max();
        assert!(last.is_some_and(|last| (30..=31).contains(&last)), "{last:?}");
        let now = now + Duration::from_secs(60);
        assert!(appointments.next(now, most) <= 1, "everybody has been here");
    }

    /// Early estimates are the worst.
    #[test]
    fn a_restore_that_goes_faster_than_it_seemed_keeps_nobody_away() {
        let (appointments, most) = (Appointments::default(), Duration::from_secs(30));
        assert!((20..=21).contains(&appointments.after(Duration::from_secs(20), most)));
        assert!((3..=4).contains(&appointments.after(Duration::from_secs(3), most)));
        let last = (0..50_000).map(|_| appointments.after(Duration::from_secs(3), most)).max();
        assert!(last.is_some_and(|last| (8..=9).contains(&last)), "{last:?}");
        assert!(appointments.next(Instant::now(), most) <= 1);
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
