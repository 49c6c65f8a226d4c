//! The proxy's own parser and validation, and what their messages mean.
//!
//! Both run on text that has passed the guards, on a large stack. They give sentences without
//! codes or positions; here each becomes a finding with both, as far as its words tell.

use super::locate::Places;
use crate::diagnostic::{Code, Finding};
use crate::document::{Document, Node};
use regex::Regex;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::LazyLock;
use zentinel_config::validate::{ValidationResult, lint, unknown_keys};
use zentinel_config::{AgentTransport, Config};
use zentinel_core::port::Severity;

/// Parses the text as the proxy does.
pub(crate) fn parse(text: &str, document: &Document) -> Result<Config, Finding> {
    Config::from_kdl(text).map_err(|error| {
        document
            .syntax_error(text)
            .unwrap_or_else(|| finding(&format!("{error:#}"), Code::ConfigRejected, &Places::new(document)))
    })
}

/// Runs the proxy's validation and, if asked for, its linter.
pub(super) fn validate(
    config: &mut Config,
    document: &Document,
    with_lint: bool,
    findings: &mut Vec<Finding>,
) {
    let places = Places::new(document);
    if with_lint {
        for warning in lint::lint_config(config).warnings {
            findings.push(
                places.attach(Finding::new(Code::BestPractice, warning.message.as_str()), &warning.message),
            );
        }
    }
    // The validation asks whether static roots and socket directories exist on this machine, which
    // says nothing about the node. Meanwhile they all are the root directory.
    let paths: Vec<PathBuf> =
        local_paths(config).map(|path| std::mem::replace(path, PathBuf::from("/"))).collect();
    for message in semantic_messages(config) {
        findings.push(finding(&message, Code::Semantic, &places));
    }
    for (path, own) in local_paths(config).zip(paths) {
        *path = own;
    }
}

/// Static roots and agent sockets.
fn local_paths(config: &mut Config) -> impl Iterator<Item = &mut PathBuf> {
    let roots = config.routes.iter_mut().filter_map(|route| Some(&mut route.static_files.as_mut()?.root));
    let sockets = config.agents.iter_mut().filter_map(|agent| match &mut agent.transport {
        AgentTransport::UnixSocket { path } => Some(path),
        _ => None,
    });
    roots.chain(sockets)
}

fn semantic_messages(config: &Config) -> Vec<String> {
    if let Err(error) = zentinel_config::validation::validate_config_semantics(config) {
        let message = error.message.map(|message| message.into_owned()).unwrap_or_default();
        return split_numbered(&message);
    }
    match config.validate() {
        Ok(()) => Vec::new(),
        Err(error) => {
            let message = error.to_string();
            let known = message
                .find("Configuration error: ")
                .map(|at| &message[at + "Configuration error: ".len()..]);
            vec![known.unwrap_or(&message).to_owned()]
        }
    }
}

/// Takes `Configuration has N issues:\n\n1. ...\n\n2. ...` apart.
fn split_numbered(message: &str) -> Vec<String> {
    static HEAD: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^Configuration has (\d+) issues:\n\n").ok());
    let head = HEAD.as_ref().and_then(|head| head.captures(message));
    let Some((count, mut rest)) =
        head.and_then(|head| Some((head[1].parse::<usize>().ok()?, &message[head[0].len()..])))
    else {
        return vec![message.to_owned()];
    };
    let mut messages = Vec::new();
    for number in 1..=count {
        rest = rest.strip_prefix(&format!("{number}. ")).unwrap_or(rest);
        let next = rest.find(&format!("\n\n{}. ", number + 1)).filter(|_| number < count);
        messages.push(rest[..next.unwrap_or(rest.len())].to_owned());
        rest = next.map_or("", |next| &rest[next + 2..]);
    }
    messages
}

/// One message of the proxy as a finding: the first line is what is wrong, the others are help.
fn finding(message: &str, fallback: Code, places: &Places<'_>) -> Finding {
    let message = message.trim();
    let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
    let code = classify(message).unwrap_or(fallback);
    let mut finding = Finding::new(code, first);
    let help = rest.lines().map(sorted_list).collect::<Vec<_>>().join("\n");
    if !help.trim().is_empty() {
        finding = finding.help(help.trim());
    }
    places.attach(finding, message)
}

/// The lists of known ids come from hash maps: sorted, the same text gives the same finding.
fn sorted_list(line: &str) -> String {
    match line.split_once(": ") {
        Some((head, list)) if head.trim_start().starts_with("Available ") && list.starts_with('\'') => {
            let mut ids: Vec<&str> = list.split(", ").collect();
            ids.sort_unstable();
            format!("{head}: {}", ids.join(", "))
        }
        _ => line.to_owned(),
    }
}

fn classify(message: &str) -> Option<Code> {
    let rules: [(&[&str], Code); 9] = [
        (&["Unknown top-level configuration block"], Code::UnknownBlock),
        (&["Missing required '"], Code::MissingBlock),
        (&["Duplicate listener address", "which the metrics server also binds"], Code::DuplicateAddress),
        (&["Duplicate "], Code::DuplicateId),
        (&["which doesn't exist.", "cannot be resolved", "references non-existent"], Code::UnknownReference),
        (&["which doesn't exist in this namespace"], Code::UnknownReference),
        (&["is configured in multiple ACME blocks"], Code::DuplicateId),
        (&["Unknown node '", "Got unknown key"], Code::UnknownKey),
        (&["has invalid address"], Code::InvalidTarget),
    ];
    let matches = |patterns: &[&str]| patterns.iter().any(|pattern| message.contains(pattern));
    rules.iter().find(|(patterns, _)| matches(patterns)).map(|(_, code)| *code)
}

/// Asks the proxy for keys that it would ignore; it parses the text anew for that.
pub(super) fn find_unknown_keys(text: &str) -> ValidationResult {
    let mut result = ValidationResult::new();
    unknown_keys::check_unknown_keys(text, &mut result);
    result
}

/// What [`find_unknown_keys`] gives for a text without any.
pub(super) fn no_unknown_keys() -> ValidationResult {
    ValidationResult::new()
}

/// Keys that the proxy would ignore.
pub(super) fn unknown_keys(
    result: ValidationResult,
    document: &Document,
    generated: bool,
    findings: &mut Vec<Finding>,
) {
    if result.warnings.is_empty() {
        return;
    }
    let mut unknown = UnknownKeys::new(document);
    for warning in result.warnings {
        let found = unknown.finding(&warning.message);
        let said = |other: &Finding| {
            other.code() == found.code()
                && other.node_path().is_some()
                && other.node_path() == found.node_path()
        };
        if found.code() == Code::RunTogether && findings.iter().any(said) {
            continue;
        }
        let severity =
            if generated || found.code() == Code::RunTogether { Severity::Error } else { Severity::Warning };
        if found.code() != Code::RunTogether || !unknown.is_list(&warning.message) {
            findings.push(found.severity(severity));
        }
    }
}

/// Hands out the places of unknown keys. The proxy's check walks the text in order and names block
/// and key, so the n-th warning about a key in a block is about the n-th such key.
struct UnknownKeys<'d> {
    /// Nodes by the name of the block around and their own, in order.
    nodes: HashMap<(String, String), VecDeque<Node<'d>>>,
    key: Option<Regex>,
    argument: Option<Regex>,
}

impl<'d> UnknownKeys<'d> {
    fn new(document: &'d Document) -> Self {
        let mut nodes: HashMap<_, VecDeque<_>> = HashMap::new();
        for node in document.nodes() {
            let Some(parent) = node.parent() else { continue };
            // The proxy checks the keys of this type of filter only.
            if parent.name() != "filter" || parent.setting("type") == Some("rate-limit") {
                nodes.entry((parent.name().to_owned(), node.name().to_owned())).or_default().push_back(node);
            }
        }
        let not_here = r"^'(.+?)' is (?:not a setting in the '(.+?)' block|a setting of .* not of .*?'(\S+?)(?: .*)?' block)";
        let swallowed = r"^'(.+?)' is being read as an argument to '(.+?)' .* [Ii]n the '(.+?)' block";
        Self { nodes, key: Regex::new(not_here).ok(), argument: Regex::new(swallowed).ok() }
    }

    fn finding(&mut self, message: &str) -> Finding {
        let (sentence, help) = message.split_once(". ").unwrap_or((message, ""));
        let swallowed = self.swallowed(message);
        let code = if swallowed.is_some() { Code::RunTogether } else { Code::UnknownKey };
        let mut finding = Finding::new(code, sentence);
        if !help.is_empty() {
            finding = finding.help(help);
        }
        let node = match swallowed {
            Some((value, key, block)) => self.next(&block, &key, |node| {
                node.arguments().iter().any(|argument| argument.value.as_text() == Some(&value))
            }),
            None => self.key.as_ref().and_then(|key| key.captures(message)).and_then(|found| {
                let block = found.get(2).or_else(|| found.get(3))?.as_str().to_owned();
                let name = found[1].to_owned();
                self.next(&block, &name, |_| true)
            }),
        };
        match node {
            Some(node) => finding.at(node.position()).path(node.path()),
            None => finding,
        }
    }

    fn swallowed(&self, message: &str) -> Option<(String, String, String)> {
        let found = self.argument.as_ref()?.captures(message)?;
        Some((found[1].to_owned(), found[2].to_owned(), found[3].to_owned()))
    }

    /// Whether the key takes a list of names, which may well be the names of settings.
    fn is_list(&self, message: &str) -> bool {
        const LISTS: [&str; 8] = [
            "filters",
            "events",
            "hostnames",
            "domains",
            "remove",
            "vary-headers",
            "models",
            "ignore-query-params",
        ];
        self.swallowed(message).is_some_and(|(_, key, _)| LISTS.contains(&key.as_str()))
    }

    fn next(&mut self, block: &str, key: &str, fits: impl Fn(Node<'_>) -> bool) -> Option<Node<'d>> {
        let waiting = self.nodes.get_mut(&(block.to_owned(), key.to_owned()))?;
        while let Some(node) = waiting.pop_front() {
            if fits(node) {
                return Some(node);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_messages_are_taken_apart() {
        let text = "Configuration has 3 issues:\n\n1. a\n   b\n\n2. c 1. d\n\n3. e";
        assert_eq!(split_numbered(text), ["a\n   b", "c 1. d", "e"]);
        assert_eq!(split_numbered("Route 'x' is wrong"), ["Route 'x' is wrong"]);
    }

    #[test]
    fn lists_of_ids_are_sorted() {
        assert_eq!(sorted_list("Available upstreams: 'b', 'a'"), "Available upstreams: 'a', 'b'");
        assert_eq!(sorted_list("Available routes: (none defined)"), "Available routes: (none defined)");
    }
}
