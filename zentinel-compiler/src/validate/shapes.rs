//! A short text with the same kinds of blocks as a long one.
//!
//! The proxy's check for unknown keys parses the whole text a second time. What it says about a
//! node depends on names, on values behind the first, and on first values that choose among key
//! lists (`type "http"`): a thousand routes of the same shape are one question. When it has nothing
//! to say about one of each shape, it has nothing to say about the text.

use crate::document::{Document, Node, Value};
use std::collections::HashSet;

/// The text with one node of each shape under the same parent.
pub(super) fn of(document: &Document) -> String {
    distinct(document.roots())
}

/// One of each shape, in order. The guards bound the depth of this recursion.
fn distinct<'d>(nodes: impl Iterator<Item = Node<'d>>) -> String {
    let mut seen = HashSet::new();
    let mut text = String::new();
    for node in nodes {
        let shape = shape(node);
        if !seen.contains(&shape) {
            text.push_str(&shape);
            seen.insert(shape);
        }
    }
    text
}

fn shape(node: Node<'_>) -> String {
    let mut shape = quoted(node.name());
    // First, so that no value counts as less than it did.
    for _ in node.properties() {
        shape.push_str(" p=0");
    }
    // A value behind a property is not the first.
    let counts = !node.properties().is_empty() || chooses(node);
    for (index, argument) in node.arguments().iter().enumerate() {
        shape.push(' ');
        match &argument.value {
            Value::Text(text) if index > 0 || counts => shape.push_str(&quoted(text)),
            Value::Text(_) => shape.push_str("\"\""),
            _ => shape.push('0'),
        }
    }
    if node.has_block() {
        shape.push_str(" {\n");
        shape.push_str(&distinct(node.children()));
        shape.push('}');
    }
    shape.push('\n');
    shape
}

/// Whether the first value may choose among key lists: all but ids and settings that are known to
/// have other values.
fn chooses(node: Node<'_>) -> bool {
    let id = matches!(
        (node.parent_name(), node.name()),
        (Some("routes"), "route")
            | (Some("listeners"), "listener")
            | (Some("upstreams"), "upstream")
            | (Some("filters"), "filter")
            | (Some("agents"), "agent")
            | (None, "namespace")
            | (Some("namespace"), "service")
            | (Some("upstream" | "targets"), "target")
            | (Some("route"), "upstream" | "filters")
    );
    !id && node.parent_name() != Some("matches")
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            character if character.is_control() => quoted.extend(character.escape_unicode()),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::parser::find_unknown_keys;

    fn says_something(text: &str) -> bool {
        !find_unknown_keys(text).warnings.is_empty()
    }

    #[test]
    fn repeated_shapes_are_left_out() {
        let route = |n: usize| {
            format!(
                "route \"r{n}\" {{ matches {{ path-prefix \"/{n}\" }}\n upstream \"u{n}\"; filters \"a\" \"b\" }}\n"
            )
        };
        let routes: String = (0..100).map(route).collect();
        let text = of(&Document::parse(&format!("routes {{ {routes} }}")).unwrap());
        assert_eq!(text.matches("\"route\"").count(), 1, "{text}");
        assert!(!says_something(&text));
    }

    /// One odd route among many equal ones, odd in every way that the proxy's check knows.
    #[test]
    fn no_odd_one_is_lost() {
        let plain = "route \"r\" { matches { path \"/\" }; upstream \"u\" }\n".repeat(20);
        for odd in [
            "route \"x\" { upstraem \"u\" }",
            "route \"x\" { upstream \"u\" priority \"high\" }",
            "route \"x\" { upstream \"u\" \"filters\" }",
            "route \"x\" { upstream p=1 \"filters\" }",
            "route \"x\" { cache { backend \"disk\" } }",
            "route \"x\" { retry-policy; cache { enabled #true; disk-path \"/x\" } }",
            "route { \"odd name\" 1 }",
            "upstream \"x\" { health-check { type \"http\" { service \"s\" } } }",
            "}\nfilters { filter \"x\" { type \"rate-limit\"; max-rsp 5 } }\nroutes {",
        ] {
            let text = format!("routes {{\n{plain}{odd}\n{plain}}}\n");
            assert!(says_something(&text), "{odd}");
            let document = Document::parse(&text).unwrap();
            assert!(says_something(&of(&document)), "{odd}: {}", of(&document));
        }
    }

    /// The same verdict on every sample, whole and with each of its nodes renamed in turn.
    #[test]
    fn the_verdict_is_that_of_the_whole_text() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
        let mut compared = 0;
        for file in std::fs::read_dir(directory).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let Ok(document) = Document::parse(&text) else { continue };
            let names: HashSet<_> = document.nodes().map(|node| node.name().to_owned()).collect();
            let renamed = names.iter().map(|name| text.replacen(name.as_str(), "zzz", 1));
            for text in renamed.chain([text.clone()]) {
                let Ok(document) = Document::parse(&text) else { continue };
                assert_eq!(says_something(&of(&document)), says_something(&text), "{text}");
                compared += 1;
            }
        }
        assert!(compared > 200, "{compared}");
    }
}
