//! What differs between two configurations: by meaning, and as text.

use crate::document::{Document, Node};
use crate::model::step;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use zentinel_core::port::Diagnostic;
use zentinel_core::{Error, Result};

/// Most lines of context around a changed line.
const CONTEXT: usize = 3;

/// How long the search for the shortest text diff may take before a longer one is good enough.
const PATIENCE: Duration = Duration::from_secs(2);

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its arguments or properties differ.
    Changed,
}

/// One difference. A node that was added or removed as a whole is one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where, as in [`document`](crate::document); of nodes that repeat, such as `target`, the
    /// first argument says which: `upstreams/api/target[10.0.0.1:80]`.
    pub path: String,
    /// The node before, on one line, without its children.
    pub old: Option<String>,
    /// The node now, on one line, without its children.
    pub new: Option<String>,
}

/// The differences in meaning between two configurations, by path. Formatting, comments and the
/// order of nodes make none; the order of a node's arguments does.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on `old` or `new` when that text is not KDL; the
/// diagnostics are in the details.
pub fn semantic(old: &str, new: &str) -> Result<Vec<Change>> {
    let old = Document::parse(old).map_err(|found| unreadable("old", &found))?;
    let new = Document::parse(new).map_err(|found| unreadable("new", &found))?;
    let mut changes = Vec::new();
    compare("", old.roots().collect(), new.roots().collect(), &mut changes);
    changes.sort_by(|a, b| a.path.cmp(&b.path).then(a.kind.cmp(&b.kind)));
    Ok(changes)
}

fn unreadable(field: &str, diagnostics: &[Diagnostic]) -> Error {
    let message = diagnostics.first().map_or("cannot be read", |first| first.message.as_str());
    let details = serde_json::to_value(diagnostics).unwrap_or_default();
    Error::invalid_field(field, format!("is not readable: {message}")).with_details(details)
}

/// Nodes of one place by what tells them apart.
type Siblings<'a> = BTreeMap<String, Vec<Node<'a>>>;

/// Compares the children of one place. Their number is bounded by the text, their depth by the
/// guards of the parser.
fn compare(place: &str, old: Vec<Node<'_>>, new: Vec<Node<'_>>, changes: &mut Vec<Change>) {
    let repeated = |name: &str| count(&old, name) > 1 || count(&new, name) > 1;
    let names: BTreeMap<&str, bool> = old
        .iter()
        .chain(&new)
        .map(|node| node.name())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .map(|name| (name, repeated(name)))
        .collect();
    let (old, new) = (keyed(&old, &names), keyed(&new, &names));
    let steps: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in steps {
        let path = if place.is_empty() { key.clone() } else { format!("{place}/{key}") };
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => matched(&path, old, new, changes),
            (old, new) => {
                changes
                    .extend(old.into_iter().flatten().map(|node| alone(ChangeKind::Removed, &path, *node)));
                changes.extend(new.into_iter().flatten().map(|node| alone(ChangeKind::Added, &path, *node)));
            }
        }
    }
}

/// How many separate nodes have this name; blocks that the proxy merges are one.
fn count(nodes: &[Node<'_>], name: &str) -> usize {
    let mut paths: Vec<_> = nodes.iter().filter(|node| node.name() == name).map(|node| node.path()).collect();
    paths.dedup();
    paths.len()
}

fn keyed<'a>(nodes: &[Node<'a>], repeated: &BTreeMap<&str, bool>) -> Siblings<'a> {
    let mut siblings = Siblings::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes {
        let key = key(*node, repeated.get(node.name()).copied().unwrap_or(false));
        let merged = siblings.get(&key).is_some_and(|same: &Vec<Node<'_>>| same[0].path() == node.path());
        let count = seen.entry(key.clone()).or_default();
        *count += usize::from(!merged);
        let key = if *count > 1 { format!("{key}[{count}]") } else { key };
        siblings.entry(key).or_default().push(*node);
    }
    siblings
}

/// What tells a node from its siblings.
fn key(node: Node<'_>, repeated: bool) -> String {
    let last = own_step(node);
    if last != step(node.name()) {
        // Named by its id.
        return last;
    }
    match node.argument(0) {
        Some(value) if repeated => {
            let text = value.as_text().map_or_else(|| value.to_string(), str::to_owned);
            format!("{last}[{}]", step(&text))
        }
        _ => last,
    }
}

/// The part of a node's path that is its own, without the count of repeated ones.
fn own_step(node: Node<'_>) -> String {
    let parent = node.parent().map_or("", |parent| parent.path());
    let own = node.path().strip_prefix(parent).unwrap_or(node.path());
    let own = own.trim_start_matches('/');
    let name = step(node.name());
    match own.strip_prefix(name.as_str()) {
        Some(count) if count.starts_with('[') => name,
        _ => own.to_owned(),
    }
}

/// Compares nodes that are there on both sides.
fn matched(path: &str, old: &[Node<'_>], new: &[Node<'_>], changes: &mut Vec<Change>) {
    let (before, after) = (line(old[0]), line(new[0]));
    if before != after {
        changes.push(Change {
            kind: ChangeKind::Changed,
            path: path.to_owned(),
            old: Some(before),
            new: Some(after),
        });
    }
    let children = |nodes: &[Node<'_>]| nodes.iter().flat_map(|node| node.children()).count();
    if children(old) + children(new) > 0 {
        let old = old.iter().flat_map(|node| node.children()).collect();
        let new = new.iter().flat_map(|node| node.children()).collect();
        compare(path, old, new, changes);
    }
}

fn alone(kind: ChangeKind, path: &str, node: Node<'_>) -> Change {
    let text = Some(line(node));
    let (old, new) = if kind == ChangeKind::Added { (None, text) } else { (text, None) };
    Change { kind, path: path.to_owned(), old, new }
}

/// A node on one line: name, arguments in order, properties by name.
fn line(node: Node<'_>) -> String {
    let mut text = node.name().to_owned();
    for argument in node.arguments() {
        text.push(' ');
        text.push_str(&argument.value.to_string());
    }
    let mut properties: Vec<_> = node.properties().iter().collect();
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    for property in properties {
        text.push_str(&format!(" {}={}", property.name, property.value));
    }
    text
}

/// The difference as text, in unified format with three lines of context; empty when there is
/// none.
#[must_use]
pub fn text(old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let diff = similar::TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT).header("old/zentinel.kdl", "new/zentinel.kdl");
    unified.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::risk::testing::{BASE, changed, without_route};
    use proptest::prelude::*;

    fn found(old: &str, new: &str) -> Vec<(ChangeKind, String)> {
        let changes = semantic(old, new).unwrap();
        changes.into_iter().map(|change| (change.kind, change.path)).collect()
    }

    #[test]
    fn changes_have_paths() {
        use ChangeKind::{Added, Changed, Removed};
        assert_eq!(
            found(BASE, &changed("max-rps 50", "max-rps 60")),
            [(Changed, "filters/rl/max-rps".to_owned())]
        );
        assert_eq!(found(BASE, &without_route("web")), [(Removed, "routes/web".to_owned())]);
        assert_eq!(found(&without_route("web"), BASE), [(Added, "routes/web".to_owned())]);
        assert_eq!(
            found(BASE, &changed("10.0.0.1:80\" weight=3", "10.0.0.1:80\" weight=5")),
            [(Changed, "upstreams/api/target[10.0.0.1:80]".to_owned())]
        );
        assert_eq!(
            found(BASE, &changed("        target \"10.0.0.1:80\" weight=3\n", "")),
            [(Removed, "upstreams/api/target[10.0.0.1:80]".to_owned())]
        );
        assert_eq!(
            found(BASE, &changed("path-prefix \"/cart\"", "path-prefix \"/basket\"")),
            [(Changed, "namespace/shop/routes/cart/matches/path-prefix".to_owned())]
        );
    }

    #[test]
    fn a_change_says_what_was_and_what_is() {
        let changes =
            semantic(BASE, &changed("\"rl\" \"login\" \"sec\"", "\"login\" \"rl\" \"sec\"")).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].old.as_deref(), Some("filters \"rl\" \"login\" \"sec\""));
        assert_eq!(changes[0].new.as_deref(), Some("filters \"login\" \"rl\" \"sec\""));
    }

    #[test]
    fn formatting_comments_and_order_make_no_difference() {
        let other =
            BASE.replace("    ", "\t").replace("\n}", "\n// end\n}").replace("max-rps 50", "max-rps 5_0");
        assert_eq!(found(BASE, &other), []);
        assert_eq!(found("a { b; c; }", "a {\n c\n b\n}"), []);
        assert_eq!(found("t \"x\"; t \"y\"", "t \"y\"; t \"x\""), []);
        assert_eq!(
            found("routes { route \"a\"; }; routes { route \"b\"; }", "routes { route \"b\"; route \"a\"; }"),
            []
        );
        assert_eq!(found("t \"x\" a=1 b=2", "t \"x\" b=2 a=1"), []);
    }

    #[test]
    fn equal_siblings_are_counted() {
        assert_eq!(found("t \"x\"; t \"x\"", "t \"x\""), [(ChangeKind::Removed, "t[x][2]".to_owned())]);
    }

    #[test]
    fn text_that_is_not_kdl_is_an_error() {
        let error = semantic("a {", "a").unwrap_err();
        assert!(error.fields().contains_key("old"));
        let error = semantic("a", &"{".repeat(50_000)).unwrap_err();
        assert!(error.fields().contains_key("new"));
    }

    #[test]
    fn the_text_diff_is_unified() {
        let diff = text(BASE, &changed("max-rps 50", "max-rps 60"));
        assert!(diff.starts_with("--- old/zentinel.kdl\n+++ new/zentinel.kdl\n@@ "), "{diff}");
        assert!(diff.contains("\n-        max-rps 50\n+        max-rps 60\n"), "{diff}");
        assert_eq!(text(BASE, BASE), "");
    }

    proptest! {
        #[test]
        fn a_text_equals_itself_and_differences_are_symmetric(
            old in proptest::collection::vec(("[a-c]", 0..3_u8), 0..6),
            new in proptest::collection::vec(("[a-c]", 0..3_u8), 0..6),
        ) {
            let write = |nodes: &[(String, u8)]| {
                nodes.iter().map(|(name, value)| format!("{name} {value} {{ x {value}; }}\n")).collect::<String>()
            };
            let (old, new) = (write(&old), write(&new));
            prop_assert_eq!(found(&old, &old), []);
            let there: Vec<_> = found(&old, &new).into_iter().map(|(_, path)| path).collect();
            let back: Vec<_> = found(&new, &old).into_iter().map(|(_, path)| path).collect();
            prop_assert_eq!(there, back);
        }
    }
}
