//! Configuration text as a tree with positions and paths.
//!
//! [`Document`] is the view of the source that findings, risk rules and semantic diffs share: what
//! was written, in its order, with line and column. It knows KDL but not what the proxy makes of
//! it; for that there is [`Document::config`].
//!
//! # Paths
//! A node is named by the steps that lead to it, joined by `/`:
//! - a node inside its plural (`route "api"` in `routes`, the same for `listeners`, `upstreams`,
//!   `filters`, `agents`) is named by its id: `routes/api`;
//! - `namespace "shop"` and `service "cart"` are named by both: `namespace/shop`,
//!   `namespace/shop/service/cart`;
//! - every other node by its name: `routes/api/upstream`;
//! - a second node with the same path gets `[2]`, a third `[3]`: `upstreams/api/target[2]`;
//!   blocks that the proxy merges (`routes` and so on at the same level) keep one path;
//! - `~` and `/` inside a step are written `~0` and `~1`, as in RFC 6901.
//!
//! ```
//! use zentinel_compiler::document::Document;
//! let document = Document::parse("routes {\n  route \"api\" {\n    upstream \"pool\"\n  }\n}\n").unwrap();
//! let upstream = document.get("routes/api/upstream").unwrap();
//! assert_eq!(upstream.text(), Some("pool"));
//! assert_eq!((upstream.position().line, upstream.position().column), (3, 5));
//! ```

pub(crate) mod build;
mod plain;
mod value;

pub use value::{Argument, Property, Value};

use crate::diagnostic::{Code, Finding};
use crate::validate::guard::{self, Limits};
use crate::validate::stack;
use std::collections::HashMap;
use zentinel_config::Config;
use zentinel_core::port::Diagnostic;

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

#[derive(Debug)]
struct NodeData {
    name: String,
    arguments: Vec<Argument>,
    properties: Vec<Property>,
    children: Vec<usize>,
    has_block: bool,
    parent: Option<usize>,
    depth: usize,
    position: Position,
    path: String,
}

/// A parsed KDL 2 text.
#[derive(Debug)]
pub struct Document {
    nodes: Vec<NodeData>,
    roots: Vec<usize>,
    by_path: HashMap<String, usize>,
    /// Whether the `kdl` crate has not seen the text.
    plain: bool,
}

impl Document {
    /// Parses KDL 2 text within the default [`Limits`]. Safe on any input, on any stack.
    ///
    /// # Errors
    /// The findings that keep the text from being read: a limit, or the first syntax error.
    pub fn parse(text: &str) -> Result<Self, Vec<Diagnostic>> {
        Self::parse_within(text, &Limits::default())
    }

    /// Parses KDL 2 text within the given limits.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_within(text: &str, limits: &Limits) -> Result<Self, Vec<Diagnostic>> {
        guard::check(text, limits).map_err(|finding| vec![finding.into()])?;
        match stack::run(|| Self::parse_guarded(text)) {
            Ok(result) => result.map_err(|finding| vec![finding.into()]),
            Err(finding) => Err(vec![finding.into()]),
        }
    }

    /// Parses on the current stack what has passed the guards.
    pub(crate) fn parse_guarded(text: &str) -> Result<Self, Finding> {
        match plain::read(text) {
            Some(document) => Ok(document),
            None => Self::parse_by_kdl(text),
        }
    }

    /// The error of the `kdl` crate, if it refuses a text that was read without it.
    pub(crate) fn syntax_error(&self, text: &str) -> Option<Finding> {
        if self.plain { Self::parse_by_kdl(text).err() } else { None }
    }

    /// Whether it was read without the `kdl` crate, which takes long.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    fn parse_by_kdl(text: &str) -> Result<Self, Finding> {
        match kdl::KdlDocument::parse_v2(text) {
            Ok(document) => Ok(build::build(text, &document)),
            Err(error) => Err(build::syntax_finding(text, &error)),
        }
    }

    /// What the proxy's own parser makes of the text, without validating it. Safe on any input, on
    /// any stack.
    ///
    /// # Errors
    /// The findings that keep the text from being read, or the parser's refusal.
    pub fn config(text: &str) -> Result<Config, Vec<Diagnostic>> {
        guard::check(text, &Limits::default()).map_err(|finding| vec![finding.into()])?;
        let parsed = stack::run(|| {
            let document = Self::parse_guarded(text)?;
            crate::validate::parser::parse(text, &document)
        });
        match parsed {
            Ok(result) => result.map_err(|finding| vec![finding.into()]),
            Err(finding) => Err(vec![finding.into()]),
        }
    }

    /// The top-level nodes, in the order of the text.
    pub fn roots(&self) -> impl Iterator<Item = Node<'_>> {
        self.roots.iter().map(|&index| self.node(index))
    }

    /// Every node, parents before their children, in the order of the text.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.nodes.len()).map(|index| self.node(index))
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the text holds no node at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node with this path. For blocks that the proxy merges: the first.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Node<'_>> {
        self.by_path.get(path).map(|&index| self.node(index))
    }

    /// The node with this path, or the closest node above it that exists.
    #[must_use]
    pub fn nearest(&self, path: &str) -> Option<Node<'_>> {
        let mut rest = path;
        loop {
            if let Some(node) = self.get(rest) {
                return Some(node);
            }
            rest = &rest[..rest.rfind('/')?];
        }
    }

    /// The first top-level node with this name.
    #[must_use]
    pub fn root(&self, name: &str) -> Option<Node<'_>> {
        self.roots().find(|node| node.name() == name)
    }

    fn node(&self, index: usize) -> Node<'_> {
        Node { document: self, index }
    }
}

/// One node of a [`Document`].
#[derive(Clone, Copy)]
pub struct Node<'a> {
    document: &'a Document,
    index: usize,
}

impl<'a> Node<'a> {
    fn data(self) -> &'a NodeData {
        &self.document.nodes[self.index]
    }

    /// Its name: `route` of `route "api" { ... }`.
    #[must_use]
    pub fn name(self) -> &'a str {
        &self.data().name
    }

    /// Its path, see the [module](self).
    #[must_use]
    pub fn path(self) -> &'a str {
        &self.data().path
    }

    /// Where its name begins.
    #[must_use]
    pub fn position(self) -> Position {
        self.data().position
    }

    /// Steps below the top level: 0 for a top-level node.
    #[must_use]
    pub fn depth(self) -> usize {
        self.data().depth
    }

    /// Its position among all nodes of the document.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// Its arguments, in order.
    #[must_use]
    pub fn arguments(self) -> &'a [Argument] {
        &self.data().arguments
    }

    /// The value of its argument at `index`.
    #[must_use]
    pub fn argument(self, index: usize) -> Option<&'a Value> {
        self.data().arguments.get(index).map(|argument| &argument.value)
    }

    /// Its first argument, if that is text: the id of `route "api"`, the value of `upstream "pool"`.
    #[must_use]
    pub fn text(self) -> Option<&'a str> {
        self.argument(0).and_then(Value::as_text)
    }

    /// Its properties (`weight=3`), in order.
    #[must_use]
    pub fn properties(self) -> &'a [Property] {
        &self.data().properties
    }

    /// The value of the first property with this name, which is the one that the proxy reads.
    #[must_use]
    pub fn property(self, name: &str) -> Option<&'a Value> {
        let mut properties = self.data().properties.iter();
        properties.find(|property| property.name == name).map(|property| &property.value)
    }

    /// Whether it has a block of children, even an empty one.
    #[must_use]
    pub fn has_block(self) -> bool {
        self.data().has_block
    }

    /// Its children, in order.
    pub fn children(self) -> impl DoubleEndedIterator<Item = Node<'a>> + ExactSizeIterator {
        let document = self.document;
        self.data().children.iter().map(move |&index| document.node(index))
    }

    /// Its children with this name, in order.
    pub fn children_named<'n>(self, name: &'n str) -> impl Iterator<Item = Node<'a>> + use<'a, 'n> {
        self.children().filter(move |child| child.name() == name)
    }

    /// Its first child with this name, which is the one that the proxy reads.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Node<'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// The text of its child setting: `"http"` of `protocol "http"`.
    #[must_use]
    pub fn setting(self, name: &str) -> Option<&'a str> {
        self.child(name).and_then(Node::text)
    }

    /// The node around it.
    #[must_use]
    pub fn parent(self) -> Option<Node<'a>> {
        self.data().parent.map(|index| self.document.node(index))
    }

    /// The name of the node around it.
    #[must_use]
    pub fn parent_name(self) -> Option<&'a str> {
        self.parent().map(Node::name)
    }

    /// The nodes around it, the closest first.
    pub fn ancestors(self) -> impl Iterator<Item = Node<'a>> {
        std::iter::successors(self.parent(), |node| node.parent())
    }

    /// A finding about it, with its position and path.
    #[must_use]
    pub fn finding(self, code: Code, message: impl Into<String>) -> Finding {
        Finding::new(code, message).at(self.position()).path(self.path())
    }
}

impl std::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({} at {}:{})", self.path(), self.position().line, self.position().column)
    }
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.document, other.document) && self.index == other.index
    }
}

impl Eq for Node<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Document::parse(text).unwrap().nodes().map(|node| node.path().to_owned()).collect()
    }

    #[test]
    fn paths_name_nodes_by_id() {
        assert_eq!(
            paths("upstreams { upstream \"a/b~\" { target \"x:1\"; target \"y:2\"; target \"z:3\" } }"),
            [
                "upstreams",
                "upstreams/a~1b~0",
                "upstreams/a~1b~0/target",
                "upstreams/a~1b~0/target[2]",
                "upstreams/a~1b~0/target[3]",
            ]
        );
        assert_eq!(
            paths("namespace \"n\" { service \"s\" { routes { route \"r\" { upstream \"u\" } } } }")[3..],
            ["namespace/n/service/s/routes/r", "namespace/n/service/s/routes/r/upstream"]
        );
    }

    #[test]
    fn merged_blocks_keep_one_path_and_repeated_ids_do_not() {
        assert_eq!(
            paths("routes { route \"a\" }; routes { route \"b\"; route \"a\" }; system; system"),
            ["routes", "routes/a", "routes", "routes/b", "routes/a[2]", "system", "system[2]"]
        );
    }

    #[test]
    fn positions_count_characters() {
        let document = Document::parse("é \"ü\" 7; x\r\n  y #true z=1.5").unwrap();
        let x = document.get("x").unwrap();
        assert_eq!(x.position(), Position { line: 1, column: 10 });
        let y = document.get("y").unwrap();
        assert_eq!(y.position(), Position { line: 2, column: 3 });
        assert_eq!(y.argument(0), Some(&Value::Bool(true)));
        assert_eq!(y.arguments()[0].position, Position { line: 2, column: 5 });
        assert_eq!(y.property("z"), Some(&Value::Float(1.5)));
        assert_eq!(document.get("é").unwrap().argument(1).unwrap().as_integer(), Some(7));
    }

    #[test]
    fn syntax_errors_have_a_position() {
        let diagnostics = Document::parse("system {\n  worker-threads true\n}\n").unwrap_err();
        assert_eq!(diagnostics.len(), 1);
        assert_eq!((diagnostics[0].line, diagnostics[0].column), (Some(2), Some(18)));
        assert!(diagnostics[0].help.as_deref().unwrap().contains("#true"), "{diagnostics:?}");
    }

    #[test]
    fn nearest_walks_up() {
        let document = Document::parse("routes { route \"a\" { matches } }").unwrap();
        assert_eq!(document.nearest("routes/a/policies/cache").unwrap().path(), "routes/a");
        assert_eq!(document.nearest("waf"), None);
    }
}
