//! The node's side of the node API.

use super::download;
use super::transport::{CALL_TIMEOUT, Transport, answer, call, send};
use crate::node::wire::{
    BundleOffer, ConfigAck, ConfigRequest, EventsAck, EventsRequest, HeartbeatAck, HeartbeatRequest,
    JOIN_TOKEN_HEADER, MetricsAck, MetricsRequest, NODE_KEY_HEADER, NodeEvent, POLL_AFTER_HEADER, PollAnswer,
    RegisterRequest, Registered, RotatedKey, SigningKeys, TokenAnswer, WafEventsAck, WafEventsRequest,
};
use bytes::Bytes;
use http::StatusCode;
use http::header::{ETAG, IF_NONE_MATCH};
use parking_lot::RwLock;
use reqwest::RequestBuilder;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use zentinel_core::entity::{NodeTraffic, Slot};
use zentinel_core::id::NodeId;
use zentinel_core::port::PublicKey;
use zentinel_core::{Error, Result, Secret};

/// When the server names no time to poll again.
const DEFAULT_POLL_AFTER: Duration = Duration::from_secs(30);
/// How much longer than asked a long poll may take.
const LONG_POLL_SLACK: Duration = Duration::from_secs(30);

/// What a poll was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Poll {
    /// The answer is still the one with the given etag.
    NotModified {
        /// When to ask again.
        poll_after: Duration,
    },
    /// Nothing to do.
    NoUpdate {
        /// When to ask again.
        poll_after: Duration,
        /// For the next poll.
        etag: Option<String>,
        /// The slot and weight that the node shall have.
        traffic: Option<NodeTraffic>,
    },
    /// Another bundle to run.
    Update(Box<BundleOffer>),
}

impl Poll {
    /// What to send along with the next poll; `None` when the last one's still holds.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        match self {
            Self::NotModified { .. } => None,
            Self::NoUpdate { etag, .. } => etag.as_deref(),
            Self::Update(offer) => offer.etag.as_deref(),
        }
    }

    /// The slot and weight that the node shall have; `None` where the answer says nothing about it.
    #[must_use]
    pub fn traffic(&self) -> Option<NodeTraffic> {
        match self {
            Self::NotModified { .. } => None,
            Self::NoUpdate { traffic, .. } => *traffic,
            Self::Update(offer) => traffic(offer.slot, offer.traffic_weight),
        }
    }

    /// When to ask again.
    #[must_use]
    pub fn poll_after(&self) -> Duration {
        match self {
            Self::NotModified { poll_after } | Self::NoUpdate { poll_after, .. } => *poll_after,
            Self::Update(offer) => Duration::from_secs(offer.poll_after_s),
        }
    }
}

/// Slot and weight come together or not at all.
fn traffic(slot: Option<Slot>, weight: Option<u8>) -> Option<NodeTraffic> {
    Some(NodeTraffic { slot: slot?, weight: weight?.min(100) })
}

/// How a node proves who it is. Clones of a client share it.
#[derive(Debug)]
struct Identity {
    node_id: NodeId,
    key: RwLock<Secret>,
    token: RwLock<Option<Secret>>,
}

/// Speaks the node API. Cheap to clone; clones share connections and credentials.
#[derive(Clone, Debug)]
pub struct NodeClient {
    transport: Transport,
    identity: Option<Arc<Identity>>,
}

impl NodeClient {
    /// A client of the control plane at `base`, which may have a path.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) for anything but an HTTP URL,
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when TLS cannot be set up.
    pub fn new(base: Url) -> Result<Self> {
        Ok(Self { transport: Transport::new(base)?, identity: None })
    }

    /// The same client as a node with its static key.
    #[must_use]
    pub fn with_credentials(&self, node_id: NodeId, key: Secret) -> Self {
        Self {
            transport: self.transport.clone(),
            identity: Some(Arc::new(Identity { node_id, key: RwLock::new(key), token: RwLock::new(None) })),
        }
    }

    /// The node this client speaks for.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        self.identity.as_ref().map(|identity| identity.node_id)
    }

    /// Uses this token instead of the static key; `None` goes back to the key.
    pub fn use_token(&self, token: Option<Secret>) {
        if let Some(identity) = &self.identity {
            *identity.token.write() = token;
        }
    }

    /// Registers a node. The answer's key is shown this once.
    ///
    /// # Errors
    /// `Unauthenticated` without a usable token, `NotFound` for another project's slug, `Invalid`
    /// for a name that is taken or a field that is wrong, `RateLimited`.
    pub async fn register(
        &self,
        project_slug: &str,
        token: Option<&Secret>,
        request: &RegisterRequest,
    ) -> Result<Registered> {
        let url = self.transport.url(&["api", "v1", "projects", project_slug, "nodes", "register"])?;
        let mut call_ = self.transport.http.post(url).json(request);
        if let Some(token) = token {
            call_ = call_.header(JOIN_TOKEN_HEADER, token.expose());
        }
        call(call_).await
    }

    fn identity(&self) -> Result<&Identity> {
        self.identity.as_deref().ok_or_else(|| Error::unauthenticated("the client has no node credentials"))
    }

    fn url(&self, rest: &[&str]) -> Result<Url> {
        let id = self.identity()?.node_id.to_string();
        let mut segments = vec!["api", "v1", "nodes", id.as_str()];
        segments.extend(rest);
        self.transport.url(&segments)
    }

    fn authorised(&self, request: RequestBuilder) -> Result<RequestBuilder> {
        let identity = self.identity()?;
        let token = identity.token.read();
        Ok(match &*token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request.header(NODE_KEY_HEADER, identity.key.read().expose()),
        })
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, rest: &[&str], body: &impl Serialize) -> Result<T> {
        let request = self.transport.http.post(self.url(rest)?).json(body);
        call(self.authorised(request)?).await
    }

    /// Reports that the node lives, and what it runs.
    ///
    /// # Errors
    /// `Unauthenticated` when the node is not known any more, `Unavailable` when the report should
    /// be sent again.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<HeartbeatAck> {
        self.post(&["heartbeat"], request).await
    }

    /// Asks what to run. With `wait` the answer is held back until there is news, at most that
    /// long; `etag` is that of the last answer.
    ///
    /// # Errors
    /// Those of every call; `Unavailable` when the archive cannot be offered at the moment.
    pub async fn poll(&self, wait: Option<Duration>, etag: Option<&str>) -> Result<Poll> {
        let mut url = self.url(&["bundles", "latest"])?;
        if let Some(wait) = wait {
            url.query_pairs_mut().append_pair("wait", &wait.as_secs().to_string());
        }
        let patience = wait.map_or(CALL_TIMEOUT, |wait| wait + LONG_POLL_SLACK);
        let mut request = self.transport.http.get(url).timeout(patience);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = send(self.authorised(request)?).await?;
        let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let poll_after = header(POLL_AFTER_HEADER)
            .and_then(|text| text.parse().ok())
            .map_or(DEFAULT_POLL_AFTER, Duration::from_secs);
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Poll::NotModified { poll_after });
        }
        let etag = header(ETAG.as_str());
        Ok(match answer(response).await? {
            PollAnswer::Update(mut offer) => {
                offer.etag = etag;
                Poll::Update(offer)
            }
            PollAnswer::NoUpdate(answer) => {
                let traffic = traffic(answer.slot, answer.traffic_weight);
                Poll::NoUpdate { poll_after: Duration::from_secs(answer.poll_after_s), etag, traffic }
            }
        })
    }

    /// Downloads what lies beyond the first `from` bytes of an archive of at most `limit` bytes.
    /// No credentials are sent: the URL is signed.
    ///
    /// # Errors
    /// `Forbidden` when the URL has expired, `TooLarge` beyond the limit, `Unavailable` when the
    /// transfer broke off.
    pub async fn download(&self, url: &Url, from: u64, limit: u64) -> Result<Bytes> {
        download::to_memory(&self.transport, url, from, limit).await
    }

    /// As [`NodeClient::download`], but hands over each chunk as it comes; returns their length.
    /// Chunks before an error are good: their length is where to go on.
    ///
    /// # Errors
    /// As [`NodeClient::download`], and those of `sink`, which end the transfer.
    pub async fn download_to(
        &self,
        url: &Url,
        from: u64,
        limit: u64,
        sink: impl FnMut(Bytes) -> Result<()>,
    ) -> Result<u64> {
        download::stream(&self.transport, url, from, limit, sink).await
    }

    /// Exchanges the credential in use for a token of 12 hours. It is not used before
    /// [`NodeClient::use_token`].
    ///
    /// # Errors
    /// `Unauthenticated` when a token has been renewed with itself for 30 days.
    pub async fn token(&self) -> Result<TokenAnswer> {
        let request = self.transport.http.post(self.url(&["token"])?);
        call(self.authorised(request)?).await
    }

    /// Replaces the static key and uses the new one from now on. Keep it before anything else.
    ///
    /// # Errors
    /// `Forbidden` when a token is in use: only the key replaces the key.
    pub async fn rotate_key(&self) -> Result<RotatedKey> {
        let request = self.transport.http.post(self.url(&["key", "rotate"])?);
        let rotated: RotatedKey = call(self.authorised(request)?).await?;
        *self.identity()?.key.write() = rotated.node_key.clone();
        Ok(rotated)
    }

    /// The public keys whose signatures are accepted, newest first. Pin a new key only while an
    /// old one that is pinned vouches for the connection.
    ///
    /// # Errors
    /// Those of every call.
    pub async fn signing_keys(&self) -> Result<Vec<PublicKey>> {
        let request = self.transport.http.get(self.url(&["signing-keys"])?);
        let answer: SigningKeys = call(self.authorised(request)?).await?;
        Ok(answer.signing_keys)
    }

    /// Reports events; all or none are stored.
    ///
    /// # Errors
    /// `Invalid` for the first wrong event, `TooLarge` for more than 1000.
    pub async fn events(&self, events: Vec<NodeEvent>) -> Result<EventsAck> {
        self.post(&["events"], &EventsRequest { events }).await
    }

    /// Reports the configuration that runs.
    ///
    /// # Errors
    /// `TooLarge` beyond 4 MiB.
    pub async fn config(&self, config_kdl: &str) -> Result<ConfigAck> {
        let config_kdl = config_kdl.to_owned();
        self.post(&["config"], &ConfigRequest { config_kdl }).await
    }

    /// Reports measurements and single requests; wrong items are named and left out.
    ///
    /// # Errors
    /// `TooLarge` for more than 1000 items of a kind.
    pub async fn metrics(&self, request: &MetricsRequest) -> Result<MetricsAck> {
        self.post(&["metrics"], request).await
    }

    /// Reports firewall events; wrong items are named and left out.
    ///
    /// # Errors
    /// `TooLarge` for more than 1000.
    pub async fn waf_events(&self, events: Vec<Value>) -> Result<WafEventsAck> {
        self.post(&["waf-events"], &WafEventsRequest { events }).await
    }
}
