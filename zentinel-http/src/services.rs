//! What the router is made of, and how it is set.

use crate::admission::{Appointments, Pressure};
use crate::extract::Network;
use crate::limits::Limiter;
use crate::observe::Metrics;
use crate::operator::Credentials;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;
use zentinel_core::port::{BlobStore, Clock, ConfigValidator, Scheduler, Signer, Store};
use zentinel_core::presign::UrlSigner;
use zentinel_core::{Secret, Timestamp};
use zentinel_rollout::engine::Engine;
use zentinel_rollout::fleet::Fleet;

/// Everything the router calls: the ports, the fleet's observed state, the rollout engine and
/// the settings.
#[derive(Clone, Debug)]
pub struct Services {
    /// Records and logs.
    pub store: Arc<dyn Store>,
    /// Looked at by `/ready` and `/metrics`.
    pub scheduler: Arc<dyn Scheduler>,
    /// Archives.
    pub blobs: Arc<dyn BlobStore>,
    /// Signs node tokens; its public keys verify bundles.
    pub signer: Arc<dyn Signer>,
    /// Answers `POST /bundles/validate`.
    pub validator: Arc<dyn ConfigValidator>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is known of the nodes.
    pub fleet: Arc<Fleet>,
    /// Creates and steers rollouts.
    pub engine: Arc<Engine>,
    /// Checks the URLs of `/blobs/…`; without it that route answers 404.
    pub url_signer: Option<UrlSigner>,
    /// The settings.
    pub options: HttpOptions,
}

/// Settings of the HTTP interface.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Where callers reach this router; base of absolute URLs.
    pub public_url: Url,
    /// How long a download URL is valid. 1 hour by default.
    pub presign_validity: Duration,
    /// How often nodes are told to poll. 30 s by default.
    pub poll_interval: Duration,
    /// The longest time a long poll is held. 55 s by default.
    pub max_long_poll: Duration,
    /// The largest request body in bytes. 8,000,000 by default.
    pub body_limit: usize,
    /// How long a request may take, long polls excepted. 60 s by default.
    pub request_timeout: Duration,
    /// How many requests a caller may make.
    pub rate_limits: RateLimits,
    /// Peers whose `X-Forwarded-For` is believed. None by default.
    pub trusted_proxies: Vec<Network>,
    /// How long a node token is valid. 12 hours by default.
    pub token_ttl: Duration,
    /// How long a node's request may have to wait for the processor before some are told to come
    /// back later; zero lets all in. 100 ms by default.
    pub max_queue_delay: Duration,
    /// How long that is; stays zero unless somebody measures.
    pub pressure: Pressure,
    /// What `/metrics` demands as a bearer token; open without.
    pub metrics_token: Option<Secret>,
    /// Cancel it when the server begins to shut down: long polls are then answered at once.
    pub draining: CancellationToken,
}

impl HttpOptions {
    /// The wire contract's defaults.
    #[must_use]
    pub fn new(public_url: Url) -> Self {
        Self {
            public_url,
            presign_validity: Duration::from_secs(3_600),
            poll_interval: Duration::from_secs(30),
            max_long_poll: Duration::from_secs(55),
            body_limit: 8_000_000,
            request_timeout: Duration::from_secs(60),
            rate_limits: RateLimits::default(),
            trusted_proxies: Vec::new(),
            token_ttl: Duration::from_secs(43_200),
            max_queue_delay: Duration::from_millis(100),
            pressure: Pressure::default(),
            metrics_token: None,
            draining: CancellationToken::new(),
        }
    }
}

/// Requests (more exactly: their cost) per minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Per API key and scope, by the scope's wire name, for example `bundles:write`.
    pub scopes: BTreeMap<String, u32>,
    /// Per API key for everything else.
    pub default: u32,
    /// Per node on the node API.
    pub node: u32,
    /// Registrations per client address.
    pub registration: u32,
}

impl RateLimits {
    /// The same limit for everything.
    #[must_use]
    pub fn uniform(limit: u32) -> Self {
        Self { scopes: BTreeMap::new(), default: limit, node: limit, registration: limit }
    }

    /// The limit of a scope.
    #[must_use]
    pub fn of(&self, scope: &str) -> u32 {
        self.scopes.get(scope).copied().unwrap_or(self.default)
    }
}

impl Default for RateLimits {
    /// The wire contract's table.
    fn default() -> Self {
        let scopes = [
            ("nodes:read", 1_000),
            ("nodes:write", 200),
            ("bundles:read", 500),
            ("bundles:write", 100),
            ("rollouts:read", 500),
            ("rollouts:write", 100),
            ("services:read", 500),
            ("services:write", 200),
            ("api_keys:admin", 50),
        ];
        Self {
            scopes: scopes.map(|(scope, limit)| (scope.to_owned(), limit)).into(),
            default: 300,
            node: 600,
            registration: 10,
        }
    }
}

/// How many configurations are validated on request at once.
const VALIDATIONS: usize = 1;

/// The state of every handler: the services, and what one router keeps in memory.
#[derive(Clone, Debug)]
pub(crate) struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    limiter: Limiter,
    credentials: Credentials,
    metrics: Metrics,
    validating: Arc<Semaphore>,
    appointments: Appointments,
}

impl Api {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        let credentials = Credentials::new(services.store.watch());
        Self(Arc::new(Inner {
            services,
            limiter: Limiter::default(),
            credentials,
            metrics: Metrics::new(),
            validating: Arc::new(Semaphore::new(VALIDATIONS)),
            appointments: Appointments::default(),
        }))
    }

    /// The current instant.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Counts requests against limits.
    pub(crate) fn limiter(&self) -> &Limiter {
        &self.0.limiter
    }

    /// Remembers verified credentials.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Whoever validates on request takes a permit, so that compile jobs keep their share of the
    /// processors.
    pub(crate) fn validating(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.validating)
    }

    /// When nodes that were sent away may come back.
    pub(crate) fn appointments(&self) -> &Appointments {
        &self.0.appointments
    }

    /// Counts for `/metrics`.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

impl Deref for Api {
    type Target = Services;
    fn deref(&self) -> &Services {
        &self.0.services
    }
}
