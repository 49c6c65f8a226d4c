//! What operators do: bundles, rollouts, API keys, reading the audit log.

use super::ledger::KnownBundle;
use super::seed::Chance;
use super::wire::{As, Wire};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// States of a step, in order.
const STEPS: [&str; 6] = ["pending", "running", "verifying", "validating", "completed", "failed"];

/// Creates bundles and watches them being compiled.
pub(super) async fn author(
    wire: Arc<Wire>,
    name: String,
    sources: Arc<Vec<String>>,
    mut chance: Chance,
    stop: CancellationToken,
) {
    let mut count = 0;
    while !stop.is_cancelled() {
        count += 1;
        // Every source has its turn early.
        let source = if count <= sources.len() {
            count - 1
        } else {
            chance.between(0, sources.len() as u64 - 1) as usize
        };
        let body = json!({"version": format!("{name}-{count}"), "config_source": sources[source]});
        if let Some(answer) = wire.post(&wire.in_project("bundles"), &body).await {
            if answer.status == 201 {
                let id = answer.text("id");
                let known = KnownBundle { source, checksum: None };
                wire.ledger.book().bundles.insert(id.clone(), known);
                while !stop.is_cancelled() && !is_settled(&wire, &id).await {
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            } else {
                wire.ledger.fault(format!("creating a bundle: {} {}", answer.status, answer.body));
            }
        }
        tokio::time::sleep(chance.millis(200, 700)).await;
    }
}

/// Looks at a bundle: it is there, it compiles, to the same bytes as ever.
pub(super) async fn is_settled(wire: &Wire, id: &str) -> bool {
    let Some(answer) = wire.get(&wire.in_project(&format!("bundles/{id}"))).await else { return false };
    let bundle = &answer.body["bundle"];
    let (status, checksum) = (bundle["status"].as_str().unwrap_or("missing"), bundle["checksum"].as_str());
    let mut wrong = None;
    let settled = {
        let mut book = wire.ledger.book();
        let Some(known) = book.bundles.get(id).cloned() else { return true };
        match status {
            "pending" | "compiling" if known.checksum.is_none() => false,
            "compiled" | "superseded" => {
                let digest = checksum.unwrap_or_default().to_owned();
                let expected = book.checksums.entry(known.source).or_insert_with(|| digest.clone()).clone();
                if digest != expected || known.checksum.is_some_and(|before| before != digest) {
                    wrong = Some(format!("bundle {id} is {digest} now, was {expected}"));
                }
                if let Some(known) = book.bundles.get_mut(id) {
                    known.checksum = Some(digest);
                }
                true
            }
            _ => {
                wrong = Some(format!("bundle {id} is {status}: {}", answer.body));
                true
            }
        }
    };
    wire.ledger.expect(wrong.is_none(), || wrong.unwrap_or_default());
    settled
}

/// Rolls bundles out to the nodes with one role, one rollout after another.
#[derive(Debug)]
pub(super) struct Roller {
    pub(super) wire: Arc<Wire>,
    pub(super) role: String,
    pub(super) batch: u64,
    pub(super) chance: Chance,
}

impl Roller {
    /// Until `stop`; what is open then is watched until it has ended by itself.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Some(id) = self.begin().await {
                self.watch(&id, &stop).await;
            }
            tokio::time::sleep(self.chance.millis(100, 400)).await;
        }
    }

    /// Creates a rollout, or finds one that is open.
    async fn begin(&mut self) -> Option<String> {
        let compiled: Vec<String> = {
            let book = self.wire.ledger.book();
            let compiled = book.bundles.iter().filter(|(_, bundle)| bundle.checksum.is_some());
            compiled.map(|(id, _)| id.clone()).collect()
        };
        let bundle = self.chance.pick(&compiled)?;
        let body = json!({
            "bundle_id": bundle,
            "target_selector": {"type": "labels", "labels": {"role": self.role}},
            "batch_size": self.batch,
            "health_gates": {"heartbeat_healthy": true, "max_error_rate": 5.0},
            "auto_rollback": true,
            "rollback_threshold": 30,
        });
        let path = self.wire.in_project("rollouts");
        match self.wire.post(&path, &body).await {
            Some(answer) if answer.status == 201 => {
                let id = answer.text("id");
                self.wire.ledger.book().rollouts.entry(id.clone()).or_default();
                Some(id)
            }
            // Another one is under way: perhaps ours, whose answer was lost; perhaps a rollback.
            Some(answer) if answer.status == 409 => {
                let open = answer.body["rollout_ids"].as_array()?.first()?.as_str()?.to_owned();
                self.wire.ledger.book().rollouts.entry(open.clone()).or_default();
                Some(open)
            }
            Some(answer) => {
                self.wire.ledger.fault(format!("creating a rollout: {} {}", answer.status, answer.body));
                None
            }
            None => None,
        }
    }

    async fn watch(&mut self, id: &str, stop: &CancellationToken) {
        while let Some(state) = look_at_rollout(&self.wire, id).await {
            match state.as_str() {
                "running" if !stop.is_cancelled() && self.chance.percent(6) => {
                    let command = match self.chance.between(0, 9) {
                        0 => "cancel",
                        1 => "rollback",
                        _ => "pause",
                    };
                    self.steer(id, command).await;
                }
                "paused" if stop.is_cancelled() || self.chance.percent(30) => self.steer(id, "resume").await,
                "running" | "paused" | "unknown" => {}
                _ => return,
            }
            tokio::time::sleep(self.chance.millis(80, 250)).await;
        }
    }

    async fn steer(&self, id: &str, command: &'static str) {
        let path = self.wire.in_project(&format!("rollouts/{id}/{command}"));
        let edit = |edit: &dyn Fn(&mut super::ledger::KnownRollout)| {
            if let Some(known) = self.wire.ledger.book().rollouts.get_mut(id) {
                edit(known);
            }
        };
        edit(&|known| known.held = false);
        match self.wire.post(&path, &json!({})).await {
            Some(answer) if answer.is_done() => edit(&|known| {
                known.commands.entry(command).or_default().0 += 1;
                known.held = command == "pause";
            }),
            // It ended, or a lost command was carried out.
            Some(answer) if answer.status == 409 => {}
            Some(answer) => {
                self.wire.ledger.fault(format!("{command} {id}: {} {}", answer.status, answer.body));
            }
            None => edit(&|known| known.commands.entry(command).or_default().1 += 1),
        }
    }
}

/// Looks at a rollout; what was seen once is never taken back. Returns its state, `unknown` without an
/// answer; nothing when there is no such rollout.
pub(super) async fn look_at_rollout(wire: &Wire, id: &str) -> Option<String> {
    let Some(answer) = wire.get(&wire.in_project(&format!("rollouts/{id}"))).await else {
        return Some("unknown".to_owned());
    };
    wire.ledger.expect(answer.is_done(), || format!("rollout {id}: {} {}", answer.status, answer.body));
    if !answer.is_done() {
        return None;
    }
    let state = answer.body["rollout"]["state"].as_str().unwrap_or_default().to_owned();
    let steps: Vec<(String, usize)> =
        answer.body["steps"].as_array().into_iter().flatten().map(place).collect();
    let mut wrong = Vec::new();
    {
        let mut book = wire.ledger.book();
        let known = book.rollouts.entry(id.to_owned()).or_default();
        if let Some(ended) = known.ended.as_ref().filter(|ended| **ended != state) {
            wrong.push(format!("rollout {id} had ended as {ended} and is {state}"));
        }
        if known.held && state == "running" {
            wrong.push(format!("rollout {id} was held and runs"));
        }
        for (before, now) in known.steps.iter().zip(&steps) {
            if before.0 != now.0 || before.1 > now.1 {
                wrong.push(format!("rollout {id}: step {before:?} became {now:?}"));
            }
        }
        if known.steps.len() > steps.len() {
            wrong.push(format!("rollout {id} lost steps"));
        }
        if matches!(state.as_str(), "completed" | "cancelled" | "failed") {
            known.ended = Some(state.clone());
        }
        known.steps = steps;
    }
    wire.ledger.expect(wrong.is_empty(), || wrong.join("; "));
    Some(state)
}

fn place(step: &Value) -> (String, usize) {
    let state = step["state"].as_str().unwrap_or_default();
    let place = STEPS.iter().position(|known| *known == state).unwrap_or(usize::MAX);
    (step["id"].as_str().unwrap_or_default().to_owned(), place)
}

/// Issues API keys and uses them.
pub(super) async fn key_holder(wire: Arc<Wire>, mut chance: Chance, stop: CancellationToken) {
    let mut count = 0;
    while !stop.is_cancelled() {
        count += 1;
        let body = json!({"name": format!("key-{count}"), "scopes": ["nodes:read"]});
        if let Some(answer) = wire.post("/api/v1/api-keys", &body).await {
            if answer.status == 201 {
                wire.ledger.book().keys.push((answer.text("id"), answer.text("key")));
            } else {
                wire.ledger.fault(format!("creating an API key: {} {}", answer.status, answer.body));
            }
        }
        let keys = wire.ledger.book().keys.clone();
        if let Some((id, key)) = chance.pick(&keys) {
            key_works(&wire, id, key).await;
        }
        tokio::time::sleep(chance.millis(100, 400)).await;
    }
}

/// Whether an acknowledged API key is accepted; `false` without an answer.
pub(super) async fn key_works(wire: &Wire, id: &str, key: &str) -> bool {
    let path = wire.in_project("nodes/stats");
    let Some(answer) = wire.call(As::Key(key), Method::GET, &path, None).await else { return false };
    wire.ledger.expect(answer.is_done(), || format!("API key {id}: {} {}", answer.status, answer.body));
    true
}

/// Reads the audit log again and again.
pub(super) async fn auditor(wire: Arc<Wire>, mut chance: Chance, stop: CancellationToken) {
    while !stop.is_cancelled() {
        read_audit(&wire).await;
        tokio::time::sleep(chance.millis(300, 900)).await;
    }
}

/// Reads what is new in the audit log: no gaps, nothing changed. `false` without an answer.
pub(super) async fn read_audit(wire: &Wire) -> bool {
    // Some known entries are read again, to see that they are still the same.
    let known = wire.ledger.book().audit.keys().next_back().copied().unwrap_or(0).saturating_sub(50);
    let old = |entry: &Value| entry["sequence"].as_u64().unwrap_or(0) <= known;
    let Some(entries) = wire.pages("/api/v1/audit/logs", "entries", old).await else { return false };
    let mut wrong = Vec::new();
    let mut next = None;
    for entry in &entries {
        let sequence = entry["sequence"].as_u64().unwrap_or(0);
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let line = (text("id"), text("action"), text("resource_id"));
        if next.is_some_and(|next| next != sequence) {
            wrong.push(format!("the audit log goes from {next:?} to {sequence}"));
        }
        next = Some(sequence.saturating_sub(1));
        let mut book = wire.ledger.book();
        if book.audit.insert(sequence, line.clone()).is_some_and(|before| before != line) {
            wrong.push(format!("audit entry {sequence} became {line:?}"));
        }
    }
    if next.is_some_and(|next| next != known) {
        wrong.push(format!("the audit log lacks what follows {known}"));
    }
    wire.ledger.expect(wrong.is_empty(), || wrong.join("; "));
    true
}
