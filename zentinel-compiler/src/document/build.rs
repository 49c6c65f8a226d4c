//! From the `kdl` crate's tree to ours.

use super::{Argument, Document, NodeData, Position, Property, Value};
use crate::diagnostic::{Code, Finding};
use kdl::{KdlDocument, KdlEntry, KdlError, KdlNode, KdlValue};
use std::collections::HashMap;

/// Turns byte offsets into positions. Offsets that grow cost one pass over the text together.
#[derive(Debug)]
pub(crate) struct Cursor<'t> {
    text: &'t str,
    offset: usize,
    position: Position,
}

impl<'t> Cursor<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, offset: 0, position: Position { line: 1, column: 1 } }
    }

    pub(crate) fn position(&mut self, offset: usize) -> Position {
        let mut target = offset.min(self.text.len());
        while !self.text.is_char_boundary(target) {
            target -= 1;
        }
        if target < self.offset {
            *self = Self::new(self.text);
        }
        for character in self.text[self.offset..target].chars() {
            if character == '\n' {
                self.position.line = self.position.line.saturating_add(1);
                self.position.column = 1;
            } else {
                self.position.column = self.position.column.saturating_add(1);
            }
        }
        self.offset = target;
        self.position
    }
}

/// The first finding of the `kdl` crate: later ones are mostly echoes of it.
pub(super) fn syntax_finding(text: &str, error: &KdlError) -> Finding {
    let Some(first) = error.diagnostics.first() else {
        return Finding::new(Code::Syntax, "the text is not KDL 2");
    };
    let mut message = first.message.clone().unwrap_or_else(|| "the text is not KDL 2".to_owned());
    if let Some(label) = first.label.as_deref().filter(|label| !label.is_empty()) {
        message = format!("{message} ({label})");
    }
    let finding = Finding::new(Code::Syntax, message).at(Cursor::new(text).position(first.span.offset()));
    match &first.help {
        Some(help) => finding.help(help.clone()),
        None => finding,
    }
}

pub(super) fn build(text: &str, kdl: &KdlDocument) -> Document {
    let mut builder = Builder::new(text, false);
    for node in kdl.nodes() {
        builder.add(node, None);
    }
    builder.finish()
}

/// A node as it is read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) position: Option<Position>,
    pub(super) arguments: Vec<Argument>,
    pub(super) properties: Vec<Property>,
    pub(super) has_block: bool,
}

#[derive(Debug)]
pub(super) struct Builder<'t> {
    pub(super) cursor: Cursor<'t>,
    plain: bool,
    nodes: Vec<NodeData>,
    roots: Vec<usize>,
    by_path: HashMap<String, usize>,
    seen: HashMap<String, usize>,
}

impl<'t> Builder<'t> {
    pub(super) fn new(text: &'t str, plain: bool) -> Self {
        Self {
            cursor: Cursor::new(text),
            plain,
            nodes: Vec::new(),
            roots: Vec::new(),
            by_path: HashMap::new(),
            seen: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> Document {
        Document { nodes: self.nodes, roots: self.roots, by_path: self.by_path, plain: self.plain }
    }

    /// Adds a node and all below it. The guards bound the depth of this recursion.
    fn add(&mut self, node: &KdlNode, parent: Option<usize>) {
        let mut draft = Draft {
            name: node.name().value().to_owned(),
            position: Some(self.cursor.position(node.name().span().offset())),
            has_block: node.children().is_some(),
            ..Draft::default()
        };
        for entry in node.entries() {
            let offset = entry.span().offset();
            let position = self.cursor.position(offset);
            match entry.name() {
                Some(name) => {
                    let name = name.value().to_owned();
                    draft.properties.push(Property { name, value: value(entry), position });
                }
                None => {
                    let span = offset..offset + entry.span().len();
                    draft.arguments.push(Argument { value: value(entry), position, span });
                }
            }
        }
        let index = self.push(draft, parent);
        for child in node.children().iter().flat_map(|children| children.nodes()) {
            self.add(child, Some(index));
        }
    }

    /// Adds one node, after its parent and the nodes before it.
    pub(super) fn push(&mut self, draft: Draft, parent: Option<usize>) -> usize {
        let path = self.path(&draft.name, draft.arguments.first(), parent);
        let index = self.nodes.len();
        self.nodes.push(NodeData {
            name: draft.name,
            arguments: draft.arguments,
            properties: draft.properties,
            children: Vec::new(),
            has_block: draft.has_block,
            parent,
            depth: parent.map_or(0, |parent| self.nodes[parent].depth + 1),
            position: draft.position.unwrap_or(Position { line: 1, column: 1 }),
            path: path.clone(),
        });
        self.by_path.entry(path).or_insert(index);
        match parent {
            Some(parent) => self.nodes[parent].children.push(index),
            None => self.roots.push(index),
        }
        index
    }

    fn path(&mut self, name: &str, first: Option<&Argument>, parent: Option<usize>) -> String {
        let id = first.and_then(|argument| argument.value.as_text());
        let parent_data = parent.map(|parent| &self.nodes[parent]);
        let in_plural =
            parent_data.is_some_and(|parent| plural(name).is_some_and(|plural| parent.name == plural));
        let step = match id {
            Some(id) if in_plural => escape(id),
            Some(id) if matches!(name, "namespace" | "service") => format!("{}/{}", escape(name), escape(id)),
            _ => escape(name),
        };
        let path = match parent_data {
            Some(parent) => format!("{}/{step}", parent.path),
            None => step,
        };
        if is_merged(name, parent_data) {
            return path;
        }
        let count = self.seen.entry(path.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count == 1 { path } else { format!("{path}[{count}]") }
    }
}

/// Blocks of which the proxy takes all, not the first or the last. Inside a namespace it takes the
/// last, so there they are told apart.
fn is_merged(name: &str, parent: Option<&NodeData>) -> bool {
    parent.is_none() && matches!(name, "listeners" | "routes" | "upstreams" | "filters" | "agents")
}

fn plural(name: &str) -> Option<&'static str> {
    Some(match name {
        "route" => "routes",
        "listener" => "listeners",
        "upstream" => "upstreams",
        "filter" => "filters",
        "agent" => "agents",
        _ => return None,
    })
}

fn escape(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

fn value(entry: &KdlEntry) -> Value {
    match entry.value() {
        KdlValue::String(text) => Value::Text(text.clone()),
        KdlValue::Integer(number) => Value::Integer(*number),
        KdlValue::Float(number) => Value::Float(*number),
        KdlValue::Bool(value) => Value::Bool(*value),
        KdlValue::Null => Value::Null,
    }
}
