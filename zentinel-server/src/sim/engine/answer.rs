//! What nodes make of answers.

use super::{Due, Engine, Job, Kind, Pace};
use crate::sim::codec::Head;
use crate::sim::fetch::Fetch;
use crate::sim::node::{Next, Told};
use crate::sim::stats::Class;
use zentinel_core::port::{Clock as _, SystemClock};
use zentinel_core::statement::{Expectation, Statement};
use zentinel_core::{Error, Result};
use zentinel_http::client::{BundleOffer, NoUpdate, TokenAnswer};

/// How far a node's clock may be off when it checks a statement, in seconds.
const CLOCK_SKEW_SECONDS: i64 = 900;
/// Which requests of a node were admitted.
const HEARTBEAT: u8 = 1;
const POLL: u8 = 2;

impl Engine {
    /// The answer to a request; `bytes` begins with its head.
    pub(super) fn answered(&mut self, job: Job, head: &Head, bytes: &[u8]) {
        let class = match (job.kind, head.status) {
            (Kind::Heartbeat | Kind::Report, 200) if job.news => Class::Change,
            (Kind::Heartbeat | Kind::Report, 200) => Class::Heartbeat,
            (Kind::Poll, 304) => Class::Poll,
            (Kind::Poll, 200) => Class::Answer,
            (Kind::Token, 200) => Class::Token,
            _ => return self.refused(job, head),
        };
        let now = self.now();
        self.stats.admitted(class, now.saturating_sub(job.at), now.saturating_sub(job.sent));
        if let Some(node) = self.nodes.get_mut(job.node as usize) {
            node.failures = 0;
        }
        if let Some(hint) = head.poll_after {
            self.stats.hint(hint);
        }
        self.admit(job, head);
        let body = bytes.get(head.head..head.len()).unwrap_or_default();
        match class {
            Class::Answer => {
                let etag = head.etag.and_then(|(from, to)| bytes.get(from..to));
                self.remember(job.node, etag);
                if self.polled(job.node, body).is_err() {
                    self.stats.untrusted += 1;
                    // The same offer must be looked at again.
                    self.remember(job.node, None);
                }
            }
            Class::Token => self.take_token(job.node, body),
            Class::Heartbeat | Class::Change | Class::Poll => {}
        }
    }

    fn remember(&mut self, node: u32, etag: Option<&[u8]>) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.etag = etag.map(Box::from);
        }
    }

    fn refused(&mut self, job: Job, head: &Head) {
        self.stats.refuse(head.status, head.retry_after);
        let node = self.nodes.get_mut(job.node as usize);
        if head.status == 401
            && let Some(node) = node.filter(|node| node.has_token())
        {
            // The token has ended or was revoked; the key gets another.
            node.use_token(None);
            self.after(0, Due::Token(job.node));
        }
        self.failed(job, head.retry_after);
    }

    /// Notes that a node is back, and when it comes again where answers set the pace.
    fn admit(&mut self, job: Job, head: &Head) {
        let Pace::Answers { heartbeat_ms, poll_ms, .. } = self.plan.pace else { return };
        let (bit, wait, due) = match job.kind {
            Kind::Heartbeat => (HEARTBEAT, heartbeat_ms, Due::Heartbeat(job.node)),
            Kind::Poll => {
                let hint = head.poll_after.map_or(poll_ms, |seconds| u64::from(seconds) * 1_000);
                (POLL, hint, Due::Poll(job.node))
            }
            Kind::Report | Kind::Token => return,
        };
        let wait = self.spread(wait).max(1);
        self.after(wait, due);
        let elapsed = self.elapsed();
        if let Some(node) = self.nodes.get_mut(job.node as usize)
            && node.admitted & bit == 0
        {
            node.admitted |= bit;
            if node.admitted == HEARTBEAT | POLL {
                self.returned = (self.returned.0 + 1, Some(elapsed));
            }
        }
    }

    /// Reads the full answer to a poll.
    fn polled(&mut self, index: u32, body: &[u8]) -> Result<()> {
        if serde_json::from_slice::<NoUpdate>(body).is_ok() {
            return Ok(());
        }
        let offer: BundleOffer = serde_json::from_slice(body)?;
        let statement = self.verify(index, &offer)?;
        self.running.entry(offer.bundle_id).or_default().0.clone_from(&offer.version);
        let told = Told {
            bundle: statement.bundle_id,
            sequence: statement.sequence,
            rollback: offer.reason.as_deref() == Some("rollback"),
        };
        let Some(node) = self.nodes.get_mut(index as usize) else { return Ok(()) };
        let next = node.offered(told, &self.plan.habits);
        if next == Next::Fetch {
            let fetch = Fetch {
                node: index,
                sequence: statement.sequence,
                url: offer.download_url,
                size: statement.archive_size,
                sha256: statement.archive_sha256,
            };
            // The fetcher ends with the run.
            drop(self.fetches.send(fetch));
        }
        self.follow(index, next);
        Ok(())
    }

    /// What a node must check before it downloads.
    fn verify(&mut self, index: u32, offer: &BundleOffer) -> Result<Statement> {
        let last_sequence = self.nodes.get(index as usize).map_or(0, |node| node.sequence);
        let expectation = Expectation {
            project_id: self.project,
            last_sequence,
            now: SystemClock.now(),
            clock_skew_seconds: CLOCK_SKEW_SECONDS,
        };
        let unsigned = || Error::forbidden("the answer carries no signed statement");
        let envelope = offer.statement.as_ref().ok_or_else(unsigned)?;
        let statement = envelope.verify(&self.pins.0, &expectation)?;
        if statement.bundle_id != offer.bundle_id || statement.archive_sha256 != offer.checksum {
            return Err(Error::forbidden("the statement is about another bundle"));
        }
        if statement.sequence >= self.pins.1
            && let Some(keys) = statement.vouched_keys()
        {
            self.pins = (keys, statement.sequence);
        }
        Ok(statement)
    }

    fn take_token(&mut self, index: u32, body: &[u8]) {
        let Some(node) = self.nodes.get_mut(index as usize) else { return };
        let answer = serde_json::from_slice::<TokenAnswer>(body);
        let usable = answer.as_ref().is_ok_and(|answer| node.use_token(Some(answer.token.expose())));
        let life = answer.map_or(0, |answer| answer.expires_in);
        if usable && life > 1 {
            self.after(life as u64 * 500, Due::Token(index));
        } else {
            self.stats.untrusted += 1;
        }
    }
}
