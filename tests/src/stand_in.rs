//! A small process that stands in for the proxy: the same command line, parser, signals and
//! metrics, and the same rules about what a reload applies.
//!
//! It speaks plain HTTP/1.1 and does redirect filters, the builtin handlers `health` and `status`,
//! and upstreams by turns; other filters and policies do nothing. As in the proxy, an address that
//! cannot be bound leaves the process up without listeners, `SIGHUP` swaps routes, filters and
//! upstreams only, a bad file leaves the old ones in place, and a bad `path-regex` makes a reload
//! report a success that did not happen. `.ci/real-proxy.sh` holds it against the proxy itself.
//!
//! Comments in the configuration make it misbehave; see [`behaviour::Behaviour`].

pub mod behaviour;
pub mod metrics;
pub mod routes;
mod serve;

use behaviour::Behaviour;
use clap::{Parser, Subcommand};
use metrics::Metrics;
use routes::{Shared, Table};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use zentinel_config::Config;

#[derive(Debug, Parser)]
#[command(name = "stand-in-proxy", version = "0.6.45")]
struct Arguments {
    #[arg(short, long, global = true, env = "ZENTINEL_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Serve.
    Run,
    /// Check the file and exit.
    Test,
}

/// A file that was read and found good.
#[derive(Debug)]
struct Loaded {
    config: Config,
    behaviour: Behaviour,
}

impl Loaded {
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        // The parser is hungry for stack, most of all in a debug build.
        let parse = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
            let config = Config::from_kdl(&text).map_err(|error| format!("{error:#}"))?;
            config.validate().map_err(|error| error.to_string())?;
            Ok(Self { config, behaviour: Behaviour::parse(&text) })
        });
        parse.map_err(|error| error.to_string())?.join().map_err(|_| "the parser panicked".to_owned())?
    }

    /// What is live with these routes.
    fn live(&self, table: Arc<Table>) -> Live {
        let Behaviour { errors, latency, .. } = self.behaviour;
        Live { table, parts: Shared::new(&self.config), errors, latency }
    }
}

/// What a reload swaps.
#[derive(Debug)]
struct Live {
    table: Arc<Table>,
    parts: Shared,
    errors: u64,
    latency: Duration,
}

#[derive(Debug)]
struct Proxy {
    live: RwLock<Arc<Live>>,
    /// Counts loads, so that a death foreseen for one load does not come to the next.
    generation: AtomicU64,
    metrics: Metrics,
    started: Instant,
    upstream: serve::UpstreamClient,
}

impl Proxy {
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn swap(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }

    /// A configuration has been taken over; dies of it when it says so.
    fn took_over(self: &Arc<Self>, behaviour: &Behaviour) {
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let Some(after) = behaviour.die_after else { return };
        let proxy = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if proxy.generation.load(Ordering::SeqCst) == generation {
                die("stand-in: die-after");
            }
        });
    }

    async fn reload(self: &Arc<Self>, path: &Path) {
        let loaded = match Loaded::read(path) {
            Ok(loaded) => loaded,
            Err(error) => return log("ERROR", &format!("Configuration reload failed: {error}")),
        };
        if loaded.behaviour.die_on_load {
            die("stand-in: die-on-load");
        }
        if loaded.behaviour.hang_on_load {
            log("INFO", "stand-in: hang-on-load");
            std::future::pending::<()>().await;
        }
        let table = match Table::new(&loaded.config) {
            Ok(table) if !loaded.behaviour.ignore_reload => Arc::new(table),
            // A bad regular expression passes validation and is found too late: a false success,
            // with new filters and upstreams under the old routes.
            refused => {
                log("WARN", &format!("the old route table stays: {:?}", refused.err()));
                Arc::clone(&self.live().table)
            }
        };
        self.swap(loaded.live(table));
        self.took_over(&loaded.behaviour);
        log("INFO", "Configuration reload completed successfully");
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(path) = arguments.config else {
        log("ERROR", "no configuration: name one with -c");
        return ExitCode::FAILURE;
    };
    let outcome = match arguments.command {
        Some(What::Test) => Loaded::read(&path).and_then(|loaded| {
            if loaded.behaviour.refuse_test { Err("stand-in: refuse-test".to_owned()) } else { Ok(()) }
        }),
        Some(What::Run) | None => tokio::runtime::Runtime::new()
            .map_err(|error| error.to_string())
            .and_then(|runtime| runtime.block_on(run(&path))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log("ERROR", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run(path: &Path) -> Result<(), String> {
    let catch = |kind| signal(kind).map_err(|error| error.to_string());
    let mut hangup = catch(SignalKind::hangup())?;
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    tokio::select! {
        outcome = serve(path, &mut hangup) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn serve(path: &Path, hangup: &mut Signal) -> Result<(), String> {
    let loaded = Loaded::read(path)?;
    if loaded.behaviour.die_on_load {
        die("stand-in: die-on-load");
    }
    if loaded.behaviour.hang_on_load {
        log("INFO", "stand-in: hang-on-load");
        return std::future::pending().await;
    }
    let table = Table::new(&loaded.config).map_err(|error| error.to_string())?;
    if let Some(directory) = &loaded.config.server.working_directory {
        std::env::set_current_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let live = loaded.live(Arc::new(table));
    let proxy = Arc::new(Proxy {
        live: RwLock::new(Arc::new(live)),
        generation: AtomicU64::new(0),
        metrics: Metrics::default(),
        started: Instant::now(),
        upstream: serve::upstream_client(&loaded.config),
    });
    tokio::spawn(serve::listen(Arc::clone(&proxy), loaded.config.listeners.clone()));
    let metrics = &loaded.config.observability.metrics;
    if metrics.enabled {
        tokio::spawn(serve::metrics(Arc::clone(&proxy), metrics.address.clone(), metrics.path.clone()));
    }
    proxy.took_over(&loaded.behaviour);
    while hangup.recv().await.is_some() {
        log("INFO", "Received SIGHUP, triggering configuration reload");
        proxy.reload(path).await;
    }
    Ok(())
}

fn die(why: &str) -> ! {
    log("ERROR", why);
    std::process::exit(101)
}

/// Whoever read the log may be gone.
fn log(level: &str, message: &str) {
    drop(writeln!(std::io::stderr(), "{level} {message}"));
}
