//! Reading plain KDL directly: what configurations are made of, in a hundredth of the time that the
//! `kdl` crate takes.
//!
//! Plain are names, strings without escapes, decimal numbers, keywords, blocks and `//` comments.
//! At anything else the reader gives up, and the `kdl` crate reads the text. The text has passed the
//! guards, so it is well formed.

use super::build::{Builder, Draft};
use super::{Argument, Document, Property, Value};

/// The document, if the text is plain.
pub(super) fn read(text: &str) -> Option<Document> {
    let mut reader = Reader { text, offset: 0, builder: Builder::new(text, true) };
    let mut parents: Vec<usize> = Vec::new();
    loop {
        reader.between_nodes()?;
        match reader.peek() {
            None => return parents.is_empty().then(|| reader.builder.finish()),
            Some(b'}') => {
                reader.offset += 1;
                parents.pop()?;
                reader.end_of_node()?;
            }
            Some(_) => {
                if let Some(opened) = reader.node(parents.last().copied())? {
                    parents.push(opened);
                }
            }
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    offset: usize,
    builder: Builder<'t>,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn rest(&self) -> &'t [u8] {
        &self.text.as_bytes()[self.offset..]
    }

    fn spaces(&mut self) {
        self.offset += self.rest().iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    }

    /// A `//` comment up to the end of its line. Lines that end unusually are not plain.
    fn comment(&mut self) -> Option<bool> {
        if !self.rest().starts_with(b"//") {
            return Some(false);
        }
        let length = self.rest().iter().position(|byte| *byte == b'\n').unwrap_or(self.rest().len());
        let comment = &self.text[self.offset..self.offset + length];
        let comment = comment.strip_suffix('\r').unwrap_or(comment);
        let unusual = |c: char| matches!(c, '\r' | '\u{85}' | '\u{b}' | '\u{c}' | '\u{2028}' | '\u{2029}');
        self.offset += length;
        (!comment.contains(unusual)).then_some(true)
    }

    fn newline(&mut self) -> bool {
        let length = match self.rest() {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        self.offset += length;
        length > 0
    }

    fn between_nodes(&mut self) -> Option<()> {
        loop {
            self.spaces();
            if !self.newline() && !self.comment()? {
                return Some(());
            }
        }
    }

    /// What ends a node: its line, `;`, a comment, or the end of the block around it.
    fn end_of_node(&mut self) -> Option<()> {
        self.spaces();
        match self.peek() {
            None | Some(b'}') => Some(()),
            Some(b';') => {
                self.offset += 1;
                Some(())
            }
            Some(_) => (self.newline() || self.comment()?).then_some(()),
        }
    }

    /// A node up to its end, or into its block; then its index.
    fn node(&mut self, parent: Option<usize>) -> Option<Option<usize>> {
        let position = Some(self.builder.cursor.position(self.offset));
        let mut node = Draft { name: self.text()?, position, ..Draft::default() };
        loop {
            let before = self.offset;
            self.spaces();
            match self.peek() {
                Some(b'{') => {
                    self.offset += 1;
                    node.has_block = true;
                    return Some(Some(self.builder.push(node, parent)));
                }
                None | Some(b'}' | b';' | b'\n' | b'\r' | b'/') => {
                    self.builder.push(node, parent);
                    self.end_of_node()?;
                    return Some(None);
                }
                // Values stand apart.
                Some(_) if before == self.offset => return None,
                Some(_) => self.entry(&mut node)?,
            }
        }
    }

    fn entry(&mut self, node: &mut Draft) -> Option<()> {
        let start = self.offset;
        let position = self.builder.cursor.position(start);
        let value = self.value()?;
        if self.peek() != Some(b'=') {
            node.arguments.push(Argument { value, position, span: start..self.offset });
            // Space before `=` is allowed, but rare.
            let next = self.rest().iter().find(|byte| !matches!(byte, b' ' | b'\t'));
            return (next != Some(&b'=')).then_some(());
        }
        let Value::Text(name) = value else { return None };
        self.offset += 1;
        let value = self.value()?;
        node.properties.push(Property { name, value, position });
        Some(())
    }

    fn value(&mut self) -> Option<Value> {
        match self.rest() {
            [b'#', ..] => {
                self.offset += 1;
                match self.word() {
                    "true" => Some(Value::Bool(true)),
                    "false" => Some(Value::Bool(false)),
                    "null" => Some(Value::Null),
                    _ => None,
                }
            }
            [b'0'..=b'9', ..] | [b'-', b'0'..=b'9', ..] => number(self.word()),
            _ => self.text().map(Value::Text),
        }
    }

    fn text(&mut self) -> Option<String> {
        if self.peek() == Some(b'"') {
            return self.string();
        }
        let word = self.word();
        let first_is_plain = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        (first_is_plain && !matches!(word, "true" | "false" | "null" | "inf" | "nan"))
            .then(|| word.to_owned())
    }

    /// A string on one line without escapes.
    fn string(&mut self) -> Option<String> {
        let inner = &self.text[self.offset + 1..];
        let length = inner.bytes().position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'\r'))?;
        if inner.as_bytes()[length] != b'"' || inner[length..].starts_with("\"\"") {
            return None;
        }
        self.offset += length + 2;
        Some(inner[..length].to_owned())
    }

    /// Letters, digits and a few signs: fewer than names may have.
    fn word(&mut self) -> &'t str {
        let plain = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'_' | b'-' | b'.' | b':');
        let length = self.rest().iter().take_while(plain).count();
        let word = &self.text[self.offset..self.offset + length];
        self.offset += length;
        word
    }
}

fn number(word: &str) -> Option<Value> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    match unsigned.split_once('.') {
        None if digits(unsigned) && unsigned.len() < 19 => word.parse().ok().map(Value::Integer),
        Some((whole, part)) if digits(whole) && digits(part) => word.parse().ok().map(Value::Float),
        None | Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::document::{Document, build};
    use crate::validate::guard::{self, Limits};
    use proptest::prelude::*;

    fn by_kdl(text: &str) -> Document {
        build::build(text, &kdl::KdlDocument::parse_v2(text).unwrap())
    }

    fn is_the_same(text: &str) {
        let plain = read(text).unwrap_or_else(|| panic!("not plain: {text}"));
        same(&plain, &by_kdl(text), text);
    }

    fn same(plain: &Document, kdl: &Document, text: &str) {
        assert_eq!(format!("{:?}", plain.nodes), format!("{:?}", kdl.nodes), "{text}");
        assert_eq!((&plain.roots, &plain.by_path), (&kdl.roots, &kdl.by_path), "{text}");
    }

    #[test]
    fn plain_text_is_read_as_the_kdl_crate_reads_it() {
        for text in [
            "",
            "  \n// nothing\n",
            "a",
            "a;b;c",
            "a 1 -2 3.5 \"x y\" #true #false #null b.c:d-e",
            "a x=1 y=\"ü\" x=2 // end\r\nb",
            "routes {\n  route \"r\" { upstream \"u\"; filters \"a\" \"b\" }\n}\nsystem {}\nsystem { a }\n",
            "a { b { c 1 } }; d // e",
            "\"quoted name\" \"\" \"=\"",
            "a \"ü\" 7 { b \"é\" x=\"ö\" }",
        ] {
            is_the_same(text);
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_kdl_crate() {
        for text in [
            "a \"\\n\"",
            "a #\"raw\"#",
            "/- a",
            "(t)a",
            "a /* b */ 1",
            "a \\\n 1",
            "a 0x1f",
            "a 1e3",
            "a 1_000",
            "a \"\"\"\nx\n\"\"\"",
            "a +1",
            "a #inf",
            "a x =1",
            "ü",
            "\u{feff}a",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            6 => proptest::sample::select(vec![" ", "\n", "a", "b-c", "{", "}", "1", ";"]),
            2 => proptest::sample::select(vec![
                "\"x\"", "\"\"", "=", "#true", "#null", "-3", "2.50", "// c\n", "\r\n", "\t", ".", ":", "é",
                "/-", "\\", "true", "\"ü/{}\"", "99999999999999999999", "1.", "-", "--1", "/", "#inf", "\u{85}",
            ]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        /// Whatever the guards let through and the reader reads, the `kdl` crate reads the same.
        #[test]
        fn it_never_disagrees(tokens in proptest::collection::vec(token(), 0..24)) {
            let text = tokens.concat();
            if guard::check(&text, &Limits::default()).is_ok()
                && let Some(plain) = read(&text)
                && let Ok(kdl) = kdl::KdlDocument::parse_v2(&text)
            {
                same(&plain, &build::build(&text, &kdl), &text);
            }
        }
    }
}
