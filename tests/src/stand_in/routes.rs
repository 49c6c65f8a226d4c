//! The route table: which route a request takes, by the proxy's rules of precedence.

use http::request::Parts;
use regex::Regex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use zentinel_config::{BuiltinHandler, Config, Filter, MatchCondition, RedirectFilter, RouteConfig};

/// Routes in the order in which they are asked.
#[derive(Debug)]
pub struct Table {
    routes: Vec<Route>,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Its id, as metrics name it.
    pub id: String,
    config: RouteConfig,
    precedence: (i32, usize),
    hosts: Vec<String>,
    conditions: Vec<Condition>,
}

/// What a route does with a request.
#[derive(Debug)]
pub enum Action<'a> {
    /// Sends the client elsewhere.
    Redirect(&'a RedirectFilter),
    /// Answers itself.
    Builtin(BuiltinHandler),
    /// Passes it on.
    Upstream(&'a Pool),
    /// Has no target, which is an error of the proxy.
    Nothing,
}

/// What routes refer to by name. A reload takes it over even when it cannot take over the routes.
#[derive(Debug)]
pub struct Shared {
    redirects: HashMap<String, RedirectFilter>,
    pools: HashMap<String, Pool>,
}

/// The targets of an upstream, taken by turns.
#[derive(Debug)]
pub struct Pool {
    targets: Vec<String>,
    turn: AtomicUsize,
    refused: AtomicUsize,
}

/// After so many refused connections in a row an upstream is given up.
const GIVEN_UP: usize = 5;

impl Pool {
    /// The next target.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.targets.get(turn.checked_rem(self.targets.len())?).map(String::as_str)
    }

    /// Takes down whether a connection came about.
    pub fn note(&self, connected: bool) {
        if connected {
            self.refused.store(0, Ordering::Relaxed);
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether nobody is asked any more, until the next reload: the proxy asks again after a while.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.refused.load(Ordering::Relaxed) >= GIVEN_UP
    }
}

#[derive(Debug)]
enum Condition {
    Path(String),
    PathPrefix(String),
    PathRegex(Regex),
    Header(String, Option<String>),
    Method(Vec<String>),
    Query(String, Option<String>),
}

impl Table {
    /// The routes of a configuration.
    ///
    /// # Errors
    /// On a bad regular expression, as the proxy.
    pub fn new(config: &Config) -> Result<Self, regex::Error> {
        let mut routes = config.routes.iter().map(Route::new).collect::<Result<Vec<_>, _>>()?;
        routes.sort_by_key(|route| std::cmp::Reverse(route.precedence));
        Ok(Self { routes })
    }

    /// The route of a request.
    #[must_use]
    pub fn find(&self, request: &Parts, default: Option<&str>) -> Option<&Route> {
        let found = self.routes.iter().find(|route| route.takes(request));
        found.or_else(|| self.routes.iter().find(|route| Some(route.id.as_str()) == default))
    }
}

impl Route {
    fn new(route: &RouteConfig) -> Result<Self, regex::Error> {
        let (mut hosts, mut conditions) = (Vec::new(), Vec::new());
        let (mut path, mut host, mut others) = (0, 0, 0);
        for condition in &route.matches {
            conditions.push(match condition.clone() {
                MatchCondition::Host(name) => {
                    host = host.max(if name.starts_with("*.") { 50 } else { 70 });
                    hosts.push(name.to_lowercase());
                    continue;
                }
                MatchCondition::Path(wanted) => {
                    path = path.max(10_000);
                    Condition::Path(wanted)
                }
                MatchCondition::PathRegex(pattern) => {
                    path = path.max(5_000);
                    Condition::PathRegex(Regex::new(&pattern)?)
                }
                MatchCondition::PathPrefix(prefix) => {
                    path = path.max(1_000 + prefix.len());
                    Condition::PathPrefix(prefix)
                }
                MatchCondition::Header { name, value } => {
                    others += if value.is_some() { 30 } else { 20 };
                    Condition::Header(name, value)
                }
                MatchCondition::Method(methods) => {
                    others += 10;
                    Condition::Method(methods)
                }
                MatchCondition::QueryParam { name, value } => {
                    others += if value.is_some() { 25 } else { 15 };
                    Condition::Query(name, value)
                }
            });
        }
        let precedence = (route.priority.0, path + host + others);
        Ok(Self { id: route.id.clone(), config: route.clone(), precedence, hosts, conditions })
    }

    fn takes(&self, request: &Parts) -> bool {
        let host = host(request);
        let hosts = self.hosts.iter().any(|wanted| match wanted.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => *wanted == host,
        });
        (self.hosts.is_empty() || hosts) && self.conditions.iter().all(|condition| condition.holds(request))
    }
}

impl Shared {
    /// The filters and upstreams of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let redirects = config.filters.iter().filter_map(|(id, filter)| match &filter.filter {
            Filter::Redirect(redirect) => Some((id.clone(), redirect.clone())),
            _ => None,
        });
        let pools = config.upstreams.iter().map(|(id, upstream)| {
            let targets = upstream.targets.iter().map(|target| target.address.clone()).collect();
            (id.clone(), Pool { targets, turn: AtomicUsize::new(0), refused: AtomicUsize::new(0) })
        });
        Self { redirects: redirects.collect(), pools: pools.collect() }
    }

    /// What a route does.
    #[must_use]
    pub fn action(&self, route: &Route) -> Action<'_> {
        let redirect = route.config.filters.iter().find_map(|id| self.redirects.get(id));
        let pool = route.config.upstream.as_ref().and_then(|id| self.pools.get(id));
        match (route.config.builtin_handler, redirect, pool) {
            (Some(handler), ..) => Action::Builtin(handler),
            (_, Some(redirect), _) => Action::Redirect(redirect),
            (.., Some(pool)) => Action::Upstream(pool),
            _ => Action::Nothing,
        }
    }
}

impl Condition {
    fn holds(&self, request: &Parts) -> bool {
        let path = request.uri.path();
        match self {
            Self::Path(wanted) => path == wanted,
            Self::PathPrefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')),
            Self::PathRegex(pattern) => pattern.is_match(path),
            Self::Header(name, value) => request
                .headers
                .get(name)
                .is_some_and(|found| value.as_ref().is_none_or(|value| found.as_bytes() == value.as_bytes())),
            Self::Method(methods) => {
                methods.iter().any(|method| method.eq_ignore_ascii_case(request.method.as_str()))
            }
            Self::Query(name, value) => {
                let query = url::form_urlencoded::parse(request.uri.query().unwrap_or("").as_bytes());
                let mut found = query.filter(|(found, _)| found == name);
                found.any(|(_, found)| value.as_ref().is_none_or(|value| found == *value))
            }
        }
    }
}

/// The host that a request is for, without port, in lower case.
#[must_use]
pub fn host(request: &Parts) -> String {
    let host = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri.host()).unwrap_or("localhost");
    host.rsplit_once(':').map_or(host, |(name, _)| name).to_lowercase()
}
