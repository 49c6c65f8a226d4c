//! From text to requirements; complaints name the place, in characters from 1.

use super::Requirement;
use std::collections::BTreeSet;

/// Whether a character may stand outside quotes.
pub(super) fn is_bare(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !matches!(c, ',' | '=' | '!' | '(' | ')' | '"' | '\\')
}

struct Reader {
    text: Vec<char>,
    at: usize,
}

/// Reads requirements separated by commas.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut reader = Reader { text: text.chars().collect(), at: 0 };
    let mut found = Vec::new();
    loop {
        found.push(reader.requirement()?);
        reader.skip();
        if reader.at == reader.text.len() {
            return Ok(found);
        }
        reader.expect(',', "a comma")?;
    }
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn skip(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, wanted: char, what: &str) -> Result<(), String> {
        self.skip();
        if self.take(wanted) { Ok(()) } else { Err(self.complaint(what)) }
    }

    fn complaint(&self, wanted: &str) -> String {
        let found = self.peek().map_or_else(|| "the end".to_owned(), |c| format!("`{c}`"));
        format!("at character {}: expected {wanted}, found {found}", self.at + 1)
    }

    fn word(&mut self, what: &str) -> Result<String, String> {
        self.skip();
        if self.take('"') {
            return self.quoted();
        }
        let begin = self.at;
        while self.peek().is_some_and(is_bare) {
            self.at += 1;
        }
        if begin == self.at {
            return Err(self.complaint(what));
        }
        Ok(self.text.get(begin..self.at).unwrap_or_default().iter().collect())
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut word = String::new();
        loop {
            let Some(c) = self.peek() else {
                return Err(self.complaint("a closing quote"));
            };
            self.at += 1;
            match c {
                '"' => return Ok(word),
                '\\' => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        self.at += 1;
                        word.push(escaped);
                    }
                    _ => return Err(self.complaint("`\"` or `\\` after a backslash")),
                },
                c => word.push(c),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        self.skip();
        if self.take('!') {
            return Ok(Requirement::Absent(self.word("a label's key")?));
        }
        let key = self.word("a label's key")?;
        self.skip();
        if self.take('=') {
            self.take('=');
            return Ok(Requirement::Is(key, self.word("a value")?));
        }
        if self.take('!') {
            self.expect('=', "`=` after `!`")?;
            return Ok(Requirement::IsNot(key, self.word("a value")?));
        }
        if !self.peek().is_some_and(is_bare) {
            return Ok(Requirement::Exists(key));
        }
        let begin = self.at;
        match self.word("an operator")?.as_str() {
            "in" => Ok(Requirement::In(key, self.values()?)),
            "notin" => Ok(Requirement::NotIn(key, self.values()?)),
            _ => {
                self.at = begin;
                Err(self.complaint("`=`, `!=`, `in`, `notin` or a comma"))
            }
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        self.expect('(', "`(`")?;
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.word("a value")?);
            self.skip();
            if self.take(')') {
                return Ok(values);
            }
            self.expect(',', "a comma or `)`")?;
        }
    }
}
