//! Listeners and what becomes of a request.

use super::metrics::Metrics;
use super::routes::{Action, Pool, Route, host};
use super::{Proxy, log};
use http::request::Parts;
use http::{HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use zentinel_config::{BuiltinHandler, Config, ListenerConfig, PathModifier, RedirectFilter};

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
/// Passes requests on.
pub(super) type UpstreamClient = Client<HttpConnector, Incoming>;

/// How often, a second apart, an address in use is tried.
const BIND_TRIES: usize = 30;

pub(super) fn upstream_client(config: &Config) -> UpstreamClient {
    let mut connector = HttpConnector::new();
    let longest = config.upstreams.values().map(|upstream| upstream.timeouts.connect_secs).max();
    connector.set_connect_timeout(Some(Duration::from_secs(longest.unwrap_or(10))));
    connector.set_nodelay(true);
    // Upstreams may close an idle connection just when it is taken: none is kept.
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

async fn bind(address: &str) -> Option<TcpListener> {
    for _ in 0..BIND_TRIES {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                log("WARN", &format!("{address} is in use, will try again"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                log("ERROR", &format!("{address}: {error}"));
                return None;
            }
        }
    }
    log("ERROR", &format!("{address} is still in use"));
    None
}

/// Serves the listeners. They are bound one after another before any of them serves: an address that
/// is taken holds all of them up, and in the end takes all of them away; the process lives on.
pub(super) async fn listen(proxy: Arc<Proxy>, listeners: Vec<ListenerConfig>) {
    let mut bound = Vec::new();
    for config in listeners {
        if let Some(path) = unusable_file(&config) {
            log("ERROR", &format!("no TLS certificate or key: {}", path.display()));
            continue;
        }
        let Some(listener) = bind(&config.address).await else { return };
        bound.push((listener, config));
    }
    for (listener, config) in bound {
        log("INFO", &format!("listening on {}", config.address));
        tokio::spawn(serve(Arc::clone(&proxy), listener, config.default_route));
    }
}

/// A certificate, key or authority that is not there, or is none.
fn unusable_file(listener: &ListenerConfig) -> Option<&Path> {
    let tls = listener.tls.as_ref()?;
    let mut files = [&tls.cert_file, &tls.key_file, &tls.ca_file].into_iter().flatten();
    let usable = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("-----BEGIN "));
    files.find(|path| !usable(path)).map(PathBuf::as_path)
}

async fn serve(proxy: Arc<Proxy>, listener: TcpListener, default: Option<String>) {
    let default: Arc<Option<String>> = Arc::new(default);
    while let Ok((stream, _)) = accept(&listener).await {
        let (proxy, default) = (Arc::clone(&proxy), Arc::clone(&default));
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let (proxy, default) = (Arc::clone(&proxy), Arc::clone(&default));
                async move { Ok::<_, Infallible>(answer(&proxy, request, default.as_deref()).await) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Out of file descriptors is no reason to stop.
async fn accept(listener: &TcpListener) -> std::io::Result<(tokio::net::TcpStream, std::net::SocketAddr)> {
    loop {
        match listener.accept().await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => log("WARN", &format!("accept: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Serves the metrics; a failed bind leaves them off.
pub(super) async fn metrics(proxy: Arc<Proxy>, address: String, path: String) {
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(error) => return log("ERROR", &format!("Failed to bind metrics server: {address}: {error}")),
    };
    while let Ok((stream, _)) = accept(&listener).await {
        let (proxy, path) = (Arc::clone(&proxy), path.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let found = request.uri().path() == path;
                let answer =
                    if found { prometheus(&proxy.metrics) } else { plain(StatusCode::NOT_FOUND, "") };
                async move { Ok::<_, Infallible>(answer) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(proxy: &Proxy, request: Request<Incoming>, default: Option<&str>) -> Response<Body> {
    let live = proxy.live();
    let (parts, body) = request.into_parts();
    let Some(route) = live.table.find(&parts, default) else {
        return proxy_error(proxy, StatusCode::NOT_FOUND);
    };
    match live.parts.action(route) {
        Action::Redirect(redirect) => redirected(&parts, redirect),
        Action::Builtin(handler) => builtin(proxy, handler),
        Action::Nothing => proxy_error(proxy, StatusCode::INTERNAL_SERVER_ERROR),
        Action::Upstream(pool) => {
            let started = Instant::now();
            tokio::time::sleep(live.latency).await;
            let method = parts.method.to_string();
            let answer = if fails(live.errors) {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "stand-in: errors")
            } else {
                match pass_on(proxy, pool, parts, body).await {
                    Ok(answer) => answer,
                    Err(status) => return proxy_error(proxy, status),
                }
            };
            counted(proxy, route, &method, &answer, started);
            answer
        }
    }
}

fn counted(proxy: &Proxy, route: &Route, method: &str, answer: &Response<Body>, started: Instant) {
    proxy.metrics.answered(&route.id, method, answer.status().as_u16(), started.elapsed());
}

/// So many of every hundred requests, spread evenly.
fn fails(percent: u64) -> bool {
    static TURN: AtomicU64 = AtomicU64::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    (turn + 1) * percent / 100 > turn * percent / 100
}

async fn pass_on(
    proxy: &Proxy,
    pool: &Pool,
    mut parts: Parts,
    body: Incoming,
) -> Result<Response<Body>, StatusCode> {
    const HOP_BY_HOP: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
    if pool.is_given_up() {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let target = pool.next().ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::builder()
        .scheme("http")
        .authority(target)
        .path_and_query(path)
        .build()
        .map_err(|_| StatusCode::BAD_GATEWAY)?;
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    let sent = proxy.upstream.request(Request::from_parts(parts, body)).await;
    let answer = sent.map_err(|error| {
        let refused = error.is_connect();
        pool.note(!refused);
        if refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY }
    })?;
    pool.note(true);
    let (mut parts, body) = answer.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

fn redirected(request: &Parts, redirect: &RedirectFilter) -> Response<Body> {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let host = redirect.hostname.clone().unwrap_or_else(|| host(request));
    let port = match redirect.port {
        Some(port) if (scheme, port) != ("http", 80) && (scheme, port) != ("https", 443) => {
            format!(":{port}")
        }
        _ => String::new(),
    };
    let path = match &redirect.path {
        Some(PathModifier::ReplaceFullPath { value }) => value,
        _ => request.uri.path(),
    };
    let mut answer =
        plain(StatusCode::from_u16(redirect.status_code).expect("the parser checks the status"), "");
    let location = format!("{scheme}://{host}{port}{path}");
    if let Ok(location) = location.parse() {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

fn builtin(proxy: &Proxy, handler: BuiltinHandler) -> Response<Body> {
    // Faithful to the proxy: every call counts as an error of its own.
    proxy.metrics.proxy_error(500);
    let uptime = proxy.started.elapsed().as_secs();
    match handler {
        BuiltinHandler::Health => json(StatusCode::OK, &serde_json::json!({"status": "healthy"})),
        BuiltinHandler::Status => json(
            StatusCode::OK,
            &serde_json::json!({"status": "ok", "version": "0.6.45", "uptime_secs": uptime}),
        ),
        BuiltinHandler::Metrics => prometheus(&proxy.metrics),
        _ => json(StatusCode::NOT_FOUND, &serde_json::json!({"error": "Not Found"})),
    }
}

fn proxy_error(proxy: &Proxy, status: StatusCode) -> Response<Body> {
    proxy.metrics.proxy_error(status.as_u16());
    json(status, &serde_json::json!({"error": status.canonical_reason()}))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    typed(status, "application/json", value.to_string())
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    typed(status, "text/plain", text.to_owned())
}

fn prometheus(metrics: &Metrics) -> Response<Body> {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text())
}

fn typed(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
