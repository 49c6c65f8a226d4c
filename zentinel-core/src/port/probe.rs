//! Asking health check endpoints.

use crate::entity::{HealthCheck, ProbeResult, ProbeVariables};
use async_trait::async_trait;
use std::fmt::Debug;

/// Asks a health check endpoint.
///
/// # Contract
/// One call, no redirects, TLS verified, bounded in time by [`HealthCheck::timeout`] and in the size of the answer.
/// Passes exactly when the status is the expected one and the answer contains what it must. Whatever goes wrong is
/// a [`ProbeResult`] with a failure; that never holds more of the answer than its status.
#[async_trait]
pub trait HealthProbe: Debug + Send + Sync + 'static {
    /// Asks the endpoint, for a node where its URL has placeholders.
    async fn probe(&self, check: &HealthCheck, variables: &ProbeVariables) -> ProbeResult;
}
