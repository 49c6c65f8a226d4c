//! Downloading archives, with resume and a size limit.

use super::transport::{Transport, failed, refusal};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_RANGE, RANGE};
use reqwest::Response;
use url::Url;
use zentinel_core::{Error, Kind, Result};

/// Largest refusal that is read; object stores answer with XML.
const MAX_REFUSAL: usize = 64 << 10;

/// Downloads what is beyond `from`; see [`NodeClient::download`](super::NodeClient::download).
pub(super) async fn to_memory(transport: &Transport, url: &Url, from: u64, limit: u64) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    stream(transport, url, from, limit, |chunk| {
        whole.extend_from_slice(&chunk);
        Ok(())
    })
    .await?;
    Ok(whole.freeze())
}

/// Hands what is beyond `from` to `sink`, chunk by chunk; returns how many bytes that were.
pub(super) async fn stream(
    transport: &Transport,
    url: &Url,
    from: u64,
    limit: u64,
    mut sink: impl FnMut(Bytes) -> Result<()>,
) -> Result<u64> {
    let mut request = transport.downloads.get(url.clone());
    if from > 0 {
        request = request.header(RANGE, format!("bytes={from}-"));
    }
    let mut response = request.send().await.map_err(|error| failed(&error))?;
    let mut skip = match response.status() {
        StatusCode::OK => from,
        StatusCode::PARTIAL_CONTENT if starts_at(&response) == Some(from) => 0,
        // Nothing lies beyond `from`: it was all there before.
        StatusCode::RANGE_NOT_SATISFIABLE if total(&response) == Some(from) => return Ok(0),
        status => return Err(refused(status, response).await),
    };
    let mut position = from - skip;
    let too_large = || Error::new(Kind::TooLarge, format!("the download is larger than {limit} bytes"));
    if response.content_length().is_some_and(|length| position.saturating_add(length) > limit) {
        return Err(too_large());
    }
    let mut received = 0;
    while let Some(mut chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        position = position.saturating_add(chunk.len() as u64);
        if position > limit {
            return Err(too_large());
        }
        // A server that ignores `Range` sends everything.
        let ignored = skip.min(chunk.len() as u64);
        skip -= ignored;
        let chunk = chunk.split_off(usize::try_from(ignored).unwrap_or(usize::MAX));
        if !chunk.is_empty() {
            received += chunk.len() as u64;
            sink(chunk)?;
        }
    }
    Ok(received)
}

/// The first position of `Content-Range: bytes first-last/total`.
fn starts_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The length of `Content-Range: bytes */total`.
fn total(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.rsplit('/').next()?.trim().parse().ok()
}

async fn refused(status: StatusCode, mut response: Response) -> Error {
    let headers = response.headers().clone();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > MAX_REFUSAL {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    refusal(status, &headers, &body)
}
