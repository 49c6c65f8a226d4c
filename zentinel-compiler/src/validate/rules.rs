//! What the proxy accepts although it is wrong.
//!
//! These checks read the text, not the parsed configuration: by then a wrong value has already
//! been replaced by a default.

mod filter;
mod listener;
mod observe;
mod on_node;
mod route;
mod scalar;
mod schema;
mod unique;
mod upstream;

use crate::diagnostic::{Code, Finding};
use crate::document::{Document, Node};

/// Runs every rule.
pub(super) fn check(document: &Document, findings: &mut Vec<Finding>) {
    for node in document.nodes() {
        match (node.parent_name(), node.name()) {
            (Some("listeners"), "listener") | (Some("service"), "listener") => {
                listener::check(node, findings)
            }
            (Some("routes"), "route") => route::check(node, document, findings),
            (Some("upstreams"), "upstream") if !node.parent().is_some_and(in_mcp_block) => {
                upstream::check(node, findings)
            }
            (Some("filters"), "filter") => filter::check(node, findings),
            _ => {}
        }
        scalar::check(node, findings);
        on_node::check(node, findings);
    }
    unique::check(document, findings);
    observe::check(document, findings);
}

/// `mcp { upstreams { upstream "id" prefix="..." } }` refers to upstreams, it does not define them.
fn in_mcp_block(upstreams: Node<'_>) -> bool {
    upstreams.parent_name() == Some("mcp")
}

/// Checks a setting with a fixed choice of values, in lower case.
fn choice(node: Node<'_>, code: Code, known: &[&str], shown: &[&str], findings: &mut Vec<Finding>) {
    let Some(value) = node.text() else { return };
    if known.contains(&value.to_lowercase().as_str()) {
        return;
    }
    let message = format!("{} \"{value}\" is unknown", node.name());
    findings.push(node.finding(code, message).help(format!("known are {}", shown.join(", "))));
}

/// Checks that an address to bind is `IP:PORT`.
fn bind_address(node: Node<'_>, findings: &mut Vec<Finding>) {
    let Some(address) = node.text() else { return };
    if address.parse::<std::net::SocketAddr>().is_err() {
        let message = format!("\"{address}\" is not an address to bind: IP:PORT is expected");
        findings.push(
            node.finding(Code::InvalidAddress, message)
                .help("write for example \"0.0.0.0:8080\" or \"[::]:8080\"; host names are not resolved"),
        );
    }
}

#[cfg(test)]
mod tests;
