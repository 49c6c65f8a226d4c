//! The reckoning: everything acknowledged is there once, and nothing is left half done.

use super::ledger::Book;
use super::operators::{is_settled, key_works, look_at_rollout, read_audit};
use super::wire::{As, Wire};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

/// How long what was begun may take to end by itself: leases run out, retries have their delays.
const PATIENCE: Duration = Duration::from_secs(240);

/// Tries a look until it gets an answer.
async fn patiently<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    crate::wait_for(what, PATIENCE, look).await
}

/// Waits until every bundle is compiled, every rollout has ended and no job is left.
pub(super) async fn settle(wire: &Wire) {
    let bundles: Vec<String> = wire.ledger.book().bundles.keys().cloned().collect();
    for id in bundles {
        patiently("bundles to be compiled", || async { is_settled(wire, &id).await.then_some(()) }).await;
    }
    patiently("rollouts to end", || async {
        let path = wire.in_project("rollouts");
        let rollouts = wire.pages(&path, "rollouts", |_| false).await?;
        let mut open = 0;
        for rollout in &rollouts {
            let (id, state) = (rollout["id"].as_str()?, rollout["state"].as_str()?);
            if matches!(state, "pending" | "running" | "paused") {
                open += 1;
                if state == "paused" {
                    wire.post(&format!("{path}/{id}/resume"), &json!({})).await?;
                }
            }
        }
        (open == 0).then_some(())
    })
    .await;
    patiently("jobs to end", || async {
        let text = wire.text("/metrics").await?;
        let left = |state: &str| {
            let label = format!("state=\"{state}\"");
            let lines =
                text.lines().filter(|line| line.starts_with("zentinel_cp_jobs{") && line.contains(&label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
        };
        // A tick or a periodic job may be at work at any moment; none of them stays.
        (left("due") + left("running") == 0).then_some(())
    })
    .await;
}

/// Looks up everything in the ledger.
pub(super) async fn reckon(wire: &Wire) {
    patiently("the audit log", || async { read_audit(wire).await.then_some(()) }).await;
    let book = wire.ledger.book().clone();
    for id in book.rollouts.keys() {
        patiently("a rollout", || async {
            look_at_rollout(wire, id).await.filter(|state| state != "unknown").map(drop)
        })
        .await;
    }
    for (id, key) in &book.keys {
        patiently("an API key", || async { key_works(wire, id, key).await.then_some(()) }).await;
    }
    nodes(wire, &book).await;
    events(wire, &book).await;
    archives(wire, &book).await;
    audit(wire, &book);
    outbox(wire, &book).await;
}

/// Every node once, with what it last reported, and its key works.
async fn nodes(wire: &Wire, book: &Book) {
    let all = patiently("nodes", || wire.pages_in_project("nodes")).await;
    let mut names = BTreeMap::new();
    for node in &all {
        *names.entry(node["name"].as_str().unwrap_or_default()).or_insert(0) += 1;
    }
    wire.ledger.expect(names.values().all(|count| *count == 1), || format!("nodes with one name: {names:?}"));
    let strangers: Vec<_> = names
        .keys()
        .filter(|name| !book.nodes.contains_key(**name) && !book.doubtful_names.contains(**name))
        .collect();
    wire.ledger.expect(strangers.is_empty(), || format!("nodes that nobody registered: {strangers:?}"));
    for (name, known) in &book.nodes {
        let found = all.iter().find(|node| node["id"].as_str() == Some(&known.id));
        let active = found.and_then(|node| node["active_bundle_id"].as_str());
        let holds = found.is_some()
            && (active == known.active.as_deref()
                || active.is_some_and(|active| known.doubtful.contains(active)));
        wire.ledger.expect(holds, || format!("{name} runs {active:?}, acknowledged was {:?}", known.active));
        let path = format!("/api/v1/nodes/{}/bundles/latest", known.id);
        let answer =
            patiently("a node's poll", || wire.call(As::Node(&known.key), Method::GET, &path, None)).await;
        wire.ledger.expect(answer.is_done(), || format!("{name}'s key: {} {}", answer.status, answer.body));
    }
}

/// Every acknowledged event once, every doubtful one at most once.
async fn events(wire: &Wire, book: &Book) {
    for (name, known) in book.nodes.iter().filter(|(_, known)| !known.events.is_empty()) {
        let path = format!("nodes/{}/events", known.id);
        let path = wire.in_project(&path);
        let all = patiently("events", || wire.pages(&path, "events", |_| false)).await;
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for event in &all {
            *counts.entry(event["event_id"].as_str().unwrap_or_default()).or_default() += 1;
        }
        for (id, acknowledged) in &known.events {
            let count = counts.remove(id.as_str()).unwrap_or(0);
            let holds = count == 1 || (count == 0 && !acknowledged);
            wire.ledger.expect(holds, || format!("{name} reported {id} ({acknowledged}), there are {count}"));
        }
        wire.ledger.expect(counts.is_empty(), || format!("{name} never reported {counts:?}"));
    }
}

/// The stored archives are whole and signed.
async fn archives(wire: &Wire, book: &Book) {
    for id in book.bundles.iter().filter(|(_, bundle)| bundle.checksum.is_some()).map(|(id, _)| id) {
        let path = wire.in_project(&format!("bundles/{id}/verify"));
        let answer = patiently("an archive", || wire.get(&path)).await;
        let genuine = answer.body["verified"] == true;
        wire.ledger.expect(genuine, || format!("archive of {id}: {} {}", answer.status, answer.body));
    }
}

/// What was done is in the audit log, once each.
fn audit(wire: &Wire, book: &Book) {
    let mut actions: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (_, action, resource) in book.audit.values() {
        *actions.entry((action, resource)).or_default() += 1;
    }
    let ids: BTreeSet<&str> = book.audit.values().map(|(id, _, _)| id.as_str()).collect();
    wire.ledger.expect(ids.len() == book.audit.len(), || "audit entries share an id".to_owned());
    let once = |action: &str, resource: &str| {
        let count = actions.get(&(action, resource)).copied().unwrap_or(0);
        wire.ledger.expect(count == 1, || format!("{action} of {resource} is audited {count} times"));
    };
    book.nodes.values().for_each(|node| once("node.registered", &node.id));
    book.keys.iter().for_each(|(id, _)| once("api_key.created", id));
    for (id, bundle) in &book.bundles {
        once("bundle.created", id);
        if bundle.checksum.is_some() {
            once("bundle.compiled", id);
        }
    }
    for (id, rollout) in &book.rollouts {
        once("rollout.created", id);
        for (command, (acknowledged, doubtful)) in &rollout.commands {
            let action = match *command {
                "pause" => "rollout.paused",
                "resume" => "rollout.resumed",
                "cancel" => "rollout.cancelled",
                _ => "rollout.rolled_back",
            };
            let count = actions.get(&(action, id.as_str())).copied().unwrap_or(0);
            // The reckoning itself resumes what is still held.
            let most = acknowledged + doubtful + u64::from(*command == "resume") * 2;
            let holds = (*acknowledged..=most).contains(&count);
            wire.ledger.expect(holds, || {
                format!("{action} of {id} is audited {count} times, acknowledged {acknowledged}, doubtful {doubtful}")
            });
        }
        let completed = rollout.steps.iter().filter(|(_, state)| *state == 4).count() as u64;
        let count = actions.get(&("rollout.step_completed", id.as_str())).copied().unwrap_or(0);
        wire.ledger.expect(count == completed, || {
            format!("rollout {id} has {completed} completed steps, audited {count}")
        });
    }
}

/// What happened was told once each.
async fn outbox(wire: &Wire, book: &Book) {
    let all = patiently("events of the project", || wire.pages_in_project("events")).await;
    let mut told: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut next = None;
    for event in &all {
        let sequence = event["sequence"].as_u64().unwrap_or(0);
        let gap = next.is_some_and(|next| next != sequence);
        wire.ledger.expect(!gap, || format!("events go from {next:?} to {sequence}"));
        next = Some(sequence.saturating_sub(1));
        let payload = &event["payload"];
        let about = ["bundle_id", "rollout_id", "node_id"].map(|field| payload[field].as_str());
        let kind = event["type"].as_str().unwrap_or_default();
        let about = match kind.split('.').next() {
            Some("rollout") => about[1],
            Some("node") => about[2],
            _ => about[0],
        };
        *told.entry((kind.to_owned(), about.unwrap_or_default().to_owned())).or_default() += 1;
    }
    wire.ledger.expect(next.is_none_or(|next| next == 0), || format!("events up to {next:?} are missing"));
    let once = |kind: &str, about: &str| {
        let count = told.get(&(kind.to_owned(), about.to_owned())).copied().unwrap_or(0);
        wire.ledger.expect(count == 1, || format!("{kind} of {about} was told {count} times"));
    };
    book.nodes.values().for_each(|node| once("node.registered", &node.id));
    for (id, bundle) in &book.bundles {
        once("bundle.created", id);
        if bundle.checksum.is_some() {
            once("bundle.compiled", id);
        }
    }
    for (id, rollout) in &book.rollouts {
        if let Some(ended @ ("completed" | "failed" | "cancelled")) = rollout.ended.as_deref() {
            once(&format!("rollout.{ended}"), id);
        }
    }
}

/// What is still open, for the report.
pub(super) async fn open(wire: &Wire) -> String {
    let rollouts = wire.pages_in_project("rollouts").await.unwrap_or_default();
    let open = rollouts.iter().filter(|rollout| rollout["completed_at"].is_null());
    open.map(Value::to_string).collect::<Vec<_>>().join("\n")
}

impl Wire {
    /// The body of a GET, as text.
    pub(super) async fn text(&self, path: &str) -> Option<String> {
        let (status, bytes) = self.download(self.bases[0].join(path).ok()?.as_str()).await?;
        (status == 200).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A whole list of the project.
    pub(super) async fn pages_in_project(&self, nouns: &str) -> Option<Vec<Value>> {
        self.pages(&self.in_project(nouns), nouns, |_| false).await
    }
}
