//! Cases for [`Notifier`].

use super::fixture::{Tenant, at};
use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::{Value, json};
use zentinel_core::entity::Event;
use zentinel_core::port::{Delivery, Notifier};

/// A notifier with a receiver that the suite can look into.
#[async_trait]
pub trait NotifierBackend: Send + Sync {
    /// The notifier.
    fn notifier(&self) -> &dyn Notifier;
    /// The configuration of a channel that accepts everything.
    fn accepting(&self) -> Value;
    /// The configuration of a channel that fails now but may work later; `None` where there is
    /// no such thing.
    fn failing(&self) -> Option<Value>;
    /// The ids of the events that the accepting channel got so far, as the receiver saw them;
    /// repeats included.
    async fn received(&self) -> Vec<String>;
}

/// Every case.
pub async fn suite(backend: &dyn NotifierBackend) {
    what_is_delivered_was_received(backend).await;
    a_repeat_carries_the_same_id(backend).await;
    concurrent_deliveries_all_arrive(backend).await;
    odd_events_are_delivered(backend).await;
    a_failing_receiver_is_no_error(backend).await;
}

fn event(kind: &str, payload: Value) -> Event {
    Event::new(&Tenant::random().scope(), kind, payload, at(0))
}

async fn deliver(backend: &dyn NotifierBackend, event: &Event) {
    let delivery = backend.notifier().deliver(event, &backend.accepting()).await.unwrap();
    assert_eq!(delivery, Delivery::Delivered);
}

async fn count(backend: &dyn NotifierBackend, event: &Event) -> usize {
    let id = event.id.to_string();
    backend.received().await.iter().filter(|received| **received == id).count()
}

/// `Delivered` means that the receiver has it.
pub async fn what_is_delivered_was_received(backend: &dyn NotifierBackend) {
    let event = event("rollout.completed", json!({ "rollout_id": "r1" }));
    assert_eq!(count(backend, &event).await, 0);
    deliver(backend, &event).await;
    assert_eq!(count(backend, &event).await, 1);
}

/// Delivering an event again tells the receiver the same id, its idempotency key.
pub async fn a_repeat_carries_the_same_id(backend: &dyn NotifierBackend) {
    let event = event("rollout.completed", json!({}));
    deliver(backend, &event).await;
    deliver(backend, &event).await;
    assert!(count(backend, &event).await >= 1);
}

/// Deliveries that run at once do not disturb one another.
pub async fn concurrent_deliveries_all_arrive(backend: &dyn NotifierBackend) {
    let events: Vec<Event> = (0..20).map(|number| event("node.seen", json!({ "number": number }))).collect();
    join_all(events.iter().map(|event| deliver(backend, event))).await;
    for event in &events {
        assert_eq!(count(backend, event).await, 1);
    }
}

/// Whatever text an event holds, it is delivered.
pub async fn odd_events_are_delivered(backend: &dyn NotifierBackend) {
    let long = "ü".repeat(20_000);
    for text in ["", "<script>", "*bold* _x_ `y`", "line\nbreak\r\n", "\u{0}\u{1}", "🦀 \"quoted\" \\", &long]
    {
        let event = event("bundle.failed", json!({ "message": text, "nested": { "list": [text] } }));
        deliver(backend, &event).await;
        assert_eq!(count(backend, &event).await, 1, "{text:.40?}");
    }
}

/// A receiver that fails makes a `Retry`, not an error.
pub async fn a_failing_receiver_is_no_error(backend: &dyn NotifierBackend) {
    let Some(config) = backend.failing() else { return };
    let event = event("node.offline", json!({}));
    let delivery = backend.notifier().deliver(&event, &config).await.unwrap();
    assert!(matches!(delivery, Delivery::Retry { .. }), "{delivery:?}");
    assert_eq!(count(backend, &event).await, 0);
}
