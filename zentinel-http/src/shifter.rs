//! The reference implementation of [`TrafficShifter`] over HTTP.
//!
//! One signed `POST` of the [`TrafficShift`] as JSON per split. The answer is the acknowledgement: 200 or 204 says that the
//! weights are in force, 202 that they are on their way (ask again after `Retry-After`), anything else that they are not.

use crate::egress::{Egress, SIGNATURE_HEADER, TIMESTAMP_HEADER, signature};
use async_trait::async_trait;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use reqwest::Response;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use zentinel_core::port::{Clock, ShiftFailure, TrafficShift, TrafficShifter};
use zentinel_core::{Error, Result, Secret};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a refusal that are read.
const MOST_READ: usize = 4_096;
/// Most characters of it that are shown.
const MOST_SHOWN: usize = 200;

/// Asks a load balancer, or what stands before its interface, over HTTP.
pub struct HttpShifter {
    url: Url,
    secret: Secret,
    egress: Egress,
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for HttpShifter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path may hold a token.
        f.debug_struct("HttpShifter").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl HttpShifter {
    /// One that posts to `url`, signed with `secret`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on `url` or `secret`.
    pub fn new(url: Url, secret: Secret, egress: Egress, clock: Arc<dyn Clock>) -> Result<Self> {
        egress.check(&url).map_err(|error| Error::invalid_field("url", error.message()))?;
        if secret.expose().len() < 16 {
            return Err(Error::invalid_field("secret", "should be at least 16 character(s)"));
        }
        let client = egress.client(TIMEOUT)?;
        Ok(Self { url, secret, egress, client, clock })
    }

    async fn post(&self, shift: &TrafficShift) -> Result<reqwest::RequestBuilder> {
        self.egress.check(&self.url)?;
        let body = serde_json::to_vec(shift)
            .map_err(|error| Error::internal("the shift could not be written").with_source(error))?;
        let now = self.clock.now();
        let signed = signature(&self.secret, now, &body)?;
        Ok(self
            .client
            .post(self.url.clone())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", &shift.id)
            .header(TIMESTAMP_HEADER, now.timestamp())
            .header(SIGNATURE_HEADER, signed)
            .body(body))
    }
}

#[async_trait]
impl TrafficShifter for HttpShifter {
    async fn shift(&self, shift: &TrafficShift) -> std::result::Result<(), ShiftFailure> {
        let request =
            self.post(shift).await.map_err(|error| ShiftFailure::refused(error.message().to_owned()))?;
        let response = request.send().await.map_err(|error| ShiftFailure::retry(reason(&error)))?;
        let status = response.status();
        if status == StatusCode::ACCEPTED {
            let after = retry_after(response.headers());
            return Err(ShiftFailure { after, ..ShiftFailure::retry("the load balancer is still at it") });
        }
        if status.is_success() {
            return Ok(());
        }
        let passes = status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
            );
        let after = retry_after(response.headers());
        let reason = format!("the load balancer answered {}{}", status.as_u16(), excerpt(response).await);
        Err(ShiftFailure { retryable: passes, after, reason })
    }
}

/// When the load balancer wants to be asked again.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What went wrong, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut text = match error.is_timeout() {
        true => "the load balancer did not answer in time",
        false => "the load balancer cannot be reached",
    }
    .to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.source().is_none() {
            text.push_str(&format!(": {cause}"));
        }
        source = cause.source();
    }
    text
}

/// The beginning of a refusal's text.
async fn excerpt(mut response: Response) -> String {
    let mut read = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MOST_READ.saturating_sub(read.len());
        read.extend(chunk.iter().take(room));
        if read.len() >= MOST_READ {
            break;
        }
    }
    let text = String::from_utf8_lossy(&read);
    let text: String = text.chars().filter(|c| !c.is_control()).take(MOST_SHOWN).collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}
