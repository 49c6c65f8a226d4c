//! What the node tells besides heartbeats: events, and the configuration that serves.

use super::activator::{Incident, Outcome};
use super::check::CONFIG;
use super::events::EventKind;
use super::{Agent, release};
use crate::backoff::Backoff;
use serde_json::{Map, Value, json};
use std::time::Duration;
use zentinel_core::{Kind, Result};

/// How long the last words may take.
const FAREWELL: Duration = Duration::from_millis(700);

impl Agent {
    /// Keeps an event until it is sent.
    pub(super) fn event(&self, kind: EventKind, message: &str, details: Value) {
        let metadata = if let Value::Object(details) = details { details } else { Map::new() };
        self.events.push(kind, message, metadata, self.clock.now());
        self.news.notify_one();
    }

    /// Sends what there is to tell until cancelled; the control plane may be away for long.
    pub(super) async fn report_loop(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        loop {
            match self.tell().await {
                Ok(()) => {
                    backoff.reset();
                    self.news.notified().await;
                }
                Err(error) => {
                    tracing::warn!(node = %self.options.name, %error, "events not reported");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Sends every event, and the configuration when it is not known to be there.
    pub(super) async fn tell(&self) -> Result<()> {
        loop {
            let batch = self.events.batch();
            if batch.is_empty() {
                break;
            }
            match self.client.events(batch.clone()).await {
                // What the control plane will never take must not keep the rest from it.
                Err(error) if is_final(error.kind()) => {
                    tracing::warn!(node = %self.options.name, %error, "events dropped");
                }
                sent => drop(sent?),
            }
            self.events.sent(&batch);
        }
        self.tell_config().await
    }

    async fn tell_config(&self) -> Result<()> {
        let (active, told) = {
            let live = self.live();
            (live.state.active_bundle_id, live.config_told)
        };
        let Some(bundle_id) = active.filter(|active| told != Some(*active)) else {
            return Ok(());
        };
        let path = self.options.directory.join(release::BUNDLES).join(bundle_id.to_string()).join(CONFIG);
        match std::fs::read_to_string(&path) {
            Ok(kdl) => match self.client.config(&kdl).await {
                Err(error) if is_final(error.kind()) => {
                    tracing::warn!(node = %self.options.name, %error, "configuration not reported");
                }
                sent => drop(sent?),
            },
            Err(error) => tracing::warn!(path = %path.display(), %error, "configuration not reported"),
        }
        self.live().config_told = Some(bundle_id);
        Ok(())
    }

    /// Sends the last words, as far as there is time.
    pub(super) async fn farewell(&self) {
        self.event(EventKind::Shutdown, "the agent ends", json!({}));
        drop(tokio::time::timeout(FAREWELL, self.tell()).await);
    }

    /// Takes note of what the activator found unfinished.
    pub(super) fn note_outcome(&self, outcome: Outcome) {
        let Outcome { sequence, bundle_id, result } = outcome;
        let noted = match result {
            Ok(()) => {
                let settled = self.update(|live| live.state.settle(sequence, bundle_id));
                self.event(
                    EventKind::BundleSwitch,
                    "an interrupted activation was ended",
                    json!({ "bundle_id": bundle_id, "sequence": sequence }),
                );
                settled
            }
            Err(rejection) => {
                let stale = {
                    let state = &self.live().state;
                    let known = state.refused.as_ref().is_some_and(|refused| refused.sequence == sequence);
                    known || state.last_sequence > sequence
                };
                if stale || rejection.retryable {
                    return;
                }
                let serves = self.activator.active();
                self.update(|live| live.state.serve(serves))
                    .and_then(|()| self.refuse(sequence, bundle_id, rejection))
            }
        };
        if let Err(error) = noted {
            tracing::warn!(node = %self.options.name, %error, "state not saved");
        }
    }

    /// Watches what serves until cancelled.
    pub(super) async fn watch_loop(&self) {
        loop {
            match self.activator.watch().await {
                Incident::TakenBack(outcome) => self.note_outcome(outcome),
                Incident::ProxyDied(message) => {
                    tracing::error!(node = %self.options.name, message, "proxy ended");
                    self.event(EventKind::Error, &message, json!({ "reason": "proxy_died" }));
                }
                Incident::ProxyReturned(message) => {
                    tracing::info!(node = %self.options.name, message, "proxy runs");
                    self.event(EventKind::Info, &message, json!({}));
                }
            }
            self.changed.notify_one();
        }
    }
}

/// Whether sending the same again is of no use, although the node may speak.
fn is_final(kind: Kind) -> bool {
    matches!(kind, Kind::Malformed | Kind::Invalid | Kind::TooLarge)
}
