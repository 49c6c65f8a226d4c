//! The HTTP shifter against a load balancer that checks every signature.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use zentinel_core::Secret;
use zentinel_core::entity::TrafficSplit;
use zentinel_core::id::RolloutId;
use zentinel_core::port::{SystemClock, TrafficShift, TrafficShifter};
use zentinel_http::HttpShifter;
use zentinel_http::egress::{Egress, signature};
use zentinel_store::conformance::shifter::{ShifterBackend, shift, suite};

const SECRET: &str = "0123456789abcdef";

#[derive(Debug, Default)]
struct Balancer {
    in_force: HashMap<RolloutId, (u32, TrafficSplit)>,
    answers: VecDeque<(StatusCode, Option<&'static str>)>,
    calls: usize,
}

type Shared = Arc<Mutex<Balancer>>;

async fn weights(State(balancer): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let at = header("x-zentinel-timestamp").parse().unwrap();
    let at = chrono::DateTime::from_timestamp(at, 0).unwrap();
    assert_eq!(header("x-zentinel-signature"), signature(&Secret::new(SECRET), at, &body).unwrap());
    let shift: TrafficShift = serde_json::from_slice(&body).unwrap();
    assert_eq!(header("idempotency-key"), shift.id);
    let mut balancer = balancer.lock();
    balancer.calls += 1;
    if let Some((status, header)) = balancer.answers.pop_front() {
        let mut answer = (status, "not now").into_response();
        if let Some((name, value)) = header.and_then(|header| header.split_once(": ")) {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
        return answer;
    }
    let known = balancer.in_force.get(&shift.rollout_id).map_or(0, |(number, _)| *number);
    if shift.number >= known {
        balancer.in_force.insert(shift.rollout_id, (shift.number, shift.split));
    }
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Debug)]
struct Http {
    balancer: Shared,
    shifter: HttpShifter,
}

impl Http {
    async fn new() -> Self {
        let balancer = Shared::default();
        let app = Router::new().route("/weights", post(weights)).with_state(Arc::clone(&balancer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/weights", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let url = Url::parse(&url).unwrap();
        let shifter = HttpShifter::new(url, Secret::new(SECRET), Egress::anywhere(), Arc::new(SystemClock));
        Self { balancer, shifter: shifter.unwrap() }
    }

    fn answers(&self, status: u16, header: Option<&'static str>) {
        let status = StatusCode::from_u16(status).unwrap();
        self.balancer.lock().answers.push_back((status, header));
    }
}

#[async_trait]
impl ShifterBackend for Http {
    fn shifter(&self) -> &dyn TrafficShifter {
        &self.shifter
    }
    async fn fail_once(&self) -> bool {
        self.answers(503, None);
        true
    }
    async fn in_force(&self, rollout: RolloutId) -> Option<TrafficSplit> {
        self.balancer.lock().in_force.get(&rollout).map(|(_, split)| *split)
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    suite(&Http::new().await).await;
}

#[tokio::test]
async fn only_an_answer_that_says_so_is_an_acknowledgement() {
    let http = Http::new().await;
    let wanted = shift(RolloutId::random(), 1, 10);
    for (status, header, retryable, after) in [
        (202, Some("retry-after: 7"), true, Some(7)),
        (429, Some("retry-after: 30"), true, Some(30)),
        (503, None, true, None),
        (400, None, false, None),
        (401, None, false, None),
        // A redirect is not followed.
        (307, Some("location: /weights"), false, None),
    ] {
        http.answers(status, header);
        let failure = http.shifter.shift(&wanted).await.unwrap_err();
        assert_eq!(
            (failure.retryable, failure.after),
            (retryable, after.map(Duration::from_secs)),
            "{status}"
        );
        assert!(
            status == 202 || failure.reason.contains(&format!("{status}: not now")),
            "{}",
            failure.reason
        );
    }
    assert_eq!(http.in_force(wanted.rollout_id).await, None);
    assert_eq!(http.balancer.lock().calls, 6);
    http.shifter.shift(&wanted).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_worth_another_try_and_no_secret_is_shown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/token-in-the-path", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let shifter =
        HttpShifter::new(url.clone(), Secret::new(SECRET), Egress::anywhere(), Arc::new(SystemClock))
            .unwrap();
    let failure = shifter.shift(&shift(RolloutId::random(), 1, 10)).await.unwrap_err();
    assert!(failure.retryable && failure.reason.contains("cannot be reached"), "{failure:?}");
    let shown = format!("{failure:?} {shifter:?}");
    assert!(!shown.contains("token-in-the-path") && !shown.contains(SECRET), "{shown}");
    let refused = HttpShifter::new(url.clone(), Secret::new(SECRET), Egress::public(), Arc::new(SystemClock));
    assert!(refused.unwrap_err().fields().contains_key("url"));
    let short = HttpShifter::new(url, Secret::new("short"), Egress::anywhere(), Arc::new(SystemClock));
    assert!(short.unwrap_err().fields().contains_key("secret"));
}
