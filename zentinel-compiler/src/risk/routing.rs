//! Routes and upstreams: what is gone, what leads elsewhere, what is caught by something else.

use super::view::{Comparison, Purpose, RouteView, by_path};
use super::{MANY_ROUTES, Report, RiskCode};
use crate::model::json;
use regex::{Regex, RegexBuilder};
use serde_json::{Value, json as object};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use zentinel_config::{MatchCondition, RouteConfig, UpstreamConfig};

/// Most pairs of routes that are compared for shadowing.
const MAX_PAIRS: usize = 1_000_000;
/// Most path patterns that are compiled for that.
const MAX_PATTERNS: usize = 1_000;
/// Most bytes that one compiled pattern may take.
const PATTERN_BYTES: usize = 256 << 10;

/// Upstreams that are gone or lead somewhere else.
pub(super) fn upstreams(comparison: &Comparison<'_>, report: &mut Report) {
    let new = by_path(comparison.new.upstreams());
    for (path, before) in by_path(comparison.old.upstreams()) {
        match new.get(&path) {
            None => report.add(RiskCode::UpstreamRemoved, &path, format!("{path} is gone")),
            Some(after) if targets(before) != targets(after) => {
                report.add(RiskCode::UpstreamRetargeted, &path, format!("{path} leads to other targets"));
            }
            Some(_) => {}
        }
    }
}

/// Where an upstream leads; weights and order play no part.
fn targets(upstream: &UpstreamConfig) -> Value {
    let mut addresses: Vec<_> = upstream.targets.iter().map(|target| &target.address).collect();
    addresses.sort_unstable();
    object!([addresses, json(&upstream.discovery)])
}

/// Routes that are gone or lead somewhere else, and many changes at once.
pub(super) fn routes(comparison: &Comparison<'_>, report: &mut Report) {
    let mut changes = comparison.touched_routes().count();
    for old in comparison.removed_routes() {
        changes += 1;
        let path = old.path();
        report.add(RiskCode::RouteRemoved, path, format!("{path} is gone"));
    }
    if changes > MANY_ROUTES {
        let message = format!("{changes} routes are added, removed or changed at once");
        report.add(RiskCode::ManyRouteChanges, "routes", message);
    }
    for (old, new) in comparison.kept_routes() {
        let (before, after) = (destination(old.route()), destination(new.route()));
        if before != after {
            let path = new.path();
            let message = format!("{path} leads to {after} instead of {before}");
            report.add(RiskCode::RouteRetargeted, path, message);
        }
    }
}

/// Where a route leads, for a person.
fn destination(route: &RouteConfig) -> String {
    let upstream = route.upstream.as_ref().map(|id| format!("upstream {id:?}"));
    let files = route.static_files.as_ref().map(|files| format!("files in {:?}", files.root));
    let handler = route.builtin_handler.map(|handler| format!("handler {handler:?}"));
    let parts: Vec<_> = [upstream, files, handler].into_iter().flatten().collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(" and ") }
}

/// Routes whose requests another, new or changed route now catches.
pub(super) fn shadowing(comparison: &Comparison<'_>, report: &mut Report) {
    let touched: Vec<_> = comparison.touched_routes().collect();
    let removed = comparison.removed_routes().count();
    let pairs = touched.len().saturating_mul(comparison.old_routes.len());
    if pairs.saturating_add(removed.saturating_mul(comparison.new_routes.len())) > MAX_PAIRS {
        let message = "there are too many routes and changes to look for routes that catch others' requests";
        report.add(RiskCode::ShadowingUnchecked, "routes", message);
        return;
    }
    let patterns = Patterns::default();
    let catches = |a: &RouteView<'_>, b: &RouteView<'_>, must_win| catches(&patterns, a, b, must_win);
    for old in comparison.old_routes.values() {
        let kept = comparison.new_routes.get(old.path());
        let victim = kept.unwrap_or(old);
        let catcher = touched.iter().find(|(before, catcher)| {
            catcher.path() != victim.path()
                && catches(catcher, victim, kept.is_some())
                && !before.is_some_and(|before| catches(before, old, true))
        });
        if let Some((_, catcher)) = catcher {
            shadowed(victim, catcher, kept.is_some(), report);
        } else if kept.is_none() {
            // An older route may take over without having changed.
            let heir = comparison.new_routes.values().find(|heir| catches(heir, old, false));
            if let Some(heir) = heir {
                lost_authentication(old, heir, report);
            }
        }
    }
}

fn shadowed(victim: &RouteView<'_>, catcher: &RouteView<'_>, kept: bool, report: &mut Report) {
    if kept {
        let (path, by) = (victim.path(), catcher.path());
        let message = format!("{by} now catches every request of {path}");
        report.add(RiskCode::RouteShadowed, path, message);
    }
    lost_authentication(victim, catcher, report);
}

/// Requests that move from a route with authentication to one without.
fn lost_authentication(from: &RouteView<'_>, to: &RouteView<'_>, report: &mut Report) {
    let authenticated = |view: &RouteView<'_>| view.calls_for(Purpose::Authentication).next().is_some();
    if authenticated(from) && !authenticated(to) {
        let (path, by) = (from.path(), to.path());
        let message = format!("requests of {path} are now caught by {by}, which does not authenticate them");
        report.add(RiskCode::AuthRemoved, path, message);
    }
}

/// Whether `a` gets every request that `b` would get. When `b` is not there any more, it need not
/// come before it.
fn catches(patterns: &Patterns, a: &RouteView<'_>, b: &RouteView<'_>, must_win: bool) -> bool {
    a.item.scope == b.item.scope
        && (!must_win || wins(a.route(), b.route()))
        && covers_with(patterns, &a.route().matches, &b.route().matches)
}

/// Path patterns, compiled once.
#[derive(Default)]
struct Patterns(RefCell<HashMap<String, Option<Regex>>>);

impl Patterns {
    /// Whether a pattern matches a path; false for one that is too large or too many.
    fn matches(&self, pattern: &str, path: &str) -> bool {
        let mut known = self.0.borrow_mut();
        if let Some(compiled) = known.get(pattern) {
            return compiled.as_ref().is_some_and(|compiled| compiled.is_match(path));
        }
        if known.len() >= MAX_PATTERNS {
            return false;
        }
        let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build().ok();
        let matches = compiled.as_ref().is_some_and(|compiled| compiled.is_match(path));
        known.insert(pattern.to_owned(), compiled);
        matches
    }
}

/// Whether the proxy tries `a` before `b`: priority, then kind and length of the path, then host,
/// then number of conditions. Between full equals one of the two never gets a request.
fn wins(a: &RouteConfig, b: &RouteConfig) -> bool {
    match a.priority.cmp(&b.priority) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => specificity(a) >= specificity(b),
    }
}

fn specificity(route: &RouteConfig) -> (u8, usize, bool, usize) {
    let path = route.matches.iter().map(|condition| match condition {
        MatchCondition::Path(_) => (3, 0),
        MatchCondition::PathRegex(_) => (2, 0),
        MatchCondition::PathPrefix(prefix) => (1, prefix.len()),
        _ => (0, 0),
    });
    let (kind, length) = path.max().unwrap_or((0, 0));
    let host = route.matches.iter().any(|condition| matches!(condition, MatchCondition::Host(_)));
    (kind, length, host, route.matches.len())
}

/// Whether every request that meets all conditions of `b` also meets all of `a`. Hosts are
/// alternatives among themselves, everything else must hold together.
pub(super) fn covers(a: &[MatchCondition], b: &[MatchCondition]) -> bool {
    covers_with(&Patterns::default(), a, b)
}

fn covers_with(patterns: &Patterns, a: &[MatchCondition], b: &[MatchCondition]) -> bool {
    let trivial = |condition: &MatchCondition| match condition {
        MatchCondition::Host(_) => true,
        MatchCondition::PathPrefix(prefix) => prefix == "/",
        _ => false,
    };
    let implied = |wide| b.iter().any(|narrow| implies(patterns, narrow, wide));
    a.iter().filter(|condition| !trivial(condition)).all(implied) && covers_hosts(a, b)
}

fn covers_hosts(a: &[MatchCondition], b: &[MatchCondition]) -> bool {
    let hosts = |conditions: &[MatchCondition]| -> Vec<String> {
        let host = |condition: &MatchCondition| match condition {
            MatchCondition::Host(host) => Some(host.to_ascii_lowercase()),
            _ => None,
        };
        conditions.iter().filter_map(host).collect()
    };
    let (outer, inner) = (hosts(a), hosts(b));
    outer.is_empty()
        || (!inner.is_empty() && inner.iter().all(|host| outer.iter().any(|wide| host_includes(wide, host))))
}

fn host_includes(wide: &str, host: &str) -> bool {
    match wide.strip_prefix('*') {
        Some(suffix) => wide == host || (host.len() > suffix.len() && host.ends_with(suffix)),
        None => wide == host,
    }
}

/// Whether a request that meets `narrow` always meets `wide`.
fn implies(patterns: &Patterns, narrow: &MatchCondition, wide: &MatchCondition) -> bool {
    use MatchCondition as M;
    match (narrow, wide) {
        (M::Path(path) | M::PathPrefix(path), M::PathPrefix(prefix)) => within(path, prefix),
        (M::Path(a), M::Path(b)) | (M::PathRegex(a), M::PathRegex(b)) => a == b,
        (M::Path(path), M::PathRegex(pattern)) => patterns.matches(pattern, path),
        (M::Method(narrow), M::Method(wide)) => {
            narrow.iter().all(|method| wide.iter().any(|other| other.eq_ignore_ascii_case(method)))
        }
        (M::Header { name: a, value: narrow }, M::Header { name: b, value: wide }) => {
            a.eq_ignore_ascii_case(b) && (wide.is_none() || narrow == wide)
        }
        (M::QueryParam { name: a, value: narrow }, M::QueryParam { name: b, value: wide }) => {
            a == b && (wide.is_none() || narrow == wide)
        }
        _ => false,
    }
}

/// Whether a path lies under a prefix; prefixes end at a segment.
fn within(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(items: &[(&str, &str)]) -> Vec<MatchCondition> {
        let condition = |(kind, text): &(&str, &str)| match *kind {
            "path" => MatchCondition::Path((*text).to_owned()),
            "prefix" => MatchCondition::PathPrefix((*text).to_owned()),
            "regex" => MatchCondition::PathRegex((*text).to_owned()),
            "host" => MatchCondition::Host((*text).to_owned()),
            "method" => MatchCondition::Method(vec![(*text).to_owned()]),
            "header" => MatchCondition::Header { name: (*text).to_owned(), value: None },
            "header=1" => MatchCondition::Header { name: (*text).to_owned(), value: Some("1".to_owned()) },
            _ => MatchCondition::QueryParam { name: (*text).to_owned(), value: None },
        };
        items.iter().map(condition).collect()
    }

    #[test]
    fn covering_is_about_requests_not_text() {
        for (wide, narrow) in [
            (vec![], vec![("path", "/a")]),
            (vec![("prefix", "/")], vec![("path", "/a")]),
            (vec![("prefix", "/")], vec![("method", "GET")]),
            (vec![("prefix", "/api")], vec![("prefix", "/api/v1")]),
            (vec![("prefix", "/api/")], vec![("path", "/api")]),
            (vec![("regex", "^/a.*$")], vec![("path", "/abc")]),
            (vec![("host", "*.x.io")], vec![("host", "a.x.io"), ("path", "/")]),
            (vec![("host", "a"), ("host", "b")], vec![("host", "B")]),
            (vec![("header", "X-A")], vec![("header=1", "x-a")]),
            (vec![("method", "get")], vec![("method", "GET"), ("query", "q")]),
        ] {
            assert!(covers(&conditions(&wide), &conditions(&narrow)), "{wide:?} {narrow:?}");
            if wide != narrow {
                assert!(!covers(&conditions(&narrow), &conditions(&wide)) || wide == [("prefix", "/api/")]);
            }
        }
        for (wide, narrow) in [
            (vec![("prefix", "/api")], vec![("path", "/apix")]),
            (vec![("prefix", "/api")], vec![("method", "GET")]),
            (vec![("host", "*.x.io")], vec![("host", "x.io")]),
            (vec![("host", "a")], vec![("path", "/")]),
            (vec![("host", "a")], vec![("host", "a"), ("host", "b")]),
            (vec![("header=1", "X-A")], vec![("header", "X-A")]),
            (vec![("regex", "([")], vec![("path", "/")]),
        ] {
            assert!(!covers(&conditions(&wide), &conditions(&narrow)), "{wide:?} {narrow:?}");
        }
    }
}
