//! The parsed configuration as risk, SBOM and activation look at it: every item of every scope
//! with its path.

use crate::document::Document;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use zentinel_common::ids::Scope;
use zentinel_common::limits::Limits;
use zentinel_config::{
    AgentConfig, Config, Filter, FilterConfig, ListenerConfig, ResourceResolver, RouteConfig, UpstreamConfig,
};
use zentinel_core::{Error, Result};

/// A configuration as the proxy understands it.
#[derive(Clone, Debug)]
pub struct Model {
    config: Config,
}

/// One item of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a, T> {
    /// Where it is, for example `routes/api` or `namespace/shop/routes/api`.
    pub(crate) path: String,
    /// Where its references are looked up first.
    pub(crate) scope: Scope,
    /// The item.
    pub(crate) value: &'a T,
}

/// The items that are defined at one level.
struct Level<'a> {
    scope: Scope,
    prefix: String,
    listeners: Vec<(String, &'a ListenerConfig)>,
    routes: &'a [RouteConfig],
    upstreams: &'a HashMap<String, UpstreamConfig>,
    filters: &'a HashMap<String, FilterConfig>,
    agents: &'a [AgentConfig],
    limits: Option<&'a Limits>,
}

impl Model {
    /// Parses configuration text with the proxy's parser, guarded and on a large stack. The text
    /// should have passed validation: this says only whether it can be parsed.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) when it cannot; the diagnostics are in the
    /// details.
    pub fn parse(kdl: &str) -> Result<Self> {
        match Document::config(kdl) {
            Ok(config) => Ok(Self::new(config)),
            Err(diagnostics) => {
                let first = diagnostics.first().map(|first| first.message.as_str());
                let message =
                    format!("configuration could not be parsed: {}", first.unwrap_or("no reason was given"));
                Err(Error::invalid(message).with_details(serde_json::to_value(&diagnostics)?))
            }
        }
    }

    /// The model of what the proxy's parser made of some text.
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
    }

    /// What the proxy's parser made of the text.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn levels(&self) -> Vec<Level<'_>> {
        let config = &self.config;
        let mut levels = vec![Level {
            scope: Scope::Global,
            prefix: String::new(),
            listeners: named_listeners(&config.listeners),
            routes: &config.routes,
            upstreams: &config.upstreams,
            filters: &config.filters,
            agents: &config.agents,
            limits: Some(&config.limits),
        }];
        for namespace in &config.namespaces {
            let prefix = format!("namespace/{}/", step(&namespace.id));
            levels.push(Level {
                scope: Scope::Namespace(namespace.id.clone()),
                prefix: prefix.clone(),
                listeners: named_listeners(&namespace.listeners),
                routes: &namespace.routes,
                upstreams: &namespace.upstreams,
                filters: &namespace.filters,
                agents: &namespace.agents,
                limits: namespace.limits.as_ref(),
            });
            for service in &namespace.services {
                let listener = service.listener.as_ref();
                levels.push(Level {
                    scope: Scope::Service { namespace: namespace.id.clone(), service: service.id.clone() },
                    prefix: format!("{prefix}service/{}/", step(&service.id)),
                    listeners: listener.map(|it| ("listener".to_owned(), it)).into_iter().collect(),
                    routes: &service.routes,
                    upstreams: &service.upstreams,
                    filters: &service.filters,
                    agents: &service.agents,
                    limits: service.limits.as_ref(),
                });
            }
        }
        levels
    }

    fn collect<'a, T: 'a, I>(&'a self, items: impl Fn(&Level<'a>) -> I) -> Vec<Item<'a, T>>
    where
        I: IntoIterator<Item = (String, &'a T)>,
    {
        let mut all = Vec::new();
        for level in self.levels() {
            for (path, value) in items(&level) {
                all.push(Item { path: format!("{}{path}", level.prefix), scope: level.scope.clone(), value });
            }
        }
        all
    }

    /// Every listener, in the order of the text.
    pub(crate) fn listeners(&self) -> Vec<Item<'_, ListenerConfig>> {
        self.collect(|level| level.listeners.clone())
    }

    /// Every route, in the order of the text.
    pub(crate) fn routes(&self) -> Vec<Item<'_, RouteConfig>> {
        self.collect(|level| {
            let named = |route: &'_ RouteConfig| format!("routes/{}", step(&route.id));
            level.routes.iter().map(|route| (named(route), route)).collect::<Vec<_>>()
        })
    }

    /// Every upstream, by id within its level.
    pub(crate) fn upstreams(&self) -> Vec<Item<'_, UpstreamConfig>> {
        self.collect(|level| sorted("upstreams", level.upstreams))
    }

    /// Every filter, by id within its level.
    pub(crate) fn filters(&self) -> Vec<Item<'_, FilterConfig>> {
        self.collect(|level| sorted("filters", level.filters))
    }

    /// Every agent, in the order of the text.
    pub(crate) fn agents(&self) -> Vec<Item<'_, AgentConfig>> {
        self.collect(|level| {
            let named = |agent: &'_ AgentConfig| format!("agents/{}", step(&agent.id));
            level.agents.iter().map(|agent| (named(agent), agent)).collect::<Vec<_>>()
        })
    }

    /// The limits of every level that has some.
    pub(crate) fn limits(&self) -> Vec<Item<'_, Limits>> {
        self.collect(|level| level.limits.map(|limits| ("limits".to_owned(), limits)))
    }

    /// The filters that a route runs, in order. Unknown ones are left out.
    pub(crate) fn filters_of<'a>(&'a self, route: &Item<'a, RouteConfig>) -> Vec<&'a FilterConfig> {
        let resolver = ResourceResolver::new(&self.config);
        let ids = route.value.filters.iter();
        ids.filter_map(|id| resolver.resolve_filter(id, &route.scope)).collect()
    }

    /// The agent that a filter calls, if it calls one.
    pub(crate) fn agent_of<'a>(&'a self, filter: &Item<'a, FilterConfig>) -> Option<&'a AgentConfig> {
        match &filter.value.filter {
            Filter::Agent(call) => {
                ResourceResolver::new(&self.config).resolve_agent(&call.agent, &filter.scope)
            }
            _ => None,
        }
    }

    /// The upstreams that a route may send requests to.
    pub(crate) fn upstreams_of<'a>(&'a self, route: &Item<'a, RouteConfig>) -> Vec<&'a UpstreamConfig> {
        let resolver = ResourceResolver::new(&self.config);
        let mut ids: Vec<&str> = route.value.upstream.as_deref().into_iter().collect();
        ids.extend(route.value.shadow.iter().map(|shadow| shadow.upstream.as_str()));
        let fallbacks = route.value.fallback.iter().flat_map(|fallback| &fallback.upstreams);
        ids.extend(fallbacks.map(|fallback| fallback.upstream.as_str()));
        let inference = route.value.inference.as_ref();
        if let Some(routing) = inference.and_then(|inference| inference.model_routing.as_ref()) {
            ids.extend(routing.default_upstream.as_deref());
            ids.extend(routing.mappings.iter().map(|mapping| mapping.upstream.as_str()));
        }
        ids.into_iter().filter_map(|id| resolver.resolve_upstream(id, &route.scope)).collect()
    }

    /// Whether requests to a listener can reach a route: a listener with a namespace serves only
    /// that one's routes.
    pub(crate) fn serves(listener: &Item<'_, ListenerConfig>, route: &Item<'_, RouteConfig>) -> bool {
        let namespace = match (&listener.value.namespace, &listener.scope) {
            (Some(name), _) | (None, Scope::Namespace(name) | Scope::Service { namespace: name, .. }) => {
                Some(name)
            }
            (None, Scope::Global) => None,
        };
        match (namespace, &route.scope) {
            (None, _) => true,
            (Some(_), Scope::Global) => false,
            (Some(wanted), Scope::Namespace(name) | Scope::Service { namespace: name, .. }) => wanted == name,
        }
    }

    /// The agents that a route runs, each with the filter that calls it.
    pub(crate) fn agents_of<'a>(
        &'a self,
        route: &Item<'a, RouteConfig>,
    ) -> Vec<(&'a AgentConfig, &'a zentinel_config::AgentFilter)> {
        let resolver = ResourceResolver::new(&self.config);
        let filters = self.filters_of(route).into_iter();
        filters
            .filter_map(|filter| match &filter.filter {
                Filter::Agent(call) => Some((resolver.resolve_agent(&call.agent, &route.scope)?, call)),
                _ => None,
            })
            .collect()
    }
}

fn named_listeners(listeners: &[ListenerConfig]) -> Vec<(String, &ListenerConfig)> {
    let named = |listener: &'_ ListenerConfig| format!("listeners/{}", step(&listener.id));
    listeners.iter().map(|listener| (named(listener), listener)).collect()
}

fn sorted<'a, T>(plural: &str, map: &'a HashMap<String, T>) -> Vec<(String, &'a T)> {
    let mut items: Vec<_> = map.iter().collect();
    items.sort_unstable_by_key(|(id, _)| *id);
    let named = |(id, value): (&'a String, &'a T)| (format!("{plural}/{}", step(id)), value);
    items.into_iter().map(named).collect()
}

/// An id as one step of a path.
pub(crate) fn step(id: &str) -> String {
    id.replace('~', "~0").replace('/', "~1")
}

/// A value to compare: what the proxy's types do not offer themselves.
pub(crate) fn json(value: &impl Serialize) -> Value {
    // A value that does not serialise compares unequal to everything but itself: a needless
    // finding is better than a missing one.
    serde_json::to_value(value).unwrap_or_else(|error| Value::String(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
system { worker-threads 1 }
listeners { listener "http" { address "127.0.0.1:80"; } }
upstreams {
    upstream "b" { target "10.0.0.2:80" }
    upstream "a" { target "10.0.0.1:80" }
}
agents { agent "jwt" type="auth" { unix-socket "/run/jwt.sock"; events "request_headers" } }
filters {
    filter "login" { type "agent"; agent "jwt" }
    filter "rl" { type "rate-limit"; max-rps 5 }
}
routes {
    route "api/v1" { matches { path-prefix "/api" }; upstream "a"; filters "rl" "login" }
}
namespace "shop" {
    routes { route "cart" { matches { path-prefix "/cart" }; upstream "b"; filters "login" } }
}
"#;

    #[test]
    fn items_have_the_paths_of_the_text() {
        let model = Model::parse(TEXT).unwrap();
        let paths: Vec<_> = model.routes().into_iter().map(|item| item.path).collect();
        assert_eq!(paths, ["routes/api~1v1", "namespace/shop/routes/cart"]);
        let document = Document::parse(TEXT).unwrap();
        assert!(paths.iter().all(|path| document.get(path).is_some()));
        let paths: Vec<_> = model.upstreams().into_iter().map(|item| item.path).collect();
        assert_eq!(paths, ["upstreams/a", "upstreams/b"]);
    }

    #[test]
    fn references_are_followed_from_every_scope() {
        let model = Model::parse(TEXT).unwrap();
        for route in model.routes() {
            let agents = model.agents_of(&route);
            assert_eq!(agents.len(), 1, "{}", route.path);
            assert_eq!(agents[0].0.id, "jwt");
        }
        assert_eq!(model.filters_of(&model.routes()[0]).len(), 2);
    }

    #[test]
    fn text_that_does_not_parse_is_an_error() {
        assert!(Model::parse("routes {").is_err());
        assert!(Model::parse(&"a {".repeat(100_000)).is_err());
    }
}
