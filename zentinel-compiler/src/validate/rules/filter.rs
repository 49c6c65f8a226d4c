//! Filters.

use super::choice;
use crate::diagnostic::{Code, Finding};
use crate::document::Node;

pub(super) fn check(filter: Node<'_>, findings: &mut Vec<Finding>) {
    match filter.setting("type") {
        Some("rate-limit") => rate_limit(filter, findings),
        Some("cors") => cors(filter, findings),
        Some("compress") => compress(filter, findings),
        Some("headers") => one_of(filter, "phase", &["request", "response", "both"], findings),
        Some("agent") => {
            one_of(filter, "phase", &["request", "response", "both"], findings);
            one_of(filter, "failure-mode", &["open", "closed"], findings);
        }
        Some("geo") => {
            one_of(filter, "action", &["block", "allow", "log-only"], findings);
            one_of(filter, "on-failure", &["open", "closed"], findings);
        }
        _ => {}
    }
}

/// The proxy compares these exactly, and takes the default for anything else.
fn one_of(filter: Node<'_>, name: &str, known: &[&str], findings: &mut Vec<Finding>) {
    let Some(node) = filter.child(name) else { return };
    if node.text().is_some_and(|value| !known.contains(&value)) {
        choice(node, Code::UnknownValue, &[], known, findings);
    }
}

fn rate_limit(filter: Node<'_>, findings: &mut Vec<Finding>) {
    const KEYS: [&str; 6] =
        ["client-ip", "path", "route", "client-ip-and-path", "mcp-tool", "client-ip-and-mcp-tool"];
    if let Some(key) = filter.child("key") {
        let named_header = |value: &str| value.strip_prefix("header:").is_some_and(|name| !name.is_empty());
        if key.text().is_some_and(|value| !KEYS.contains(&value) && !named_header(value)) {
            let shown: Vec<&str> = KEYS.into_iter().chain(["header:NAME"]).collect();
            choice(key, Code::UnknownValue, &[], &shown, findings);
        }
    }
    one_of(filter, "on-limit", &["reject", "delay", "log-only"], findings);
    if filter.child("max-rps").is_none() {
        findings.push(
            filter
                .finding(Code::IgnoredSetting, "the rate limit has no max-rps, so the default of 100 applies")
                .help("write max-rps"),
        );
    }
}

fn cors(filter: Node<'_>, findings: &mut Vec<Finding>) {
    for option in filter.children().filter(|child| child.name() != "type") {
        let message = format!(
            "the proxy ignores {} and all other options of cors: every origin is allowed, without credentials",
            option.name()
        );
        findings.push(
            option.finding(Code::IgnoredSetting, message).help("set fixed headers with a headers filter"),
        );
    }
}

fn compress(filter: Node<'_>, findings: &mut Vec<Finding>) {
    let Some(algorithms) = filter.child("algorithms") else {
        return;
    };
    let known = ["gzip", "br", "brotli", "deflate", "zstd"];
    let unknown = algorithms.text().into_iter().flat_map(|list| list.split(',')).map(str::trim);
    for name in unknown.filter(|name| !known.contains(name)) {
        let message = format!("compression \"{name}\" is unknown and left out");
        findings.push(
            algorithms
                .finding(Code::UnknownValue, message)
                .help("write one string, separated by commas: \"gzip,br,zstd,deflate\""),
        );
    }
    if algorithms.arguments().len() > 1 {
        let message = "only the first string is read";
        findings.push(
            algorithms.finding(Code::RunTogether, message).help("separate the names by commas in one string"),
        );
    }
}
