//! Calls whose answers are judged: no defect, no refusal without a time to come back, no endless wait.

use super::ledger::Ledger;
use reqwest::header::{AUTHORIZATION, RETRY_AFTER};
use reqwest::{Client, Method};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use url::Url;

/// No answer may take longer: the server's own limit of 30 s and time for a busy machine.
const LIMIT: Duration = Duration::from_secs(45);

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub enum As<'a> {
    /// The operator with every scope.
    Operator,
    /// The owner of another API key.
    Key(&'a str),
    /// A node with its static key.
    Node(&'a str),
    /// A newcomer with a registration token.
    Newcomer(&'a str),
}

/// An answer that decides something.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Below 500, and not 429.
    pub status: u16,
    /// The body; null when it is no JSON.
    pub body: Value,
}

impl Answer {
    /// Whether it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A text of the body.
    #[must_use]
    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_owned()
    }
}

/// Calls one control plane, on whichever of its addresses comes next.
#[derive(Debug)]
pub struct Wire {
    http: Client,
    pub(super) bases: Vec<Url>,
    next: AtomicUsize,
    api_key: String,
    /// Slug of the project.
    pub project: String,
    /// What is written down.
    pub ledger: Arc<Ledger>,
}

impl Wire {
    /// A wire to these addresses.
    ///
    /// # Panics
    /// When there is no TLS back end.
    #[must_use]
    pub fn new(bases: Vec<Url>, api_key: &str, project: &str, ledger: Arc<Ledger>) -> Self {
        let http = Client::builder().timeout(LIMIT).connect_timeout(Duration::from_secs(5));
        Self {
            http: http.build().expect("a client"),
            bases,
            next: AtomicUsize::new(0),
            api_key: api_key.to_owned(),
            project: project.to_owned(),
            ledger,
        }
    }

    /// Whether several processes answer, which hear of one another a moment later.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.bases.len() > 1
    }

    /// A path below the project.
    #[must_use]
    pub fn in_project(&self, rest: &str) -> String {
        format!("/api/v1/projects/{}/{rest}", self.project)
    }

    /// Sends a request and judges the answer. `None` when nothing is known about its outcome, or
    /// when the server asked to come back later.
    pub async fn call(
        &self,
        who: As<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.bases.len();
        let url = self.bases[place].join(path).expect("a path");
        let mut request = self.http.request(method.clone(), url);
        request = match who {
            As::Operator => request.bearer_auth(&self.api_key),
            As::Key(key) => request.header(AUTHORIZATION, format!("Bearer {key}")),
            As::Node(key) => request.header("x-zentinel-node-key", key),
            As::Newcomer(token) => request.header("x-zentinel-join-token", token),
        };
        if let Some(body) = body {
            request = request.json(body);
        }
        let begun = Instant::now();
        let answer = self.judged(request, &format!("{method} {path}")).await;
        self.ledger.took(begun.elapsed());
        answer
    }

    /// GET as the operator.
    pub async fn get(&self, path: &str) -> Option<Answer> {
        self.call(As::Operator, Method::GET, path, None).await
    }

    /// POST as the operator.
    pub async fn post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.call(As::Operator, Method::POST, path, Some(body)).await
    }

    async fn judged(&self, request: reqwest::RequestBuilder, what: &str) -> Option<Answer> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                if error.is_timeout() && !error.is_connect() {
                    self.ledger.fault(format!("{what}: no answer within {LIMIT:?}"));
                }
                return None;
            }
        };
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A body that breaks off with the server is no answer.
        let bytes = response.bytes().await.ok()?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match status {
            429 | 503 => {
                if retry_after.and_then(|seconds| seconds.parse::<u64>().ok()).is_none() {
                    self.ledger.fault(format!("{what}: {status} without a time to come back: {body}"));
                }
                self.ledger.refused(status);
                None
            }
            500.. => {
                self.ledger.fault(format!("{what}: answered {status}: {body}"));
                None
            }
            _ => Some(Answer { status, body }),
        }
    }

    /// Downloads an archive; `None` when the transfer broke off.
    pub async fn download(&self, url: &str) -> Option<(u16, Vec<u8>)> {
        let response = self.http.get(url).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.bytes().await.ok()?.to_vec()))
    }

    /// A list, page by page, newest or first by name first, until `enough` of it.
    pub async fn pages(
        &self,
        path: &str,
        nouns: &str,
        mut enough: impl FnMut(&Value) -> bool,
    ) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{separator}limit=500{cursor}")).await?;
            if !page.is_done() {
                self.ledger.fault(format!("GET {path}: answered {}: {}", page.status, page.body));
                return None;
            }
            for item in page.body[nouns].as_array()? {
                if enough(item) {
                    return Some(all);
                }
                all.push(item.clone());
            }
            match page.body["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Some(all),
            }
        }
    }
}
