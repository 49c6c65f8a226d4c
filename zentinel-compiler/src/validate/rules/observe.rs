//! Metrics and logs, whose defaults surprise.

use super::bind_address;
use crate::diagnostic::{Code, Finding};
use crate::document::{Document, Node, Value};

pub(super) fn check(document: &Document, findings: &mut Vec<Finding>) {
    // The last block wins; so does the last of each block inside it.
    let observability = document.roots().filter(|node| node.name() == "observability").last();
    let inner =
        |name: &str| observability.and_then(|node| node.children().rev().find(|child| child.name() == name));
    metrics(inner("metrics"), findings);
    let logging = inner("logging");
    error_log(logging, findings);
    for name in ["level", "format", "file"] {
        if let Some(node) = logging.and_then(|logging| logging.child(name)) {
            let message =
                format!("the proxy ignores {name} here; RUST_LOG decides what is logged, to standard output");
            findings.push(node.finding(Code::IgnoredSetting, message));
        }
    }
    for limits in document.roots().filter(|node| node.name() == "rate-limits") {
        for name in ["default-rps", "default-burst"] {
            if let Some(node) = limits.child(name) {
                let message = format!("the proxy reads {name} and does nothing with it; only global works");
                findings.push(node.finding(Code::IgnoredSetting, message));
            }
        }
    }
}

fn disabled(node: Node<'_>) -> bool {
    node.child("enabled").and_then(|enabled| enabled.argument(0)).and_then(Value::as_bool) == Some(false)
}

fn metrics(metrics: Option<Node<'_>>, findings: &mut Vec<Finding>) {
    if metrics.is_some_and(disabled) {
        return;
    }
    let help = "set observability { metrics { address \"127.0.0.1:9090\" } } to a private address";
    let Some(address) =
        metrics.and_then(|metrics| metrics.child("address")).filter(|node| node.text().is_some())
    else {
        let message = "no address is set for metrics, so they are served on 0.0.0.0:9090";
        let finding = match metrics {
            Some(node) => node.finding(Code::MetricsExposed, message),
            None => Finding::new(Code::MetricsExposed, message),
        };
        findings.push(finding.help(help));
        return;
    };
    bind_address(address, findings);
    let parsed = address.text().and_then(|text| text.parse::<std::net::SocketAddr>().ok());
    if parsed.is_some_and(|address| address.ip().is_unspecified()) {
        findings
            .push(address.finding(Code::MetricsExposed, "metrics are served on every interface").help(help));
    }
}

fn error_log(logging: Option<Node<'_>>, findings: &mut Vec<Finding>) {
    let log = logging.and_then(|logging| logging.child("error-log"));
    if log.is_some_and(|log| disabled(log) || log.child("file").is_some()) {
        return;
    }
    let message = "the error log goes to its default file, /var/log/zentinel/error.log";
    let finding = match log.or(logging) {
        Some(node) => node.finding(Code::DefaultErrorLog, message),
        None => Finding::new(Code::DefaultErrorLog, message),
    };
    findings.push(finding.help("set observability { logging { error-log { file } } }, or enabled #false"));
}
