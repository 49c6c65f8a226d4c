//! What was acknowledged, what is in doubt, and what was wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most faults that are written down; the first ones tell the most.
const MOST_FAULTS: usize = 50;

/// A node that was let in.
#[derive(Clone, Debug, Default)]
pub struct KnownNode {
    /// Its id.
    pub id: String,
    /// Its static key.
    pub key: String,
    /// The bundle whose activation was acknowledged last.
    pub active: Option<String>,
    /// How many changes of it were acknowledged.
    pub activations: u64,
    /// Bundles of later reports without an answer.
    pub doubtful: BTreeSet<String>,
    /// Events by `event_id`, and whether they were acknowledged.
    pub events: BTreeMap<String, bool>,
}

/// A bundle that was taken in.
#[derive(Clone, Debug, Default)]
pub struct KnownBundle {
    /// Which of the sources it was made from.
    pub source: usize,
    /// The digest that it was first seen compiled with.
    pub checksum: Option<String>,
}

/// A rollout.
#[derive(Clone, Debug, Default)]
pub struct KnownRollout {
    /// Commands by name: acknowledged, and without an answer.
    pub commands: BTreeMap<&'static str, (u64, u64)>,
    /// The state that it was seen to end in.
    pub ended: Option<String>,
    /// Ids and furthest states of its steps.
    pub steps: Vec<(String, usize)>,
    /// A pause was the last word of an operator.
    pub held: bool,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Nodes by name.
    pub nodes: BTreeMap<String, KnownNode>,
    /// Names whose registration got no answer.
    pub doubtful_names: BTreeSet<String>,
    /// Bundles by id.
    pub bundles: BTreeMap<String, KnownBundle>,
    /// What each source compiles to.
    pub checksums: BTreeMap<usize, String>,
    /// Rollouts by id.
    pub rollouts: BTreeMap<String, KnownRollout>,
    /// API keys: id and the key itself.
    pub keys: Vec<(String, String)>,
    /// The audit log as it was read: id, action and resource by place.
    pub audit: BTreeMap<u64, (String, String, String)>,
    /// What was wrong.
    pub faults: Vec<String>,
    /// Acknowledged things that were looked up again.
    pub checked: u64,
    /// Refusals by status.
    pub refused: BTreeMap<u16, u64>,
    /// Answers, and requests without one.
    pub calls: u64,
    /// The longest wait for an answer.
    pub longest: Duration,
}

/// The book, shared by everybody who writes into it.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Book>);

impl Ledger {
    /// The book; don't hold it across an await.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was wrong.
    pub fn fault(&self, what: impl Into<String>) {
        let what = what.into();
        let mut book = self.book();
        if book.faults.len() < MOST_FAULTS {
            println!("FAULT: {what}");
            book.faults.push(what);
        }
    }

    /// Looks up something acknowledged: a fault unless it `holds`.
    pub fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        self.book().checked += 1;
        if !holds {
            self.fault(what());
        }
    }

    pub(super) fn refused(&self, status: u16) {
        *self.book().refused.entry(status).or_default() += 1;
    }

    pub(super) fn took(&self, time: Duration) {
        let mut book = self.book();
        book.calls += 1;
        book.longest = book.longest.max(time);
    }

    /// Prints what was done.
    pub fn summary(&self, name: &str) {
        let book = self.book();
        let events =
            book.nodes.values().flat_map(|node| node.events.values()).filter(|acked| **acked).count();
        let activations: u64 = book.nodes.values().map(|node| node.activations).sum();
        let compiled = book.bundles.values().filter(|bundle| bundle.checksum.is_some()).count();
        println!(
            "{name}: {} calls, longest {:?}, refused {:?}; acknowledged: {} nodes, {activations} activations, {events} events, {} bundles \
             ({compiled} compiled), {} rollouts, {} API keys, {} audit entries; {} checks, {} faults",
            book.calls,
            book.longest,
            book.refused,
            book.nodes.len(),
            book.bundles.len(),
            book.rollouts.len(),
            book.keys.len(),
            book.audit.len(),
            book.checked,
            book.faults.len(),
        );
    }

    /// Fails if anything was wrong.
    ///
    /// # Panics
    /// Then.
    pub fn must_be_clean(&self) {
        let book = self.book();
        assert!(book.faults.is_empty(), "{} faults:\n{}", book.faults.len(), book.faults.join("\n"));
    }
}
