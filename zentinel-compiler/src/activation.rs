//! Whether a running proxy picks a change up on SIGHUP, or needs a new process.
//!
//! On SIGHUP the proxy swaps routes, upstream pools and the filters that rewrite requests and
//! responses. It does not rebuild listeners, limiters, agents, health checkers, caches, static
//! roots, schemas, logging, tracing or its metrics listener. What is not known to be picked up
//! counts as needing a restart: a needless restart drains a node, a missing one leaves it running
//! something else than everybody believes.

use crate::model::{Item, Model, json};
use crate::risk::{Report, RiskCode};
use serde_json::{Value, json as object};
use std::collections::BTreeMap;
use zentinel_config::{Filter, RouteConfig};
use zentinel_core::entity::{Activation, Finding};

/// What activating `new` takes on a proxy that runs `old`, with a finding for each reason.
///
/// Without a running configuration there is no process to signal: that is a restart, without
/// reasons.
#[must_use]
pub fn decide(old: Option<&Model>, new: &Model) -> (Activation, Vec<Finding>) {
    let Some(old) = old else {
        return (Activation::Restart, Vec::new());
    };
    let mut report = Report::default();
    let (before, after) = (settings(old), settings(new));
    for (path, value) in &after {
        if before.get(path) != Some(value) {
            let verb = if before.contains_key(path) { "changed" } else { "is new" };
            report.add(RiskCode::RestartRequired, path, format!("{path} {verb}; a reload does not apply it"));
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        // A part of a route or an upstream that is gone as a whole goes with the pool or the
        // table that a reload swaps.
        if !gone(path, new) {
            report.add(
                RiskCode::RestartRequired,
                path,
                format!("{path} was removed; a reload does not apply it"),
            );
        }
    }
    if report.is_empty() { (Activation::Reload, Vec::new()) } else { (Activation::Restart, report.finish()) }
}

/// Whether the route or the upstream that a setting belonged to is gone.
fn gone(path: &str, new: &Model) -> bool {
    let owner = |steps: &str| path.rsplit_once(steps).map(|(owner, _)| owner.to_owned());
    if let Some(upstream) = owner("/health-check") {
        return !new.upstreams().iter().any(|item| item.path == upstream);
    }
    let route = path.rsplit_once('/').map_or(path, |(owner, _)| owner);
    let is_route = route.starts_with("routes/") || route.contains("/routes/");
    is_route && !new.routes().iter().any(|item| item.path == route)
}

/// Everything that only a restart applies, by path.
fn settings(model: &Model) -> BTreeMap<String, Value> {
    let config = model.config();
    let mut all = BTreeMap::from([
        ("system".to_owned(), json(&config.server)),
        ("observability/metrics".to_owned(), json(&config.observability.metrics)),
        ("observability/logging".to_owned(), json(&config.observability.logging)),
        ("observability/tracing".to_owned(), json(&config.observability.tracing)),
        ("rate-limits".to_owned(), json(&config.rate_limits)),
        ("cache".to_owned(), json(&config.cache)),
        ("waf".to_owned(), json(&config.waf)),
    ]);
    all.extend(model.limits().into_iter().map(|item| (item.path, json(item.value))));
    all.extend(model.listeners().into_iter().map(|item| (item.path, json(item.value))));
    all.extend(model.agents().into_iter().map(|item| (item.path, json(item.value))));
    for item in model.upstreams() {
        if let Some(check) = &item.value.health_check {
            all.insert(format!("{}/health-check", item.path), json(check));
        }
    }
    for item in model.routes() {
        all.extend(route_settings(model, &item));
    }
    all
}

fn route_settings(model: &Model, item: &Item<'_, RouteConfig>) -> Vec<(String, Value)> {
    let route = item.value;
    let filters = model.filters_of(item).into_iter();
    let fixed: Vec<_> = filters.filter(|filter| !reloads(&filter.filter)).map(json).collect();
    let parts = [
        ("policies", object!([route.policies.rate_limit, route.policies.cache])),
        ("static-files", json(&route.static_files)),
        ("api-schema", json(&route.api_schema)),
        ("inference", json(&route.inference)),
        ("mcp", json(&route.mcp)),
        ("a2a", json(&route.a2a)),
        ("shadow", json(&route.shadow)),
        ("fallback", json(&route.fallback)),
        ("error-pages", json(&route.error_pages)),
        ("filters", Value::Array(fixed)),
    ];
    let set = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => items.iter().any(|item| !item.is_null()),
        _ => true,
    };
    parts
        .into_iter()
        .filter(|(_, value)| set(value))
        .map(|(name, value)| (format!("{}/{name}", item.path), value))
        .collect()
}

/// The filters that were seen to be picked up.
fn reloads(filter: &Filter) -> bool {
    match filter {
        Filter::Headers(_)
        | Filter::Redirect(_)
        | Filter::UrlRewrite(_)
        | Filter::Cors(_)
        | Filter::Compress(_)
        | Filter::Timeout(_) => true,
        Filter::RateLimit(_) | Filter::Log(_) | Filter::Geo(_) | Filter::Agent(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::risk::testing::{BASE, changed};

    fn decided(old: &str, new: &str) -> (Activation, Vec<String>) {
        let (old, new) = (Model::parse(old).unwrap(), Model::parse(new).unwrap());
        let (activation, findings) = decide(Some(&old), &new);
        (activation, findings.into_iter().map(|finding| finding.path).collect())
    }

    #[test]
    fn what_a_reload_applies() {
        for (from, to) in [
            ("path-prefix \"/api\"", "path-prefix \"/api/v2\""),
            ("target \"10.0.0.1:80\"", "target \"10.0.0.9:80\""),
            ("priority \"high\"", "priority \"low\""),
            ("X-Frame-Options \"DENY\"", "X-Frame-Options \"SAMEORIGIN\""),
            ("timeout-secs 20", "timeout-secs 30"),
            ("connect-secs 2", "connect-secs 3"),
            ("filters \"rl\" \"login\" \"sec\"", "filters \"rl\" \"login\""),
        ] {
            assert_eq!(decided(BASE, &changed(from, to)), (Activation::Reload, vec![]), "{from} -> {to}");
        }
    }

    #[test]
    fn what_needs_a_restart() {
        for (from, to, path) in [
            ("worker-threads 2", "worker-threads 4", "system"),
            ("address \"127.0.0.1:8080\"", "address \"127.0.0.1:8081\"", "listeners/http"),
            ("cert-file \"/etc/tls/a.pem\"", "cert-file \"/etc/tls/b.pem\"", "listeners/tls"),
            ("127.0.0.1:9090", "127.0.0.1:9091", "observability/metrics"),
            ("max-rps 50", "max-rps 60", "routes/api/filters"),
            ("filters \"rl\" \"login\" \"sec\"", "filters \"login\" \"sec\"", "routes/api/filters"),
            ("requests-per-second 10", "requests-per-second 11", "routes/web/policies"),
            ("events \"request_headers\"", "events \"request_headers\" \"request_body\"", "agents/jwt"),
            ("interval-secs 10", "interval-secs 11", "upstreams/api/health-check"),
            ("root \"/srv/www\"", "root \"/srv/www2\"", "routes/static/static-files"),
            ("max-header-count 50", "max-header-count 60", "limits"),
            ("service-name \"edge\"", "service-name \"edge2\"", "observability/tracing"),
            ("access-log", "audit-log", "observability/logging"),
            ("default-ttl-secs 60", "default-ttl-secs 61", "routes/static/policies"),
            ("max-rps 1000", "max-rps 1001", "rate-limits"),
            ("max-size 1000000", "max-size 2000000", "cache"),
        ] {
            let (activation, paths) = decided(BASE, &changed(from, to));
            assert_eq!(activation, Activation::Restart, "{from} -> {to}");
            assert!(paths.iter().any(|found| found == path), "{path} is not in {paths:?}");
        }
    }

    #[test]
    fn a_route_that_goes_takes_its_settings_with_it() {
        let without = crate::risk::testing::without_route("static");
        assert_eq!(decided(BASE, &without), (Activation::Reload, vec![]));
        let (activation, paths) = decided(&without, BASE);
        assert_eq!(activation, Activation::Restart);
        assert!(paths.contains(&"routes/static/static-files".to_owned()), "{paths:?}");
    }

    #[test]
    fn the_first_configuration_starts_the_process() {
        let model = Model::parse(BASE).unwrap();
        assert_eq!(decide(None, &model), (Activation::Restart, Vec::new()));
        assert_eq!(decide(Some(&model), &model), (Activation::Reload, Vec::new()));
    }
}
