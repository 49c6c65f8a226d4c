//! The command line of `zentinel-agent`.

mod run;
mod status;

pub(super) use run::lock;

use super::install::{InstallArguments, install, set_key};
use super::settings::{Flags, load};
use crate::cli::Output;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use zentinel_core::Result;

/// Makes a Zentinel proxy a node of the control plane: fetches, checks, activates, proves, reports.
#[derive(Debug, Parser)]
#[command(name = "zentinel-agent", version, propagate_version = true)]
pub(super) struct Arguments {
    /// Settings file (TOML); /etc/zentinel/agent.toml when it exists.
    #[arg(long, global = true, env = "ZENTINEL_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Machine-readable output on stdout.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGINT or SIGTERM (the default).
    Run,
    /// Say what the node in this directory is and runs, without asking anybody.
    Status,
    /// Make this machine a node: program, settings, system user and unit. Starts nothing.
    Install(InstallArguments),
    /// Give this node the key that `zentinelctl node rotate-key` made; the agent must be stopped.
    SetKey {
        /// File that holds the key.
        file: PathBuf,
    },
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json);
    output.exit(carry_out(arguments, &output))
}

fn carry_out(arguments: Arguments, output: &Output) -> Result<ExitCode> {
    let command = arguments.command.unwrap_or(Command::Run);
    if let Command::Completions { shell } = command {
        output.completions::<Arguments>(shell);
        return Ok(ExitCode::SUCCESS);
    }
    let (config, flags) = (arguments.config.as_deref(), &arguments.flags);
    if let Command::Install(arguments) = &command {
        return install(config, flags, arguments, output);
    }
    let settings = load(config, flags)?;
    match command {
        Command::Run => run::run(&settings, output),
        Command::Status => status::status(&settings, output),
        Command::SetKey { file } => set_key(&settings, &file, output),
        Command::Install(_) | Command::Completions { .. } => Ok(ExitCode::SUCCESS),
    }
}
