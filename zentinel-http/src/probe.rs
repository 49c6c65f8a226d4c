//! Asking health check endpoints over HTTP.

use crate::egress::{Egress, is_refusal};
use async_trait::async_trait;
use http::Method;
use reqwest::{Client, Response};
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::Result;
use zentinel_core::entity::{HealthCheck, ProbeMethod, ProbeResult, ProbeVariables};
use zentinel_core::port::{Clock, HealthProbe};

/// The most of an answer that is read.
const MAX_ANSWER: usize = 64 * 1_024;

/// For a host that may not be called; not where it is.
const REFUSED: &str = "its host is at an address that is not public and that this server does not allow";
/// The longest time limit of an endpoint; each call has its own.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls endpoints: one request, no redirects, TLS verified, at most 64 KiB of the answer, and only where [`Egress`]
/// permits.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    client: Client,
    egress: Egress,
    clock: Arc<dyn Clock>,
}

impl HttpProbe {
    /// A probe that stays within these bounds.
    ///
    /// # Errors
    /// `Internal` when the HTTP client can't be set up.
    pub fn new(egress: Egress, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { client: egress.client(MAX_TIMEOUT)?, egress, clock })
    }

    /// The status, and why the endpoint did not pass.
    async fn call(&self, check: &HealthCheck, variables: &ProbeVariables) -> (Option<u16>, Option<String>) {
        let url = match check.url_for(variables) {
            Ok(url) => url,
            Err(message) => return (None, Some(format!("the URL {message}"))),
        };
        if self.egress.check(&url).is_err() {
            return (None, Some(REFUSED.to_owned()));
        }
        let mut request = match check.method {
            ProbeMethod::Get => self.client.request(Method::GET, url),
            ProbeMethod::Head => self.client.request(Method::HEAD, url),
            ProbeMethod::Post => self.client.request(Method::POST, url).json(&serde_json::json!({})),
        };
        for (name, value) in &check.headers.0 {
            request = request.header(name, value);
        }
        let response = match request.timeout(check.timeout()).send().await {
            Ok(response) => response,
            Err(error) => return (None, Some(failed(&error, check))),
        };
        let status = response.status().as_u16();
        if status != check.expected_status {
            return (Some(status), Some(format!("status {status} instead of {}", check.expected_status)));
        }
        let Some(wanted) = &check.expected_body_contains else {
            return (Some(status), None);
        };
        let failure = match body(response).await {
            Ok(body) if contains(&body, wanted.as_bytes()) => None,
            Ok(_) => Some("the answer does not contain the expected text".to_owned()),
            Err(error) => Some(failed(&error, check)),
        };
        (Some(status), failure)
    }
}

#[async_trait]
impl HealthProbe for HttpProbe {
    async fn probe(&self, check: &HealthCheck, variables: &ProbeVariables) -> ProbeResult {
        let asked_at = self.clock.now();
        let (status, failure) = self.call(check, variables).await;
        ProbeResult { asked_at, answered_at: self.clock.now(), failure, status }
    }
}

/// The beginning of an answer.
async fn body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER {
        let Some(chunk) = response.chunk().await? else { break };
        let room = MAX_ANSWER - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(body)
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len().max(1)).any(|part| part == wanted)
}

/// What went wrong, without what names were found to mean.
fn failed(error: &reqwest::Error, check: &HealthCheck) -> String {
    if is_refusal(error) {
        REFUSED.to_owned()
    } else if error.is_timeout() {
        format!("no answer within {} ms", check.timeout_ms)
    } else if error.is_connect() {
        "no connection: the name is not known, nothing listens there, or its certificate is not trusted"
            .to_owned()
    } else {
        "the connection broke before the answer was complete".to_owned()
    }
}

#[cfg(test)]
mod tests;
