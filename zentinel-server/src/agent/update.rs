//! From a poll answer to a bundle that serves.

use super::activator::{Rejection, Release};
use super::events::EventKind;
use super::state::{Activating, NodeState, Refused};
use super::{Agent, Fault, Live, REPORTED_TRIES, crash, download, release};
use crate::backoff::Backoff;
use serde_json::json;
use std::time::Duration;
use url::Url;
use zentinel_core::entity::Activation;
use zentinel_core::id::BundleId;
use zentinel_core::statement::{Expectation, Statement};
use zentinel_core::{Error, Result};
use zentinel_http::client::{BundleOffer, Poll};

/// How far a node's clock may be off when it checks a statement, in seconds.
const CLOCK_SKEW_SECONDS: i64 = 900;

impl Agent {
    pub(super) async fn poll_loop(&self) {
        let backoff = || Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let (mut asking, mut taking) = (backoff(), backoff());
        let mut etag = None;
        loop {
            if let Err(error) = self.save_pending() {
                tracing::warn!(node = %self.options.name, %error, "state not saved");
            }
            let asked = tokio::time::Instant::now();
            let pause = match self.client.poll(Some(self.options.long_poll), etag.as_deref()).await {
                Ok(answer) => {
                    asking.reset();
                    etag = answer.etag().map(str::to_owned).or(etag);
                    let hint = answer.poll_after();
                    let news = !matches!(answer, Poll::NotModified { .. });
                    self.take_traffic(answer.traffic());
                    // A server that does not hold the request asks for patience instead.
                    let held = asked.elapsed() >= self.options.long_poll / 2;
                    let taken = self.take(answer).await;
                    if taken.is_ok() {
                        taking.reset();
                    }
                    match taken {
                        Ok(()) if news || held => Duration::ZERO,
                        Ok(()) => hint,
                        Err(error) => {
                            tracing::warn!(node = %self.options.name, %error, "bundle not activated");
                            // The same offer must be looked at again, with a fresh URL.
                            etag = None;
                            taking.pause()
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(node = %self.options.name, %error, "poll failed");
                    asking.pause()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Acts on a poll answer. An error is worth another try; a refusal is remembered instead.
    pub(super) async fn take(&self, answer: Poll) -> Result<()> {
        let Poll::Update(offer) = answer else {
            return Ok(());
        };
        let statement = match self.verify(&offer) {
            Ok(statement) => statement,
            Err(error) => {
                // Nothing about an untrusted statement is believed, not even its sequence. It is
                // looked at again, because the node's clock may be what is wrong.
                self.refuse(0, offer.bundle_id, Rejection::new("bad_statement", error.to_string()))?;
                return Err(error);
            }
        };
        let learn = |live: &mut Live| {
            live.state.pin(&statement);
            live.state.name(offer.bundle_id, &offer.version);
        };
        if let Err(error) = self.update(learn) {
            // A full disk is told of as well once it lasts.
            return Err(self.fault(&statement, Rejection::fault("activation_failed", error.to_string())));
        }
        let (active, refused) = {
            let live = self.live();
            (live.state.active_bundle_id, live.state.refused.clone())
        };
        if active == Some(statement.bundle_id) {
            return self.settle(&statement);
        }
        let same = |refused: Refused| {
            refused.sequence == statement.sequence && refused.bundle_id == statement.bundle_id
        };
        if refused.is_some_and(same) {
            return Ok(());
        }
        match self.activate(&statement, &offer.download_url).await {
            Ok(()) => {
                let settled = self.settle(&statement);
                crash::point("state-settled");
                self.tell_switch(&statement);
                release::prune(&self.options.directory, &self.live().state);
                settled
            }
            Err(rejection) if rejection.retryable => Err(self.fault(&statement, rejection)),
            Err(rejection) => self.refuse(statement.sequence, statement.bundle_id, rejection),
        }
    }

    fn verify(&self, offer: &BundleOffer) -> Result<Statement> {
        let live = self.live();
        let expectation = Expectation {
            project_id: live.state.project_id,
            last_sequence: live.state.last_sequence,
            now: self.clock.now(),
            clock_skew_seconds: CLOCK_SKEW_SECONDS,
        };
        let envelope = offer
            .statement
            .as_ref()
            .ok_or_else(|| Error::forbidden("the answer carries no signed statement"))?;
        let statement = envelope.verify(&live.state.pinned_keys, &expectation)?;
        if statement.bundle_id != offer.bundle_id {
            return Err(Error::forbidden("the statement is about another bundle"));
        }
        Ok(statement)
    }

    async fn activate(&self, statement: &Statement, url: &Url) -> Result<(), Rejection> {
        let directory = download::fetch(&self.client, &self.options.directory, statement, url).await?;
        let begun = Activating { sequence: statement.sequence, bundle_id: statement.bundle_id };
        self.update(|live| live.state.activating = Some(begun))
            .map_err(|error| Rejection::fault("activation_failed", error.to_string()))?;
        crash::point("state-begun");
        let release = Release {
            sequence: statement.sequence,
            bundle_id: statement.bundle_id,
            directory,
            activation: statement.activation,
            compare: statement.compare,
        };
        self.activator.activate(&release).await
    }

    /// The statement's bundle serves: remembers and reports it.
    fn settle(&self, statement: &Statement) -> Result<()> {
        self.update(|live| {
            live.state.settle(statement.sequence, statement.bundle_id);
            live.fault = None;
        })
    }

    /// Tells that another bundle serves.
    fn tell_switch(&self, statement: &Statement) {
        let (kind, how) = match statement.activation {
            _ if statement.compare => (EventKind::BundleSwitch, "compare"),
            Activation::Reload => (EventKind::ConfigReload, "reload"),
            Activation::Restart => (EventKind::BundleSwitch, "restart"),
        };
        let details = json!({
            "bundle_id": statement.bundle_id,
            "sequence": statement.sequence,
            "activation": how,
        });
        self.event(kind, "another bundle serves", details);
    }

    /// Remembers a bundle as refused. One that is refused already is not told again.
    pub(super) fn refuse(&self, sequence: u64, bundle_id: BundleId, rejection: Rejection) -> Result<()> {
        let known = {
            let live = self.live();
            live.state.refused.as_ref().is_some_and(|refused| {
                refused.sequence == sequence
                    && refused.bundle_id == bundle_id
                    && refused.reason == rejection.reason
            })
        };
        if !known {
            let details = json!({ "bundle_id": bundle_id, "sequence": sequence, "reason": rejection.reason });
            self.event(EventKind::Error, &rejection.message, details);
        }
        tracing::error!(
            node = %self.options.name, %bundle_id, sequence,
            reason = rejection.reason, message = rejection.message, "bundle refused"
        );
        let Rejection { reason, message, .. } = rejection;
        let refused = self.update(|live| {
            live.state.last_sequence = live.state.last_sequence.max(sequence);
            live.state.refused = Some(Refused { sequence, bundle_id, reason, message });
            live.state.activating = None;
            live.fault = None;
        });
        crash::point("state-refused");
        refused
    }

    /// Counts a fault that may pass; the error says to try again.
    fn fault(&self, statement: &Statement, rejection: Rejection) -> Error {
        let Statement { sequence, bundle_id, .. } = *statement;
        let Rejection { reason, message, .. } = rejection;
        let error = Error::unavailable(message.clone());
        let (word, told) = (reason.clone(), message.clone());
        let mut lasting = false;
        let cleared = self.update(|live| {
            let tries = match &live.fault {
                Some(fault) if fault.about.sequence == sequence => fault.tries.saturating_add(1),
                _ => 1,
            };
            lasting = tries == REPORTED_TRIES;
            live.fault = Some(Fault { about: Refused { sequence, bundle_id, reason, message }, tries });
            live.state.activating = None;
        });
        if lasting {
            let details = json!({ "bundle_id": bundle_id, "sequence": sequence, "reason": word });
            self.event(EventKind::Warning, &told, details);
        }
        // A state that is not saved yet is saved at the next turn.
        cleared.err().unwrap_or(error)
    }

    /// Changes what the node remembers. It holds from now on, also when saving it fails: then it
    /// is saved later.
    pub(super) fn update(&self, change: impl FnOnce(&mut Live)) -> Result<()> {
        let mut live = self.live();
        let (before, told): (NodeState, Option<Refused>) = (live.state.clone(), live.refused().cloned());
        change(&mut live);
        let changed = live.state != before;
        live.unsaved |= changed;
        if live.state.active_bundle_id != before.active_bundle_id {
            self.news.notify_one();
        }
        if changed || live.refused() != told.as_ref() {
            self.changed.notify_one();
        }
        self.save(&mut live)
    }

    pub(super) fn save_pending(&self) -> Result<()> {
        self.save(&mut self.live())
    }

    fn save(&self, live: &mut Live) -> Result<()> {
        if live.unsaved {
            self.file.save(&live.state)?;
            live.unsaved = false;
        }
        Ok(())
    }
}
