//! The field checks of a specification, with the messages of the wire contract.

use crate::strategy::Strategies;
use serde_json::Value;
use zentinel_core::entity::{HealthGates, RolloutSpec, TargetSelector};
use zentinel_core::error::Checks;
use zentinel_core::{Error, Result};

const SELECTOR: &str = "must be {type: all}, {type: labels, labels: {...}}, {type: node_ids, node_ids: [...]} \
                        or {type: groups, group_ids: [...]}, with at least one entry";
const POSITIVE: &str = "must be greater than 0";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const GATES: [&str; 5] =
    ["heartbeat_healthy", "max_error_rate", "max_latency_ms", "max_cpu_percent", "max_memory_percent"];

/// Checks every field of a specification, also by its strategy.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) with every complaint, by field.
pub fn check_spec(spec: &RolloutSpec, strategies: &Strategies) -> Result<()> {
    let mut checks = Checks::new();
    let named = match &spec.target_selector {
        TargetSelector::All => 1,
        TargetSelector::Labels { labels } => labels.len(),
        TargetSelector::NodeIds { node_ids } => node_ids.len(),
        TargetSelector::Groups { group_ids } => group_ids.len(),
        TargetSelector::Selector { selector } => selector.requirements().len(),
    };
    checks.that("target_selector", named > 0, SELECTOR);
    checks.that("batch_size", spec.batch_size > 0, POSITIVE);
    checks.that(
        "batch_percentage",
        spec.batch_percentage.is_none() || spec.batch_size == 1,
        "cannot set both batch_size and batch_percentage",
    );
    checks.that("progress_deadline_seconds", spec.progress_deadline_seconds > 0, POSITIVE);
    for (field, number) in
        [("max_batch_size", spec.max_batch_size), ("nodes_per_minute", spec.nodes_per_minute)]
    {
        checks.that(field, number.is_none_or(|number| number > 0), POSITIVE);
    }
    let gates = &spec.health_gates;
    for (name, limit) in [
        ("max_error_rate", gates.max_error_rate),
        ("max_latency_ms", gates.max_latency_ms),
        ("max_cpu_percent", gates.max_cpu_percent),
        ("max_memory_percent", gates.max_memory_percent),
    ] {
        let ok = limit.is_none_or(|limit| limit.is_finite() && limit >= 0.0);
        checks.that("health_gates", ok, format!("{name} {NOT_NEGATIVE}"));
    }
    if let Some(Some(strategy)) = checks.absorb(strategies.get(&spec.strategy).map(Some))? {
        strategy.check(spec, &mut checks);
    }
    checks.finish()
}

/// Reads a target selector as it is sent.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on `target_selector` with a message that begins `must be {type: all}`.
pub fn target_selector(value: &Value) -> Result<TargetSelector> {
    let refused = || Error::invalid_field("target_selector", SELECTOR);
    let fields = value.as_object().map_or(0, serde_json::Map::len);
    let selector: TargetSelector = serde_json::from_value(value.clone()).map_err(|_| refused())?;
    let (wanted, named) = match &selector {
        TargetSelector::All => (1, 1),
        TargetSelector::Labels { labels } => (2, labels.len()),
        TargetSelector::NodeIds { node_ids } => (2, node_ids.len()),
        TargetSelector::Groups { group_ids } => (2, group_ids.len()),
        TargetSelector::Selector { selector } => (2, selector.requirements().len()),
    };
    if fields == wanted && named > 0 { Ok(selector) } else { Err(refused()) }
}

/// Reads health gates as they are sent.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) on `health_gates`: `unknown keys: a, b`, a gate of another type than boolean
/// or number, or a negative limit.
pub fn health_gates(value: &Value) -> Result<HealthGates> {
    let refused = |message: String| Error::invalid_field("health_gates", message);
    let Value::Object(map) = value else {
        return Err(refused("must be an object".to_owned()));
    };
    let unknown: Vec<&str> = map.keys().map(String::as_str).filter(|key| !GATES.contains(key)).collect();
    if !unknown.is_empty() {
        return Err(refused(format!("unknown keys: {}", unknown.join(", "))));
    }
    let limit = |name: &str| match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if number >= 0.0 => Ok(Some(number)),
            Some(_) => Err(refused(format!("{name} {NOT_NEGATIVE}"))),
            None => Err(refused(format!("{name} must be a number"))),
        },
    };
    let heartbeat_healthy = match map.get("heartbeat_healthy") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(wanted)) => Some(*wanted),
        Some(_) => return Err(refused("heartbeat_healthy must be true or false".to_owned())),
    };
    Ok(HealthGates {
        heartbeat_healthy,
        max_error_rate: limit("max_error_rate")?,
        max_latency_ms: limit("max_latency_ms")?,
        max_cpu_percent: limit("max_cpu_percent")?,
        max_memory_percent: limit("max_memory_percent")?,
    })
}
