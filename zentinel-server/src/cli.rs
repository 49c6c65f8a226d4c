//! The command line of `zentinel-server`.

mod output;

pub use output::Output;

use crate::bootstrap::{Names, initialise};
use crate::compose::App;
use crate::demo::{self, DemoOptions};
use crate::settings::{Log, LogFormat, Overrides, Settings, load};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use zentinel_core::{Error, Result, Secret};

/// The Zentinel control plane: compiles configuration, rolls it out, serves operators and nodes.
#[derive(Debug, Parser)]
#[command(name = "zentinel-server", version, propagate_version = true)]
struct Arguments {
    /// Settings file (TOML).
    #[arg(long, global = true, env = "ZENTINEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to serve on; port 0 takes a free one.
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Directory for everything that is kept on disk.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Any setting, for example `--set nodes.poll_interval_seconds=10`; may be repeated.
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Machine-readable output on stdout.
    #[arg(long, global = true)]
    json: bool,
    /// Print the effective settings, secrets redacted, and end.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM (the default).
    Serve,
    /// Create an organisation, a project, an administrator and an API key, and print the secrets once.
    ///
    /// What is there already stays as it is; run again, it creates what is missing and no secret.
    Init {
        /// Name of the organisation.
        #[arg(long)]
        organisation: String,
        /// Name of the project.
        #[arg(long)]
        project: String,
        /// Address of the administrator.
        #[arg(long)]
        email: String,
        /// Issue another API key and another join token although the organisation is there.
        #[arg(long)]
        new_secrets: bool,
    },
    /// Run the whole story in one process: compile, roll out to nodes, stop and roll back.
    Demo {
        /// How many nodes to run.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(2..=500))]
        nodes: u16,
        /// End when the story is over, with status 0 when it went as told.
        #[arg(long)]
        exit: bool,
    },
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The arguments of this process. A negative number is a value that an option may refuse with its own
/// words, not an unknown option.
pub(crate) fn parse<T: Parser>() -> T {
    let matches = with_negative_numbers(T::command()).get_matches();
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let takes_value = |arg: &clap::Arg| arg.get_action().takes_values();
    command
        .mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg })
        .mut_subcommands(with_negative_numbers)
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = parse::<Arguments>();
    let output = Output::new(arguments.json);
    output.exit(run(arguments, &output))
}

fn run(arguments: Arguments, output: &Output) -> Result<ExitCode> {
    if let Some(Command::Completions { shell }) = arguments.command {
        output.completions::<Arguments>(shell);
        return Ok(ExitCode::SUCCESS);
    }
    let settings = settings(&arguments)?;
    if arguments.check {
        output.settings(&settings.table()?);
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the runtime did not start").with_source(error))?;
    runtime.block_on(async {
        match arguments.command.unwrap_or(Command::Serve) {
            Command::Serve => serve(&settings, output).await,
            Command::Init { organisation, project, email, new_secrets } => {
                let names = Names { organisation, projects: vec![project], email };
                init(&settings, &names, new_secrets, output).await
            }
            Command::Demo { nodes, exit } => {
                let quiet = Settings {
                    log: crate::settings::Log { filter: quiet_filter(&settings), ..settings.log.clone() },
                    ..settings
                };
                start_logs(&quiet.log)?;
                let options =
                    DemoOptions { nodes: nodes.into(), exit, listen: arguments.listen, data: arguments.data };
                demo::run(quiet, options, output).await
            }
            Command::Completions { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    let mut overrides = Overrides::default();
    if let Some(address) = arguments.listen {
        overrides.set("listen", address.to_string());
    }
    if let Some(directory) = &arguments.data {
        overrides.set("data_dir", directory.display().to_string());
    }
    for pair in &arguments.set {
        overrides.set_pair(pair)?;
    }
    load(arguments.config.as_deref(), std::env::vars(), &overrides)
}

/// The demo shows its own progress: only problems are logged beside it, unless asked for more.
fn quiet_filter(settings: &Settings) -> String {
    let asked = settings.log.filter != crate::settings::Log::default().filter;
    if asked { settings.log.filter.clone() } else { "error".to_owned() }
}

/// Sends logs to stderr; stdout belongs to the command's answer.
pub(crate) fn start_logs(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| Error::invalid_field("log.filter", error.to_string()))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Error::internal(format!("logs did not start: {error}")))
}

async fn serve(settings: &Settings, output: &Output) -> Result<ExitCode> {
    start_logs(&settings.log)?;
    let app = App::start(settings).await?;
    let url = app.public_url.to_string();
    tracing::info!(address = %app.address, %url, "serving");
    output.event(
        "ready",
        json!({ "url": url.trim_end_matches('/'), "address": app.address.to_string() }),
        || format!("serving on {url}"),
    );
    stop_signal().await?;
    tracing::info!("stopping");
    app.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| Error::internal("signals can't be watched").with_source(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn init(settings: &Settings, names: &Names, new_secrets: bool, output: &Output) -> Result<ExitCode> {
    let store = crate::compose::open_store(settings).await?;
    let made = initialise(&*store, &zentinel_core::port::SystemClock, names, new_secrets).await?;
    let project = made.projects.first().ok_or_else(|| Error::internal("no project was made"))?;
    let details = json!({
        "organisation": made.organisation.slug,
        "project": project.slug,
        "created": made.created,
        "admin_email": made.email,
        "admin_password": made.password.as_ref().map(Secret::expose),
        "api_key": made.api_key.as_ref().map(Secret::expose),
        "join_token": made.join_token.as_ref().map(Secret::expose),
    });
    output.event("initialised", details, || {
        let or = |secret: &Option<Secret>, text: &str| {
            secret.as_ref().map_or_else(|| text.to_owned(), |secret| secret.expose().to_owned())
        };
        let last = if made.api_key.is_some() {
            "These secrets are not shown again.".to_owned()
        } else {
            let created = match made.created.as_slice() {
                [] => "nothing was created".to_owned(),
                some => format!("created now: {}", some.join(", ")),
            };
            format!(
                "The organisation was there already; {created}. Lost the API key? \
                 Add --new-secrets for another one; revoke the old one with it."
            )
        };
        format!(
            "organisation  {}\nproject       {}\nadmin         {}\npassword      {}\napi key       {}\njoin token    {}\n\n{last}",
            made.organisation.slug,
            project.slug,
            made.email,
            or(&made.password, "(unchanged)"),
            or(&made.api_key, "(unchanged)"),
            made.join_token.as_ref().map_or_else(
                || "(none issued: `zentinelctl node token create` does)".to_owned(),
                |token| format!("{} (valid for a day)", token.expose()),
            ),
        )
    });
    Ok(ExitCode::SUCCESS)
}
