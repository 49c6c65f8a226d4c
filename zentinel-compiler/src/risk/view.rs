//! Two configurations side by side.

use crate::model::{Item, Model, json};
use serde_json::Value;
use std::collections::BTreeMap;
use zentinel_config::{AgentConfig, AgentFilter, AgentType, FailureMode, FilterConfig, RouteConfig};

/// One route with what its requests pass through.
pub(super) struct RouteView<'a> {
    pub(super) item: Item<'a, RouteConfig>,
    pub(super) filters: Vec<&'a FilterConfig>,
    pub(super) calls: Vec<Call<'a>>,
    /// The whole route, to see whether anything differs.
    pub(super) body: Value,
}

/// An agent that a route calls.
pub(super) struct Call<'a> {
    pub(super) agent: &'a AgentConfig,
    pub(super) filter: &'a AgentFilter,
}

impl Call<'_> {
    /// What happens to requests when the agent fails: the filter overrules the agent.
    pub(super) fn fails_open(&self) -> bool {
        self.filter.failure_mode.unwrap_or(self.agent.failure_mode) == FailureMode::Open
    }
}

/// What an agent is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Authentication,
    Firewall,
    Other,
}

impl Purpose {
    pub(super) fn of(agent: &AgentConfig) -> Self {
        match &agent.agent_type {
            AgentType::Auth => Self::Authentication,
            AgentType::Waf => Self::Firewall,
            AgentType::RateLimit => Self::Other,
            AgentType::Custom(name) => Self::of_name(&name.to_ascii_lowercase()),
        }
    }

    /// Agents may name any type; these words leave no doubt.
    fn of_name(name: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if has(&["auth", "jwt", "oidc", "saml"]) {
            Self::Authentication
        } else if has(&["waf", "firewall"]) {
            Self::Firewall
        } else {
            Self::Other
        }
    }
}

impl RouteView<'_> {
    /// The agents of one purpose.
    pub(super) fn calls_for(&self, purpose: Purpose) -> impl Iterator<Item = &Call<'_>> {
        self.calls.iter().filter(move |call| Purpose::of(call.agent) == purpose)
    }

    pub(super) fn path(&self) -> &str {
        &self.item.path
    }

    pub(super) fn route(&self) -> &RouteConfig {
        self.item.value
    }
}

/// Two configurations with their routes by path.
pub(super) struct Comparison<'a> {
    pub(super) old: &'a Model,
    pub(super) new: &'a Model,
    pub(super) old_routes: BTreeMap<String, RouteView<'a>>,
    pub(super) new_routes: BTreeMap<String, RouteView<'a>>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(old: &'a Model, new: &'a Model) -> Self {
        Self { old, new, old_routes: routes(old), new_routes: routes(new) }
    }

    /// Routes that both have.
    pub(super) fn kept_routes(&self) -> impl Iterator<Item = (&RouteView<'a>, &RouteView<'a>)> {
        let pair = |(path, old)| self.new_routes.get(path).map(|new| (old, new));
        self.old_routes.iter().filter_map(pair)
    }

    /// Routes that are gone.
    pub(super) fn removed_routes(&self) -> impl Iterator<Item = &RouteView<'a>> {
        let gone = self.old_routes.iter().filter(|(path, _)| !self.new_routes.contains_key(*path));
        gone.map(|(_, view)| view)
    }

    /// Routes that are new or differ in any way, with the old one where there is one.
    pub(super) fn touched_routes(&self) -> impl Iterator<Item = (Option<&RouteView<'a>>, &RouteView<'a>)> {
        let pair = |(path, new)| (self.old_routes.get(path), new);
        let pairs = self.new_routes.iter().map(pair);
        pairs.filter(|(old, new): &(Option<&RouteView<'a>>, &RouteView<'a>)| {
            old.is_none_or(|old| old.body != new.body)
        })
    }
}

fn routes(model: &Model) -> BTreeMap<String, RouteView<'_>> {
    let views = model.routes().into_iter().map(|item| view(model, item));
    views.map(|view| (view.item.path.clone(), view)).collect()
}

fn view<'a>(model: &'a Model, item: Item<'a, RouteConfig>) -> RouteView<'a> {
    let calls = model.agents_of(&item).into_iter();
    RouteView {
        filters: model.filters_of(&item),
        calls: calls.map(|(agent, filter)| Call { agent, filter }).collect(),
        body: json(item.value),
        item,
    }
}

/// The items of two lists by path.
pub(super) fn by_path<'a, T>(items: Vec<Item<'a, T>>) -> BTreeMap<String, &'a T> {
    items.into_iter().map(|item| (item.path, item.value)).collect()
}

/// The paths under which two tables differ.
pub(super) fn differences(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<String> {
    let changed = new.iter().filter(|(path, value)| old.get(*path) != Some(value));
    let removed = old.keys().filter(|path| !new.contains_key(*path));
    let mut paths: Vec<_> = changed.map(|(path, _)| path).chain(removed).cloned().collect();
    paths.sort();
    paths
}

/// A few paths for a message.
pub(super) fn listed(paths: &[String]) -> String {
    let shown = paths.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    match paths.len().checked_sub(5) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}
