//! The order of the checks.

use super::{ValidateOptions, guard, parser, rules, stack};
use crate::diagnostic::{Code, Finding, finish};
use crate::document::Document;
use zentinel_core::port::Diagnostic;

/// Checks a text on the current thread, without a time limit: guards, parse, the proxy's
/// validation, unknown keys and our own rules. The parse runs on a stack of its own.
///
/// This is what the validators run; they add time limits and isolation.
#[must_use]
pub fn check(text: &str, generated: bool, options: &ValidateOptions) -> Vec<Diagnostic> {
    if let Err(finding) = guard::check(text, &options.limits) {
        return vec![finding.into()];
    }
    let findings = super::stack::run(|| check_guarded(text, generated, options));
    finish(findings.unwrap_or_else(|finding| vec![finding]), options.max_findings)
}

/// The checks after the guards, on a large stack.
fn check_guarded(text: &str, generated: bool, options: &ValidateOptions) -> Vec<Finding> {
    let document = match Document::parse_guarded(text) {
        Ok(document) => document,
        Err(finding) => return vec![finding],
    };
    let mut findings = includes(&document);
    let refused = !findings.is_empty();
    rules::check(&document, &mut findings);
    if !refused {
        let mut validate = || {
            let config = parser::parse(text, &document)?;
            parser::validate(config, &document, options.lint, &mut findings);
            Ok(())
        };
        // Both parse the text, which takes most of the time: at the same time. What is intricate
        // must be parsed at all before more time is spent on it.
        let unknown = if document.is_plain() {
            let (unknown, validated) = stack::both(|| parser::find_unknown_keys(text), &mut validate);
            validated.and(unknown)
        } else {
            validate().map(|()| parser::find_unknown_keys(text))
        };
        match unknown {
            Ok(unknown) => parser::unknown_keys(unknown, &document, generated, &mut findings),
            Err(finding) => findings.push(finding),
        }
    }
    without_echoes(findings)
}

/// The proxy reads files for these; the control plane never does.
fn includes(document: &Document) -> Vec<Finding> {
    let includes = document.roots().filter(|node| node.name() == "include");
    let finding = |node: crate::document::Node<'_>| {
        node.finding(Code::IncludeRefused, "other files cannot be included")
            .help("put everything into one text; no file of the server is read")
    };
    includes.map(finding).collect()
}

/// Drops what the proxy says less precisely than one of our rules about the same node.
fn without_echoes(findings: Vec<Finding>) -> Vec<Finding> {
    let echo = |finding: &Finding| matches!(finding.code(), Code::Semantic | Code::ConfigRejected);
    let own: std::collections::HashSet<_> = findings
        .iter()
        .filter(|finding| finding.is_error() && !echo(finding))
        .filter_map(Finding::node_path)
        .map(str::to_owned)
        .collect();
    findings
        .into_iter()
        .filter(|finding| !(echo(finding) && finding.node_path().is_some_and(|path| own.contains(path))))
        .collect()
}
