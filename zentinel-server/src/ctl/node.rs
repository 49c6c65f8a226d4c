//! `zentinelctl node`.

pub(super) mod keys;
mod list;
mod show;
mod watch;

use super::session::Session;
use super::token;
use std::path::PathBuf;
use zentinel_core::Result;
use zentinel_core::entity::NodeStatus;
use zentinel_http::client::NodeFilter;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List nodes, by name.
    List {
        #[command(flatten)]
        which: Which,
        /// Only nodes that run this bundle (version, id or its beginning).
        #[arg(long, value_name = "BUNDLE")]
        bundle: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show all that is known of a node.
    Show {
        /// Name, id or beginning of the id.
        node: String,
        /// How many events and heartbeats to show.
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
        history: u32,
    },
    /// Show changes of nodes as they happen, until interrupted.
    ///
    /// A table on a terminal, one line per change otherwise. Goes on after the control plane was away.
    Watch {
        /// Names, ids or beginnings of ids; every node that the filters let through otherwise.
        #[arg(conflicts_with_all = ["status", "labels"])]
        nodes: Vec<String>,
        #[command(flatten)]
        which: Which,
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
        interval: std::time::Duration,
        /// Lines instead of a table on a terminal as well.
        #[arg(long)]
        lines: bool,
    },
    /// Replace a node's key; the old one works for another five minutes.
    RotateKey {
        /// Name, id or beginning of the id.
        node: String,
        /// Write the new key to this file (mode 600) instead of stdout.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// End a node's credentials at once.
    ///
    /// Its key and its tokens stop working on every replica; the proxy goes on serving what it has.
    Revoke {
        /// Name, id or beginning of the id.
        node: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Forget a node; its name is free again.
    Delete {
        /// Name, id or beginning of the id.
        node: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Registration tokens: what lets new nodes in.
    #[command(subcommand)]
    Token(token::Command),
}

/// Which nodes.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Only `online`, `offline` or `unknown` ones.
    #[arg(long, value_parser = status)]
    status: Option<NodeStatus>,
    /// Only nodes with this label; may be repeated, all must match.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
}

impl Which {
    fn filter(&self) -> NodeFilter {
        NodeFilter { name: None, status: self.status, labels: self.labels.iter().cloned().collect() }
    }
}

fn status(text: &str) -> Result<NodeStatus, String> {
    let known = [NodeStatus::Online, NodeStatus::Offline, NodeStatus::Unknown];
    let found = known.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| "expected online, offline or unknown".to_owned())
}

/// `key=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}

/// Seconds, which may have a fraction.
pub(super) fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(std::time::Duration::from_secs_f64(seconds))
    } else {
        Err("expected 0.1 to 3600 seconds".to_owned())
    }
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::List { which, bundle, limit } => {
            list::run(session, &which.filter(), bundle.as_deref(), limit).await
        }
        Command::Show { node, history } => show::run(session, &node, history).await,
        Command::Watch { nodes, which, interval, lines } => {
            watch::run(session, &nodes, &which.filter(), interval, lines).await
        }
        Command::RotateKey { node, output } => keys::rotate(session, &node, output.as_deref()).await,
        Command::Revoke { node, yes } => keys::revoke(session, &node, yes).await,
        Command::Delete { node, yes } => keys::delete(session, &node, yes).await,
        Command::Token(command) => token::run(session, command).await,
    }
}
