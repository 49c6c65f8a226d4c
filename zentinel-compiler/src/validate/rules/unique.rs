//! Ids and settings that may be there once only.

use super::schema;
use crate::diagnostic::{Code, Finding};
use crate::document::{Document, Node};
use std::collections::HashSet;

pub(super) fn check(document: &Document, findings: &mut Vec<Finding>) {
    ids(document, findings);
    blocks(document, findings);
    for node in document.nodes() {
        settings(node, findings);
    }
}

/// Two things with one id in one block: of upstreams and filters the proxy silently takes the last.
fn ids(document: &Document, findings: &mut Vec<Finding>) {
    for block in document.nodes().filter(|node| !super::in_mcp_block(*node)) {
        let kind = match block.name() {
            "upstreams" => "upstream",
            "filters" => "filter",
            "routes" => "route",
            "listeners" => "listener",
            "agents" => "agent",
            _ => continue,
        };
        let mut seen = HashSet::new();
        for node in block.children_named(kind) {
            if let Some(id) = node.text().filter(|id| !seen.insert(*id)) {
                let message = format!("{kind} \"{id}\" is defined twice");
                findings.push(node.finding(Code::DuplicateId, message).help("rename one of them"));
            }
        }
    }
}

/// Top-level blocks of which the last one wins; in namespaces that is so for all.
fn blocks(document: &Document, findings: &mut Vec<Finding>) {
    let top: Vec<Node<'_>> = document.roots().collect();
    let singleton = |name: &str| {
        matches!(
            name,
            "system"
                | "server"
                | "waf"
                | "limits"
                | "observability"
                | "rate-limits"
                | "cache"
                | "schema-version"
                | "version"
        )
    };
    repeated(&top, singleton, findings);
    for scope in document.nodes().filter(|node| is_scope(*node)) {
        let inner: Vec<Node<'_>> = scope.children().collect();
        repeated(&inner, |name| !matches!(name, "service"), findings);
    }
}

fn is_scope(node: Node<'_>) -> bool {
    (node.name() == "namespace" && node.parent().is_none())
        || (node.name() == "service" && node.parent_name() == Some("namespace"))
}

fn repeated(nodes: &[Node<'_>], singleton: impl Fn(&str) -> bool, findings: &mut Vec<Finding>) {
    let mut seen = HashSet::new();
    for node in nodes.iter().filter(|node| singleton(node.name())) {
        let name = if node.name() == "server" { "system" } else { node.name() };
        if !seen.insert(name) {
            let message = format!("{} is there more than once; only the last one counts", node.name());
            findings.push(node.finding(Code::RepeatedSetting, message).help("merge them into one"));
        }
    }
}

/// Settings of which the proxy reads one, mostly the first.
fn settings(block: Node<'_>, findings: &mut Vec<Finding>) {
    let mut seen = HashSet::new();
    for node in block.children().filter(|node| schema::rule(*node).is_some()) {
        if !seen.insert(node.name()) {
            let message = format!("{} is set more than once, but read once only", node.name());
            findings.push(node.finding(Code::RepeatedSetting, message).help("remove the others"));
        }
    }
}
