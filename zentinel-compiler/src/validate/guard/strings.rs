//! Quoted, raw and multi-line strings.

use super::Fault;
use super::scanner::{Scanner, is_disallowed, is_newline, is_space};

const MULTI_LINE: &str = "a string over several lines begins with `\"\"\"` at the end of a line and ends \
    with `\"\"\"` on its own line; every line begins with the white space that is before the closing quotes";

impl Scanner<'_> {
    /// Whether a quoted or raw string begins here.
    pub(super) fn at_string(&self) -> bool {
        match self.peek() {
            Some('"') => true,
            Some('#') => self.rest().trim_start_matches('#').starts_with('"'),
            _ => false,
        }
    }

    /// A quoted or raw string.
    pub(super) fn string(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        let hashes = self.rest().bytes().take_while(|&byte| byte == b'#').count();
        self.offset += hashes;
        let closing = format!("\"\"\"{}", "#".repeat(hashes));
        let multi_line = self.at("\"\"\"") && self.rest()[3..].starts_with(is_newline);
        match (multi_line, hashes) {
            (true, _) => self.multi_line(start, &closing, hashes > 0)?,
            (false, 0) => self.quoted(start)?,
            (false, _) => self.raw(start, &closing[2..])?,
        }
        self.end_of_value(start)
    }

    fn quoted(&mut self, start: usize) -> Result<(), Fault> {
        if self.at("\"\"\"") {
            return Err(Fault::syntax(start, "`\"\"\"` must be followed by a new line").help(MULTI_LINE));
        }
        self.offset += 1;
        loop {
            match self.peek() {
                Some('"') => {
                    self.offset += 1;
                    return Ok(());
                }
                Some('\\') => self.escape()?,
                Some(character) => self.string_character(character, start)?,
                None => return Err(unclosed(start)),
            }
        }
    }

    fn raw(&mut self, start: usize, closing: &str) -> Result<(), Fault> {
        self.offset += 1;
        let body = self.offset;
        while !self.at(closing) {
            match self.peek() {
                Some(character) => self.string_character(character, start)?,
                None => return Err(unclosed(start)),
            }
        }
        if &self.text[body..self.offset] == "\"" {
            return Err(Fault::syntax(start, "a raw string cannot be a single quote").help("write \"\\\"\""));
        }
        self.offset += closing.len();
        Ok(())
    }

    /// A character of a string on one line that is neither its end nor an escape.
    fn string_character(&mut self, character: char, start: usize) -> Result<(), Fault> {
        if is_newline(character) {
            return Err(unclosed(start));
        }
        if is_disallowed(character) {
            return Err(disallowed(self.offset, character));
        }
        self.bump(character);
        Ok(())
    }

    fn multi_line(&mut self, start: usize, closing: &str, raw: bool) -> Result<(), Fault> {
        self.offset += 3;
        self.newline();
        let mut lines = Vec::new();
        loop {
            let line = self.offset;
            self.spaces();
            let prefix = line..self.offset;
            while !raw && self.escaped_space() {}
            if self.take(closing) {
                return self.check_prefix(&lines, &self.text[prefix]);
            }
            lines.push(line);
            self.line_of_string(start, closing, raw)?;
        }
    }

    /// Reads to the end of a line inside a multi-line string.
    fn line_of_string(&mut self, start: usize, closing: &str, raw: bool) -> Result<(), Fault> {
        loop {
            if self.newline() {
                return Ok(());
            }
            if self.at(closing) {
                return Err(Fault::syntax(self.offset, "the closing quotes must stand on their own line")
                    .help(MULTI_LINE));
            }
            match self.peek() {
                Some('\\') if !raw => self.escape()?,
                Some(character) if is_disallowed(character) => {
                    return Err(disallowed(self.offset, character));
                }
                Some(character) => self.bump(character),
                None => return Err(unclosed(start)),
            }
        }
    }

    /// Every line but an empty one begins with the prefix of the last one.
    fn check_prefix(&self, lines: &[usize], prefix: &str) -> Result<(), Fault> {
        for &line in lines {
            let rest = &self.text[line..];
            let empty = rest.trim_start_matches(is_space).starts_with(is_newline);
            if !empty && !rest.starts_with(prefix) {
                let message =
                    "the line does not begin with the white space that is before the closing quotes";
                return Err(Fault::syntax(line, message).help(MULTI_LINE));
            }
        }
        Ok(())
    }

    fn spaces(&mut self) {
        let rest = self.rest();
        self.offset += rest.find(|character| !is_space(character)).unwrap_or(rest.len());
    }

    /// `\` before white space or line ends, which all are left out of the string.
    fn escaped_space(&mut self) -> bool {
        let skipped = |character: char| is_space(character) || is_newline(character);
        if !self.at("\\") || !self.rest()[1..].starts_with(skipped) {
            return false;
        }
        let rest = &self.rest()[1..];
        self.offset += 1 + rest.find(|character| !skipped(character)).unwrap_or(rest.len());
        true
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        if self.escaped_space() {
            return Ok(());
        }
        self.offset += 1;
        match self.peek() {
            Some(character @ ('\\' | '"' | 'b' | 'f' | 'n' | 'r' | 't' | 's')) => {
                self.bump(character);
                Ok(())
            }
            Some('u') if self.at("u{") => {
                self.offset += 2;
                let rest = self.rest();
                let digits = &rest[..rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len())];
                let scalar = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                self.offset += digits.len();
                if digits.len() <= 6 && scalar.is_some() && self.take("}") {
                    return Ok(());
                }
                Err(Fault::syntax(start, "this is not a Unicode character")
                    .help("write for example \\u{1f600}"))
            }
            _ => Err(Fault::syntax(start, "this escape is unknown")
                .help("write \\\\ for a backslash, or use a raw string: #\"...\"#")),
        }
    }
}

fn unclosed(start: usize) -> Fault {
    Fault::syntax(start, "the string is not closed on its line")
        .help("close it, escape quotes inside it as \\\", or use \"\"\" for several lines")
}

fn disallowed(offset: usize, character: char) -> Fault {
    Fault::syntax(offset, format!("U+{:04X} may not stand in a string", u32::from(character)))
        .help("write it as an escape, for example \\u{feff}")
}
