//! Values of the wrong type or size, which the proxy replaces by defaults or wraps around.

use super::schema::{self, Want};
use crate::diagnostic::{Code, Finding};
use crate::document::{Node, Value};

pub(super) fn check(node: Node<'_>, findings: &mut Vec<Finding>) {
    if let Some(want) = schema::rule(node) {
        setting(node, want, findings);
    }
    if node.name() == "target"
        && let Some(weight) = node.property("weight")
    {
        findings.extend(fault(node, weight, Want::Integer(0, 1_000_000)));
    }
    if node.name() == "level"
        && node.parent().is_some_and(|filter| filter.setting("type") == Some("compress"))
    {
        setting(node, Want::Integer(0, 22), findings);
    }
}

fn setting(node: Node<'_>, want: Want, findings: &mut Vec<Finding>) {
    let arguments = node.arguments();
    if arguments.is_empty() {
        // A block or a property instead of a value has a meaning in some places.
        if !node.has_block() && node.properties().is_empty() {
            let message = format!("{} has no value; {} is expected", node.name(), expected(want));
            findings.push(node.finding(Code::WrongType, message));
        }
        return;
    }
    let list = matches!(want, Want::Texts | Want::Integers(..));
    let read = if list { arguments } else { &arguments[..1] };
    findings.extend(read.iter().find_map(|argument| fault(node, &argument.value, want)));
    if let Some(second) = arguments.get(1).filter(|_| !list) {
        let message = format!("only the first value of {} is read; {} is lost", node.name(), second.value);
        findings.push(node.finding(Code::RunTogether, message).at(second.position).help(
            if node.name() == "countries" {
                "write one string, separated by commas: \"DE,FR\""
            } else {
                "put each setting on its own line, or separate them by `;`"
            },
        ));
    }
}

fn fault(node: Node<'_>, value: &Value, want: Want) -> Option<Finding> {
    let range = match (want, value) {
        (Want::Text | Want::Texts, Value::Text(_)) | (Want::Bool, Value::Bool(_)) => return None,
        (Want::IntegerOrText(..), Value::Text(_)) => return None,
        (
            Want::Integer(low, high) | Want::Integers(low, high) | Want::IntegerOrText(low, high),
            Value::Integer(number),
        ) => in_range(*number, low, high),
        (Want::IntegerInText(low, high), Value::Text(text)) => match text.parse() {
            Ok(number) => in_range(number, low, high),
            Err(_) => return Some(wrong_type(node, value, want)),
        },
        (Want::Number(low, high) | Want::NumberOrText(low, high), Value::Float(number)) => {
            number_in_range(*number, low, high)
        }
        (Want::NumberOrText(low, high), Value::Text(text)) => match text.trim_end_matches('%').parse() {
            Ok(number) => number_in_range(number, low, high),
            Err(_) => return Some(wrong_type(node, value, want)),
        },
        #[expect(clippy::cast_precision_loss, reason = "compared to small bounds only")]
        (Want::Number(low, high) | Want::NumberOrText(low, high), Value::Integer(number)) => {
            number_in_range(*number as f64, low, high)
        }
        _ => return Some(wrong_type(node, value, want)),
    };
    range.map(|range| {
        let message = format!("{} {value} is out of range: {range} is expected", node.name());
        node.finding(Code::NumberOutOfRange, message)
    })
}

fn in_range(number: i128, low: i128, high: i128) -> Option<String> {
    (!(low..=high).contains(&number)).then(|| format!("{low} to {high}"))
}

fn number_in_range(number: f64, low: f64, high: f64) -> Option<String> {
    (!(low..=high).contains(&number)).then(|| format!("{low} to {high}"))
}

fn wrong_type(node: Node<'_>, value: &Value, want: Want) -> Finding {
    let name = node.name();
    let message =
        format!("{name} is {}, but {} is expected; the proxy would ignore it", value.kind(), expected(want));
    let help = match (want, value) {
        (Want::IntegerInText(..), Value::Integer(number)) => format!("quote it: {name} \"{number}\""),
        (Want::Text | Want::Texts, other) => {
            format!("quote it: {name} \"{}\"", other.to_string().trim_start_matches('#'))
        }
        (Want::Bool, _) => "write #true or #false".to_owned(),
        (_, Value::Text(text)) if text.parse::<f64>().is_ok() => format!("remove the quotes: {name} {text}"),
        _ => format!("write {}", expected(want)),
    };
    node.finding(Code::WrongType, message).help(help)
}

fn expected(want: Want) -> &'static str {
    match want {
        Want::Text => "a string",
        Want::Texts => "one string or several",
        Want::Bool => "a boolean",
        Want::Integer(..) => "an integer",
        Want::Integers(..) => "one integer or several",
        Want::Number(..) | Want::NumberOrText(..) => "a number",
        Want::IntegerOrText(..) => "an integer or a string",
        Want::IntegerInText(..) => "a string that holds an integer",
    }
}
