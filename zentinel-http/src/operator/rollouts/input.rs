//! What an operator asks for.

use crate::extract::{Field, parse_id};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;
use zentinel_core::entity::{
    AggregateGates, HealthGates, LabelSelector, RolloutSpec, TargetSelector, is_at_least, parse_instant,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{BundleId, HealthCheckId, TypedId};
use zentinel_core::{Percent, Result, Timestamp};
use zentinel_rollout::engine::{NewRollout, Terms};

/// The message for every selector that is none of the four.
const SELECTORS: &str = "must be {type: all}, {type: labels, labels: {...}}, \
     {type: node_ids, node_ids: [...]} or {type: groups, group_ids: [...]}";

/// Most labels, nodes or groups of a selector.
const MAX_SELECTED: usize = 10_000;

/// Most labels of a selector.
const MAX_LABELS: usize = 64;

const GATES: [&str; 5] =
    ["heartbeat_healthy", "max_error_rate", "max_latency_ms", "max_cpu_percent", "max_memory_percent"];

const AGGREGATES: [&str; 4] = ["max_error_rate", "max_latency_ms", "min_healthy_percent", "min_requests"];

/// A rollout to create.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::operator) struct RolloutInput {
    #[schema(value_type = uuid::Uuid, required = true)]
    #[serde(default)]
    bundle_id: Field<String>,
    /// One of `{"type":"all"}`, `{"type":"labels","labels":{…}}`, `{"type":"node_ids","node_ids":[…]}`,
    /// `{"type":"groups","group_ids":[…]}`, `{"type":"selector","selector":"region=eu,env in (prod)"}`; all
    /// nodes by default.
    #[schema(value_type = Option<Object>, example = json!({"type": "labels", "labels": {"region": "eu"}}))]
    #[serde(default)]
    target_selector: Field<Value>,
    /// `rolling` by default.
    #[schema(value_type = Option<String>, example = "rolling")]
    #[serde(default)]
    strategy: Field<String>,
    /// Nodes per step; 1 by default.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    batch_size: Field<i64>,
    /// Instead of `batch_size`: share of the targets per step.
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 100)]
    #[serde(default)]
    batch_percentage: Field<i64>,
    /// How many nodes of a step may be offline without stopping it; 0 by default.
    #[schema(value_type = Option<u32>)]
    #[serde(default)]
    max_unavailable: Field<i64>,
    /// How long a step may take; 600 by default.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    progress_deadline_seconds: Field<i64>,
    /// What must hold before a step is done; `{"heartbeat_healthy": true}` by default.
    #[schema(value_type = Option<Object>, example = json!({"heartbeat_healthy": true, "max_error_rate": 5.0}))]
    #[serde(default)]
    health_gates: Field<Map<String, Value>>,
    /// Whether failure rolls back by itself.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    auto_rollback: Field<bool>,
    /// Share of a step's nodes that must fail before the step does; 50 by default.
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 100)]
    #[serde(default)]
    rollback_threshold: Field<i64>,
    /// Whether each batch is twice as large as the one before; false by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    batch_doubling: Field<bool>,
    /// Most nodes per step, where batches grow.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    max_batch_size: Field<i64>,
    /// Most nodes that may be told per minute, on average over the steps.
    #[schema(value_type = Option<u32>, minimum = 1)]
    #[serde(default)]
    nodes_per_minute: Field<i64>,
    /// Until a step is done, a single node that fails stops the rollout; false by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    safe_mode: Field<bool>,
    /// Nodes that lack one of these capabilities are left out.
    #[schema(value_type = Option<Vec<String>>, max_items = 64)]
    #[serde(default)]
    required_capabilities: Field<BTreeSet<String>>,
    /// Nodes whose proxy is older than this are left out.
    #[schema(value_type = Option<String>, example = "26.2.0")]
    #[serde(default)]
    min_proxy_version: Field<String>,
    /// Whether it starts at once; true by default.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    auto_start: Field<bool>,
    /// Whether open rollouts on the same nodes are cancelled instead of being in the way.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    supersede: Field<bool>,
    /// Whether it waits for open rollouts on the same nodes, and for the project's limit, instead of being refused. It
    /// starts by itself when those have ended; the oldest goes first.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    queue: Field<bool>,
    /// What the strategy `blue_green` needs: `traffic_steps`, `auto_advance`, `advance_delay_seconds`,
    /// `green_percentage`, `shift_traffic`.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    blue_green_config: Field<Map<String, Value>>,
    /// How long a blue-green rollout holds each weight at least, in seconds; 300 by default. Also accepted in
    /// `blue_green_config`.
    #[schema(value_type = Option<u32>, maximum = 86400)]
    #[serde(default)]
    validation_period_seconds: Field<Value>,
    /// What the strategy `canary` needs.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    canary_analysis_config: Field<Map<String, Value>>,
    /// What any other strategy needs.
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    strategy_config: Field<Map<String, Value>>,
    /// Not before this instant, in the future.
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-02-24T22:00:00Z")]
    #[serde(default)]
    scheduled_at: Field<String>,
    /// Only nodes of this environment; the bundle must be promoted to it.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    environment_id: Field<String>,
    /// Where fields that are left out come from. Without it, a request that gives no settings of its own uses
    /// the project's default template; null uses none.
    #[schema(value_type = Option<uuid::Uuid>)]
    #[serde(default)]
    template_id: Field<String>,
    /// Start in spite of freeze windows; takes an admin and `override_reason`.
    #[schema(value_type = Option<bool>)]
    #[serde(default)]
    override_freeze: Field<bool>,
    /// Why, for the audit log.
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    override_reason: Field<String>,
    /// Health checks of the project that must all pass before a step is done.
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    #[serde(default)]
    custom_health_checks: Field<Vec<Value>>,
    /// What must hold over all nodes that were reached, taken together; requests are counted from the activation.
    #[schema(value_type = Option<Object>, example = json!({"max_error_rate": 1.0, "max_latency_ms": 250, "min_healthy_percent": 95}))]
    #[serde(default)]
    aggregate_gates: Field<Map<String, Value>>,
}

impl RolloutInput {
    /// Checks every field.
    ///
    /// # Errors
    /// `Invalid` with every complaint.
    pub(in crate::operator) fn check(self) -> Result<Asked> {
        let mut checks = Checks::new();
        let default = RolloutSpec::default();
        let bundle_id = self.bundle_id.required("bundle_id", &mut checks);
        let bundle_id = bundle_id.and_then(|text| {
            let id = parse_id::<BundleId>(&text);
            checks.that("bundle_id", id.is_some(), "is invalid");
            id
        });
        let selector = self.target_selector.optional("target_selector", &mut checks);
        let strategy = self.strategy.optional("strategy", &mut checks);
        let strategy = strategy.unwrap_or(default.strategy);
        let period = self.validation_period_seconds.optional("validation_period_seconds", &mut checks);
        let mut config = match strategy.as_str() {
            "blue_green" => self.blue_green_config.optional("blue_green_config", &mut checks),
            "canary" => self.canary_analysis_config.optional("canary_analysis_config", &mut checks),
            _ => self.strategy_config.optional("strategy_config", &mut checks),
        };
        if let Some(period) = period {
            let known = strategy == "blue_green";
            checks.that("validation_period_seconds", known, "is only for the strategy blue_green");
            if known {
                let config = config.get_or_insert_default();
                config.entry("validation_period_seconds").or_insert(period);
            }
        }
        let batch_size = whole(self.batch_size, "batch_size", 1, &mut checks);
        let batch_percentage = percent(self.batch_percentage, "batch_percentage", &mut checks);
        let both = batch_percentage.is_some() && batch_size.is_some_and(|size| size != 1);
        checks.that("batch_percentage", !both, "cannot set both batch_size and batch_percentage");
        let deadline = whole(self.progress_deadline_seconds, "progress_deadline_seconds", 1, &mut checks);
        let capabilities = self.required_capabilities.optional("required_capabilities", &mut checks);
        let capabilities = capabilities.unwrap_or_default();
        checks.that("required_capabilities", capabilities.len() <= 64, "should have at most 64 item(s)");
        let min_proxy_version = self.min_proxy_version.optional("min_proxy_version", &mut checks);
        let readable = min_proxy_version.as_deref().is_none_or(|lowest| is_at_least(Some(lowest), lowest));
        checks.that("min_proxy_version", readable, "must be a semantic version such as 1.4.0");
        let spec = RolloutSpec {
            required_capabilities: capabilities,
            min_proxy_version,
            target_selector: selector.map_or(TargetSelector::All, |value| target(&value, &mut checks)),
            strategy,
            strategy_config: config.map_or(Value::Null, Value::Object),
            batch_size: batch_size.unwrap_or(default.batch_size),
            batch_percentage,
            max_unavailable: whole(self.max_unavailable, "max_unavailable", 0, &mut checks).unwrap_or(0),
            progress_deadline_seconds: deadline.unwrap_or(default.progress_deadline_seconds),
            health_gates: match self.health_gates.optional("health_gates", &mut checks) {
                Some(given) => gates(&given, &mut checks),
                None => HealthGates::heartbeat(),
            },
            aggregate_gates: match self.aggregate_gates.optional("aggregate_gates", &mut checks) {
                Some(given) => aggregates(&given, &mut checks),
                None => AggregateGates::default(),
            },
            custom_health_checks: endpoints(self.custom_health_checks, &mut checks),
            auto_rollback: self.auto_rollback.optional("auto_rollback", &mut checks).unwrap_or(false),
            rollback_threshold: percent(self.rollback_threshold, "rollback_threshold", &mut checks)
                .unwrap_or(default.rollback_threshold),
            batch_doubling: self.batch_doubling.optional("batch_doubling", &mut checks).unwrap_or(false),
            max_batch_size: whole(self.max_batch_size, "max_batch_size", 1, &mut checks),
            nodes_per_minute: whole(self.nodes_per_minute, "nodes_per_minute", 1, &mut checks),
            safe_mode: self.safe_mode.optional("safe_mode", &mut checks).unwrap_or(false),
        };
        let auto_start = self.auto_start.optional("auto_start", &mut checks).unwrap_or(true);
        let supersede = self.supersede.optional("supersede", &mut checks).unwrap_or(false);
        let terms = Terms {
            environment_id: id("environment_id", self.environment_id, &mut checks),
            scheduled_at: instant("scheduled_at", self.scheduled_at, &mut checks),
            template_id: id("template_id", self.template_id, &mut checks),
            queue: self.queue.optional("queue", &mut checks).unwrap_or(false),
            ..Terms::default()
        };
        let override_reason = override_reason(self.override_freeze, self.override_reason, &mut checks);
        checks.finish()?;
        let bundle_id = bundle_id.unwrap_or_else(|| BundleId::from_uuid(uuid::Uuid::nil()));
        Ok(Asked { new: NewRollout { bundle_id, spec, auto_start, supersede, terms }, override_reason })
    }
}

/// What was asked for.
#[derive(Debug)]
pub(in crate::operator) struct Asked {
    pub(in crate::operator) new: NewRollout,
    /// Why freeze windows are to be passed over, if they are.
    pub(in crate::operator) override_reason: Option<String>,
}

/// Why freeze windows are to be passed over, if they are.
pub(in crate::operator) fn override_reason(
    wanted: Field<bool>,
    reason: Field<String>,
    checks: &mut Checks,
) -> Option<String> {
    let reason = reason.optional("override_reason", checks);
    if !wanted.optional("override_freeze", checks).unwrap_or(false) {
        return None;
    }
    let reason = reason.unwrap_or_default();
    checks.text("override_reason", &reason, 500);
    Some(reason)
}

fn id<I: TypedId>(name: &str, field: Field<String>, checks: &mut Checks) -> Option<I> {
    let text = field.optional(name, checks)?;
    let id = parse_id(&text);
    checks.that(name, id.is_some(), "is invalid");
    id
}

fn instant(name: &str, field: Field<String>, checks: &mut Checks) -> Option<Timestamp> {
    let text = field.optional(name, checks)?;
    let parsed = parse_instant(name, &text).ok();
    checks.that(name, parsed.is_some(), "must be a time such as 2026-02-23T10:00:00Z");
    parsed
}

/// A whole number of at least `least`.
fn whole(field: Field<i64>, name: &str, least: i64, checks: &mut Checks) -> Option<u32> {
    let number = field.optional(name, checks)?;
    let message = if least > 0 {
        format!("must be greater than {}", least - 1)
    } else {
        format!("must be greater than or equal to {least}")
    };
    checks.that(name, number >= least, message);
    let most = i64::from(i32::MAX);
    checks.that(name, number <= most, format!("must be less than or equal to {most}"));
    u32::try_from(number).ok()
}

fn percent(field: Field<i64>, name: &str, checks: &mut Checks) -> Option<Percent> {
    let number = field.optional(name, checks)?;
    checks.that(name, number >= 1, "must be greater than or equal to 1");
    checks.that(name, number <= 100, "must be less than or equal to 100");
    u8::try_from(number).ok().and_then(|number| Percent::new(number).ok())
}

pub(super) fn target(value: &Value, checks: &mut Checks) -> TargetSelector {
    let own = value.as_object().filter(|object| object.get("type").is_some_and(|kind| kind == "selector"));
    if let Some(given) = own.and_then(|object| object.get("selector")) {
        match LabelSelector::from_json(given) {
            Ok(selector) => return TargetSelector::Selector { selector },
            Err(error) => {
                for message in error.fields().values().flatten() {
                    checks.that("target_selector", false, format!("selector: {message}"));
                }
                return TargetSelector::All;
            }
        }
    }
    match selector(value) {
        Some(selector) => selector,
        None => {
            checks.that("target_selector", false, SELECTORS);
            TargetSelector::All
        }
    }
}

fn selector(value: &Value) -> Option<TargetSelector> {
    let object = value.as_object()?;
    match object.get("type")?.as_str()? {
        "all" => Some(TargetSelector::All),
        "labels" => {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(object.get("labels")?.clone()).ok()?;
            let fits = |text: &String| text.chars().count() <= 253;
            let ok = (1..=MAX_LABELS).contains(&labels.len())
                && labels.iter().all(|(key, value)| !key.is_empty() && fits(key) && fits(value));
            ok.then_some(TargetSelector::Labels { labels })
        }
        "node_ids" => Some(TargetSelector::NodeIds { node_ids: ids(object.get("node_ids")?)? }),
        "groups" => Some(TargetSelector::Groups { group_ids: ids(object.get("group_ids")?)? }),
        _ => None,
    }
}

fn ids<I: TypedId>(value: &Value) -> Option<BTreeSet<I>> {
    let items = value.as_array()?;
    let ids = items.iter().map(|item| parse_id(item.as_str()?));
    let ids: BTreeSet<I> = ids.collect::<Option<_>>()?;
    (1..=MAX_SELECTED).contains(&items.len()).then_some(ids)
}

/// Most endpoints that a rollout may name.
const MAX_ENDPOINTS: usize = 20;

fn endpoints(field: Field<Vec<Value>>, checks: &mut Checks) -> BTreeSet<HealthCheckId> {
    let name = "custom_health_checks";
    let given = field.optional(name, checks).unwrap_or_default();
    let ids: Option<BTreeSet<_>> = given.iter().map(|item| parse_id(item.as_str()?)).collect();
    let ids = ids.filter(|_| given.len() <= MAX_ENDPOINTS);
    checks.that(
        name,
        ids.is_some(),
        format!("must be a list of at most {MAX_ENDPOINTS} ids of health checks"),
    );
    ids.unwrap_or_default()
}

fn refuse_unknown(field: &str, known: &[&str], given: &Map<String, Value>, checks: &mut Checks) {
    let unknown: Vec<&str> =
        given.keys().map(String::as_str).filter(|key| !known.contains(key)).take(20).collect();
    checks.that(field, unknown.is_empty(), format!("unknown keys: {}", unknown.join(", ")));
}

fn aggregates(given: &Map<String, Value>, checks: &mut Checks) -> AggregateGates {
    let field = "aggregate_gates";
    refuse_unknown(field, &AGGREGATES, given, checks);
    let mut limit = |key: &str, most: f64, range: &str| {
        let value = given.get(key).filter(|value| !value.is_null())?;
        let number = value.as_f64().filter(|number| (0.0..=most).contains(number));
        checks.that(field, number.is_some(), format!("{key} must be a number {range}"));
        number
    };
    let (percent, positive) = ("from 0 to 100", "of at least 0");
    let mut gates = AggregateGates {
        max_error_rate: limit("max_error_rate", 100.0, percent),
        max_latency_ms: limit("max_latency_ms", f64::MAX, positive),
        min_healthy_percent: limit("min_healthy_percent", 100.0, percent),
        min_requests: None,
    };
    if let Some(value) = given.get("min_requests").filter(|value| !value.is_null()) {
        gates.min_requests = value.as_u64().filter(|least| *least > 0);
        checks.that(field, gates.min_requests.is_some(), "min_requests must be a whole number of at least 1");
    }
    gates
}

fn gates(given: &Map<String, Value>, checks: &mut Checks) -> HealthGates {
    refuse_unknown("health_gates", &GATES, given, checks);
    let mut limit = |key: &str| {
        let value = given.get(key).filter(|value| !value.is_null())?;
        let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
        checks.that("health_gates", number.is_some(), format!("{key} must be a number of at least 0"));
        number
    };
    let mut gates = HealthGates {
        heartbeat_healthy: None,
        max_error_rate: limit("max_error_rate"),
        max_latency_ms: limit("max_latency_ms"),
        max_cpu_percent: limit("max_cpu_percent"),
        max_memory_percent: limit("max_memory_percent"),
    };
    if let Some(value) = given.get("heartbeat_healthy").filter(|value| !value.is_null()) {
        gates.heartbeat_healthy = value.as_bool();
        checks.that("health_gates", value.is_boolean(), "heartbeat_healthy must be true or false");
    }
    gates
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn complaints(body: Value) -> BTreeMap<String, Vec<String>> {
        let input: RolloutInput = serde_json::from_value(body).unwrap();
        input.check().map_or_else(|error| error.fields().clone(), |_| BTreeMap::new())
    }

    #[test]
    fn defaults_are_the_contracts() {
        let id = BundleId::random();
        let input: RolloutInput = serde_json::from_value(json!({"bundle_id": id})).unwrap();
        let Asked { new, override_reason } = input.check().unwrap();
        assert_eq!((&new.terms, override_reason), (&Terms::default(), None));
        assert_eq!((new.bundle_id, &new.spec), (id, &RolloutSpec::default()));
        assert!(new.auto_start && !new.supersede);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let found = complaints(json!({
            "bundle_id": "x", "batch_size": 0, "max_unavailable": -1, "progress_deadline_seconds": "soon",
            "rollback_threshold": 101, "health_gates": {"foo": 1, "bar": 2}, "target_selector": {"type": "some"},
            "auto_start": "yes", "scheduled_at": "tomorrow", "environment_id": "prod", "override_freeze": true,
            "custom_health_checks": ["x"],
        }));
        let expected = [
            ("auto_start", "is invalid"),
            ("batch_size", "must be greater than 0"),
            ("bundle_id", "is invalid"),
            ("custom_health_checks", "must be a list of at most 20 ids of health checks"),
            ("environment_id", "is invalid"),
            ("health_gates", "unknown keys: bar, foo"),
            ("max_unavailable", "must be greater than or equal to 0"),
            ("override_reason", "can't be blank"),
            ("progress_deadline_seconds", "is invalid"),
            ("rollback_threshold", "must be less than or equal to 100"),
            ("scheduled_at", "must be a time such as 2026-02-23T10:00:00Z"),
            ("target_selector", SELECTORS),
        ];
        let expected = expected.map(|(field, message)| (field.to_owned(), vec![message.to_owned()]));
        assert_eq!(found, expected.into());
    }

    #[test]
    fn selectors_are_exactly_the_four() {
        let id = BundleId::random();
        for good in [
            json!({"type": "all"}),
            json!({"type": "labels", "labels": {"a": "b"}}),
            json!({"type": "node_ids", "node_ids": [id]}),
            json!({"type": "groups", "group_ids": [id]}),
        ] {
            assert!(selector(&good).is_some(), "{good}");
        }
        let many: BTreeMap<_, _> = (0..1_000).map(|n| (format!("k{n}"), "v")).collect();
        for bad in [
            json!("all"),
            json!({}),
            json!({"type": "labels", "labels": {}}),
            json!({"type": "labels", "labels": {"a": 1}}),
            json!({"type": "labels", "labels": many}),
            json!({"type": "node_ids", "node_ids": []}),
            json!({"type": "node_ids", "node_ids": ["x"]}),
            json!({"type": "groups", "node_ids": [id]}),
            json!({"type": ["all"]}),
        ] {
            assert!(selector(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn one_way_to_size_a_batch() {
        let id = BundleId::random();
        assert!(complaints(json!({"bundle_id": id, "batch_size": 1, "batch_percentage": 20})).is_empty());
        let found = complaints(json!({"bundle_id": id, "batch_size": 2, "batch_percentage": 20}));
        assert_eq!(found["batch_percentage"], ["cannot set both batch_size and batch_percentage"]);
    }
}
