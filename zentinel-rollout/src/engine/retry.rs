//! Lost races are read and tried again.

use std::time::Duration;
use zentinel_core::{Kind, Result};

/// Counts the tries of one operation.
#[derive(Debug)]
pub(super) struct Retry {
    left: u32,
    tried: u32,
}

impl Retry {
    pub(super) fn new(retries: u32) -> Self {
        Self { left: retries, tried: 0 }
    }

    /// `None` when the operation lost a race and should be tried again, after a short random
    /// pause so that the same two do not meet again; otherwise its outcome.
    pub(super) async fn judge<T>(&mut self, outcome: Result<T>) -> Option<Result<T>> {
        match outcome {
            Err(error) if error.kind() == Kind::Stale && self.left > 0 => {
                self.left -= 1;
                self.tried += 1;
                let longest = 1 << self.tried.min(6);
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..=longest))).await;
                None
            }
            outcome => Some(outcome),
        }
    }
}
