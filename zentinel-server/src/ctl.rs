//! The command line of `zentinelctl`: what an operator asks of a running control plane.
//!
//! It is a client of the operator API and nothing else: whatever it does, `curl` can do. Every
//! command answers text for people or, with `--json`, JSON on stdout; notes and errors go to stderr.

mod bundle;
mod bundle_create;
mod drift;
mod environment;
mod find;
mod freeze;
mod group;
mod node;
mod project;
mod promotion;
mod rollout;
mod screen;
mod session;
mod settings;
mod template;
mod token;

use crate::cli::Output;
use clap::{Parser, Subcommand};
use screen::Screen;
use session::Session;
use std::process::ExitCode;
use zentinel_core::{Error, Result};

/// Looks after a Zentinel control plane: nodes, bundles, rollouts.
#[derive(Debug, Parser)]
#[command(
    name = "zentinelctl",
    version,
    after_help = "Settings come from flags, the environment and ~/.config/zentinel/ctl.toml, in this order."
)]
struct Arguments {
    #[command(flatten)]
    settings: settings::Flags,
    /// Machine-readable output on stdout.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Nodes: the reverse proxies.
    #[command(subcommand)]
    Node(node::Command),
    /// Bundles: compiled configurations.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Rollouts: how bundles reach nodes.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Drift: nodes that run something else than they should.
    #[command(subcommand)]
    Drift(drift::Command),
    /// Node groups: named sets of nodes.
    #[command(subcommand)]
    Group(group::Command),
    /// Freeze windows: time spans in which no rollout starts.
    #[command(subcommand)]
    Freeze(freeze::Command),
    /// Rollout templates: settings of rollouts under a name.
    #[command(subcommand)]
    Template(template::Command),
    /// Environments: where bundles go one after another.
    #[command(subcommand)]
    Environment(environment::Command),
    /// Promotion rules: how bundles get from one environment to the next.
    #[command(subcommand)]
    PromotionRule(promotion::Command),
    /// Projects: fleets with their configuration.
    #[command(subcommand)]
    Project(project::Command),
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = crate::cli::parse::<Arguments>();
    let output = Output::new(arguments.json);
    output.exit(run(arguments, &output).map(|()| ExitCode::SUCCESS))
}

fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let screen = Screen::new(arguments.json);
    if let Command::Completions { shell } = arguments.command {
        output.completions::<Arguments>(shell);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("the runtime did not start").with_source(error))?;
    runtime.block_on(async {
        let mut session = Session::open(&arguments.settings, screen)?;
        let done = match arguments.command {
            Command::Project(command) => project::run(&session, command).await,
            other => match session.choose_project().await {
                Ok(()) => in_project(&session, other).await,
                Err(error) => Err(error),
            },
        };
        done.and_then(|()| session.screen.finish()).map_err(|error| session.explain(error))
    })
}

async fn in_project(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::Node(command) => node::run(session, command).await,
        Command::Bundle(command) => bundle::run(session, command).await,
        Command::Rollout(command) => rollout::run(session, command).await,
        Command::Drift(command) => drift::run(session, command).await,
        Command::Group(command) => group::run(session, command).await,
        Command::Freeze(command) => freeze::run(session, command).await,
        Command::Template(command) => template::run(session, command).await,
        Command::Environment(command) => environment::run(session, command).await,
        Command::PromotionRule(command) => promotion::run(session, command).await,
        Command::Project(_) | Command::Completions { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn keys_do_not_show_in_what_is_printed_for_debugging() {
        let parsed = Arguments::try_parse_from(["zentinelctl", "--api-key", "hunter2", "node", "list"]);
        assert!(!format!("{:?}", parsed.unwrap()).contains("hunter2"));
    }
}
