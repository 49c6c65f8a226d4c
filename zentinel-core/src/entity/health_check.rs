//! Endpoints that tell whether what a rollout brought works, and what they answered.

use crate::error::{Checks, Result};
use crate::id::{HealthCheckId, NodeId, OrganisationId, ProjectId, RolloutId, TypedId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::Scope;
use crate::value::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use url::Url;

/// The placeholder for a node's address.
pub const NODE_IP: &str = "{node_ip}";
/// The placeholder for a node's name.
pub const NODE_NAME: &str = "{node_name}";

/// How often an endpoint is asked, unless its own time limit is longer.
const INTERVAL: Duration = Duration::from_secs(10);
/// An answer older than this many intervals says nothing.
const STALE_AFTER: u32 = 3;

/// How an endpoint is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeMethod {
    /// Asks for the page.
    #[default]
    Get,
    /// Sends an empty JSON object.
    Post,
    /// Asks for the status alone.
    Head,
}

impl ProbeMethod {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Head => "HEAD",
        }
    }

    /// The method with this wire name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Get, Self::Post, Self::Head].into_iter().find(|method| method.as_str() == text)
    }
}

/// What a request carries along: may hold credentials, so `Debug` shows the names alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProbeHeaders(pub BTreeMap<String, String>);

impl fmt::Debug for ProbeHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// An endpoint that rollouts may ask before a step is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Its id.
    pub id: HealthCheckId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// Unique in the project, 1 to 100 characters.
    pub name: String,
    /// Where it is. With [`NODE_IP`] or [`NODE_NAME`] in it each node is asked.
    pub url: String,
    /// How it is asked.
    pub method: ProbeMethod,
    /// How long it may take, 1 to 60,000 ms.
    pub timeout_ms: u32,
    /// The status that passes, 100 to 599.
    pub expected_status: u16,
    /// What the answer must contain, if anything.
    pub expected_body_contains: Option<String>,
    /// What the request carries.
    pub headers: ProbeHeaders,
    /// Whether it may be asked; a rollout that names a disabled one fails its gate.
    pub enabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl HealthCheck {
    /// Complains about what can't be asked.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name`, `url`, `timeout_ms`, `expected_status`,
    /// `expected_body_contains` or `headers`.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        checks.text("name", &self.name, 100);
        if let Err(message) = self.url_for(&ProbeVariables::sample()) {
            checks.that("url", false, message);
        }
        checks.that("url", self.url.len() <= 2_000, "should be at most 2000 character(s)");
        checks.that("timeout_ms", (1..=60_000).contains(&self.timeout_ms), "must be between 1 and 60000");
        let known = (100..=599).contains(&self.expected_status);
        checks.that("expected_status", known, "must be between 100 and 599");
        if let Some(text) = &self.expected_body_contains {
            checks.text("expected_body_contains", text, 1_000);
            let has_body = self.method != ProbeMethod::Head;
            checks.that("expected_body_contains", has_body, "cannot be set with the method HEAD");
        }
        checks.that("headers", self.headers.0.len() <= 32, "should be at most 32");
        for (name, value) in &self.headers.0 {
            checks.that("headers", is_header(name, value), format!("{name:?} is no header"));
        }
        checks.finish()
    }

    /// Whether each node is asked, rather than one place for all.
    #[must_use]
    pub fn is_per_node(&self) -> bool {
        self.url.contains(NODE_IP) || self.url.contains(NODE_NAME)
    }

    /// The URL for a node, or for all.
    ///
    /// # Errors
    /// What is wrong with it, as a message for a field.
    pub fn url_for(&self, variables: &ProbeVariables) -> Result<Url, String> {
        let mut text = self.url.clone();
        if text.contains(NODE_IP) {
            let address = variables.node_ip.ok_or("the address of the node is not known")?;
            let host = match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            text = text.replace(NODE_IP, &host);
        }
        if text.contains(NODE_NAME) {
            let name = variables.node_name.as_deref().ok_or("the name of the node is not known")?;
            // A name must not turn the URL into that of something else.
            let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            text = text.replace(NODE_NAME, &name.replace('+', "%20"));
        }
        let url = Url::parse(&text).map_err(|error| format!("is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err("must be http or https with a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain credentials; use headers".to_owned());
        }
        Ok(url)
    }

    /// How long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// How often it is asked.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.timeout().max(INTERVAL)
    }

    /// How long an answer is believed.
    #[must_use]
    pub fn believed_for(&self) -> Duration {
        self.interval() * STALE_AFTER
    }

    /// The scope that shows its project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for HealthCheck {
    const KIND: RecordKind = RecordKind::HealthCheck;
    type Id = HealthCheckId;
    fn id(&self) -> HealthCheckId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.name.clone()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// Whether a header can be sent like this.
fn is_header(name: &str, value: &str) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let in_value = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=100).contains(&name.len())
        && name.bytes().all(in_name)
        && value.len() <= 4_000
        && value.bytes().all(in_value)
}

/// What stands for the placeholders of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeVariables {
    /// For [`NODE_IP`].
    pub node_ip: Option<IpAddr>,
    /// For [`NODE_NAME`].
    pub node_name: Option<String>,
}

impl ProbeVariables {
    /// Those of a made-up node, to try a URL with.
    #[must_use]
    pub fn sample() -> Self {
        Self { node_ip: Some(IpAddr::from([192, 0, 2, 1])), node_name: Some("node".to_owned()) }
    }

    /// Those of a node.
    #[must_use]
    pub fn of_node(name: &str, ip: Option<&str>) -> Self {
        Self { node_ip: ip.and_then(|ip| ip.parse().ok()), node_name: Some(name.to_owned()) }
    }
}

/// What an endpoint was found to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When it was asked.
    pub asked_at: Timestamp,
    /// When that was known.
    pub answered_at: Timestamp,
    /// Why it did not pass; `None` when it did.
    pub failure: Option<String>,
    /// The status that it answered with, if it did.
    pub status: Option<u16>,
}

impl ProbeResult {
    /// Whether it passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// The last answer of one endpoint, for one node or for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeEntry {
    /// The endpoint.
    pub check_id: HealthCheckId,
    /// The node, where each is asked.
    pub node_id: Option<NodeId>,
    /// What was found.
    pub result: ProbeResult,
}

/// The last answers of all endpoints that a rollout names. Shares the rollout's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutProbes {
    /// The rollout.
    pub rollout_id: RolloutId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The answers.
    pub entries: Vec<ProbeEntry>,
    /// When the last round began.
    pub asked_at: Timestamp,
    /// When the next one does, at the earliest.
    pub due_at: Timestamp,
    /// When the rollout was created.
    pub created_at: Timestamp,
}

impl Record for RolloutProbes {
    const KIND: RecordKind = RecordKind::RolloutProbes;
    type Id = RolloutId;
    fn id(&self) -> RolloutId {
        self.rollout_id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys { owner: self.rollout_id.uuid(), ..Keys::in_project(self.organisation_id, self.project_id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> HealthCheck {
        HealthCheck {
            id: HealthCheckId::random(),
            organisation_id: OrganisationId::random(),
            project_id: ProjectId::random(),
            name: "ready".to_owned(),
            url: url.to_owned(),
            method: ProbeMethod::Get,
            timeout_ms: 5_000,
            expected_status: 200,
            expected_body_contains: None,
            headers: ProbeHeaders::default(),
            enabled: true,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn only_http_urls_with_a_host_and_without_credentials_are_taken() {
        for good in ["https://example.com/ready", "http://{node_ip}:8080/?n={node_name}", "http://[::1]/"] {
            assert!(check(good).check().is_ok(), "{good}");
        }
        for bad in ["", "example.com", "ftp://example.com", "http://", "file:///etc/passwd", "http://a:b@c/"]
        {
            assert!(check(bad).check().unwrap_err().fields().contains_key("url"), "{bad}");
        }
    }

    #[test]
    fn every_bound_is_checked() {
        type Spoil = fn(&mut HealthCheck);
        let cases: [(&str, Spoil); 7] = [
            ("name", |check| check.name.clear()),
            ("timeout_ms", |check| check.timeout_ms = 0),
            ("timeout_ms", |check| check.timeout_ms = 60_001),
            ("expected_status", |check| check.expected_status = 99),
            ("expected_status", |check| check.expected_status = 600),
            ("headers", |check| drop(check.headers.0.insert("a b".to_owned(), "c".to_owned()))),
            ("expected_body_contains", |check| {
                (check.method, check.expected_body_contains) = (ProbeMethod::Head, Some("ok".to_owned()));
            }),
        ];
        for (field, spoil) in cases {
            let mut check = check("http://example.com");
            spoil(&mut check);
            assert!(check.check().unwrap_err().fields().contains_key(field), "{field}");
        }
    }

    #[test]
    fn what_a_node_says_of_itself_stays_within_its_place() {
        let per_node = check("http://{node_ip}/{node_name}");
        assert!(per_node.is_per_node());
        let url = |name: &str, ip| per_node.url_for(&ProbeVariables::of_node(name, ip));
        assert_eq!(url("edge 1", Some("10.0.0.7")).unwrap().as_str(), "http://10.0.0.7/edge%201");
        assert_eq!(url("a/../b?c#d", Some("::1")).unwrap().as_str(), "http://[::1]/a%2F..%2Fb%3Fc%23d");
        for ip in [None, Some("example.com"), Some("10.0.0.1@evil.example")] {
            assert!(url("edge", ip).is_err(), "{ip:?}");
        }
        let by_name = check("http://{node_name}.example.com/");
        let host = |name: &str| by_name.url_for(&ProbeVariables::of_node(name, None));
        assert_eq!(host("edge-1").unwrap().host_str(), Some("edge-1.example.com"));
        for name in ["evil.example/", "a@b", "x:80#"] {
            assert!(host(name).is_err(), "{name}");
        }
    }

    #[test]
    fn values_of_headers_are_not_shown() {
        let mut check = check("http://example.com");
        check.headers.0.insert("authorization".to_owned(), "hunter2".to_owned());
        let shown = format!("{check:?}");
        assert!(shown.contains("authorization") && !shown.contains("hunter2"));
    }

    #[test]
    fn answers_are_believed_for_three_intervals() {
        let mut check = check("http://example.com");
        assert_eq!(check.believed_for(), Duration::from_secs(30));
        check.timeout_ms = 60_000;
        assert_eq!(check.believed_for(), Duration::from_secs(180));
    }
}
