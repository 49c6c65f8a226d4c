//! A notifier that remembers instead of telling anybody.

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::VecDeque;
use zentinel_core::Result;
use zentinel_core::entity::Event;
use zentinel_core::port::{Delivery, Notifier};

/// Records every call; for tests. Answers [`Delivery::Delivered`] unless told otherwise.
///
/// ```
/// # use zentinel_core::{entity::Event, port::{Delivery, Notifier}, Scope, Timestamp};
/// # use zentinel_store::RecordingNotifier;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let notifier = RecordingNotifier::new();
/// notifier.answer_next(Delivery::Rejected { reason: "no such channel".to_owned() });
/// let event = Event::new(&Scope::Instance, "test.sent", ().into(), Timestamp::UNIX_EPOCH);
/// let config = serde_json::json!({});
/// assert!(matches!(notifier.deliver(&event, &config).await.unwrap(), Delivery::Rejected { .. }));
/// assert_eq!(notifier.deliver(&event, &config).await.unwrap(), Delivery::Delivered);
/// assert_eq!(notifier.calls().len(), 2);
/// # });
/// ```
#[derive(Debug, Default)]
pub struct RecordingNotifier {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<RecordedCall>,
    answers: VecDeque<Delivery>,
}

/// One call of [`RecordingNotifier::deliver`](Notifier::deliver).
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedCall {
    /// The event.
    pub event: Event,
    /// The channel's configuration.
    pub config: Value,
    /// What was answered.
    pub answer: Delivery,
}

impl RecordingNotifier {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers the next call that has no answer yet with `answer`. May be called several times.
    pub fn answer_next(&self, answer: Delivery) {
        self.state.lock().answers.push_back(answer);
    }

    /// Every call so far, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.state.lock().calls.clone()
    }

    /// The events that were accepted, oldest first.
    #[must_use]
    pub fn delivered(&self) -> Vec<Event> {
        let state = self.state.lock();
        let accepted = state.calls.iter().filter(|call| call.answer == Delivery::Delivered);
        accepted.map(|call| call.event.clone()).collect()
    }
}

#[async_trait]
impl Notifier for RecordingNotifier {
    async fn deliver(&self, event: &Event, config: &Value) -> Result<Delivery> {
        let mut state = self.state.lock();
        let answer = state.answers.pop_front().unwrap_or(Delivery::Delivered);
        state.calls.push(RecordedCall {
            event: event.clone(),
            config: config.clone(),
            answer: answer.clone(),
        });
        Ok(answer)
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::conformance::notifier::{NotifierBackend, suite};
    use zentinel_core::id::TypedId as _;

    #[derive(Default)]
    struct Recording(RecordingNotifier);

    #[async_trait]
    impl NotifierBackend for Recording {
        fn notifier(&self) -> &dyn Notifier {
            &self.0
        }
        fn accepting(&self) -> Value {
            Value::Null
        }
        fn failing(&self) -> Option<Value> {
            None
        }
        async fn received(&self) -> Vec<String> {
            self.0.delivered().iter().map(|event| event.id.uuid().to_string()).collect()
        }
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        suite(&Recording::default()).await;
    }
}
