//! What looks at requests: firewalls, other agents, guardrails, geo blocking.

use super::view::{Call, Comparison, Purpose, RouteView, by_path};
use super::{Report, RiskCode};
use crate::model::json;
use std::collections::BTreeMap;
use zentinel_config::{
    AgentConfig, FailureMode, Filter, GeoFilterAction, GuardrailAction, GuardrailFailureMode,
    GuardrailsConfig, PiiAction, WafConfig, WafMode,
};

/// The web application firewall: the built-in one and firewall agents.
pub(super) fn waf(comparison: &Comparison<'_>, report: &mut Report) {
    let (old, new) = (&comparison.old.config().waf, &comparison.new.config().waf);
    built_in(old.as_ref(), new.as_ref(), report);
    for (old, new) in comparison.kept_routes() {
        let path = new.path();
        if old.route().waf_enabled && !new.route().waf_enabled {
            let message = format!("the web application firewall is off for {path}");
            report.add(RiskCode::WafDisabled, path, message);
        }
        firewall_agents(old, new, report);
    }
}

fn built_in(old: Option<&WafConfig>, new: Option<&WafConfig>, report: &mut Report) {
    let strength = |waf: Option<&WafConfig>| match waf.map(|waf| waf.mode) {
        None | Some(WafMode::Off) => 0,
        Some(WafMode::Detection) => 1,
        Some(WafMode::Prevention) => 2,
    };
    match (strength(old), strength(new)) {
        (1 | 2, 0) => report.add(RiskCode::WafDisabled, "waf", "the web application firewall is off"),
        (2, 1) => {
            let message = "the web application firewall reports attacks and lets them pass";
            report.add(RiskCode::WafDetectOnly, "waf", message);
        }
        _ => {}
    }
    if let (Some(old), Some(new)) = (old, new) {
        let weaker = new.ruleset.paranoia_level < old.ruleset.paranoia_level
            || new.ruleset.anomaly_threshold > old.ruleset.anomaly_threshold
            || new.ruleset.exclusions.len() > old.ruleset.exclusions.len()
            || (old.body_inspection.inspect_request_body && !new.body_inspection.inspect_request_body);
        if weaker {
            report.add(RiskCode::WafWeakened, "waf", "the web application firewall blocks less");
        }
    }
}

fn firewall_agents(old: &RouteView<'_>, new: &RouteView<'_>, report: &mut Report) {
    let path = new.path();
    let after: BTreeMap<_, _> = by_agent(new);
    for (id, old) in by_agent(old) {
        let Some(new) = after.get(id) else {
            let message = format!("requests to {path} no longer pass the firewall agent {id:?}");
            report.add(RiskCode::WafDisabled, path, message);
            continue;
        };
        if new.fails_open() && !old.fails_open() {
            let message = format!("requests to {path} pass when the firewall agent {id:?} fails");
            report.add(RiskCode::WafWeakened, path, message);
        }
        if only_detects(new.agent) && !only_detects(old.agent) {
            let message = format!("the firewall agent {id:?} of {path} reports attacks and lets them pass");
            report.add(RiskCode::WafDetectOnly, path, message);
        }
        let blind = (old.filter.inspect_body && !new.filter.inspect_body)
            || old.agent.events.iter().any(|event| !new.agent.events.contains(event));
        if blind {
            let message = format!("the firewall agent {id:?} of {path} sees less of a request");
            report.add(RiskCode::WafWeakened, path, message);
        }
    }
}

fn by_agent<'a>(view: &'a RouteView<'a>) -> BTreeMap<&'a str, &'a Call<'a>> {
    let calls = view.calls_for(Purpose::Firewall);
    calls.map(|call| (call.agent.id.as_str(), call)).collect()
}

/// Whether an agent's own settings say that it does not block.
fn only_detects(agent: &AgentConfig) -> bool {
    let Some(settings) = &agent.config else {
        return false;
    };
    let mode = ["mode", "action"].iter().find_map(|key| settings.get(key)?.as_str());
    mode.is_some_and(|mode| {
        let mode = mode.to_ascii_lowercase();
        ["detect", "log", "monitor", "report", "off"].iter().any(|word| mode.starts_with(word))
    })
}

/// Agents that are gone, or that let traffic pass when they fail.
pub(super) fn agents(comparison: &Comparison<'_>, report: &mut Report) {
    let new = by_path(comparison.new.agents());
    for (path, old) in by_path(comparison.old.agents()) {
        let Some(new) = new.get(&path) else {
            report.add(RiskCode::AgentRemoved, &path, format!("{path} is gone"));
            continue;
        };
        if old.failure_mode == FailureMode::Closed && new.failure_mode == FailureMode::Open {
            report.add(RiskCode::FailOpen, &path, format!("requests pass when {path} fails"));
        }
    }
}

/// What a route itself says about failures, countries, guardrails and agent protocols.
pub(super) fn route_policies(comparison: &Comparison<'_>, report: &mut Report) {
    for (old, new) in comparison.kept_routes() {
        let path = new.path();
        if fails_open(new) && !fails_open(old) {
            report.add(RiskCode::FailOpen, path, format!("requests to {path} pass when an agent fails"));
        }
        if blocks_countries(old) && !blocks_countries(new) {
            report.add(RiskCode::GeoBlockRemoved, path, format!("{path} no longer blocks countries"));
        }
        let guardrails = |view: &RouteView<'_>| {
            let inference = view.route().inference.as_ref();
            inference.and_then(|inference| inference.guardrails.as_ref()).map_or([0; 4], strength)
        };
        let (before, after) = (guardrails(old), guardrails(new));
        if before.iter().zip(&after).any(|(before, after)| after < before) {
            report.add(RiskCode::GuardrailWeakened, path, format!("the guardrails of {path} block less"));
        }
        let agentic = |view: &RouteView<'_>| json(&(&view.route().mcp, &view.route().a2a));
        if agentic(old) != agentic(new) {
            let message = format!("the MCP or A2A policy of {path} differs");
            report.add(RiskCode::AgenticPolicyChanged, path, message);
        }
    }
}

/// Whether the route or one of its agents, other than those with findings of their own, fails open.
fn fails_open(view: &RouteView<'_>) -> bool {
    view.route().policies.failure_mode == FailureMode::Open
        || view.calls_for(Purpose::Other).any(|call| call.filter.failure_mode == Some(FailureMode::Open))
}

fn blocks_countries(view: &RouteView<'_>) -> bool {
    view.filters.iter().any(|filter| match &filter.filter {
        Filter::Geo(geo) => geo.action != GeoFilterAction::LogOnly,
        _ => false,
    })
}

/// How strict each part of the guardrails is; more is stricter.
fn strength(guardrails: &GuardrailsConfig) -> [u8; 4] {
    let closed = |mode: GuardrailFailureMode| u8::from(mode == GuardrailFailureMode::Closed);
    let injection = guardrails.prompt_injection.as_ref().filter(|part| part.enabled);
    let pii = guardrails.pii_detection.as_ref().filter(|part| part.enabled);
    [
        injection.map_or(0, |part| match part.action {
            GuardrailAction::Log => 1,
            GuardrailAction::Warn => 2,
            GuardrailAction::Block => 3,
        }),
        injection.map_or(0, |part| closed(part.failure_mode)),
        pii.map_or(0, |part| match part.action {
            PiiAction::Log => 1,
            PiiAction::Redact => 2,
            PiiAction::Block => 3,
        }),
        pii.map_or(0, |part| closed(part.failure_mode)),
    ]
}
