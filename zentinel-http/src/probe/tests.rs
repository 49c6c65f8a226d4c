use super::*;
use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get, post};

use zentinel_core::Timestamp;
use zentinel_core::entity::ProbeHeaders;
use zentinel_core::id::{HealthCheckId, OrganisationId, ProjectId};
use zentinel_core::port::SystemClock;

/// A server on the loopback network, with its address.
async fn server() -> String {
    let app = Router::new()
        .route("/ok", any(|| async { "all is well" }))
        .route("/sick", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/away", get(|| async { Redirect::temporary("/ok") }))
        .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(30)).await }))
        .route("/late", get(|| async { format!("{}needle", "x".repeat(MAX_ANSWER - 3)) }))
        .route("/early", get(|| async { format!("{}needle", "x".repeat(MAX_ANSWER - 6)) }))
        .route("/echo", post(|body: Bytes| async move { body }))
        .route("/node/{name}", get(|request: Request| async move { request.uri().to_string() }))
        .route(
            "/secret",
            get(|headers: HeaderMap| async move {
                let known = headers.get("authorization").is_some_and(|value| value == "Bearer sesame");
                if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED }.into_response()
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn check(url: String) -> HealthCheck {
    HealthCheck {
        id: HealthCheckId::random(),
        organisation_id: OrganisationId::random(),
        project_id: ProjectId::random(),
        name: "ready".to_owned(),
        url,
        method: ProbeMethod::Get,
        timeout_ms: 2_000,
        expected_status: 200,
        expected_body_contains: None,
        headers: ProbeHeaders::default(),
        enabled: true,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

fn probe(allowed: &[&str]) -> HttpProbe {
    let allowed = allowed.iter().map(|text| text.parse().unwrap());
    HttpProbe::new(Egress::allowing(allowed), Arc::new(SystemClock)).unwrap()
}

async fn ask(check: &HealthCheck) -> ProbeResult {
    probe(&["127.0.0.0/8"]).probe(check, &ProbeVariables::default()).await
}

#[tokio::test]
async fn status_and_text_decide() {
    let base = server().await;
    let asked = async |path: &str, text: Option<&str>| {
        let expected_body_contains = text.map(str::to_owned);
        ask(&HealthCheck { expected_body_contains, ..check(format!("{base}{path}")) }).await.failure
    };
    assert_eq!(asked("/ok", None).await, None);
    assert_eq!(asked("/ok", Some("is well")).await, None);
    let missing = Some("the answer does not contain the expected text".to_owned());
    assert_eq!(asked("/ok", Some("is ill")).await, missing);
    assert_eq!(asked("/early", Some("needle")).await, None);
    assert_eq!(asked("/late", Some("needle")).await, missing);
    assert_eq!(asked("/sick", None).await, Some("status 503 instead of 200".to_owned()));
    let sick = HealthCheck { expected_status: 503, ..check(format!("{base}/sick")) };
    assert!(ask(&sick).await.passed());
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let result = ask(&check(format!("{}/away", server().await))).await;
    assert_eq!(result.failure, Some("status 307 instead of 200".to_owned()));
}

#[tokio::test]
async fn methods_bodies_and_headers_are_sent() {
    let base = server().await;
    let post = HealthCheck {
        method: ProbeMethod::Post,
        expected_body_contains: Some("{}".to_owned()),
        ..check(format!("{base}/echo"))
    };
    assert_eq!(ask(&post).await.failure, None);
    let head = HealthCheck { method: ProbeMethod::Head, ..check(format!("{base}/ok")) };
    assert_eq!(ask(&head).await.failure, None);
    let mut secret = check(format!("{base}/secret"));
    assert_eq!(ask(&secret).await.status, Some(401));
    secret.headers.0.insert("Authorization".to_owned(), "Bearer sesame".to_owned());
    assert_eq!(ask(&secret).await.status, Some(200));
}

#[tokio::test]
async fn a_slow_endpoint_fails_in_time() {
    let slow = HealthCheck { timeout_ms: 100, ..check(format!("{}/slow", server().await)) };
    let began = std::time::Instant::now();
    assert_eq!(ask(&slow).await.failure, Some("no answer within 100 ms".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn placeholders_lead_to_the_node() {
    let base = server().await.replace("127.0.0.1", "{node_ip}");
    let check = HealthCheck {
        expected_body_contains: Some("/node/edge%2F1".to_owned()),
        ..check(format!("{base}/node/{{node_name}}"))
    };
    let probe = probe(&["127.0.0.0/8"]);
    let result = probe.probe(&check, &ProbeVariables::of_node("edge/1", Some("127.0.0.1"))).await;
    assert_eq!(result.failure, None);
    let unknown = probe.probe(&check, &ProbeVariables::of_node("edge-1", None)).await;
    assert_eq!(unknown.failure, Some("the URL the address of the node is not known".to_owned()));
}

#[tokio::test]
async fn what_is_inside_is_out_of_reach_by_address_and_by_name() {
    let base = server().await;
    for url in [format!("{base}/ok"), base.replace("127.0.0.1", "localhost")] {
        let result = probe(&[]).probe(&check(url.clone()), &ProbeVariables::default()).await;
        let failure = result.failure.unwrap();
        assert!(failure.contains("not public"), "{url}: {failure}");
        assert_eq!(result.status, None);
    }
}
