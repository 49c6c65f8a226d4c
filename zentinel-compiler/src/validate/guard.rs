//! What is checked before any parser sees the text.
//!
//! The proxy's parser is recursive: it goes one call deeper for every nested block, for every
//! `*` and `/` inside a block comment, and for every mistake it recovers from; blocks commented
//! out inside each other cost it exponential time. A text of a few hundred bytes can so abort the
//! process. The guard is a KDL 2 recogniser without recursion: it reads the text once, in linear
//! time and constant stack, and lets through only what is well formed and within [`Limits`]. Braces
//! in strings, raw strings and comments do not count.

mod grammar;
mod scanner;
mod strings;

use crate::diagnostic::{Code, Finding};
use crate::document::build::Cursor;
use serde::{Deserialize, Serialize};

/// How much text, and how intricate, is read at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest text in bytes.
    pub max_bytes: usize,
    /// Deepest nesting of blocks.
    pub max_depth: usize,
    /// Deepest nesting of block comments.
    pub max_comment_depth: usize,
    /// Most `*` and `/` inside one block comment. The proxy's parser recurses on each.
    pub max_comment_signs: usize,
    /// Deepest nesting of parts commented out with `/-`.
    pub max_slashdash_depth: usize,
    /// Most names, values and blocks.
    pub max_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 20,
            max_depth: 32,
            max_comment_depth: 8,
            max_comment_signs: 500,
            max_slashdash_depth: 3,
            max_tokens: 400_000,
        }
    }
}

/// Checks that the text is KDL 2 within the limits.
///
/// # Errors
/// The first reason why it is not. The text that was read until then is bounded by `max_bytes`.
pub fn check(text: &str, limits: &Limits) -> Result<(), Finding> {
    if text.len() > limits.max_bytes {
        let message =
            format!("the configuration has {} bytes; at most {} are read", text.len(), limits.max_bytes);
        return Err(
            Finding::new(Code::TooLarge, message).help("split it, or raise the limit of the validator")
        );
    }
    if let Some(offset) = text.bytes().position(|byte| byte == 0) {
        return Err(Finding::new(Code::NulByte, "the text holds a NUL byte")
            .at(Cursor::new(text).position(offset))
            .help("the file was probably damaged, or is not text"));
    }
    grammar::check(text, limits).map_err(|fault| fault.into_finding(text))
}

/// A reason to refuse the text, at a byte offset.
#[derive(Debug)]
struct Fault {
    code: Code,
    offset: usize,
    message: String,
    help: Option<&'static str>,
}

impl Fault {
    fn new(code: Code, offset: usize, message: impl Into<String>) -> Self {
        Self { code, offset, message: message.into(), help: None }
    }

    fn syntax(offset: usize, message: impl Into<String>) -> Self {
        Self::new(Code::Syntax, offset, message)
    }

    fn help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }

    fn into_finding(self, text: &str) -> Finding {
        let finding = Finding::new(self.code, self.message).at(Cursor::new(text).position(self.offset));
        match self.help {
            Some(help) => finding.help(help),
            None => finding,
        }
    }
}

#[cfg(test)]
mod tests;
