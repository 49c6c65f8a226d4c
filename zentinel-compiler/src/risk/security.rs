//! Authentication and TLS.

use super::view::{Call, Comparison, Purpose, RouteView, by_path, differences, listed};
use super::{Report, RiskCode};
use crate::model::{Model, json};
use serde_json::{Value, json as object};
use std::collections::{BTreeMap, BTreeSet};
use zentinel_config::{AgentTransport, ListenerConfig};

/// Authentication: agents that authenticate, and client certificates.
pub(super) fn authentication(comparison: &Comparison<'_>, report: &mut Report) {
    let old = auth_settings(comparison.old, &comparison.old_routes);
    let new = auth_settings(comparison.new, &comparison.new_routes);
    let changed = differences(&old, &new);
    if let Some(first) = changed.first() {
        let message = format!("authentication differs: {}", listed(&changed));
        report.add(RiskCode::AuthPolicyChanged, first, message);
    }
    for (old, new) in comparison.kept_routes() {
        compare_auth(old, new, report);
    }
    let new_listeners = by_path(comparison.new.listeners());
    for (path, old) in by_path(comparison.old.listeners()) {
        let still = new_listeners.get(&path).copied();
        if client_auth(old) && still.is_some_and(|new| !client_auth(new)) {
            let message = format!("{path} no longer asks for client certificates");
            report.add(RiskCode::ClientAuthDisabled, &path, message);
        }
    }
}

fn client_auth(listener: &ListenerConfig) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.client_auth)
}

/// Everything about authentication, by path.
fn auth_settings(model: &Model, routes: &BTreeMap<String, RouteView<'_>>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for agent in model.agents() {
        if Purpose::of(agent.value) == Purpose::Authentication {
            all.insert(agent.path, json(agent.value));
        }
    }
    for view in routes.values() {
        let calls: Vec<_> = view.calls_for(Purpose::Authentication).map(call_value).collect();
        if !calls.is_empty() {
            all.insert(view.path().to_owned(), Value::Array(calls));
        }
    }
    for listener in model.listeners() {
        if let Some(tls) = listener.value.tls.as_ref().filter(|tls| tls.client_auth) {
            all.insert(listener.path, json(&tls.ca_file));
        }
    }
    all
}

fn call_value(call: &Call<'_>) -> Value {
    object!([call.agent.id, json(call.filter)])
}

/// What authentication lost on one route.
fn compare_auth(old: &RouteView<'_>, new: &RouteView<'_>, report: &mut Report) {
    let path = new.path();
    let before: BTreeMap<_, _> = by_agent(old);
    let after: BTreeMap<_, _> = by_agent(new);
    if before.is_empty() {
        return;
    }
    if after.is_empty() {
        let message = format!("requests to {path} no longer have to authenticate");
        report.add(RiskCode::AuthRemoved, path, message);
        return;
    }
    for (id, old) in &before {
        let Some(new) = after.get(id) else {
            let message = format!("requests to {path} no longer pass the authentication agent {id:?}");
            report.add(RiskCode::AuthWeakened, path, message);
            continue;
        };
        if new.fails_open() && !old.fails_open() {
            let message = format!("requests to {path} pass without authentication when agent {id:?} fails");
            report.add(RiskCode::AuthWeakened, path, message);
        } else if lost_events(old, new) || (old.filter.inspect_body && !new.filter.inspect_body) {
            let message = format!("the authentication agent {id:?} of {path} sees less of a request");
            report.add(RiskCode::AuthWeakened, path, message);
        }
    }
}

fn by_agent<'a>(view: &'a RouteView<'a>) -> BTreeMap<&'a str, &'a Call<'a>> {
    let calls = view.calls_for(Purpose::Authentication);
    calls.map(|call| (call.agent.id.as_str(), call)).collect()
}

fn lost_events(old: &Call<'_>, new: &Call<'_>) -> bool {
    old.agent.events.iter().any(|event| !new.agent.events.contains(event))
}

/// TLS of listeners, upstreams and agents.
pub(super) fn tls(comparison: &Comparison<'_>, report: &mut Report) {
    let (old, new) = (tls_settings(comparison.old), tls_settings(comparison.new));
    let (old_values, new_values) = (values(&old), values(&new));
    let changed = differences(&old_values, &new_values);
    if let Some(first) = changed.first() {
        let message = format!("TLS differs: {}", listed(&changed));
        report.add(RiskCode::TlsConfigChanged, first, message);
    }
    let owners = owners(comparison.new);
    for (path, old) in &old {
        match new.get(path) {
            None if owners.contains(path) => {
                report.add(RiskCode::TlsRemoved, path, format!("{path} no longer uses TLS"));
            }
            Some(new) if new.skips_verification && !old.skips_verification => {
                let message = format!("{path} accepts any certificate of its peer");
                report.add(RiskCode::TlsVerificationDisabled, path, message);
            }
            _ => {}
        }
    }
    for (path, new) in &new {
        if new.skips_verification && !old.contains_key(path) {
            let message = format!("{path} accepts any certificate of its peer");
            report.add(RiskCode::TlsVerificationDisabled, path, message);
        }
    }
}

struct Tls {
    value: Value,
    skips_verification: bool,
}

fn values(settings: &BTreeMap<String, Tls>) -> BTreeMap<String, Value> {
    settings.iter().map(|(path, tls)| (path.clone(), tls.value.clone())).collect()
}

/// The paths of everything that may have TLS.
fn owners(model: &Model) -> BTreeSet<String> {
    let listeners = model.listeners().into_iter().map(|item| item.path);
    let upstreams = model.upstreams().into_iter().map(|item| item.path);
    let agents = model.agents().into_iter().map(|item| item.path);
    listeners.chain(upstreams).chain(agents).collect()
}

fn tls_settings(model: &Model) -> BTreeMap<String, Tls> {
    let mut all = BTreeMap::new();
    for item in model.listeners() {
        if let Some(tls) = &item.value.tls {
            let value = object!([json(&item.value.protocol), json(tls)]);
            all.insert(item.path, Tls { value, skips_verification: false });
        }
    }
    for item in model.upstreams() {
        if let Some(tls) = &item.value.tls {
            let skips_verification = tls.insecure_skip_verify;
            all.insert(item.path, Tls { value: json(tls), skips_verification });
        }
    }
    for item in model.agents() {
        let tls = match &item.value.transport {
            AgentTransport::UnixSocket { .. } => None,
            AgentTransport::Grpc { tls, .. } | AgentTransport::Http { tls, .. } => tls.as_ref(),
        };
        if let Some(tls) = tls {
            let skips_verification = tls.insecure_skip_verify;
            all.insert(item.path, Tls { value: json(tls), skips_verification });
        }
    }
    all
}
