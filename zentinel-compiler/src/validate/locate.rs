//! Finding the place that a sentence of the proxy is about.

use crate::diagnostic::Finding;
use crate::document::{Document, Node};
use regex::Regex;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// Words of a message that name things: what is quoted, and the kinds of things.
static QUOTED: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("'([^'\n]{1,200})'|`([a-z0-9-]{1,40})`").ok());
static OWNER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(route|listener|upstream|filter|agent|namespace|service)(?: ID)? '([^'\n]{1,200})'")
        .ok()
});

/// Most words of a message that are looked for.
const MAX_WORDS: usize = 8;

/// The nodes of a document by kind and id.
pub(super) struct Places<'d> {
    document: &'d Document,
    owners: HashMap<(&'d str, &'d str), Vec<Node<'d>>>,
}

impl<'d> Places<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        let mut owners: HashMap<_, Vec<_>> = HashMap::new();
        for node in document.nodes() {
            let kind = node.name();
            if let Some(id) = node.text().filter(|_| is_owner(node, kind)) {
                owners.entry((kind, id)).or_default().push(node);
            }
        }
        Self { document, owners }
    }

    /// Adds the place of the node that the message is about.
    pub(super) fn attach(&self, finding: Finding, message: &str) -> Finding {
        match self.node(message) {
            Some(node) => finding.at(node.position()).path(node.path()),
            None => finding,
        }
    }

    fn node(&self, message: &str) -> Option<Node<'d>> {
        let first = message.lines().next().unwrap_or(message);
        let owner = self.owner(first);
        let mut words = words(first);
        // The owner is found already; something below it may have the same name by chance.
        if let Some(at) = words.iter().position(|word| owner.is_some_and(|owner| owner.text() == Some(word)))
        {
            words.remove(at);
        }
        let last = first.starts_with("Duplicate");
        let scope: Box<dyn Iterator<Item = Node<'d>>> = match owner {
            Some(owner) => Box::new(below(owner)),
            None => Box::new(self.document.nodes()),
        };
        best(scope, &words, owner, last).or(owner)
    }

    /// The route, listener, ... that the message names; of duplicates the last one, within the
    /// namespace or service if the message names one.
    fn owner(&self, message: &str) -> Option<Node<'d>> {
        let named: Vec<(String, String)> = OWNER
            .as_ref()?
            .captures_iter(message)
            .map(|found| (found[1].to_lowercase(), found[2].to_owned()))
            .collect();
        let (kind, id) = named.first()?;
        let around = named.iter().skip(1).find(|(kind, _)| matches!(kind.as_str(), "namespace" | "service"));
        let nodes = self.owners.get(&(kind.as_str(), id.as_str()))?;
        let within = |node: &&Node<'_>| match around {
            Some((kind, id)) => {
                let id = id.rsplit(':').next().unwrap_or(id);
                node.ancestors().any(|ancestor| ancestor.name() == kind && ancestor.text() == Some(id))
            }
            None => true,
        };
        let mut fitting = nodes.iter().filter(within);
        if message.starts_with("Duplicate") { fitting.next_back().copied() } else { fitting.next().copied() }
    }
}

fn is_owner(node: Node<'_>, kind: &str) -> bool {
    let parent = node.parent_name();
    match kind {
        "route" => parent == Some("routes"),
        "listener" => parent == Some("listeners"),
        "upstream" => parent == Some("upstreams"),
        "filter" => parent == Some("filters"),
        "agent" => parent == Some("agents"),
        "namespace" => parent.is_none(),
        "service" => parent == Some("namespace"),
        _ => false,
    }
}

fn words(message: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let Some(quoted) = QUOTED.as_ref() else {
        return words;
    };
    for found in quoted.captures_iter(message) {
        if let Some(word) = found.get(1).or_else(|| found.get(2)) {
            words.push(word.as_str().to_owned());
        }
    }
    // Kinds that messages name without quotes, after the more telling words.
    for kind in [
        "default-route",
        "client-auth",
        "static files",
        "upstream",
        "filter",
        "target",
        "namespace",
        "address",
    ] {
        if message.contains(kind) {
            words.push(match kind {
                "static files" => "static-files".to_owned(),
                "filter" => "filters".to_owned(),
                other => other.to_owned(),
            });
        }
    }
    words.truncate(MAX_WORDS);
    words
}

/// A node and all below it.
fn below<'d>(owner: Node<'d>) -> impl Iterator<Item = Node<'d>> {
    let mut waiting = vec![owner];
    std::iter::from_fn(move || {
        let node = waiting.pop()?;
        waiting.extend(node.children().rev());
        Some(node)
    })
}

/// The first or last node whose own name and values hold the most of the words.
fn best<'d>(
    nodes: impl Iterator<Item = Node<'d>>,
    words: &[String],
    owner: Option<Node<'d>>,
    last: bool,
) -> Option<Node<'d>> {
    let mut best: Option<(usize, Node<'d>)> = None;
    for node in nodes.filter(|node| Some(*node) != owner) {
        let texts = node.arguments().iter().filter_map(|argument| argument.value.as_text());
        let own: HashSet<&str> = texts.chain([node.name()]).collect();
        let score = words.iter().filter(|word| own.contains(word.as_str())).count();
        let most = best.map_or(0, |(score, _)| score);
        if score > most || (last && score > 0 && score == most) {
            best = Some((score, node));
        }
    }
    best.map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "listeners {\n  listener \"web\" {\n    address \"0.0.0.0:80\"\n    default-route \"gone\"\n  }\n}\n\
        routes {\n  route \"api\" {\n    upstream \"pool\"\n    filters \"a\" \"b\"\n  }\n  route \"pool\" {\n    upstream \"pool\"\n  }\n}\n\
        namespace \"shop\" {\n  routes {\n    route \"api\" {\n      upstream \"other\"\n    }\n  }\n}\n";

    fn place(message: &str) -> Option<String> {
        let document = Document::parse(TEXT).unwrap();
        Places::new(&document).node(message).map(|node| node.path().to_owned())
    }

    #[test]
    fn messages_are_placed() {
        let cases = [
            ("Route 'api' references upstream 'pool' which doesn't exist.", Some("routes/api/upstream")),
            ("Route 'api' references filter 'b' which doesn't exist.", Some("routes/api/filters")),
            (
                "Listener 'web' references default-route 'gone' which doesn't exist.",
                Some("listeners/web/default-route"),
            ),
            ("Route 'api' has no match conditions.", Some("routes/api")),
            ("Route 'pool' has no match conditions.", Some("routes/pool")),
            (
                "Route 'api' in namespace 'shop' references upstream 'other' which",
                Some("namespace/shop/routes/api/upstream"),
            ),
            ("Unknown top-level configuration block: 'routes'", Some("routes")),
            ("Duplicate listener address '0.0.0.0:80'.", Some("listeners/web/address")),
            ("Something else entirely", None),
        ];
        for (message, expected) in cases {
            assert_eq!(place(message).as_deref(), expected, "{message}");
        }
    }
}
