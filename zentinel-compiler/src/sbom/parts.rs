//! The components of a bundle and what each depends on.

use crate::model::{Item, Model};
use crate::source::Source;
use cyclonedx_bom::models::component::{Classification, Component};
use cyclonedx_bom::models::dependency::Dependency;
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::property::{Properties, Property};
use cyclonedx_bom::prelude::NormalizedString;
use std::collections::{BTreeSet, HashMap};
use zentinel_config::{AgentTransport, AgentType, ListenerProtocol, RouteConfig};
use zentinel_core::Sha256Digest;

/// Components in document order with their dependencies.
pub(super) struct Parts {
    pub(super) components: Vec<Component>,
    pub(super) dependencies: Vec<Dependency>,
    /// References of files by path in the archive.
    files: HashMap<String, String>,
    /// References of configuration items by their address in memory: one item, one reference.
    items: HashMap<usize, String>,
}

impl Parts {
    pub(super) fn of(source: &Source, model: &Model) -> Self {
        let mut parts = Self {
            components: Vec::new(),
            dependencies: Vec::new(),
            files: HashMap::new(),
            items: HashMap::new(),
        };
        parts.proxy();
        parts.files(source);
        parts.upstreams(model);
        parts.agents(model);
        parts.filters(model);
        parts.routes(model);
        parts.listeners(model);
        parts
    }

    /// What the bundle itself depends on: everything.
    pub(super) fn top_level(&self) -> Vec<String> {
        self.components.iter().filter_map(|component| component.bom_ref.clone()).collect()
    }

    fn add<T>(
        &mut self,
        kind: Kind<'_>,
        item: &Item<'_, T>,
        properties: &[(&str, String)],
        needs: BTreeSet<String>,
    ) {
        let reference = format!("{}-{}", kind.name, kind.number);
        let title = format!("{}:{}", kind.name, kind.label);
        let mut component = Component::new(kind.class, &title, "1", Some(reference.clone()));
        component.version = None;
        component.group = Some(NormalizedString::new(&format!("zentinel.{}", kind.plural)));
        let named = |(name, value): &(&str, String)| Property::new(format!("zentinel:{name}"), value);
        let mut all = vec![Property::new("zentinel:path", &item.path)];
        all.extend(properties.iter().map(named));
        component.properties = Some(Properties(all));
        self.components.push(component);
        self.items.insert(address(item.value), reference.clone());
        self.dependencies
            .push(Dependency { dependency_ref: reference, dependencies: needs.into_iter().collect() });
    }

    fn proxy(&mut self) {
        self.components.push(super::proxy("proxy-1".to_owned()));
    }

    fn files(&mut self, source: &Source) {
        for (index, file) in source.files().iter().enumerate() {
            let reference = format!("file-{}", index + 1);
            let mut component = Component::new(Classification::File, &file.path, "", Some(reference.clone()));
            component.version = None;
            component.group = Some(NormalizedString::new("zentinel.files"));
            component.hashes = Some(Hashes(vec![Hash {
                alg: HashAlgorithm::SHA_256,
                content: HashValue(Sha256Digest::of(&file.bytes).to_string()),
            }]));
            let role = Property::new("zentinel:role", role(&file.path));
            component.properties = Some(Properties(vec![role]));
            self.components.push(component);
            self.files.insert(file.path.clone(), reference);
        }
    }

    /// The archive's files that a part names. Paths in the configuration are absolute on the
    /// node, so a file counts when the configured path ends with the file's path.
    fn files_in(&self, part: &impl serde::Serialize) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let value = crate::model::json(part);
        let mut open = vec![&value];
        while let Some(value) = open.pop() {
            match value {
                serde_json::Value::String(text) => found.extend(self.file_at(text)),
                serde_json::Value::Array(items) => open.extend(items),
                serde_json::Value::Object(fields) => open.extend(fields.values()),
                _ => {}
            }
        }
        found
    }

    fn file_at(&self, text: &str) -> Option<String> {
        // Every tail that starts at a path segment, longest first.
        let tails = text.match_indices('/').map(|(at, _)| &text[at + 1..]);
        std::iter::once(text).chain(tails).find_map(|tail| self.files.get(tail).cloned())
    }

    fn upstreams(&mut self, model: &Model) {
        for (index, item) in model.upstreams().iter().enumerate() {
            let needs = self.files_in(item.value);
            let targets: Vec<_> = item.value.targets.iter().map(|target| target.address.as_str()).collect();
            let kind = Kind::library("upstream", "upstreams", index, &item.value.id);
            self.add(kind, item, &[("targets", targets.join(","))], needs);
        }
    }

    fn agents(&mut self, model: &Model) {
        for (index, item) in model.agents().iter().enumerate() {
            let needs = self.files_in(item.value);
            let transport = match &item.value.transport {
                AgentTransport::UnixSocket { .. } => "unix-socket",
                AgentTransport::Grpc { .. } => "grpc",
                AgentTransport::Http { .. } => "http",
            };
            let role = match &item.value.agent_type {
                AgentType::Waf => "waf",
                AgentType::Auth => "auth",
                AgentType::RateLimit => "rate-limit",
                AgentType::Custom(name) => name,
            };
            let kind = Kind::library("agent", "agents", index, &item.value.id);
            let properties = [("type", role.to_owned()), ("transport", transport.to_owned())];
            self.add(kind, item, &properties, needs);
        }
    }

    fn filters(&mut self, model: &Model) {
        for (index, item) in model.filters().iter().enumerate() {
            let mut needs = self.files_in(item.value);
            if let Some(agent) = model.agent_of(item) {
                needs.extend(self.items.get(&address(agent)).cloned());
            }
            let kind = Kind::library("filter", "filters", index, &item.value.id);
            let role = item.value.filter_type().to_owned();
            self.add(kind, item, &[("type", role)], needs);
        }
    }

    fn routes(&mut self, model: &Model) {
        for (index, item) in model.routes().iter().enumerate() {
            let mut needs = self.files_in(item.value);
            for upstream in model.upstreams_of(item) {
                needs.extend(self.items.get(&address(upstream)).cloned());
            }
            for filter in model.filters_of(item) {
                needs.extend(self.items.get(&address(filter)).cloned());
            }
            let kind = Kind::library("route", "routes", index, &item.value.id);
            let priority = item.value.priority.to_string();
            self.add(kind, item, &[("priority", priority)], needs);
        }
    }

    fn listeners(&mut self, model: &Model) {
        let routes = model.routes();
        for (index, item) in model.listeners().iter().enumerate() {
            let mut needs = self.files_in(item.value);
            let reaches = |route: &&Item<'_, RouteConfig>| Model::serves(item, route);
            let served = routes.iter().filter(reaches);
            needs.extend(served.filter_map(|route| self.items.get(&address(route.value)).cloned()));
            let protocol = match item.value.protocol {
                ListenerProtocol::Http => "http",
                ListenerProtocol::Https => "https",
                ListenerProtocol::Http2 => "h2",
                ListenerProtocol::Http3 => "h3",
            };
            let kind = Kind {
                class: Classification::Framework,
                ..Kind::library("listener", "listeners", index, &item.value.id)
            };
            let properties = [("address", item.value.address.clone()), ("protocol", protocol.to_owned())];
            self.add(kind, item, &properties, needs);
        }
    }
}

/// Where a value lives; configurations do not move while they are looked at.
fn address<T>(value: &T) -> usize {
    std::ptr::from_ref(value).addr()
}

struct Kind<'a> {
    class: Classification,
    name: &'a str,
    plural: &'a str,
    number: usize,
    label: &'a str,
}

impl<'a> Kind<'a> {
    fn library(name: &'a str, plural: &'a str, index: usize, label: &'a str) -> Self {
        Self { class: Classification::Library, name, plural, number: index + 1, label }
    }
}

/// What a file is, by its name.
fn role(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "pem" | "crt" | "cer" | "der" => "certificate",
        "crl" => "revocation-list",
        "wasm" | "lua" | "so" => "plugin",
        "mmdb" => "geo-database",
        "json" | "yaml" | "yml" => "schema",
        _ => "file",
    }
}
