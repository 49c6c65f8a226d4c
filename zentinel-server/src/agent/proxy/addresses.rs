//! The addresses that a new process would listen on, tried while the old one still serves.
//!
//! A taken or foreign address holds up every listener of the proxy that starts: it is better found
//! before the old process ends. Each address is bound as the proxy binds it, with `SO_REUSEADDR` and
//! without `SO_REUSEPORT`: what a closed connection left behind is in nobody's way, whoever listens
//! is. Nothing is ever accepted there.

use super::activator::{ProxyActivator, blocking};
use super::control::ProxyState;
use super::process::ProcessId;
use super::proof::{PROBE, ask_marker, is_open};
use super::render::{self, RenderedRelease};
use crate::agent::activator::Rejection;
use crate::agent::check::read_config;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use zentinel_compiler::model::Model;

/// The agent's own listener in a rendered configuration.
pub(super) const OWN_LISTENER: &str = "zentinel-agent";
/// No id of a listener.
const METRICS: &str = "observability/metrics";

/// An address that somebody asks for.
struct Wanted {
    /// Who: a listener of the bundle, or a setting of the agent.
    by: String,
    address: SocketAddr,
}

impl ProxyActivator {
    /// Before a process that serves is ended: whether another one could listen.
    pub(super) async fn try_addresses(
        &self,
        release: &RenderedRelease,
        previous: Option<&RenderedRelease>,
    ) -> Result<(), Rejection> {
        let Some(previous) = previous else {
            if is_open(release.probe).await {
                return Ok(());
            }
            let probe = self.options.probe_listen;
            return blocking(move || try_own(probe)).await;
        };
        let spares = shares_network(self.control.state())
            && self.needs_restart(Some(previous), release).await
            && ask_marker(previous, PROBE).await.is_ok();
        if !spares {
            return Ok(());
        }
        let (directory, from, to) = (self.options.directory.clone(), previous.clone(), release.clone());
        let metrics = self.options.metrics_url.is_none();
        blocking(move || try_new(&directory, &from, &to, metrics)).await
    }
}

/// Whether a process on this machine, for all the agent can see, has the agent's network: a
/// container has addresses of its own, and what is taken here may be free there.
fn shares_network(state: ProxyState) -> bool {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let of = |process: ProcessId| network(&process.pid.to_string());
    state.process().and_then(of).is_some_and(|its| network("self") == Some(its))
}

/// Tries every address that is new in `to`.
fn try_new(
    directory: &Path,
    from: &RenderedRelease,
    to: &RenderedRelease,
    metrics: bool,
) -> Result<(), Rejection> {
    let text = |release: &RenderedRelease| read_config(&render::home(directory, release.sequence));
    // What serves now may be damaged on disk: then nothing is known about what is new.
    let Ok(before) = text(from).and_then(|kdl| wanted(&kdl, true)) else {
        return Ok(());
    };
    let held: BTreeSet<u16> = before.iter().map(|wanted| wanted.address.port()).collect();
    let new = wanted(&text(to)?, metrics && to.metrics_configured)?;
    try_all(new.iter().filter(|wanted| !held.contains(&wanted.address.port())))
}

/// Tries the agent's own address, where nothing serves yet.
fn try_own(probe: SocketAddr) -> Result<(), Rejection> {
    try_all([&Wanted { by: OWN_LISTENER.to_owned(), address: probe }])
}

fn wanted(kdl: &str, metrics: bool) -> Result<Vec<Wanted>, Rejection> {
    let model = Model::parse(kdl).map_err(|error| Rejection::new("invalid_config", error.to_string()))?;
    let own = &model.config().observability.metrics;
    let measured = (metrics && own.enabled).then_some((METRICS, own.address.as_str()));
    // An address that is none is refused elsewhere.
    let parsed = render::listeners(&model)
        .into_iter()
        .chain(measured)
        .filter_map(|(by, address)| Some(Wanted { by: by.to_owned(), address: address.parse().ok()? }));
    Ok(parsed.collect())
}

/// Holds every address until the last one is tried: two that exclude one another are noticed as well.
fn try_all<'a>(wanted: impl IntoIterator<Item = &'a Wanted>) -> Result<(), Rejection> {
    let mut held = Vec::new();
    for Wanted { by, address } in wanted {
        let error = match TcpListener::bind(address) {
            Ok(listener) => {
                held.push(listener);
                continue;
            }
            Err(error) => error,
        };
        let reason = match error.kind() {
            ErrorKind::AddrInUse => "address_in_use",
            ErrorKind::AddrNotAvailable => "address_not_available",
            // The proxy may have other rights than the agent.
            _ => continue,
        };
        let rejection = if by == OWN_LISTENER {
            // A setting of the node: no bundle is to blame.
            Rejection::fault(reason, format!("proxy.probe_listen {address}: {error}; choose another one"))
        } else if by == METRICS {
            Rejection::new(reason, format!("the metrics address {address}: {error}"))
        } else {
            Rejection::new(reason, format!("listener \"{by}\", {address}: {error}"))
        };
        return Err(rejection);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::TcpStream;

    fn listener(address: SocketAddr) -> Wanted {
        Wanted { by: "edge".to_owned(), address }
    }

    #[test]
    fn whoever_listens_is_in_the_way() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        for taken in [address, everywhere] {
            let rejection = try_all([&listener(taken)]).unwrap_err();
            assert_eq!((rejection.reason.as_str(), rejection.retryable), ("address_in_use", false));
            assert!(rejection.message.starts_with(&format!("listener \"edge\", {taken}: ")), "{rejection:?}");
        }
        assert!(try_own(address).unwrap_err().retryable, "no bundle can change the node's own setting");
        drop(holder);
        try_all([&listener(address)]).unwrap();
        // Free by themselves, but not together.
        assert!(try_all([&listener(address), &listener(everywhere)]).is_err());
    }

    #[test]
    fn a_connection_that_was_closed_is_not() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        // Who closes first keeps the address in TIME_WAIT.
        drop(holder.accept().unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((client, holder));
        try_all([&listener(address)]).unwrap();
    }

    #[test]
    fn addresses_of_other_machines_are_refused() {
        // Reserved for documentation.
        let foreign = try_all([&listener(([192, 0, 2, 1], 18_080).into())]).unwrap_err();
        assert_eq!(foreign.reason, "address_not_available");
    }

    #[test]
    fn this_process_has_its_own_network() {
        let own = ProcessId::of(std::process::id().cast_signed()).unwrap();
        assert!(shares_network(ProxyState::Running(own)));
        assert!(!shares_network(ProxyState::Unknown) && !shares_network(ProxyState::Dead));
    }
}
