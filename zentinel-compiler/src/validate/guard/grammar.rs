//! Nodes, entries and blocks, with an explicit stack.

use super::scanner::Scanner;
use super::{Fault, Limits};
use crate::diagnostic::Code;

/// What may still follow in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Arguments, properties and blocks.
    Entries,
    /// Blocks: one was already there, commented out.
    Blocks,
    /// Blocks that are commented out.
    Done,
}

/// The node being read.
#[derive(Clone, Copy, Debug)]
struct NodeState {
    stage: Stage,
    slashed: bool,
}

/// An open block.
#[derive(Debug)]
struct Frame {
    offset: usize,
    /// Whether the block itself is commented out.
    slashed: bool,
    /// The node that the block belongs to.
    node: NodeState,
}

#[derive(Debug)]
struct Recogniser<'t> {
    scanner: Scanner<'t>,
    frames: Vec<Frame>,
    slashdash_depth: usize,
    tokens: usize,
}

pub(super) fn check(text: &str, limits: &Limits) -> Result<(), Fault> {
    let scanner = Scanner::new(text, limits);
    let mut recogniser = Recogniser { scanner, frames: Vec::new(), slashdash_depth: 0, tokens: 0 };
    let mut node = recogniser.start()?;
    while let Some(state) = node {
        node = recogniser.proceed(state)?;
    }
    Ok(())
}

impl Recogniser<'_> {
    /// Reads to the name of the next node, or out of the block around. `None` at the end.
    fn start(&mut self) -> Result<Option<NodeState>, Fault> {
        self.scanner.line_space()?;
        let offset = self.scanner.offset;
        let Some(character) = self.scanner.peek() else {
            return match self.frames.last() {
                Some(frame) => {
                    Err(Fault::new(Code::UnmatchedBrace, frame.offset, "this `{` is never closed"))
                }
                None => Ok(None),
            };
        };
        if character == '}' {
            let Some(frame) = self.frames.pop() else {
                return Err(Fault::new(Code::UnmatchedBrace, offset, "this `}` closes nothing"));
            };
            self.scanner.offset += 1;
            self.slashdash_depth -= usize::from(frame.slashed);
            return Ok(Some(frame.node));
        }
        let slashed = self.slashdash()?;
        if self.scanner.at("{") {
            return Err(Fault::syntax(
                self.scanner.offset,
                "a block must follow the name of a node on the same line",
            ));
        }
        self.annotation()?;
        self.name()?;
        Ok(Some(NodeState { stage: Stage::Entries, slashed }))
    }

    /// Reads the rest of a node, or into a block of it.
    fn proceed(&mut self, mut node: NodeState) -> Result<Option<NodeState>, Fault> {
        loop {
            let spaced = self.scanner.space()?;
            if self.scanner.at("//") || self.scanner.newline() || self.scanner.peek().is_none_or(|c| c == '}')
            {
                return self.end(node);
            }
            if self.scanner.at(";") {
                if node.slashed {
                    // The proxy's parser does not take this either.
                    let message = "a node commented out with `/-` must end with its line";
                    return Err(Fault::syntax(self.scanner.offset, message));
                }
                self.scanner.offset += 1;
                return self.end(node);
            }
            if self.scanner.at("{") {
                if node.stage == Stage::Done {
                    return Err(Fault::syntax(self.scanner.offset, "a node can have one block only"));
                }
                node.stage = Stage::Done;
                self.open(false, node)?;
                return self.start();
            }
            if !spaced && node.stage != Stage::Done {
                return Err(self.scanner.unexpected());
            }
            if self.scanner.at("/-") {
                self.slashdash()?;
                if self.scanner.at("{") {
                    if node.stage == Stage::Entries {
                        node.stage = Stage::Blocks;
                    }
                    self.open(true, node)?;
                    return self.start();
                }
                self.slashdash_depth -= 1;
            }
            if node.stage != Stage::Entries {
                return Err(Fault::syntax(
                    self.scanner.offset,
                    "values must stand before the block of their node",
                )
                .help("begin the next node on a new line"));
            }
            self.entry()?;
        }
    }

    fn end(&mut self, node: NodeState) -> Result<Option<NodeState>, Fault> {
        self.slashdash_depth -= usize::from(node.slashed);
        self.start()
    }

    fn open(&mut self, slashed: bool, node: NodeState) -> Result<(), Fault> {
        let offset = self.scanner.offset;
        self.count(offset)?;
        self.frames.push(Frame { offset, slashed, node });
        self.scanner.offset += 1;
        let limit = self.scanner.limits.max_depth;
        if self.frames.len() > limit {
            return Err(Fault::new(
                Code::NestingTooDeep,
                offset,
                format!("blocks are nested more than {limit} deep"),
            )
            .help("no setting of the proxy needs that; deep nesting aborts its process"));
        }
        Ok(())
    }

    /// `/-` and what may stand between it and what it comments out.
    fn slashdash(&mut self) -> Result<bool, Fault> {
        let offset = self.scanner.offset;
        if !self.scanner.take("/-") {
            return Ok(false);
        }
        self.slashdash_depth += 1;
        let limit = self.scanner.limits.max_slashdash_depth;
        if self.slashdash_depth > limit {
            let message = format!("parts commented out with `/-` are nested more than {limit} deep");
            return Err(Fault::new(Code::SlashdashTooDeep, offset, message)
                .help("remove the inner `/-`, or use `//`"));
        }
        self.scanner.line_space()?;
        Ok(true)
    }

    fn name(&mut self) -> Result<(), Fault> {
        self.count(self.scanner.offset)?;
        if self.scanner.at_number() {
            return Err(Fault::syntax(self.scanner.offset, "a number cannot be the name of a node")
                .help("quote it, or write the name of the setting before it"));
        }
        self.text()
    }

    fn text(&mut self) -> Result<(), Fault> {
        if self.scanner.at_string() { self.scanner.string() } else { self.scanner.bare_text() }
    }

    /// A value, or a property.
    fn entry(&mut self) -> Result<(), Fault> {
        self.count(self.scanner.offset)?;
        if self.scanner.at("(") || !self.at_text() {
            return self.value();
        }
        self.text()?;
        let after = self.scanner.offset;
        self.scanner.space()?;
        if !self.scanner.take("=") {
            self.scanner.offset = after;
            return Ok(());
        }
        self.scanner.space()?;
        self.value()
    }

    fn at_text(&self) -> bool {
        self.scanner.at_string() || !(self.scanner.at("#") || self.scanner.at_number())
    }

    fn value(&mut self) -> Result<(), Fault> {
        self.annotation()?;
        if self.at_text() {
            self.text()
        } else if self.scanner.at("#") {
            self.scanner.keyword()
        } else {
            self.scanner.number()
        }
    }

    /// `(type)` before a name or value.
    fn annotation(&mut self) -> Result<(), Fault> {
        let offset = self.scanner.offset;
        if !self.scanner.take("(") {
            return Ok(());
        }
        self.count(offset)?;
        self.scanner.space()?;
        if self.scanner.at_number() {
            return Err(Fault::syntax(self.scanner.offset, "a number cannot be the name of a type"));
        }
        self.text()?;
        self.scanner.space()?;
        if !self.scanner.take(")") {
            return Err(Fault::syntax(offset, "the type annotation is not closed"));
        }
        self.scanner.space()?;
        Ok(())
    }

    fn count(&mut self, offset: usize) -> Result<(), Fault> {
        self.tokens += 1;
        let limit = self.scanner.limits.max_tokens;
        if self.tokens > limit {
            let message = format!("there are more than {limit} names, values and blocks");
            return Err(Fault::new(Code::TooManyTokens, offset, message));
        }
        Ok(())
    }
}
