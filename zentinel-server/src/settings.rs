//! Every setting of the server: one struct per component, defaults and units beside the field.
//!
//! Later sources win: defaults, the TOML file, environment variables, flags. The table in
//! `docs/settings.md`, which follows, is tested against [`Settings::table`].
//!
#![doc = include_str!("../docs/settings.md")]

mod load;
mod table;
mod text;

pub use load::{Overrides, load};
pub use table::Entry;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use url::Url;
use zentinel_core::entity::ApiScope;
use zentinel_core::error::Checks;
use zentinel_core::{Result, Secret};
use zentinel_http::Network;

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to serve on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// URL under which nodes and operators reach the server; derived from `listen` when absent.
    pub public_url: Option<Url>,
    /// Directory for everything that is kept on disk.
    pub data_dir: PathBuf,
    /// Where records live.
    pub database: Database,
    /// Where archives live.
    pub blobs: Blobs,
    /// Keys.
    pub signing: Signing,
    /// Checking configurations.
    pub validation: Validation,
    /// The HTTP API.
    pub http: Http,
    /// The node path.
    pub nodes: Nodes,
    /// Rollouts.
    pub rollouts: Rollouts,
    /// The load balancer that blue-green rollouts drive.
    pub traffic_shifter: TrafficShifter,
    /// Background work.
    pub queues: Queues,
    /// Logs.
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4000)),
            public_url: None,
            data_dir: PathBuf::from("zentinel-data"),
            database: Database::default(),
            blobs: Blobs::default(),
            signing: Signing::default(),
            validation: Validation::default(),
            http: Http::default(),
            nodes: Nodes::default(),
            rollouts: Rollouts::default(),
            traffic_shifter: TrafficShifter::default(),
            queues: Queues::default(),
            log: Log::default(),
        }
    }
}

/// Where records live.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `sqlite` (a file in the data directory), `memory`, or a `postgres://` URL.
    pub url: RedactedUrl,
    /// Most connections to PostgreSQL.
    pub pool_size: u32,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: RedactedUrl("sqlite".to_owned()), pool_size: 10 }
    }
}

/// A URL that may hold a password: shown without it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RedactedUrl(pub(crate) String);

impl RedactedUrl {
    /// The whole text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RedactedUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Url::parse(&self.0) {
            Ok(url) => f.write_str(redacted(url).as_ref().map_or("redacted", Url::as_str)),
            Err(_) => f.write_str(&self.0),
        }
    }
}

/// The URL with every password in it replaced; `None` when that is not possible.
fn redacted(mut url: Url) -> Option<Url> {
    if url.password().is_some() {
        url.set_password(Some("redacted")).ok()?;
    }
    if url.query_pairs().any(|(name, _)| name.contains("password")) {
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let shown = |(name, value): (String, String)| {
            let value = if name.contains("password") { "redacted".to_owned() } else { value };
            (name, value)
        };
        url.query_pairs_mut().clear().extend_pairs(pairs.into_iter().map(shown));
    }
    Some(url)
}

impl std::fmt::Debug for RedactedUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RedactedUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Text that is read but never shown.
#[derive(Clone, Default)]
pub struct HiddenText(Option<Secret>);

impl HiddenText {
    /// The text, when set and not empty.
    #[must_use]
    pub fn get(&self) -> Option<&Secret> {
        self.0.as_ref().filter(|text| !text.expose().is_empty())
    }
}

impl std::fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.get().is_some() { "redacted" } else { "unset" })
    }
}

impl Serialize for HiddenText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.get().is_some() { "redacted" } else { "" })
    }
}

impl<'de> Deserialize<'de> for HiddenText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Some(Secret::new(String::deserialize(deserializer)?))))
    }
}

/// Where archives live.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blobs {
    /// `local` (a directory in the data directory), `memory`, or `s3`.
    pub kind: BlobKind,
    /// The bucket.
    pub s3_bucket: String,
    /// Base URL of the S3-compatible service; absent for AWS.
    pub s3_endpoint: Option<Url>,
    /// The region.
    pub s3_region: String,
    /// The access key.
    pub s3_access_key_id: String,
    /// Its secret.
    pub s3_secret_access_key: HiddenText,
    /// How long a presigned download URL is valid, in seconds.
    pub presign_seconds: u32,
}

impl Default for Blobs {
    fn default() -> Self {
        Self {
            kind: BlobKind::Local,
            s3_bucket: "zentinel-bundles".to_owned(),
            s3_endpoint: None,
            s3_region: "us-east-1".to_owned(),
            s3_access_key_id: String::new(),
            s3_secret_access_key: HiddenText::default(),
            presign_seconds: 3_600,
        }
    }
}

/// A kind of blob store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A directory.
    Local,
    /// Memory; gone at exit.
    Memory,
    /// An S3-compatible service.
    S3,
}

/// Keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signing {
    /// File of 32 bytes that seals secrets at rest; `master.key` in the data directory when
    /// absent, made at the first start. Every replica needs the same one.
    pub master_key_file: Option<PathBuf>,
    /// Sign with this Ed25519 key (PEM or base64 seed) instead of keys per organisation.
    pub key_file: Option<PathBuf>,
}

/// Checking configurations.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Validation {
    /// Longest check, in seconds.
    pub timeout_seconds: u32,
    /// Most checks at once.
    pub max_concurrent: u32,
    /// The proxy's binary, asked for a second opinion when set.
    pub zentinel_binary: Option<PathBuf>,
}

impl Default for Validation {
    fn default() -> Self {
        Self { timeout_seconds: 60, max_concurrent: 2, zentinel_binary: None }
    }
}

/// The HTTP API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Largest request body, in bytes.
    pub body_limit_bytes: u32,
    /// Longest request other than a long poll, in seconds.
    pub request_timeout_seconds: u32,
    /// How long a shutdown waits for requests in flight, in seconds.
    pub shutdown_seconds: u32,
    /// Addresses or ranges of proxies whose `X-Forwarded-For` is believed, for example `10.0.0.0/8`.
    #[serde(deserialize_with = "text::list")]
    pub trusted_proxies: Vec<String>,
    /// Bearer token that `/metrics` demands, when set.
    pub metrics_token: HiddenText,
    /// Requests per minute over the defaults: by scope, for example `{"bundles:write" = 200}`, or for
    /// `default` (every other scope), `node` (each node), `registration` (each address).
    #[serde(deserialize_with = "text::limits")]
    pub rate_limits: BTreeMap<String, u32>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            body_limit_bytes: 8_000_000,
            request_timeout_seconds: 30,
            shutdown_seconds: 20,
            trusted_proxies: Vec::new(),
            metrics_token: HiddenText::default(),
            rate_limits: BTreeMap::new(),
        }
    }
}

/// The node path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nodes {
    /// How often nodes are asked to poll, in seconds.
    pub poll_interval_seconds: u32,
    /// Silence after which a node is offline, in seconds.
    pub offline_after_seconds: u32,
    /// Longest long poll, in seconds.
    pub long_poll_seconds: u32,
    /// How long a node's request may have to wait for the processor before some are told to come back
    /// later, in milliseconds; 0 lets all in.
    pub max_queue_delay_ms: u32,
    /// Most heartbeats that wait for their commit at once; further ones are told to come back.
    pub max_waiting_heartbeats: u32,
    /// Heartbeats kept per node.
    pub heartbeats_kept: u32,
    /// Heartbeats kept in the history, a second, over all nodes. Of a fleet that sends more, those that
    /// bring news are kept, and an even share of the others.
    pub heartbeat_history_rate: u32,
    /// Node events kept per node.
    pub events_kept: u32,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            poll_interval_seconds: 30,
            offline_after_seconds: 120,
            long_poll_seconds: 55,
            max_queue_delay_ms: 100,
            max_waiting_heartbeats: 2_000,
            heartbeats_kept: 1_000,
            heartbeat_history_rate: 1_000,
            events_kept: 500,
        }
    }
}

/// Rollouts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollouts {
    /// How long a signed statement is valid, in days.
    pub statement_days: u32,
    /// Addresses or ranges that health checks may call although they are not public, such as `10.0.0.0/8`.
    #[serde(deserialize_with = "text::list")]
    pub egress_allow: Vec<String>,
}

impl Default for Rollouts {
    fn default() -> Self {
        Self { statement_days: 30, egress_allow: Vec::new() }
    }
}

/// The load balancer that blue-green rollouts drive.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficShifter {
    /// Where each split of the traffic is posted to. Without it, rollouts with `shift_traffic` are refused.
    pub url: Option<Url>,
    /// Signs these calls; at least 16 characters.
    pub secret: HiddenText,
    /// Whether the URL may lead to this host or into a private network.
    pub allow_private: bool,
}

/// Background work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queues {
    /// Workers of the queue `default`.
    pub default: u32,
    /// Workers of the queue `rollouts`.
    pub rollouts: u32,
    /// Workers of the queue `maintenance`.
    pub maintenance: u32,
    /// Days that finished jobs are kept.
    pub jobs_kept_days: u32,
}

impl Default for Queues {
    fn default() -> Self {
        Self { default: 10, rollouts: 5, maintenance: 2, jobs_kept_days: 7 }
    }
}

/// Logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A `tracing` filter, for example `info,zentinel_rollout=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    /// Checks what types can't.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) with every wrong setting.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        let url = self.database.url.expose();
        let known = matches!(url, "sqlite" | "memory")
            || url.starts_with("postgres://")
            || url.starts_with("postgresql://");
        checks.that("database.url", known, "must be `sqlite`, `memory` or a postgres:// URL");
        if self.blobs.kind == BlobKind::S3 {
            checks.that(
                "blobs.s3_access_key_id",
                !self.blobs.s3_access_key_id.is_empty(),
                "can't be blank with blobs.kind = s3",
            );
            let secret = self.blobs.s3_secret_access_key.get().is_some();
            checks.that("blobs.s3_secret_access_key", secret, "can't be blank with blobs.kind = s3");
        }
        let http = self.public_url.as_ref().is_none_or(|url| matches!(url.scheme(), "http" | "https"));
        checks.that("public_url", http, "must be an http or https URL");
        let shifter = &self.traffic_shifter;
        if shifter.url.is_some() {
            let secret = shifter.secret.get().is_some_and(|secret| secret.expose().len() >= 16);
            checks.that("traffic_shifter.secret", secret, "should be at least 16 character(s)");
        }
        let egress = self.rollouts.egress_allow.iter().all(|text| text.parse::<Network>().is_ok());
        checks.that("rollouts.egress_allow", egress, "must be addresses or ranges such as 10.0.0.0/8");
        let networks = self.http.trusted_proxies.iter().all(|text| text.parse::<Network>().is_ok());
        checks.that("http.trusted_proxies", networks, "must be addresses or ranges such as 10.0.0.0/8");
        for name in self.http.rate_limits.keys() {
            let known = matches!(name.as_str(), "default" | "node" | "registration")
                || name.parse::<ApiScope>().is_ok();
            checks.that(
                &format!("http.rate_limits.{name}"),
                known,
                "names neither a scope nor default, node, registration",
            );
        }
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log.filter);
        checks.that(
            "log.filter",
            filter.is_ok(),
            "is not a tracing filter such as info,zentinel_rollout=debug",
        );
        // AWS refuses longer ones.
        let presign = self.blobs.presign_seconds;
        checks.that("blobs.presign_seconds", (1..=604_800).contains(&presign), "must be from 1 to 604800");
        for (name, value) in [
            ("database.pool_size", self.database.pool_size),
            ("validation.timeout_seconds", self.validation.timeout_seconds),
            ("validation.max_concurrent", self.validation.max_concurrent),
            ("http.body_limit_bytes", self.http.body_limit_bytes),
            ("http.request_timeout_seconds", self.http.request_timeout_seconds),
            ("nodes.poll_interval_seconds", self.nodes.poll_interval_seconds),
            ("nodes.max_waiting_heartbeats", self.nodes.max_waiting_heartbeats),
            ("nodes.offline_after_seconds", self.nodes.offline_after_seconds),
            ("rollouts.statement_days", self.rollouts.statement_days),
            ("queues.default", self.queues.default),
            ("queues.rollouts", self.queues.rollouts),
            ("queues.maintenance", self.queues.maintenance),
        ] {
            checks.that(name, value > 0, "must be greater than 0");
        }
        checks.finish()
    }
}
