//! The harness of the end-to-end tests: real back ends, the real binary, real nodes.

pub mod binary;
pub mod cluster;
pub mod faults;
pub mod meddler;
pub mod node;
pub mod plane;
pub mod postgres;
pub mod s3;
pub mod stand_in;
pub mod traffic;

use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until `ready` answers something, asking every 50 ms.
///
/// # Panics
/// After `limit`, naming `what` it waited for.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ready().await {
            return found;
        }
        assert!(start.elapsed() < limit, "gave up waiting for {what} after {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
