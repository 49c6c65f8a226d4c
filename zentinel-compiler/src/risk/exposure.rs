//! What becomes reachable, and from how far away.

use super::routing::covers;
use super::view::{Comparison, by_path};
use super::{Report, RiskCode};
use crate::model::Model;
use std::net::{IpAddr, SocketAddr};
use zentinel_config::{BuiltinHandler, ListenerConfig, MetricsConfig};

/// From how far away an address is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Nowhere,
    Machine,
    Network,
    World,
}

impl Reach {
    fn of(address: &str) -> Self {
        match address.parse::<SocketAddr>() {
            Ok(address) => Self::of_ip(address.ip()),
            // A name may stand for anything.
            Err(_) if address.starts_with("localhost:") => Self::Machine,
            Err(_) => Self::World,
        }
    }

    fn of_ip(ip: IpAddr) -> Self {
        let (loopback, private) = match ip.to_canonical() {
            IpAddr::V4(ip) => (ip.is_loopback(), ip.is_private() || ip.is_link_local()),
            IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unique_local() || ip.is_unicast_link_local()),
        };
        match (loopback, private) {
            (true, _) => Self::Machine,
            (_, true) => Self::Network,
            _ => Self::World,
        }
    }
}

/// Listeners that are new, moved to a wider address, or gone.
pub(super) fn listeners(comparison: &Comparison<'_>, report: &mut Report) {
    let old = by_path(comparison.old.listeners());
    let new = by_path(comparison.new.listeners());
    for (path, listener) in &new {
        let reach = Reach::of(&listener.address);
        let address = &listener.address;
        if reach > Reach::Machine && !old.values().any(|known| includes(&known.address, address)) {
            let message = match old.get(path) {
                Some(before) => format!("{path} moved from {} to {address}", before.address),
                None => format!("{path} opens {address}"),
            };
            report.add(RiskCode::ListenerExposed, path, message);
        } else if unbound(old.get(path).copied(), listener) {
            let message = format!("{path} now serves the routes of every namespace");
            report.add(RiskCode::ListenerExposed, path, message);
        }
    }
    for (path, listener) in &old {
        let address = &listener.address;
        if !new.values().any(|known| includes(&known.address, address)) {
            report.add(RiskCode::ListenerRemoved, path, format!("nothing listens on {address} any more"));
        }
    }
}

/// Whether a listener lost its restriction to one namespace.
fn unbound(old: Option<&ListenerConfig>, new: &ListenerConfig) -> bool {
    old.is_some_and(|old| old.namespace.is_some()) && new.namespace.is_none()
}

/// Whether everything that reaches `inner` also reaches `outer`.
fn includes(outer: &str, inner: &str) -> bool {
    match (outer.parse::<SocketAddr>(), inner.parse::<SocketAddr>()) {
        (Ok(outer), Ok(inner)) => {
            let everywhere = outer.ip().is_unspecified() && (outer.is_ipv6() || inner.is_ipv4());
            outer.port() == inner.port() && (everywhere || outer.ip() == inner.ip())
        }
        _ => outer == inner,
    }
}

/// The metrics listener.
pub(super) fn metrics(comparison: &Comparison<'_>, report: &mut Report) {
    let reach = |model: &Model| {
        let metrics: &MetricsConfig = &model.config().observability.metrics;
        let reach = if metrics.enabled { Reach::of(&metrics.address) } else { Reach::Nowhere };
        (reach, metrics.address.clone())
    };
    let (before, _) = reach(comparison.old);
    let (after, address) = reach(comparison.new);
    if after > Reach::Machine && after > before {
        let message = format!("metrics are reachable at {address}");
        report.add(RiskCode::MetricsExposed, "observability/metrics", message);
    }
}

/// Handlers that show the configuration, metrics or upstreams, or empty the cache.
pub(super) fn admin_endpoints(comparison: &Comparison<'_>, report: &mut Report) {
    for (old, new) in comparison.touched_routes() {
        let Some(handler) = new.route().builtin_handler.and_then(admin) else {
            continue;
        };
        let before = old.filter(|old| old.route().builtin_handler.and_then(admin) == Some(handler));
        let wider = before.is_none_or(|old| !covers(&old.route().matches, &new.route().matches));
        if wider {
            let path = new.path();
            let message = format!("{path} makes the handler {handler:?} reachable");
            report.add(RiskCode::AdminEndpointExposed, path, message);
        }
    }
}

fn admin(handler: BuiltinHandler) -> Option<&'static str> {
    match handler {
        BuiltinHandler::Config => Some("config"),
        BuiltinHandler::Metrics => Some("metrics"),
        BuiltinHandler::Upstreams => Some("upstreams"),
        BuiltinHandler::CachePurge => Some("cache-purge"),
        BuiltinHandler::CacheStats => Some("cache-stats"),
        BuiltinHandler::Status | BuiltinHandler::Health | BuiltinHandler::NotFound => None,
    }
}
