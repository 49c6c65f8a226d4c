//! Settings in, running server out: the one place that picks back ends and wires them up.

mod backends;
mod maintenance;
mod serve;

use crate::settings::Settings;
pub use backends::open_store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;
use zentinel_compiler::bundle::CompileHandler;
use zentinel_core::port::{Clock, ConfigValidator, Queue, SystemClock, TrafficShifter};
use zentinel_core::{Error, Result};
use zentinel_http::egress::Egress;
use zentinel_http::{HttpOptions, HttpProbe, HttpShifter, RateLimits, Services};
use zentinel_rollout::engine::{DriftWatch, Engine, EngineOptions};
use zentinel_rollout::fleet::{Fleet, FleetOptions};
use zentinel_rollout::strategy::Strategies;
use zentinel_store::{Runner, RunnerOptions};

/// A running server.
#[derive(Debug)]
pub struct App {
    /// The address it serves on.
    pub address: SocketAddr,
    /// The URL under which it is reached.
    pub public_url: Url,
    /// Its ports, for callers in the same process.
    pub services: Arc<Services>,
    draining: CancellationToken,
    ending: CancellationToken,
    serving: JoinHandle<()>,
    working: Vec<JoinHandle<()>>,
    patience: Duration,
}

impl App {
    /// Binds, opens the back ends and starts everything.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](zentinel_core::Kind::Unavailable) when the address is taken or a
    /// back end can't be opened, [`Kind::Invalid`](zentinel_core::Kind::Invalid) for wrong settings.
    pub async fn start(settings: &Settings) -> Result<Self> {
        Self::start_with(settings, None).await
    }

    /// As [`App::start`], with another validator: the default one re-executes the current program,
    /// which only works where `main` begins with
    /// [`run_child_if_requested`](zentinel_compiler::validate::run_child_if_requested).
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with(
        settings: &Settings,
        validator: Option<Arc<dyn ConfigValidator>>,
    ) -> Result<Self> {
        settings.check()?;
        let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
            Error::unavailable(format!("cannot listen on {}: {error}", settings.listen))
                .with_source(error)
                .with_hint("choose another address with --listen; port 0 takes a free one")
        })?;
        let address =
            listener.local_addr().map_err(|error| Error::internal("no local address").with_source(error))?;
        let public_url = match &settings.public_url {
            Some(url) => url.clone(),
            None => Url::parse(&format!("http://{address}"))
                .map_err(|error| Error::internal("the address makes no URL").with_source(error))?,
        };
        let (draining, ending) = (CancellationToken::new(), CancellationToken::new());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut back = backends::open(settings, &public_url, Arc::clone(&clock)).await?;
        if let Some(validator) = validator {
            back.validator = validator;
        }
        // Restored while it serves: a node that is not known yet is looked up.
        let fleet =
            Fleet::open(Arc::clone(&back.store), Arc::clone(&clock), fleet_options(settings, back.shared));
        let engine = Engine::new(
            Arc::clone(&back.store),
            Arc::clone(&back.signer),
            Arc::clone(&clock),
            Strategies::standard(),
            engine_options(settings),
        );
        let probe = HttpProbe::new(egress(settings), Arc::clone(&clock))?;
        let engine = engine.with_probe(Arc::new(probe));
        let engine = Arc::new(match shifter(settings, &clock)? {
            Some(shifter) => engine.with_shifter(shifter),
            None => engine,
        });
        let runner = runner(settings, &back, &clock, &fleet, &engine);
        let services = Arc::new(Services {
            store: back.store,
            scheduler: back.scheduler,
            blobs: back.blobs,
            signer: back.signer,
            validator: back.validator,
            clock,
            fleet: Arc::clone(&fleet),
            engine,
            url_signer: back.url_signer,
            options: http_options(settings, public_url.clone(), draining.clone()),
        });
        let router = zentinel_http::router(Arc::clone(&services));
        let pressure = services.options.pressure.clone();
        let serving = tokio::spawn(serve::serve(listener, router, pressure, draining.clone()));
        let until = ending.clone();
        let working = vec![
            tokio::spawn(runner.run(ending.clone())),
            tokio::spawn(async move { fleet.run(until).await }),
        ];
        let patience = Duration::from_secs(settings.http.shutdown_seconds.into());
        Ok(Self { address, public_url, services, draining, ending, serving, working, patience })
    }

    /// Stops accepting, finishes what is in flight (at most for `http.shutdown_seconds`), writes
    /// what is still in memory, and returns.
    pub async fn stop(self) {
        // Requests in flight still need the fleet and the workers, so these end afterwards.
        self.draining.cancel();
        finish(vec![self.serving], self.patience, "requests in flight").await;
        self.ending.cancel();
        finish(self.working, self.patience, "jobs in flight").await;
    }
}

async fn finish(tasks: Vec<JoinHandle<()>>, patience: Duration, what: &str) {
    let all = async {
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task ended badly");
            }
        }
    };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("gave up waiting for {what}");
    }
}

/// How long a job that was running at a crash waits before it is taken up again.
const JOB_LEASE: Duration = Duration::from_secs(10);

fn runner(
    settings: &Settings,
    back: &backends::BackEnds,
    clock: &Arc<dyn Clock>,
    fleet: &Arc<Fleet>,
    engine: &Arc<Engine>,
) -> Runner {
    let compile = CompileHandler::new(
        Arc::clone(&back.store),
        Arc::clone(&back.blobs),
        Arc::clone(&back.signer),
        Arc::clone(&back.validator),
        Arc::clone(clock),
    );
    let retention = maintenance::RetentionHandler {
        store: Arc::clone(&back.store),
        scheduler: Arc::clone(&back.scheduler),
        clock: Arc::clone(clock),
        heartbeats_kept: settings.nodes.heartbeats_kept,
        events_kept: settings.nodes.events_kept,
        jobs_kept_days: settings.queues.jobs_kept_days,
    };
    let mut runner = Runner::new(Arc::clone(&back.scheduler), Arc::clone(clock), back.store.watch())
        .options(RunnerOptions { lease: JOB_LEASE, ..RunnerOptions::default() })
        .workers(Queue::Default, settings.queues.default)
        .workers(Queue::Rollouts, settings.queues.rollouts)
        .workers(Queue::Maintenance, settings.queues.maintenance)
        .register(Arc::new(compile))
        .register(Arc::new(maintenance::StalenessHandler { fleet: Arc::clone(fleet) }))
        .register(Arc::new(DriftWatch::new(Arc::clone(engine), Arc::clone(fleet))))
        .register(Arc::new(retention));
    for handler in engine.handlers() {
        runner = runner.register(handler);
    }
    maintenance::schedules().into_iter().fold(runner, Runner::schedule)
}

/// What drives the load balancer, where one is set.
fn shifter(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Option<Arc<dyn TrafficShifter>>> {
    let settings = &settings.traffic_shifter;
    let (Some(url), Some(secret)) = (&settings.url, settings.secret.get()) else {
        return Ok(None);
    };
    let egress = if settings.allow_private { Egress::anywhere() } else { Egress::public() };
    let shifter =
        HttpShifter::new(url.clone(), secret.clone(), egress, Arc::clone(clock)).map_err(|error| {
            let hint = "an address of a private network needs traffic_shifter.allow_private";
            Error::invalid_field("traffic_shifter.url", error.to_string()).with_hint(hint)
        })?;
    Ok(Some(Arc::new(shifter)))
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn fleet_options(settings: &Settings, shared: bool) -> FleetOptions {
    FleetOptions {
        offline_after: seconds(settings.nodes.offline_after_seconds),
        poll_interval: seconds(settings.nodes.poll_interval_seconds),
        shared,
        max_waiting: settings.nodes.max_waiting_heartbeats as usize,
        history_rate: settings.nodes.heartbeat_history_rate,
        ..FleetOptions::default()
    }
}

fn engine_options(settings: &Settings) -> EngineOptions {
    EngineOptions {
        poll_interval: seconds(settings.nodes.poll_interval_seconds),
        statement_validity: seconds(settings.rollouts.statement_days.saturating_mul(86_400)),
        ..EngineOptions::default()
    }
}

/// Where operators may send the control plane.
fn egress(settings: &Settings) -> Egress {
    // Checked with the settings.
    Egress::allowing(settings.rollouts.egress_allow.iter().filter_map(|text| text.parse().ok()))
}

fn http_options(settings: &Settings, public_url: Url, draining: CancellationToken) -> HttpOptions {
    let mut options = HttpOptions::new(public_url);
    options.draining = draining;
    options.presign_validity = seconds(settings.blobs.presign_seconds);
    options.poll_interval = seconds(settings.nodes.poll_interval_seconds);
    options.max_long_poll = seconds(settings.nodes.long_poll_seconds);
    options.max_queue_delay = Duration::from_millis(settings.nodes.max_queue_delay_ms.into());
    options.body_limit = settings.http.body_limit_bytes as usize;
    options.request_timeout = seconds(settings.http.request_timeout_seconds);
    // Checked with the settings.
    options.trusted_proxies =
        settings.http.trusted_proxies.iter().filter_map(|text| text.parse().ok()).collect();
    options.metrics_token = settings.http.metrics_token.get().cloned();
    options.rate_limits = rate_limits(&settings.http.rate_limits);
    options
}

/// The contract's limits with the operator's over them.
fn rate_limits(overrides: &BTreeMap<String, u32>) -> RateLimits {
    let mut limits = RateLimits::default();
    for (name, limit) in overrides {
        match name.as_str() {
            "default" => limits.default = *limit,
            "node" => limits.node = *limit,
            "registration" => limits.registration = *limit,
            scope => {
                limits.scopes.insert(scope.to_owned(), *limit);
            }
        }
    }
    limits
}
