//! `zentinelctl node`.

mod events;
mod hold;
pub(super) mod keys;
mod list;
mod show;
mod watch;

use super::session::Session;
use super::token;
pub(super) use list::show as list_of;
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
    /// Show what happened to a node: on- and offline, activated, drifted, reported.
    Events {
        /// Name, id or beginning of the id.
        node: String,
        /// How many at most.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Pin a node to a bundle: rollouts of other ones leave it out.
    Pin {
        /// Name, id or beginning of the id.
        node: String,
        /// Version, id or beginning of the id.
        bundle: String,
    },
    /// Take a node's pin off.
    Unpin {
        /// Name, id or beginning of the id.
        node: String,
    },
    /// Bound the versions of bundles that a node may be given, both ends included; without an end, none.
    Bounds {
        /// Name, id or beginning of the id.
        node: String,
        /// The lowest version.
        #[arg(long, value_name = "VERSION")]
        min: Option<String>,
        /// The highest version.
        #[arg(long, value_name = "VERSION")]
        max: Option<String>,
    },
    /// Give a node no new bundle.
    Cordon {
        /// Name, id or beginning of the id.
        node: String,
    },
    /// Let rollouts target a node again; a drained one gets its full weight back.
    Uncordon {
        /// Name, id or beginning of the id.
        node: String,
    },
    /// Cordon a node and tell it that its traffic weight is 0.
    Drain {
        /// Name, id or beginning of the id.
        node: String,
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
        Command::Events { node, limit } => events::run(session, &node, limit).await,
        Command::Pin { node, bundle } => hold::pin(session, &node, Some(&bundle)).await,
        Command::Unpin { node } => hold::pin(session, &node, None).await,
        Command::Bounds { node, min, max } => {
            hold::bounds(session, &node, min.as_deref(), max.as_deref()).await
        }
        Command::Cordon { node } => hold::hold(session, &node, "cordon", "cordoned").await,
        Command::Uncordon { node } => hold::hold(session, &node, "uncordon", "not cordoned any more").await,
        Command::Drain { node } => {
            hold::hold(session, &node, "drain", "cordoned, and told the weight 0").await
        }
        Command::Delete { node, yes } => keys::delete(session, &node, yes).await,
        Command::Token(command) => token::run(session, command).await,
    }
}
