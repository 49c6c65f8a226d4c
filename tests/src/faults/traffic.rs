//! What nodes send: heartbeats, polls, events, new keys; and newcomers.

use super::ledger::KnownNode;
use super::seed::Chance;
use super::wire::{As, Wire};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zentinel_core::Sha256Digest;

/// How long what one process acknowledged may take to be seen through another.
const HEARSAY: Duration = Duration::from_secs(20);

/// Registers a node; `None` when nothing is known about the outcome.
pub(super) async fn register(wire: &Wire, token: &str, name: &str, role: &str) -> Option<KnownNode> {
    let body = json!({"name": name, "labels": {"role": role}, "version": "0.6.45"});
    let path = wire.in_project("nodes/register");
    let Some(answer) = wire.call(As::Newcomer(token), Method::POST, &path, Some(&body)).await else {
        wire.ledger.book().doubtful_names.insert(name.to_owned());
        return None;
    };
    if answer.status != 201 {
        let doubtful = wire.ledger.book().doubtful_names.contains(name);
        if !(doubtful && answer.status == 422) {
            wire.ledger.fault(format!("registering {name}: {} {}", answer.status, answer.body));
        }
        return None;
    }
    let node = KnownNode { id: answer.text("node_id"), key: answer.text("node_key"), ..KnownNode::default() };
    wire.ledger.book().nodes.insert(name.to_owned(), node.clone());
    Some(node)
}

/// A node that takes part in rollouts.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) wire: Arc<Wire>,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) key: String,
    pub(super) chance: Chance,
    /// Bundles of this source are refused.
    pub(super) poison: usize,
    pub(super) active: Option<String>,
    pub(super) refusal: Value,
    pub(super) sequence: u64,
    pub(super) events: u64,
    /// Events without an answer, to be sent again.
    pub(super) unsent: Vec<Value>,
    /// The last report got no answer.
    pub(super) doubt: bool,
    /// Takes no part in rollouts: it reports another bundle as active with every heartbeat, so that at
    /// any instant some change has just been acknowledged.
    pub(super) flips: bool,
}

impl Member {
    /// Takes part until the end.
    pub(super) async fn run(mut self, end: CancellationToken) {
        while !end.is_cancelled() {
            if self.doubt {
                self.look_up().await;
            } else if self.flips {
                self.flip().await;
                tokio::time::sleep(self.chance.millis(2, 12)).await;
                continue;
            } else {
                match self.chance.between(0, 99) {
                    0..45 => self.beat().await,
                    45..78 => self.poll().await,
                    78..96 => self.report_event().await,
                    _ => self.rotate_key().await,
                }
            }
            tokio::time::sleep(self.chance.millis(20, 80)).await;
        }
    }

    async fn call(&self, method: Method, rest: &str, body: Option<&Value>) -> Option<super::wire::Answer> {
        let path = format!("/api/v1/nodes/{}/{rest}", self.id);
        let answer = self.wire.call(As::Node(&self.key), method, &path, body).await?;
        if !answer.is_done() {
            self.wire.ledger.fault(format!("{} {rest}: {} {}", self.name, answer.status, answer.body));
            return None;
        }
        Some(answer)
    }

    fn known(&self, edit: impl FnOnce(&mut KnownNode)) {
        if let Some(node) = self.wire.ledger.book().nodes.get_mut(&self.name) {
            edit(node);
        }
    }

    async fn beat(&mut self) {
        let mut body = json!({
            "health": {"status": "healthy"}, "metrics": {"error_rate": 0.1}, "active_bundle_id": self.active,
        });
        if !self.refusal.is_null() {
            body["bundle_error"] = self.refusal.clone();
        }
        if let Some(active) = self.active.clone() {
            self.known(|node| {
                node.doubtful.insert(active);
            });
        }
        if self.call(Method::POST, "heartbeat", Some(&body)).await.is_some() {
            let active = self.active.clone();
            self.known(|node| {
                node.activations += u64::from(node.active != active);
                node.active = active;
                node.doubtful.clear();
            });
        } else {
            self.doubt = true;
        }
    }

    async fn flip(&mut self) {
        let compiled: Vec<String> = {
            let book = self.wire.ledger.book();
            let compiled = book.bundles.iter().filter(|(_, bundle)| bundle.checksum.is_some());
            compiled.map(|(id, _)| id.clone()).collect()
        };
        // With fewer, a lost report could look like a later one.
        if compiled.len() >= 3 {
            let place = compiled.iter().position(|id| Some(id) == self.active.as_ref());
            let next = place.map_or(0, |place| (place + 1) % compiled.len());
            self.active = compiled.get(next).cloned();
        }
        self.beat().await;
    }

    /// After a report without an answer: what was acknowledged before must be there.
    async fn look_up(&mut self) {
        let path = self.wire.in_project(&format!("nodes/{}", self.id));
        let begun = tokio::time::Instant::now();
        loop {
            let Some(answer) = self.wire.get(&path).await else { return };
            let seen = answer.body["node"]["active_bundle_id"].as_str().map(str::to_owned);
            let mut known = KnownNode::default();
            self.known(|node| known = node.clone());
            let holds = answer.is_done()
                && (seen == known.active || seen.as_ref().is_some_and(|seen| known.doubtful.contains(seen)));
            if !holds && self.wire.is_shared() && begun.elapsed() < HEARSAY {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            self.wire.ledger.expect(holds, || {
                format!(
                    "{} runs {seen:?}, but {:?} was acknowledged ({})",
                    self.name, known.active, answer.status
                )
            });
            self.doubt = false;
            return;
        }
    }

    async fn poll(&mut self) {
        let Some(answer) = self.call(Method::GET, "bundles/latest", None).await else { return };
        let Some(bundle) = answer.body["bundle_id"].as_str().map(str::to_owned) else { return };
        let statement =
            answer.body["statement"]["payload"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let statement: Value =
            statement.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let sequence = statement["sequence"].as_u64().unwrap_or_default();
        if sequence < self.sequence {
            // Another process may be a moment behind; nodes refuse what it says.
            let (shared, last) = (self.wire.is_shared(), self.sequence);
            self.wire.ledger.expect(shared, || format!("{}: target {sequence} after {last}", self.name));
            return;
        }
        self.sequence = sequence;
        if self.chance.percent(30) {
            self.download(&answer.body).await;
        }
        let source = self.wire.ledger.book().bundles.get(&bundle).map(|bundle| bundle.source);
        if source == Some(self.poison) {
            self.refusal = json!({
                "bundle_id": bundle, "sequence": sequence, "reason": "broken", "message": "it breaks the proxy",
            });
        } else if self.active.as_ref() != Some(&bundle) {
            self.active = Some(bundle);
            self.refusal = Value::Null;
        }
        self.beat().await;
    }

    /// An archive is served whole or not at all.
    async fn download(&mut self, offer: &Value) {
        let url = offer["download_url"].as_str().unwrap_or_default();
        let Some((status, bytes)) = self.wire.download(url).await else { return };
        if status == 200 {
            let digest = Sha256Digest::of(&bytes).to_string();
            let whole = offer["checksum"].as_str() == Some(&digest);
            self.wire
                .ledger
                .expect(whole, || format!("{}: an archive with digest {digest}: {offer}", self.name));
        } else if status != 503 {
            self.wire.ledger.fault(format!("{}: download answered {status}: {offer}", self.name));
        }
    }

    /// Reports an event; sometimes one that was acknowledged before, which must add nothing.
    async fn report_event(&mut self) {
        if self.unsent.is_empty() {
            self.events += 1;
            self.unsent.push(json!({
                "event_type": "info", "message": "flood", "event_id": format!("{}-{}", self.name, self.events),
            }));
        }
        let events = std::mem::take(&mut self.unsent);
        let ids: Vec<String> =
            events.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect();
        self.known(|node| {
            for id in &ids {
                node.events.entry(id.clone()).or_insert(false);
            }
        });
        let body = json!({ "events": events });
        if self.call(Method::POST, "events", Some(&body)).await.is_some() {
            self.known(|node| {
                for id in &ids {
                    node.events.insert(id.clone(), true);
                }
            });
            if self.chance.percent(20) {
                self.unsent = events;
            }
        } else {
            self.unsent = events;
        }
    }

    /// A lost answer must lock nobody out: the old key still works, and rotating again does.
    async fn rotate_key(&mut self) {
        if let Some(answer) = self.call(Method::POST, "key/rotate", None).await {
            self.key = answer.text("node_key");
            let key = self.key.clone();
            self.known(|node| node.key = key);
        }
    }
}

/// Lets in nodes that take no part, one after another.
pub(super) async fn newcomers(wire: Arc<Wire>, token: String, mut chance: Chance, stop: CancellationToken) {
    let mut count = 0;
    while !stop.is_cancelled() {
        count += 1;
        let name = format!("extra-{count}");
        if let Some(node) = register(&wire, &token, &name, "extra").await {
            let path = format!("/api/v1/nodes/{}/heartbeat", node.id);
            let body = json!({"health": {"status": "healthy"}});
            if let Some(answer) = wire.call(As::Node(&node.key), Method::POST, &path, Some(&body)).await {
                wire.ledger.expect(answer.is_done(), || format!("{name} was let in, but: {}", answer.body));
            }
        }
        tokio::time::sleep(chance.millis(50, 200)).await;
    }
}
