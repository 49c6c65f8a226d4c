//! Rate limits.

use super::view::{Comparison, RouteView, differences, listed};
use super::{Report, RiskCode};
use crate::model::{Model, json};
use serde_json::Value;
use std::collections::BTreeMap;
use zentinel_config::{Filter, RateLimitAction, RouteConfig};

/// What a limit lets through: requests (or tokens) per second, then in a burst.
type Rate = (u64, u64);

/// Rate limits of routes and of the whole proxy.
pub(super) fn rate_limits(comparison: &Comparison<'_>, report: &mut Report) {
    let old = settings(comparison.old, &comparison.old_routes);
    let new = settings(comparison.new, &comparison.new_routes);
    let changed = differences(&old, &new);
    if let Some(first) = changed.first() {
        let message = format!("rate limits differ: {}", listed(&changed));
        report.add(RiskCode::RateLimitChanged, first, message);
    }
    for (old, new) in comparison.kept_routes() {
        compare(new.path(), requests(old), requests(new), report);
        compare(new.path(), tokens(old.route()), tokens(new.route()), report);
    }
    compare("rate-limits/global", global(comparison.old), global(comparison.new), report);
    let (old, new) = (&comparison.old.config().limits, &comparison.new.config().limits);
    for (before, after) in [
        (old.max_requests_per_second_global, new.max_requests_per_second_global),
        (old.max_requests_per_second_per_client, new.max_requests_per_second_per_client),
        (old.max_requests_per_second_per_route, new.max_requests_per_second_per_route),
    ] {
        let rate = |limit: Option<u32>| limit.map(|limit| (u64::from(limit), 0));
        compare("limits", rate(before), rate(after), report);
    }
}

fn compare(path: &str, old: Option<Rate>, new: Option<Rate>, report: &mut Report) {
    match (old, new) {
        (Some(_), None) => {
            report.add(RiskCode::RateLimitRemoved, path, format!("{path} is no longer rate limited"));
        }
        (Some(old), Some(new)) if new.0 > old.0 || new.1 > old.1 => {
            let message = format!(
                "{path} lets {} per second with a burst of {} through; it was {} with {}",
                new.0, new.1, old.0, old.1
            );
            report.add(RiskCode::RateLimitLoosened, path, message);
        }
        _ => {}
    }
}

/// The strictest limit on a route's requests that really refuses some.
fn requests(view: &RouteView<'_>) -> Option<Rate> {
    let filters = view.filters.iter().filter_map(|filter| match &filter.filter {
        Filter::RateLimit(limit) if limit.on_limit != RateLimitAction::LogOnly => {
            Some((u64::from(limit.max_rps), u64::from(limit.burst)))
        }
        _ => None,
    });
    let policy = view.route().policies.rate_limit.iter();
    let policy = policy.map(|limit| (u64::from(limit.requests_per_second), u64::from(limit.burst)));
    filters.chain(policy).min()
}

fn tokens(route: &RouteConfig) -> Option<Rate> {
    let limit = route.inference.as_ref()?.rate_limit.as_ref()?;
    Some((limit.tokens_per_minute, limit.burst_tokens))
}

fn global(model: &Model) -> Option<Rate> {
    let limit = model.config().rate_limits.global.as_ref()?;
    Some((u64::from(limit.max_rps), u64::from(limit.burst)))
}

/// Everything about rate limits, by path.
fn settings(model: &Model, routes: &BTreeMap<String, RouteView<'_>>) -> BTreeMap<String, Value> {
    let config = model.config();
    let limits = &config.limits;
    let mut all = BTreeMap::from([
        ("rate-limits".to_owned(), json(&config.rate_limits)),
        (
            "limits".to_owned(),
            json(&[
                limits.max_requests_per_second_global,
                limits.max_requests_per_second_per_client,
                limits.max_requests_per_second_per_route,
            ]),
        ),
    ]);
    for filter in model.filters() {
        if matches!(filter.value.filter, Filter::RateLimit(_)) {
            all.insert(filter.path, json(filter.value));
        }
    }
    for view in routes.values() {
        let filters = view.filters.iter().filter(|filter| matches!(filter.filter, Filter::RateLimit(_)));
        let ids: Vec<_> = filters.map(|filter| filter.id.as_str()).collect();
        let policy = &view.route().policies.rate_limit;
        let inference = view.route().inference.as_ref().and_then(|inference| inference.rate_limit.as_ref());
        if !ids.is_empty() || policy.is_some() || inference.is_some() {
            all.insert(view.path().to_owned(), json(&(ids, policy, inference)));
        }
    }
    all
}
