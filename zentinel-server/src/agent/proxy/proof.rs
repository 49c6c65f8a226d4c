//! Proof that a release serves: the proxy answers what only that release answers.

use super::control::{ProxyControl, ProxyState};
use super::process::ProcessId;
use super::render::{MARKER_HOST, RenderedRelease};
use crate::agent::http;
use hyper::StatusCode;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use url::Url;

/// How long one question may take.
pub(super) const PROBE: Duration = Duration::from_secs(1);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest answer to a marker that is read.
const MARKER_ANSWER: usize = 16 << 10;
/// Largest page of measurements that is read.
pub(crate) const METRICS_ANSWER: usize = 8 << 20;

/// How long each part of the proof may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// The marker.
    pub(super) proof: Duration,
    /// Every listener, after the marker; the metrics address as well.
    pub(super) listeners: Duration,
}

/// What is missing in a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unproven {
    /// Stable word.
    pub(super) reason: &'static str,
    /// For a person.
    pub(super) message: String,
}

impl Unproven {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The process that must go on living while a proof lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched<'a> {
    pub(super) control: &'a dyn ProxyControl,
    /// The process before a reload: it must still be the same after.
    pub(super) same: Option<ProcessId>,
}

impl Watched<'_> {
    /// Whether the process that serves is gone.
    fn check(&mut self) -> Result<(), Unproven> {
        match (self.control.state(), self.same) {
            (ProxyState::Dead, _) if self.control.supervises() || self.same.is_some() => {
                Err(Unproven::new("proxy_died", "the proxy ended"))
            }
            (ProxyState::Running(now), Some(before)) if now != before => {
                Err(Unproven::new("proxy_died", "the proxy ended and another process took its place"))
            }
            (ProxyState::Running(_), None) if self.control.supervises() => {
                self.pin();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The process that is there now is the one to watch. Somebody else's supervisor may need a
    /// moment to say which that is, so there it is known only once the marker has answered.
    fn pin(&mut self) {
        self.same = self.same.or_else(|| self.control.state().process());
    }
}

/// Asks the marker of a release once.
pub(crate) async fn ask_marker(release: &RenderedRelease, time_limit: Duration) -> Result<(), String> {
    let marker = &release.marker;
    let (status, _) = http::get(release.probe, MARKER_HOST, marker, time_limit, MARKER_ANSWER).await?;
    if status == StatusCode::FOUND { Ok(()) } else { Err(format!("{} answers {status}", release.probe)) }
}

/// Waits for the marker, the listeners and, after a new start, the measurements.
pub(super) async fn prove(
    release: &RenderedRelease,
    watched: &mut Watched<'_>,
    patience: Patience,
    unproven: &'static str,
    fresh: bool,
) -> Result<(), Unproven> {
    let until = Instant::now() + patience.proof;
    loop {
        watched.check()?;
        let answer = ask_marker(release, PROBE.min(patience.proof)).await;
        let Err(why) = answer else { break };
        if Instant::now() >= until {
            let seconds = patience.proof.as_secs_f64();
            return Err(Unproven::new(
                unproven,
                format!("the marker did not answer within {seconds} s: {why}"),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
    watched.pin();
    let until = Instant::now() + patience.listeners;
    for address in &release.listeners {
        accepts(*address, until, watched).await?;
    }
    if let (true, true, Some(url)) = (fresh, release.metrics_configured, &release.metrics) {
        measures(url, until, watched).await?;
    }
    Ok(())
}

/// Watches that the process lives on.
pub(super) async fn settle(watched: &mut Watched<'_>, settle: Duration) -> Result<(), Unproven> {
    let until = Instant::now() + settle;
    loop {
        watched.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(PAUSE)).await;
    }
}

/// Whether something accepts connections there now.
pub(super) async fn is_open(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE, TcpStream::connect(address)).await, Ok(Ok(_)))
}

async fn accepts(address: SocketAddr, until: Instant, watched: &mut Watched<'_>) -> Result<(), Unproven> {
    while !is_open(address).await {
        watched.check()?;
        if Instant::now() >= until {
            return Err(Unproven::new(
                "listener_missing",
                format!("nothing accepts connections on {address}"),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn measures(url: &Url, until: Instant, watched: &mut Watched<'_>) -> Result<(), Unproven> {
    loop {
        let why = match scrape(url, PROBE).await {
            Ok(_) => return Ok(()),
            Err(why) => why,
        };
        watched.check()?;
        if Instant::now() >= until {
            return Err(Unproven::new("metrics_missing", format!("{url}: {why}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the page of measurements.
pub(crate) async fn scrape(url: &Url, time_limit: Duration) -> Result<String, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let authority = format!("{host}:{port}");
    let path = url.path();
    let (status, body) = http::get((bare, port), &authority, path, time_limit, METRICS_ANSWER).await?;
    if status != StatusCode::OK {
        return Err(format!("answers {status}"));
    }
    String::from_utf8(body.to_vec()).map_err(|_| "the page is not UTF-8".to_owned())
}
