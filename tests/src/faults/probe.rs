//! One question and what its answer says, for tests that look at refusals.

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method};
use serde_json::Value;
use std::time::{Duration, Instant};
use url::Url;

/// An answer of any kind.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The status.
    pub status: u16,
    /// Seconds until the caller may come back, when the server says so.
    pub retry_after: Option<u64>,
    /// The body; null when it is no JSON.
    pub body: Value,
    /// When a node should poll again.
    pub poll_after: Option<u64>,
    /// How long the answer took.
    pub took: Duration,
}

impl Seen {
    /// Whether it says clearly that a dependency is away and when to come back.
    #[must_use]
    pub fn is_clear_refusal(&self) -> bool {
        self.status == 503
            && self.retry_after.is_some_and(|seconds| seconds > 0)
            && self.body["error"].as_str().is_some_and(|text| !text.is_empty() && !text.contains("://"))
    }
}

/// Asks, and takes any answer.
#[derive(Clone, Debug)]
pub struct Probe {
    http: Client,
    base: Url,
    project: String,
}

impl Probe {
    /// A probe of a control plane; with `fresh` every question goes over a connection of its own.
    ///
    /// # Panics
    /// When there is no TLS back end.
    #[must_use]
    pub fn new(base: &Url, project: &str, fresh: bool) -> Self {
        let mut http = Client::builder().timeout(Duration::from_secs(60));
        if fresh {
            http = http.pool_max_idle_per_host(0);
        }
        Self { http: http.build().expect("a client"), base: base.clone(), project: project.to_owned() }
    }

    /// A path below the project.
    #[must_use]
    pub fn in_project(&self, rest: &str) -> String {
        format!("/api/v1/projects/{}/{rest}", self.project)
    }

    /// Asks with one header.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        header: (&str, &str),
        body: Option<&Value>,
    ) -> reqwest::Result<Seen> {
        let begun = Instant::now();
        let url = self.base.join(path).expect("a path");
        let mut request = self.http.request(method, url).header(header.0, header.1);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let number = |name: &str| response.headers().get(name)?.to_str().ok()?.parse().ok();
        let (retry_after, poll_after) = (number(RETRY_AFTER.as_str()), number("x-zentinel-poll-after"));
        let status = response.status().as_u16();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Seen { status, retry_after, body, poll_after, took: begun.elapsed() })
    }
}

/// The resident memory of a process in bytes.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kilobytes * 1024
}
