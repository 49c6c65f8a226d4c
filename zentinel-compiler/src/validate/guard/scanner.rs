//! Characters, white space, comments, names and numbers.

use super::{Fault, Limits};
use crate::diagnostic::Code;

/// Reads the text from front to back.
#[derive(Debug)]
pub(super) struct Scanner<'t> {
    pub(super) text: &'t str,
    pub(super) offset: usize,
    pub(super) limits: &'t Limits,
}

pub(super) fn is_space(character: char) -> bool {
    matches!(
        character,
        '\u{9}' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

pub(super) fn is_newline(character: char) -> bool {
    matches!(character, '\r' | '\n' | '\u{85}' | '\u{b}' | '\u{c}' | '\u{2028}' | '\u{2029}')
}

/// Code points that may stand nowhere but in comments.
pub(super) fn is_disallowed(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

fn is_name_character(character: char) -> bool {
    !matches!(character, '\\' | '/' | '(' | ')' | '{' | '}' | '[' | ']' | ';' | '"' | '#' | '=')
        && !is_space(character)
        && !is_newline(character)
        && !is_disallowed(character)
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str, limits: &'t Limits) -> Self {
        // A byte order mark may stand at the very beginning.
        let offset = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, offset, limits }
    }

    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.offset..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn at(&self, sign: &str) -> bool {
        self.rest().starts_with(sign)
    }

    pub(super) fn take(&mut self, sign: &str) -> bool {
        let found = self.at(sign);
        if found {
            self.offset += sign.len();
        }
        found
    }

    pub(super) fn bump(&mut self, character: char) {
        self.offset += character.len_utf8();
    }

    /// One line end; `\r\n` is one.
    pub(super) fn newline(&mut self) -> bool {
        if self.take("\r\n") {
            return true;
        }
        match self.peek() {
            Some(character) if is_newline(character) => {
                self.bump(character);
                true
            }
            _ => false,
        }
    }

    /// White space within a line, block comments and escaped line ends. Says whether there was any.
    pub(super) fn space(&mut self) -> Result<bool, Fault> {
        let start = self.offset;
        loop {
            match self.peek() {
                Some(character) if is_space(character) => self.bump(character),
                Some('/') if self.at("/*") => self.block_comment()?,
                Some('\\') => self.escaped_line_end()?,
                _ => return Ok(self.offset > start),
            }
        }
    }

    /// As [`Self::space`], and line ends and line comments.
    pub(super) fn line_space(&mut self) -> Result<(), Fault> {
        loop {
            self.space()?;
            if !self.newline() && !self.line_comment() {
                return Ok(());
            }
        }
    }

    /// A line comment with its line end.
    pub(super) fn line_comment(&mut self) -> bool {
        if !self.at("//") {
            return false;
        }
        let rest = self.rest();
        self.offset += rest.find(is_newline).unwrap_or(rest.len());
        self.newline();
        true
    }

    fn escaped_line_end(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        self.offset += 1;
        loop {
            match self.peek() {
                Some(character) if is_space(character) => self.bump(character),
                Some('/') if self.at("/*") => self.block_comment()?,
                _ => break,
            }
        }
        if self.line_comment() || self.newline() || self.peek().is_none() {
            return Ok(());
        }
        Err(Fault::syntax(start, "a `\\` outside of a string must be the last character of its line"))
    }

    fn block_comment(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        let too_deep = |offset| {
            Fault::new(
                Code::CommentTooDeep,
                offset,
                "the block comment is too intricate for the proxy's parser",
            )
            .help("use `//` at the beginning of every line instead")
        };
        let (mut depth, mut signs) = (0_usize, 0_usize);
        loop {
            if self.take("/*") {
                depth += 1;
            } else if self.take("*/") {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            } else if self.take("*") || self.take("/") {
                signs += 1;
            } else {
                let rest = self.rest();
                let Some(length) = rest.find(['*', '/']) else {
                    return Err(
                        Fault::syntax(start, "the block comment is not closed").help("close it with `*/`")
                    );
                };
                self.offset += length;
            }
            if depth > self.limits.max_comment_depth || signs > self.limits.max_comment_signs {
                return Err(too_deep(start));
            }
        }
    }

    /// A value or name must be followed by white space or by what ends it.
    pub(super) fn end_of_value(&mut self, start: usize) -> Result<(), Fault> {
        let ends = match self.peek() {
            None | Some('=' | ')' | '{' | '}' | ';' | '\\') => true,
            Some('/') => self.at("//") || self.at("/*"),
            Some(character) => is_space(character) || is_newline(character),
        };
        if ends {
            return Ok(());
        }
        let what = shown(&self.text[start..self.offset]);
        let fault = Fault::syntax(self.offset, format!("there must be a space after {what}"));
        Err(fault.help("values are separated by spaces; text with special characters must be quoted"))
    }

    /// An unquoted name or text.
    pub(super) fn bare_text(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        let word = self.word();
        if matches!(word, "true" | "false" | "null" | "inf" | "nan") {
            return Err(Fault::syntax(start, format!("{word} is not a value")).help(match word {
                "true" => "write #true",
                "false" => "write #false",
                "null" => "write #null",
                _ => "write #inf or #nan, or quote the text",
            }));
        }
        let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
        if unsigned.starts_with('.') && unsigned[1..].starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Fault::syntax(start, format!("{} is not a number", shown(word)))
                .help("write a digit before the point"));
        }
        if word.is_empty() {
            return Err(self.unexpected());
        }
        self.end_of_value(start)
    }

    /// What cannot stand here at all.
    pub(super) fn unexpected(&self) -> Fault {
        let Some(character) = self.peek() else {
            return Fault::syntax(self.offset, "the text ends too early");
        };
        let fault = Fault::syntax(self.offset, format!("unexpected {character:?}"));
        match character {
            '[' | ']' => fault.help("a list is written as several values: `hostnames \"a\" \"b\"`"),
            '=' => fault.help("a setting is `name value`; a property is `name=value` after a node's name"),
            ';' => fault.help("remove the extra `;`"),
            _ => fault,
        }
    }

    pub(super) fn at_number(&self) -> bool {
        let mut characters = self.rest().chars();
        match characters.next() {
            Some('+' | '-') => characters.next().is_some_and(|c| c.is_ascii_digit()),
            Some(character) => character.is_ascii_digit(),
            None => false,
        }
    }

    pub(super) fn number(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        let word = self.word();
        if !is_number(word) {
            return Err(Fault::syntax(start, format!("{} is not a number", shown(word)))
                .help("quote it if it is meant as text, for example \"30s\""));
        }
        self.end_of_value(start)
    }

    /// `#true`, `#false`, `#null`, `#inf`, `#-inf`, `#nan`.
    pub(super) fn keyword(&mut self) -> Result<(), Fault> {
        let start = self.offset;
        self.offset += 1;
        let word = self.word();
        if !matches!(word, "true" | "false" | "null" | "inf" | "-inf" | "nan") {
            return Err(Fault::syntax(start, format!("#{} is not a keyword", shown(word)))
                .help("the keywords are #true, #false, #null, #inf, #-inf and #nan"));
        }
        self.end_of_value(start)
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let length = rest.find(|character| !is_name_character(character)).unwrap_or(rest.len());
        self.offset += length;
        &rest[..length]
    }
}

/// A piece of the text for a message.
fn shown(text: &str) -> String {
    if text.chars().count() > 40 {
        format!("{}...", text.chars().take(40).collect::<String>())
    } else {
        text.to_owned()
    }
}

fn is_number(word: &str) -> bool {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let radix = |prefixes: [&str; 2], radix: u32| {
        let digits = prefixes.iter().find_map(|prefix| unsigned.strip_prefix(prefix))?;
        Some(is_digits(digits, radix))
    };
    if let Some(valid) =
        radix(["0x", "0X"], 16).or_else(|| radix(["0o", "0O"], 8)).or_else(|| radix(["0b", "0B"], 2))
    {
        return valid;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    is_digits(whole, 10)
        && fraction.is_none_or(|digits| is_digits(digits, 10))
        && exponent.is_none_or(|digits| is_digits(digits, 10))
}

/// Digits and `_`, beginning with a digit, within 128 bits.
fn is_digits(text: &str, radix: u32) -> bool {
    text.starts_with(|c: char| c.is_digit(radix))
        && text.chars().all(|c| c == '_' || c.is_digit(radix))
        && i128::from_str_radix(&text.replace('_', ""), radix).is_ok()
}
