//! Events for the control plane, kept on disk until it has them.

use super::state::write_durably;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zentinel_core::Timestamp;
use zentinel_http::client::NodeEvent;

/// How many events wait at most; the oldest go first.
const KEPT: usize = 500;
/// How many are sent at once.
const BATCH: usize = 100;

/// What happened on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    /// The agent began.
    Startup,
    /// The agent ends.
    Shutdown,
    /// Another bundle serves, and the process was started anew for it or by somebody else.
    BundleSwitch,
    /// Another bundle serves in the same process.
    ConfigReload,
    /// Something went wrong.
    Error,
    /// Something is odd.
    Warning,
    /// Something is well again.
    Info,
}

impl EventKind {
    /// The words of the wire contract: type and severity.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Startup => ("startup", "info"),
            Self::Shutdown => ("shutdown", "info"),
            Self::BundleSwitch => ("bundle_switch", "info"),
            Self::ConfigReload => ("config_reload", "info"),
            Self::Error => ("error", "error"),
            Self::Warning => ("warning", "warn"),
            Self::Info => ("info", "info"),
        }
    }
}

/// A queue of events in `events.json`. Each has an id, so that one that is sent twice counts once.
#[derive(Debug)]
pub(super) struct EventQueue {
    path: PathBuf,
    events: Mutex<VecDeque<NodeEvent>>,
}

impl EventQueue {
    /// The events that an earlier run could not send. A damaged file holds none.
    pub(super) fn in_directory(directory: &Path) -> Self {
        let path = directory.join("events.json");
        let found = std::fs::read(&path).ok();
        let events = found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, events: Mutex::new(events) }
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<NodeEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event.
    pub(super) fn push(&self, kind: EventKind, message: &str, metadata: Map<String, Value>, at: Timestamp) {
        let (event_type, severity) = kind.words();
        let event = NodeEvent {
            event_type: event_type.to_owned(),
            severity: Some(severity.to_owned()),
            message: message.to_owned(),
            metadata,
            occurred_at: Some(at),
            event_id: Some(format!("{:032x}", rand::random::<u128>())),
        };
        let mut events = self.events();
        events.push_back(event);
        while events.len() > KEPT {
            events.pop_front();
        }
        self.save(&events);
    }

    /// The oldest events, to be sent.
    pub(super) fn batch(&self) -> Vec<NodeEvent> {
        self.events().iter().take(BATCH).cloned().collect()
    }

    /// Forgets events that were sent.
    pub(super) fn sent(&self, batch: &[NodeEvent]) {
        let mut events = self.events();
        events.retain(|event| !batch.iter().any(|sent| sent.event_id == event.event_id));
        self.save(&events);
    }

    /// Without room on disk they wait in memory.
    fn save(&self, events: &VecDeque<NodeEvent>) {
        let written = serde_json::to_vec(events)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_durably(&self.path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "events not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::port::{Clock as _, SystemClock};

    #[test]
    fn waiting_events_survive_a_restart_within_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let queue = EventQueue::in_directory(directory.path());
        for number in 0..KEPT + 3 {
            queue.push(EventKind::Info, &number.to_string(), Map::new(), SystemClock.now());
        }
        let queue = EventQueue::in_directory(directory.path());
        let batch = queue.batch();
        assert_eq!((batch.len(), batch[0].message.as_str()), (BATCH, "3"));
        queue.push(EventKind::Error, "late", Map::new(), SystemClock.now());
        queue.sent(&batch);
        let rest = EventQueue::in_directory(directory.path());
        assert_eq!(rest.events().len(), KEPT - BATCH + 1);
        assert_eq!(rest.events().back().unwrap().event_type, "error");
        std::fs::write(directory.path().join("events.json"), "[{").unwrap();
        assert!(EventQueue::in_directory(directory.path()).batch().is_empty());
    }

    #[test]
    fn without_room_on_disk_they_wait_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("events.json.new")).unwrap();
        let queue = EventQueue::in_directory(directory.path());
        queue.push(EventKind::Startup, "hello", Map::new(), SystemClock.now());
        assert_eq!(queue.batch().len(), 1);
        assert!(EventQueue::in_directory(directory.path()).batch().is_empty());
    }
}
