//! Cases for [`Clock`].

use std::sync::Arc;
use std::time::Duration;
use zentinel_core::port::Clock;

/// Every case. `advance` moves a clock that does not move by itself, and does nothing otherwise.
///
/// ```
/// # use std::sync::Arc;
/// # use zentinel_core::{Timestamp, port::ManualClock};
/// # use zentinel_store::conformance;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
/// conformance::clock::suite(clock.clone(), |by| clock.advance(by)).await;
/// # });
/// ```
pub async fn suite(clock: Arc<dyn Clock>, advance: impl Fn(Duration)) {
    time_does_not_go_back(&*clock, &advance);
    instants_survive_storage(&*clock);
    a_sleeper_sleeps_long_enough(&clock, &advance).await;
    no_sleep_is_short(&*clock).await;
}

/// An instant is never before an earlier one.
pub fn time_does_not_go_back(clock: &dyn Clock, advance: &impl Fn(Duration)) {
    let mut last = clock.now();
    for _ in 0..100 {
        advance(Duration::from_micros(10));
        let now = clock.now();
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
}

/// Instants have whole microseconds, as storage keeps them.
pub fn instants_survive_storage(clock: &dyn Clock) {
    let now = clock.now();
    assert_eq!(now.timestamp_subsec_nanos() % 1_000, 0, "{now:?} has a fraction of a microsecond");
}

/// A sleeper wakes up, and not before its time.
pub async fn a_sleeper_sleeps_long_enough(clock: &Arc<dyn Clock>, advance: &impl Fn(Duration)) {
    let duration = Duration::from_millis(40);
    let begun = clock.now();
    let sleepers = (0..3).map(|_| {
        let clock = Arc::clone(clock);
        tokio::spawn(async move {
            clock.sleep(duration).await;
            clock.now()
        })
    });
    let sleepers: Vec<_> = sleepers.collect();
    let woken = tokio::time::timeout(Duration::from_secs(20), futures_util::future::join_all(sleepers));
    let mut woken = std::pin::pin!(woken);
    let woken = loop {
        match tokio::time::timeout(Duration::from_millis(5), &mut woken).await {
            Ok(woken) => break woken.expect("nobody woke up within 20 s"),
            Err(_) => advance(Duration::from_millis(10)),
        }
    };
    for at in woken {
        let slept = at.expect("the sleeper panicked") - begun;
        assert!(slept.to_std().is_ok_and(|slept| slept >= duration), "slept {slept} only");
    }
}

/// Sleeping for no time at all returns, without the clock moving.
pub async fn no_sleep_is_short(clock: &dyn Clock) {
    let sleep = clock.sleep(Duration::ZERO);
    tokio::time::timeout(Duration::from_secs(20), sleep).await.expect("still asleep");
}
