//! Notices within one process.

use futures_util::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use zentinel_core::port::{Notice, NoticeStream};

/// How many notices a watcher may be behind before it is told that it lagged.
const BACKLOG: usize = 4096;

/// Passes notices on to every watcher.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    sender: broadcast::Sender<Notice>,
}

impl Notices {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }

    /// Tells every watcher.
    pub(crate) fn tell(&self, notice: Notice) {
        // No receiver means that nobody watches.
        drop(self.sender.send(notice));
    }

    /// What is told from now on.
    pub(crate) fn watch(&self) -> NoticeStream {
        Box::pin(stream::unfold(self.sender.subscribe(), |mut receiver| async move {
            match receiver.recv().await {
                Ok(notice) => Some((notice, receiver)),
                Err(RecvError::Lagged(_)) => Some((Notice::Lagged, receiver)),
                Err(RecvError::Closed) => None,
            }
        }))
    }
}
