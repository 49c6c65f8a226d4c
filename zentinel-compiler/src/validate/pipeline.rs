//! The order of the checks.

use super::{ValidateOptions, guard, parser, rules, shapes, stack};
use crate::diagnostic::{Code, Finding, finish, has_errors};
use crate::document::{Document, Value};
use zentinel_config::Config;
use zentinel_core::port::Diagnostic;

/// Findings, and what was parsed if there is no error.
pub(super) type Examined = (Vec<Diagnostic>, Option<Config>);

/// Checks a text on the current thread, without a time limit: guards, parse, the proxy's
/// validation, unknown keys and our own rules. The parse runs on a stack of its own.
///
/// This is what the validators run; they add time limits and isolation.
#[must_use]
pub fn check(text: &str, generated: bool, options: &ValidateOptions) -> Vec<Diagnostic> {
    examine(text, generated, options).0
}

/// As [`check`], with what was parsed if there is no error.
pub(super) fn examine(text: &str, generated: bool, options: &ValidateOptions) -> Examined {
    guarded(text, options, || stack::run(|| check_guarded(text, generated, options)))
}

/// As [`examine`], on a thread whose stack is large already.
pub(super) fn examine_here(text: &str, generated: bool, options: &ValidateOptions) -> Examined {
    guarded(text, options, || stack::here(|| check_guarded(text, generated, options)))
}

fn guarded(
    text: &str,
    options: &ValidateOptions,
    work: impl FnOnce() -> Result<(Vec<Finding>, Option<Config>), Finding>,
) -> Examined {
    if let Err(finding) = guard::check(text, &options.limits) {
        return (vec![finding.into()], None);
    }
    let (findings, config) = work().unwrap_or_else(|finding| (vec![finding], None));
    let diagnostics = finish(findings, options.max_findings);
    let config = config.filter(|_| !has_errors(&diagnostics));
    (diagnostics, config)
}

/// The checks after the guards, on a large stack.
fn check_guarded(text: &str, generated: bool, options: &ValidateOptions) -> (Vec<Finding>, Option<Config>) {
    let document = match Document::parse_guarded(text) {
        Ok(document) => document,
        Err(finding) => return (vec![finding], None),
    };
    let mut findings = includes(&document);
    let refused = !findings.is_empty();
    rules::check(&document, &mut findings);
    let mut parsed = None;
    if !refused {
        let mut validate = || {
            let mut config = parser::parse(text, &document)?;
            parser::validate(&mut config, &document, options.lint, &mut findings);
            parsed = Some(config).filter(|_| is_finite(&document));
            Ok(())
        };
        // The proxy's check for unknown keys parses the text anew, which takes most of the time: of
        // plain text only one block of each shape, and all of it, beside the other parse, when that
        // has any. What is intricate must be parsed at all before more time is spent on it.
        let unknown = if !document.is_plain() {
            validate().map(|()| parser::find_unknown_keys(text))
        } else if parser::find_unknown_keys(&shapes::of(&document)).warnings.is_empty() {
            validate().map(|()| parser::no_unknown_keys())
        } else {
            let (unknown, validated) = stack::both(|| parser::find_unknown_keys(text), &mut validate);
            validated.and(unknown)
        };
        match unknown {
            Ok(unknown) => parser::unknown_keys(unknown, &document, generated, &mut findings),
            Err(finding) => findings.push(finding),
        }
    }
    (without_echoes(findings), parsed)
}

/// Whether JSON, in which a configuration may be handed over, has all its numbers.
fn is_finite(document: &Document) -> bool {
    let finite = |value: &Value| !matches!(value, Value::Float(number) if !number.is_finite());
    document.nodes().all(|node| {
        node.arguments().iter().all(|argument| finite(&argument.value))
            && node.properties().iter().all(|property| finite(&property.value))
    })
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
