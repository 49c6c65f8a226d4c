//! Routes and their conditions.

use super::choice;
use crate::diagnostic::{Code, Finding};
use crate::document::{Document, Node};
use regex::RegexBuilder;
use zentinel_core::port::Severity;

const BUILTIN_HANDLERS: [&str; 8] =
    ["status", "health", "metrics", "not-found", "config", "upstreams", "cache-purge", "cache-stats"];

/// Largest compiled size of a regular expression in bytes: the default of the proxy's engine.
const REGEX_SIZE: usize = 10 << 20;

pub(super) fn check(route: Node<'_>, document: &Document, findings: &mut Vec<Finding>) {
    if let Some(handler) = route.child("builtin-handler") {
        let known = ["not_found", "cache_purge", "cache_stats"].into_iter().chain(BUILTIN_HANDLERS);
        // The proxy compares this one exactly.
        if handler.text().is_some_and(|value| !known.clone().any(|known| known == value)) {
            let code = Code::UnknownBuiltinHandler;
            choice(handler, code, &[], &BUILTIN_HANDLERS, findings);
        }
    }
    if let Some(priority) = route.child("priority") {
        let known = ["low", "normal", "high", "critical"];
        choice(
            priority,
            Code::UnknownValue,
            &known,
            &["low", "normal", "high", "critical", "or a number"],
            findings,
        );
    }
    conditions(route, findings);
    targets(route, document, findings);
    for (name, severity) in [("waf-enabled", Severity::Warning), ("service-type", Severity::Info)] {
        if let Some(node) = route.child(name) {
            let message = format!("the proxy reads {name} and does nothing with it");
            findings.push(node.finding(Code::IgnoredSetting, message).severity(severity));
        }
    }
}

fn conditions(route: Node<'_>, findings: &mut Vec<Finding>) {
    let matches = route.child("matches");
    let conditions = || matches.into_iter().flat_map(Node::children);
    if conditions().next().is_none() {
        catch_all(route, findings);
    }
    for condition in conditions().filter(|node| node.name() == "path-regex") {
        regex(condition, findings);
    }
    let paths: Vec<Node<'_>> =
        conditions().filter(|node| matches!(node.name(), "path" | "path-prefix" | "path-regex")).collect();
    let methods: Vec<Node<'_>> = conditions().filter(|node| node.name() == "method").collect();
    for (several, what) in [(paths, "paths"), (methods, "methods")] {
        let Some((first, others)) = several.split_first() else {
            continue;
        };
        let differs = |other: &&Node<'_>| other.name() != first.name() || other.text() != first.text();
        if let Some(second) = others.iter().find(differs) {
            let message = format!(
                "a request would have to match several {what} at once: conditions of a route are combined by AND"
            );
            findings.push(
                second
                    .finding(Code::UnmatchableRoute, message)
                    .help("write one route for each, or one path-regex"),
            );
        }
    }
    for method in conditions().filter(|node| node.name() == "method" && node.arguments().len() > 1) {
        let message = "only the first method of the line is read";
        findings
            .push(method.finding(Code::UnmatchableRoute, message).help("write one route for each method"));
    }
}

fn catch_all(route: Node<'_>, findings: &mut Vec<Finding>) {
    let low = route.child("priority").is_some_and(|priority| {
        priority.text().is_some_and(|text| text.eq_ignore_ascii_case("low"))
            || priority.argument(0).and_then(crate::document::Value::as_integer) == Some(10)
    });
    if low {
        findings.push(
            route
                .finding(Code::CatchAllRoute, "the route has no conditions, so it matches every request")
                .help("write matches { path-prefix \"/\" } if that is meant"),
        );
    }
}

fn regex(condition: Node<'_>, findings: &mut Vec<Finding>) {
    let Some(pattern) = condition.text() else { return };
    if let Err(error) = RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build() {
        // The engine draws the expression and points into it; the last line says what is wrong.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or(&text).trim_start_matches("error: ").to_owned();
        let message = format!("the regular expression does not compile: {reason}");
        findings.push(
            condition.finding(Code::InvalidRegex, message).help("the syntax is that of the Rust regex crate"),
        );
    }
}

fn targets(route: Node<'_>, document: &Document, findings: &mut Vec<Finding>) {
    let targets: Vec<Node<'_>> = ["upstream", "static-files", "builtin-handler"]
        .into_iter()
        .filter_map(|name| route.child(name))
        .collect();
    match targets.as_slice() {
        [] if has_other_target(route, document) => {}
        [] => findings.push(
            route
                .finding(
                    Code::RouteWithoutTarget,
                    "the route has nowhere to send requests to; it would answer 500",
                )
                .help("add one of upstream, static-files, builtin-handler, or a redirect filter"),
        ),
        [_] => {}
        [first, second, ..] => {
            let message = format!("the route has both {} and {}", first.name(), second.name());
            findings.push(second.finding(Code::RouteWithSeveralTargets, message).help("keep one of them"));
        }
    }
}

/// Redirects need no upstream, nor do routes that choose one by model or by MCP prefix.
fn has_other_target(route: Node<'_>, document: &Document) -> bool {
    let inference = route.child("inference").and_then(|node| node.child("model-routing")).is_some();
    let mcp = route.child("mcp").and_then(|node| node.child("upstreams")).is_some();
    let redirects = |id: &str| {
        document.nodes().any(|node| {
            node.name() == "filter"
                && node.parent_name() == Some("filters")
                && node.text() == Some(id)
                && node.setting("type") == Some("redirect")
        })
    };
    let filters = route.child("filters");
    let ids = filters.into_iter().flat_map(Node::arguments).filter_map(|argument| argument.value.as_text());
    inference || mcp || ids.map(|id| id.rsplit(':').next().unwrap_or(id)).any(redirects)
}
