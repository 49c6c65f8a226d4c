//! The command line of `zentinel-sim`.

use super::behaviour::Shares;
use super::node::Habits;
use super::{process, run};
use crate::cli::Output;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use url::Url;
use zentinel_core::{Error, Result, Secret};

const AFTER_HELP: &str = "\
Registering needs a registration token with enough uses (`zentinel-server init` prints one without a \
limit) and a server that admits many registrations from one address; many nodes behind few \
connections need nothing else. For example:

  zentinel-server --set http.rate_limits.registration=1000000 &
  zentinel-sim --server http://127.0.0.1:4000 --project edge --token-file token \\
      --nodes 1000 --identities nodes.jsonl --behaviour slow=2,rejecting=1

With --rate or the intervals, requests go out on schedule whatever the answers, and latency counts \
from the instant a request was due. The exit status is 0 when the share of errors stayed within \
--max-errors, 1 when it did not.";

/// Simulates nodes against a control plane, and measures how it serves them.
#[derive(Debug, Parser)]
#[command(
    name = "zentinel-sim", version, propagate_version = true, after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Only register nodes, to be used later through --identities.
    Register(Box<Options>),
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What to simulate.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// The control plane, over plain HTTP; nothing else is ever connected to, except where its
    /// offers say archives are.
    #[arg(long, env = "ZENTINEL_SERVER", value_name = "URL", required = false, default_value = "")]
    pub(super) server: String,
    /// Slug of the project to register in.
    #[arg(long, env = "ZENTINEL_PROJECT", value_name = "SLUG", default_value = "")]
    pub(super) project: String,
    /// Registration token; only needed while nodes must register.
    #[arg(long, env = "ZENTINEL_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(super) token: Option<Secret>,
    /// File with the registration token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(super) token_file: Option<PathBuf>,
    /// How many nodes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) nodes: u32,
    /// Keep-alive connections that carry them all [default: one each, at most 1000].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) connections: Option<u32>,
    /// Most requests in flight on one connection; with 1, a request waits for a free one instead.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) pipeline: u16,
    /// Requests per second over all nodes, one heartbeat to two polls; `max` sends as fast as the
    /// connections answer. Takes the place of the intervals.
    #[arg(long, value_name = "REQUESTS")]
    pub(super) rate: Option<Rate>,
    /// Seconds between a node's heartbeats.
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    pub(super) heartbeat_interval: Seconds,
    /// Seconds between a node's polls.
    #[arg(long, default_value = "5", value_name = "SECONDS")]
    pub(super) poll_interval: Seconds,
    /// Send each request after the answer to the one before, poll when the server says to, and
    /// wait as long as its refusals ask for, as real nodes do.
    #[arg(long, conflicts_with = "rate")]
    pub(super) follow_hints: bool,
    /// How long to run after the warm-up, in seconds; 0 until interrupted.
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    pub(super) duration: Seconds,
    /// How long to run before measuring, in seconds.
    #[arg(long, default_value = "0", value_name = "SECONDS")]
    pub(super) warm_up: Seconds,
    /// A storm: all nodes connect and report within so many seconds, follow hints, and the run ends
    /// when all have been admitted. Being told when to return counts as no error.
    #[arg(long, value_name = "SECONDS", conflicts_with = "rate")]
    pub(super) storm: Option<Seconds>,
    /// Requests per second that each node says it serves, on average; canary analysis compares them. 0 says nothing.
    #[arg(long, default_value_t = 0.0, value_name = "REQUESTS", value_parser = traffic)]
    pub(super) traffic: f64,
    /// Shares in percent of healthy, slow, failing, worse, rejecting, silent, absent, flapping and
    /// poisoned nodes; the rest is healthy.
    #[arg(long, default_value = "healthy=100", value_name = "NAME=PERCENT,...")]
    pub(super) behaviour: Shares,
    /// The bundle, counted from 1 on each node, from which on nodes misbehave; what a rollback
    /// brings back always goes well.
    #[arg(long, default_value_t = 2, value_name = "NUMBER")]
    pub(super) misbehave_from: u32,
    /// Seconds from a verified archive to its activation.
    #[arg(long, default_value = "1", value_name = "SECONDS")]
    pub(super) apply_delay: Seconds,
    /// The same for slow nodes.
    #[arg(long, default_value = "30", value_name = "SECONDS")]
    pub(super) slow_delay: Seconds,
    /// Percent of heartbeats that say something new by themselves (the node falls ill or recovers),
    /// so that the server must write before it answers.
    #[arg(long, default_value = "1", value_name = "PERCENT")]
    pub(super) changes: Percentage,
    /// Exchange each node's key for a token and use that.
    #[arg(long)]
    pub(super) tokens: bool,
    /// Fetch each archive once and not once per node.
    #[arg(long)]
    pub(super) share_downloads: bool,
    /// File of nodes that registered before; those that are missing register and are added. It
    /// holds their keys and is readable by its owner only.
    #[arg(long, value_name = "FILE")]
    pub(super) identities: Option<PathBuf>,
    /// Start of the nodes' names [default: sim- and a random number].
    #[arg(long, value_name = "TEXT")]
    pub(super) name_prefix: Option<String>,
    /// Chooses who behaves how, and when who sends what.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub(super) seed: u64,
    /// Longest wait for an answer, in seconds.
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    pub(super) timeout: Seconds,
    /// Process of the server, on this machine, whose processor time and memory to report.
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,
    /// Largest share of failed requests that is a success.
    #[arg(long, default_value = "1", value_name = "PERCENT")]
    pub(super) max_errors: Percentage,
    /// One JSON object on stdout in place of the table.
    #[arg(long)]
    pub(super) json: bool,
}

/// Requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    Max,
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000_000.0).contains(rate));
        rate.map(Self::PerSecond)
            .ok_or_else(|| "neither `max` nor a number of requests per second".to_owned())
    }
}

fn traffic(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.0..=1_000_000.0).contains(rate));
    rate.ok_or_else(|| "not a number of requests per second up to a million".to_owned())
}

/// A span; fractions are fine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Seconds(pub(super) Duration);

impl Seconds {
    pub(super) fn millis(self) -> u64 {
        self.0.as_millis() as u64
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e7).contains(seconds));
        seconds
            .map(|seconds| Self(Duration::from_secs_f64(seconds)))
            .ok_or_else(|| "not a number of seconds".to_owned())
    }
}

/// A share, kept as 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Percentage(pub(super) f64);

impl FromStr for Percentage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.trim_end_matches('%').parse::<f64>().ok();
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(|percent| Self(percent / 100.0)).ok_or_else(|| "not a percentage".to_owned())
    }
}

impl Options {
    pub(super) fn habits(&self) -> Habits {
        Habits {
            apply_ms: self.apply_delay.millis(),
            slow_ms: self.slow_delay.millis(),
            crash_ms: 1_000,
            misbehave_from: self.misbehave_from,
            flapping: (40_000, 20_000),
        }
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections.unwrap_or(1_000.min(self.nodes))
    }

    /// The server's URL.
    pub(super) fn url(&self) -> Result<Url> {
        let wrong = |text: &str| Error::invalid_field("--server", text);
        if self.server.is_empty() {
            return Err(wrong("is needed: the URL of the control plane to load"));
        }
        let url = Url::parse(&self.server).map_err(|error| wrong(&error.to_string()))?;
        if url.scheme() != "http" || url.host().is_none() {
            let hint = "Aim it at the server itself, not at the proxy in front that ends TLS.";
            return Err(wrong("must be an http:// URL").with_hint(hint));
        }
        Ok(url)
    }

    /// The registration token.
    pub(super) fn secret(&self) -> Result<Secret> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Error::invalid_field("--token-file", format!("{}: {error}", path.display()))
            })?;
            return Ok(Secret::new(text.trim()));
        }
        self.token.clone().ok_or_else(|| {
            Error::invalid_field("--token", "is needed while nodes must register")
                .with_hint("`zentinel-server init` prints one; --identities spares registering twice.")
        })
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (options, register_only) = match arguments.command {
        Some(Command::Completions { shell }) => {
            Output::new(false).completions::<Arguments>(shell);
            return ExitCode::SUCCESS;
        }
        Some(Command::Register(options)) => (*options, true),
        None => (arguments.options, false),
    };
    let output = Output::new(options.json);
    let code = |good| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    output.exit(start(options, register_only, &output).map(code))
}

fn start(options: Options, register_only: bool, output: &Output) -> Result<bool> {
    let filter = EnvFilter::try_from_env("ZENTINEL_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    logs.map_err(|error| Error::internal(format!("logs did not start: {error}")))?;
    let files = process::raise_open_files();
    if u64::from(options.connections()) + 100 > files {
        let text = format!("this process may open {files} files only");
        return Err(
            Error::invalid_field("--connections", text).with_hint("Ask for fewer, or raise `ulimit -Hn`.")
        );
    }
    // One thread: what it takes is then easy to tell from what the server takes.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the runtime did not start").with_source(error))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run::run(options, register_only, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["zentinel-sim"].into_iter().chain(text.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
        let options =
            parse("--server http://h:1 --project p --nodes 20 --rate 12.5 --changes 2").unwrap().options;
        assert_eq!((options.connections(), options.rate), (20, Some(Rate::PerSecond(12.5))));
        assert_eq!(options.changes, Percentage(0.02));
        assert!(matches!(parse("register --nodes 5").unwrap().command, Some(Command::Register(_))));
        for wrong in ["--rate 5 --storm 10", "--rate fast", "--changes 101", "--duration -1", "--nodes 0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_named_server_is_loaded() {
        let url = |text: &str| parse(text).unwrap().options.url();
        assert!(url("--server http://127.0.0.1:4000/fleet").is_ok());
        for wrong in ["--server=", "--server https://example.test", "--server nonsense"] {
            assert!(url(wrong).unwrap_err().fields().contains_key("--server"), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let options = parse("--token hush").unwrap().options;
        assert!(!format!("{options:?}").contains("hush"));
        assert_eq!(options.secret().unwrap().expose(), "hush");
        assert!(parse("").unwrap().options.secret().unwrap_err().hint().is_some());
    }
}
