//! Telling the outside.

use crate::entity::Event;
use crate::error::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Debug;
use std::time::Duration;

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Delivery {
    /// The channel accepted the event.
    Delivered,
    /// It did not, but may later.
    Retry {
        /// What went wrong.
        reason: String,
        /// How long the channel asked to wait.
        after: Option<Duration>,
    },
    /// It never will.
    Rejected {
        /// What went wrong.
        reason: String,
    },
}

/// Delivers one event to one channel.
///
/// # Contract
/// At least once: the event's id is its idempotency key. A call that returns
/// [`Delivery::Delivered`] was accepted by the receiver.
///
/// # Errors
/// Only for a configuration that can't be used; a failing receiver is a [`Delivery`].
///
/// # Testing
/// `zentinel_store::conformance::notifier`.
#[async_trait]
pub trait Notifier: Debug + Send + Sync + 'static {
    /// Delivers `event` to the channel that `config` describes.
    async fn deliver(&self, event: &Event, config: &Value) -> Result<Delivery>;
}
