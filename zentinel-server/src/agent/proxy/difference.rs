//! Whether a signal is enough to go from one release to another.

use super::activator::{ProxyActivator, blocking};
use super::control::ProxyState;
use super::proof::{PROBE, ask_marker, is_open};
use super::render::{self, RenderedRelease};
use crate::agent::activator::Rejection;
use crate::agent::check::read_config;
use std::path::Path;
use zentinel_compiler::activation::decide;
use zentinel_compiler::document::{Document, Node};
use zentinel_compiler::model::Model;
use zentinel_core::entity::Activation;

impl ProxyActivator {
    /// Whether a signal is not enough to go from one release to another.
    pub(super) async fn needs_restart(&self, from: Option<&RenderedRelease>, to: &RenderedRelease) -> bool {
        let Some(from) = from else {
            return true;
        };
        if to.asks_for_restart() || self.control.state() == ProxyState::Dead {
            return true;
        }
        // A proxy without the agent's listener was started with something else.
        if from.probe != to.probe || !is_open(to.probe).await {
            return true;
        }
        // A comparison with what does not serve is worth nothing.
        if to.compare && ask_marker(from, PROBE).await.is_err() {
            return true;
        }
        // The statement compares with the bundle before it, which need not be the one that serves here.
        let (directory, from, to) = (self.options.directory.clone(), from.clone(), to.clone());
        let compared = blocking(move || compare(&directory, &from, &to)).await;
        !compared.is_ok_and(|activation| activation == Activation::Reload)
    }
}

fn compare(directory: &Path, from: &RenderedRelease, to: &RenderedRelease) -> Result<Activation, Rejection> {
    let text = |release: &RenderedRelease| read_config(&render::home(directory, release.sequence));
    let (old, new) = (text(from)?, text(to)?);
    let model = |kdl: &str| Model::parse(kdl).map_err(|error| Rejection::fault("", error.to_string()));
    let decided = decide(Some(&model(&old)?), &model(&new)?).0;
    if decided == Activation::Restart {
        return Ok(decided);
    }
    let document = Document::parse(&new)
        .map_err(|_| Rejection::new("invalid_config", "the configuration does not parse"))?;
    let changed = |path: &str| {
        let [old, new] = [from, to].map(|release| render::resolve(path, directory, release.sequence));
        old != new && std::fs::read(old).ok() != std::fs::read(new).ok()
    };
    let kept = document.nodes().filter(|node| is_kept(*node)).filter_map(Node::text);
    Ok(if kept.into_iter().any(changed) { Activation::Restart } else { Activation::Reload })
}

/// Whether the proxy reads the file that a setting names when it starts, and never again. A signal makes
/// it read the certificates of its listeners, and everything about upstreams.
fn is_kept(node: Node<'_>) -> bool {
    let of_agent = || node.ancestors().any(|above| above.name() == "agent");
    let of_upstream = || node.ancestors().any(|above| above.name() == "upstream");
    match (node.parent_name().unwrap_or_default(), node.name()) {
        ("tls", "ca-file" | "ca-cert" | "client-cert" | "client-key") => !of_upstream(),
        ("tls", "cert-file" | "key-file") => of_agent(),
        ("dns-provider", "credentials-file")
        | ("filter", "database-path")
        | ("api-schema", "schema-file") => true,
        _ => false,
    }
}
