//! What a node should run.

use super::auth::{Caller, gone};
use super::offers::Offered;
use super::wire::{BundleOffer, NoUpdate, POLL_AFTER_HEADER, PollAnswer};
use crate::error::{ApiError, ApiResult};
use crate::extract::Params;
use crate::services::Api;
use crate::wire::{Json, Refusals};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::entity::{NodeTarget, NodeTraffic};
use zentinel_core::error::Checks;
use zentinel_core::{Error, Result};
use zentinel_rollout::fleet::Offer;

/// Ask what to run
///
/// Answers from memory unless there is something new. `If-None-Match` with the `ETag` of the last
/// answer gets 304 while that answer holds (its download URL may have expired meanwhile: leave the
/// header out to get a fresh one). With `wait` the request is held until there is news, at most
/// that many seconds. Every answer carries the slot and weight that a blue-green rollout gave the node;
/// a change of them is news. `X-Zentinel-Poll-After` says when to ask again.
#[utoipa::path(
    get, path = "/api/v1/nodes/{node_id}/bundles/latest", tag = "Node API",
    params(
        ("node_id" = uuid::Uuid, Path),
        ("wait" = Option<u32>, Query, description = "Seconds to wait for news; capped by the server"),
        ("If-None-Match" = Option<String>, Header, description = "`ETag` of the last answer"),
    ),
    responses(
        (status = 200, body = PollAnswer), (status = 304, description = "Nothing new"), Refusals,
    ),
    security(("node_token" = []), ("node_key" = [])),
)]
pub(super) async fn latest(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let wait = wait(&params, api.options.max_long_poll)?;
    let id = caller.node.id;
    let is_seen = |etag: u64| {
        headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|value| value.to_str().is_ok_and(|value| names(value, etag)))
    };
    let offer = api.fleet.offer(id).map_err(gone)?;
    let mut answer = Answer::to(&api, &caller, &offer).await?;
    let is_news =
        if headers.contains_key(IF_NONE_MATCH) { !is_seen(answer.etag) } else { answer.update.is_some() };
    if !is_news && !wait.is_zero() {
        // What the fleet offers may differ from the answer, so its own etag is what must change.
        let news = api.fleet.wait_for_offer(id, Some(offer.etag), wait);
        if let Some(news) = api.options.draining.run_until_cancelled(news).await {
            answer = Answer::to(&api, &caller, &news.map_err(gone)?).await?;
        }
    }
    let poll_after = jittered(api.options.poll_interval, api.load());
    let mut response = if is_seen(answer.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        answer.body(&api, poll_after).await?
    };
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(POLL_AFTER_HEADER), poll_after.into());
    let etag = HeaderValue::from_str(&format!("\"{:x}\"", answer.etag));
    headers.insert(ETAG, etag.unwrap_or(HeaderValue::from_static("\"0\"")));
    Ok(response)
}

/// What a node is told. It is less than the fleet offers where the bundle may not be handed out.
struct Answer {
    update: Option<(NodeTarget, Arc<Offered>)>,
    traffic: Option<NodeTraffic>,
    etag: u64,
}

impl Answer {
    async fn to(api: &Api, caller: &Caller, offer: &Offer) -> Result<Self> {
        if let Some(target) = &offer.target
            && let Some(offered) = caller.memory.offers.find(api, &caller.node, target).await?
        {
            let update = Some((target.clone(), offered));
            return Ok(Self { update, traffic: offer.traffic, etag: offer.etag });
        }
        // Not the target's etag: who has seen that must hear of it when it is handed out again.
        Ok(Self { update: None, traffic: offer.traffic, etag: offer.etag_without_target() })
    }

    async fn body(&self, api: &Api, poll_after_s: u64) -> ApiResult<Response> {
        if let Some((target, offered)) = &self.update {
            let mut update = update(api, target, offered, poll_after_s).await?;
            update.slot = self.traffic.map(|traffic| traffic.slot);
            update.traffic_weight = self.traffic.map(|traffic| traffic.weight);
            return Ok(Json(update).into_response());
        }
        let slot = self.traffic.map(|traffic| traffic.slot);
        let traffic_weight = self.traffic.map(|traffic| traffic.weight);
        Ok(Json(NoUpdate { no_update: true, poll_after_s, slot, traffic_weight }).into_response())
    }
}

fn wait(params: &Params, most: Duration) -> Result<Duration> {
    let Some(text) = params.get("wait").filter(|text| !text.is_empty()) else {
        return Ok(Duration::ZERO);
    };
    let mut checks = Checks::new();
    let seconds = text.parse::<u32>();
    checks.that("wait", seconds.is_ok(), "is invalid");
    checks.finish()?;
    Ok(Duration::from_secs(seconds.unwrap_or_default().into()).min(most))
}

/// Whether an `If-None-Match` value names this etag.
fn names(value: &str, etag: u64) -> bool {
    value.split(',').map(str::trim).any(|one| {
        let one = one.strip_prefix("W/").unwrap_or(one);
        let hex = one.strip_prefix('"').and_then(|one| one.strip_suffix('"'));
        one == "*" || hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()) == Some(etag)
    })
}

/// The poll interval with up to 10 % of jitter either way, in whole seconds, so that nodes that
/// began together do not stay together; the busier the server, the later and the wider apart, up to
/// three times the interval.
fn jittered(interval: Duration, load: f64) -> u64 {
    let base = interval.as_secs().max(1);
    let spread = base / 10;
    let later = (2.0 * load * base as f64) as u64;
    rand::random_range(base - spread..=base + spread + later)
}

async fn update(
    api: &Api,
    target: &NodeTarget,
    offered: &Offered,
    poll_after_s: u64,
) -> Result<BundleOffer, ApiError> {
    let now = api.now();
    let expires = now + api.options.presign_validity;
    let download_url = api.blobs.presign_get(&offered.storage_key, now, expires).await.map_err(|error| {
        Error::unavailable("The download URL could not be made. Poll again.").with_source(error)
    })?;
    Ok(BundleOffer {
        bundle_id: target.bundle_id,
        version: offered.version.clone(),
        checksum: offered.checksum,
        size_bytes: offered.size_bytes,
        download_url,
        traffic_weight: None,
        slot: None,
        poll_after_s,
        statement: Some(offered.envelope.clone()),
        signature: offered.signature.clone(),
        signing_key_id: offered.signing_key_id.clone(),
        signature_alg: "ed25519".to_owned(),
        activation: offered.activation,
        compare: offered.compare,
        reason: target.reason.clone(),
        etag: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn etags_are_compared_weakly() {
        for value in ["\"1f\"", "W/\"1f\"", "\"0\", \"1f\"", "*"] {
            assert!(names(value, 0x1f), "{value}");
        }
        for value in ["", "1f", "\"1e\"", "\"x\"", "\"", "W/"] {
            assert!(!names(value, 0x1f), "{value}");
        }
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_tenth_of_what_the_load_asks(seconds in 0_u64..100_000, load in 0.0..=1.0) {
            let hint = jittered(Duration::from_secs(seconds), load);
            let base = seconds.max(1);
            let most = (base + base / 10) as f64 + 2.0 * load * base as f64;
            prop_assert!(hint >= base - base / 10 && hint as f64 <= most);
        }

        #[test]
        fn no_etag_panics(value in ".{0,60}") {
            names(&value, 1);
        }
    }
}
