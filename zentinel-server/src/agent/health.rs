//! The health of a node: its host, its proxy, and what the proxy measures.
//!
//! `status` is `healthy` when the proxy's process lives and the marker of the active release
//! answers; otherwise `reason` says what is wrong.
//!
//! `error_rate` and `latency_p99_ms` are differences between two scrapes of the proxy's
//! Prometheus page. Both scrapes are of the time since the active bundle began to serve, and at
//! least half a heartbeat interval apart, so the first heartbeat after an activation has neither. A
//! window in which nobody asked anything counts as error-free and without delay (0 and 0): an idle
//! node must not hold a rollout up. Without a page to scrape both are absent, and gates on them stay shut.

mod host;
mod scrape;
mod traffic;
mod window;

use super::HealthSource;
use super::proxy::{ProxyActivator, ProxyState, RenderedRelease};
use async_trait::async_trait;
use host::Host;
use scrape::Page;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use window::{Key, Window};
use zentinel_core::id::BundleId;

/// How long a heartbeat waits for what is measured.
const PATIENCE: Duration = Duration::from_secs(2);

/// The health of the node that a [`ProxyActivator`] serves on.
#[derive(Debug)]
pub struct ProxyHealth {
    proxy: Arc<ProxyActivator>,
    host: Mutex<Host>,
    window: Mutex<Window>,
    version: Mutex<Option<String>>,
}

impl ProxyHealth {
    /// Measures over windows of at least half the time between heartbeats.
    #[must_use]
    pub fn new(proxy: Arc<ProxyActivator>, heartbeat_interval: Duration) -> Self {
        Self {
            proxy,
            host: Mutex::new(Host::default()),
            window: Mutex::new(Window::new(heartbeat_interval / 2)),
            version: Mutex::default(),
        }
    }

    /// Why the node is not healthy, if so.
    fn complaint(&self, marker: Result<(), String>) -> Option<String> {
        match self.proxy.proxy_state() {
            _ if self.proxy.serving().is_none() => Some("no bundle is active".to_owned()),
            ProxyState::Dead => Some("the proxy does not run".to_owned()),
            _ => marker.err().map(|why| format!("the marker of the active release does not answer: {why}")),
        }
    }

    fn measure(
        &self,
        active: Option<BundleId>,
        release: Option<&RenderedRelease>,
        page: &Page,
        metrics: &mut Map<String, Value>,
    ) {
        let serving = release.filter(|release| Some(release.bundle_id) == active);
        let key = serving
            .map(|release| Key { sequence: release.sequence, process: self.proxy.proxy_state().process() });
        if let Some(rates) = locked(&self.window).take(key, page, Instant::now()) {
            metrics.insert("error_rate".to_owned(), rounded(rates.error_percent));
            metrics.insert("latency_p99_ms".to_owned(), rounded(rates.p99_ms));
            metrics.insert("requests_per_second".to_owned(), rounded(rates.per_second));
        }
        if let Ok(traffic) = serde_json::to_value(locked(&self.window).traffic()) {
            metrics.insert("traffic".to_owned(), traffic);
        }
        for (name, gauge) in [
            ("active_requests", "zentinel_active_requests"),
            ("open_connections", "zentinel_open_connections"),
            ("proxy_memory_bytes", "zentinel_memory_usage_bytes"),
        ] {
            if let Some(value) = page.gauge(gauge) {
                metrics.insert(name.to_owned(), rounded(value));
            }
        }
        if let Some(version) = page.version() {
            *locked(&self.version) = Some(version);
        }
    }

    fn describe(&self, health: &mut Map<String, Value>, release: Option<&RenderedRelease>) {
        health.insert("agent_version".to_owned(), env!("CARGO_PKG_VERSION").into());
        if let Some(release) = release {
            health.insert("sequence".to_owned(), release.sequence.into());
        }
        if let Some(process) = self.proxy.proxy_state().process() {
            health.insert("proxy_pid".to_owned(), process.pid.into());
            if let Some(uptime) = process.uptime() {
                health.insert("uptime_s".to_owned(), uptime.as_secs().into());
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three decimals are enough, and make short messages.
fn rounded(value: f64) -> Value {
    Value::from((value * 1_000.0).round() / 1_000.0)
}

#[async_trait]
impl HealthSource for ProxyHealth {
    async fn sample(&self, active: Option<BundleId>) -> (Map<String, Value>, Map<String, Value>) {
        let release = self.proxy.serving();
        let url = release.as_ref().and_then(|release| release.metrics.clone());
        let scraped = async {
            match &url {
                Some(url) => Some(super::proxy::scrape(url, PATIENCE).await),
                None => None,
            }
        };
        let (marker, scraped) = tokio::join!(self.proxy.answers(), scraped);
        let (mut health, mut metrics) = (Map::new(), Map::new());
        let complaint = self.complaint(marker);
        let status = if complaint.is_none() { "healthy" } else { "unhealthy" };
        health.insert("status".to_owned(), status.into());
        if let Some(reason) = complaint {
            health.insert("reason".to_owned(), reason.into());
        }
        self.describe(&mut health, release.as_ref());
        let counts_500 = release.as_ref().is_some_and(|release| release.counts_500);
        match scraped.map(|page| page.and_then(|page| Page::parse(&page, counts_500))) {
            Some(Ok(page)) => self.measure(active, release.as_ref(), &page, &mut metrics),
            Some(Err(why)) => {
                let at = url.map(|url| url.to_string()).unwrap_or_default();
                health.insert("metrics_error".to_owned(), format!("{at}: {why}").into());
            }
            None => {}
        }
        let host = locked(&self.host).read();
        for (name, value) in [("memory_percent", host.memory_percent), ("cpu_percent", host.cpu_percent)] {
            if let Some(value) = value {
                metrics.insert(name.to_owned(), rounded(value));
            }
        }
        (health, metrics)
    }

    fn version(&self) -> Option<String> {
        locked(&self.version).clone()
    }
}
