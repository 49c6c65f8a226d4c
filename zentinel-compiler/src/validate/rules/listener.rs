//! Listeners.

use super::bind_address;
use crate::diagnostic::{Code, Finding};
use crate::document::Node;

pub(super) fn check(listener: Node<'_>, findings: &mut Vec<Finding>) {
    if let Some(address) = listener.child("address") {
        bind_address(address, findings);
    }
    missing_tls(listener, findings);
    ignored(listener, findings);
}

fn missing_tls(listener: Node<'_>, findings: &mut Vec<Finding>) {
    let Some(protocol) = listener.child("protocol") else {
        return;
    };
    let secure = protocol.text().is_some_and(|value| matches!(value.to_lowercase().as_str(), "https" | "h2"));
    if secure && listener.child("tls").is_none() {
        let message = format!(
            "listener \"{}\" speaks {} but has no tls block; the proxy would run without it",
            listener.text().unwrap_or_default(),
            protocol.text().unwrap_or_default()
        );
        findings.push(
            protocol.finding(Code::MissingTls, message).help("add tls { cert-file ...; key-file ... }"),
        );
    }
    if !secure && let Some(tls) = listener.child("tls") {
        findings.push(
            tls.finding(Code::IgnoredSetting, "the listener has a tls block, but its protocol is http")
                .help("add protocol \"https\", or remove the tls block"),
        );
    }
}

fn ignored(listener: Node<'_>, findings: &mut Vec<Finding>) {
    let mut ignored = |node: Node<'_>| {
        let message = format!("the proxy does not apply {} yet", node.name());
        findings.push(node.finding(Code::IgnoredSetting, message));
    };
    if let Some(node) = listener.child("max-concurrent-streams") {
        ignored(node);
    }
    let tls = listener.child("tls");
    for name in ["min-version", "max-version", "cipher-suite"] {
        if let Some(node) = tls.and_then(|tls| tls.child(name)) {
            ignored(node);
        }
    }
}
