//! Values of arguments and properties.

use super::Position;
use std::fmt;
use std::ops::Range;

/// A KDL value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string, however it was quoted.
    Text(String),
    /// An integer.
    Integer(i128),
    /// A decimal number, `#inf`, `#-inf` or `#nan`.
    Float(f64),
    /// `#true` or `#false`.
    Bool(bool),
    /// `#null`.
    Null,
}

impl Value {
    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// What kind of value it is, for messages: `a string`, `an integer`, ...
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a decimal number",
            Self::Bool(_) => "a boolean",
            Self::Null => "#null",
        }
    }
}

/// As KDL writes it. Text is always quoted, so equal values look equal.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                f.write_str("\"")?;
                for character in text.chars() {
                    match character {
                        '"' => f.write_str("\\\"")?,
                        '\\' => f.write_str("\\\\")?,
                        '\n' => f.write_str("\\n")?,
                        '\r' => f.write_str("\\r")?,
                        '\t' => f.write_str("\\t")?,
                        other if other.is_control() => write!(f, "\\u{{{:x}}}", u32::from(other))?,
                        other => write!(f, "{other}")?,
                    }
                }
                f.write_str("\"")
            }
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) if number.is_nan() => f.write_str("#nan"),
            Self::Float(number) if number.is_infinite() => {
                f.write_str(if *number > 0.0 { "#inf" } else { "#-inf" })
            }
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Bool(value) => write!(f, "#{value}"),
            Self::Null => f.write_str("#null"),
        }
    }
}

/// One argument of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Its value.
    pub value: Value,
    /// Where it begins.
    pub position: Position,
    /// The bytes of the text that it was written with.
    pub span: Range<usize>,
}

/// One property of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Where it begins.
    pub position: Position,
}
