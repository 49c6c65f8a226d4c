//! Files, directories and sockets of the node, which cannot be checked here.

use crate::diagnostic::{Code, Finding};
use crate::document::Node;

pub(super) fn check(node: Node<'_>, findings: &mut Vec<Finding>) {
    let parent = node.parent_name().unwrap_or_default();
    let what = match (parent, node.name()) {
        ("static-files", "root") => "the directory",
        ("agent", "unix-socket") => "the directory of",
        ("tls" | "sni", "cert-file" | "key-file" | "ca-file") => "the file",
        ("tls", "client-cert" | "client-key" | "ca-cert") => "the file",
        ("sni-certs", "cert-folder") => "the directory",
        ("dns-provider", "credentials-file") => "the file",
        ("filter", "database-path") => "the database",
        ("api-schema", "schema-file") => "the schema",
        _ => return,
    };
    let path = node.text().or_else(|| node.setting("path"));
    if let Some(path) = path {
        let message = format!("{what} \"{path}\" is checked on the node");
        findings.push(node.finding(Code::CheckedOnNode, message));
    }
}
