//! Upstreams: targets, balancing, health checks.

use super::choice;
use crate::diagnostic::{Code, Finding};
use crate::document::{Node, Value};

const ALGORITHMS: [&str; 15] = [
    "round_robin",
    "least_connections",
    "weighted",
    "weighted_least_connections",
    "ip_hash",
    "random",
    "consistent_hash",
    "maglev",
    "power_of_two_choices",
    "adaptive",
    "peak_ewma",
    "least_tokens_queued",
    "locality_aware",
    "deterministic_subset",
    "sticky",
];

/// Other spellings that the proxy takes.
const ALGORITHM_ALIASES: [&str; 19] = [
    "roundrobin",
    "leastconnections",
    "weighted_round_robin",
    "weighted-round-robin",
    "iphash",
    "consistenthash",
    "p2c",
    "leasttokensqueued",
    "least_tokens",
    "localityaware",
    "locality",
    "peakewma",
    "ewma",
    "subset",
    "subsetting",
    "weighted_least_conn",
    "wlc",
    "sticky_session",
    "stickysession",
];

pub(super) fn check(upstream: Node<'_>, findings: &mut Vec<Finding>) {
    for target in targets(upstream) {
        target_address(target, findings);
    }
    if let Some(balancing) = upstream.child("load-balancing") {
        algorithm(balancing, findings);
        if let Some(fallback) = balancing.child("fallback") {
            algorithm(fallback, findings);
        }
    }
    if let Some(kind) = upstream.child("health-check").and_then(|check| check.child("type")) {
        let known = ["http", "tcp", "grpc", "inference", "mcp"];
        choice(kind, Code::UnknownHealthCheck, &known, &known, findings);
    }
}

fn algorithm(node: Node<'_>, findings: &mut Vec<Finding>) {
    let Some(value) = node.text() else { return };
    let value = value.to_lowercase();
    if !ALGORITHM_ALIASES.contains(&value.as_str()) {
        choice(node, Code::UnknownLoadBalancing, &ALGORITHMS, &ALGORITHMS, findings);
    }
}

/// Targets in every form that the proxy takes.
fn targets(upstream: Node<'_>) -> Vec<Node<'_>> {
    let wrapped = upstream.children_named("targets").flat_map(|node| node.children_named("target"));
    let mut targets: Vec<Node<'_>> = upstream.children_named("target").chain(wrapped).collect();
    if targets.is_empty() {
        targets.extend(upstream.child("address"));
    }
    targets
}

fn target_address(target: Node<'_>, findings: &mut Vec<Finding>) {
    let written = target.text().or_else(|| target.property("address").and_then(Value::as_text));
    let (node, address) = match (written, target.child("address")) {
        (Some(address), _) => (target, address),
        (None, Some(child)) => match child.text() {
            Some(address) => (child, address),
            None => return,
        },
        (None, None) => {
            let message = "the target has no address, so it is left out";
            findings.push(target.finding(Code::InvalidTarget, message).help("write target \"host:port\""));
            return;
        }
    };
    if let Some(problem) = problem(address) {
        let message = format!("target \"{address}\": {problem}");
        findings.push(
            node.finding(Code::InvalidTarget, message)
                .help("write \"host:port\", for example \"10.0.0.5:8080\""),
        );
    }
}

/// What is wrong with `HOST:PORT`, if anything.
fn problem(address: &str) -> Option<&'static str> {
    if address.contains("://") {
        return Some("a scheme is not understood; TLS towards the target is a tls block of the upstream");
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return Some("the port is missing");
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Some("the port is not a number from 1 to 65535");
    }
    if let Some(inner) = host.strip_prefix('[') {
        let valid = inner.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
        return (!valid).then_some("the IPv6 address is not valid");
    }
    if host.contains(':') {
        return Some("an IPv6 address must be in brackets");
    }
    if host.is_empty() {
        return Some("the host is missing");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || !name.split('.').all(label) {
        return Some("the host is neither an IP address nor a host name");
    }
    let numeric = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (numeric && name.parse::<std::net::Ipv4Addr>().is_err()).then_some("the IPv4 address is not valid")
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn targets_are_host_and_port() {
        for good in ["a:1", "api.internal:8080", "10.0.0.1:65535", "[::1]:80", "my_svc.ns.svc.:443", "x-1:9"]
        {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in [
            "a",
            "http://a:80",
            "a:0",
            "a:65536",
            "a:x",
            ":80",
            "::1:80",
            "[::1:80",
            "[x]:80",
            "1.2.3:80",
            "a b:80",
            "a/b:80",
            "-a:80",
            "a..b:80",
            "a:+80",
            "",
        ] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }
}
