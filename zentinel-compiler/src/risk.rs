//! How dangerous a change looks: findings from comparing two parsed configurations.
//!
//! Text plays no part: comments, formatting and order are no risk. Every finding has a code with
//! a fixed level, see [`RiskCode`]; the level of a change is that of its worst finding. The first
//! configuration of a project has no findings: there is nothing to compare it with.

mod exposure;
mod inspection;
mod limits;
mod routing;
mod security;
#[cfg(test)]
pub(crate) mod testing;
mod view;

use crate::model::Model;
use std::collections::BTreeMap;
use view::Comparison;
use zentinel_core::Sha256Digest;
use zentinel_core::entity::{Finding, RiskLevel};

/// How many routes may change before that is a finding of its own.
pub const MANY_ROUTES: usize = 10;

/// Most findings of one code; the rest is counted in a last one.
const PER_CODE: usize = 20;

macro_rules! risk_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $level:ident;)*) => {
        /// Why a change is risky. Codes and levels are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum RiskCode {
            $($(#[$doc])* #[doc = concat!("\n\n`", $text, "`, ", stringify!($level))] $name,)*
        }

        impl RiskCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// How dangerous it is.
            #[must_use]
            pub fn level(self) -> RiskLevel {
                match self { $(Self::$name => RiskLevel::$level,)* }
            }
        }
    };
}

risk_codes! {
    /// Something about authentication differs, whichever way.
    AuthPolicyChanged = "auth_policy_changed", High;
    /// Requests that had to authenticate no longer have to.
    AuthRemoved = "auth_removed", High;
    /// Authentication is still there but weaker: it fails open, or sees less.
    AuthWeakened = "auth_weakened", High;
    /// A listener no longer asks for client certificates.
    ClientAuthDisabled = "client_auth_disabled", High;
    /// Something about TLS differs, whichever way.
    TlsConfigChanged = "tls_config_changed", High;
    /// A connection that was encrypted no longer is.
    TlsRemoved = "tls_removed", High;
    /// A peer's certificate is no longer checked.
    TlsVerificationDisabled = "tls_verification_disabled", High;
    /// A socket is reachable from further away, or new.
    ListenerExposed = "listener_exposed", High;
    /// A web application firewall no longer sees requests that it saw.
    WafDisabled = "waf_disabled", High;
    /// A web application firewall only reports what it blocked before.
    WafDetectOnly = "waf_detect_only", High;
    /// A web application firewall blocks less.
    WafWeakened = "waf_weakened", High;
    /// Metrics are reachable from further away.
    MetricsExposed = "metrics_exposed", Medium;
    /// A handler that shows or changes the proxy's inside became reachable.
    AdminEndpointExposed = "admin_endpoint_exposed", Medium;
    /// A socket is gone.
    ListenerRemoved = "listener_removed", Medium;
    /// An upstream is gone.
    UpstreamRemoved = "upstream_removed", Medium;
    /// An upstream leads somewhere else.
    UpstreamRetargeted = "upstream_retargeted", Medium;
    /// A route is gone.
    RouteRemoved = "route_removed", Medium;
    /// A route leads somewhere else.
    RouteRetargeted = "route_retargeted", Medium;
    /// Another route now catches every request of a route.
    RouteShadowed = "route_shadowed", Medium;
    /// There are too many routes to look for shadowed ones.
    ShadowingUnchecked = "shadowing_unchecked", Medium;
    /// Many routes are added, removed or changed at once.
    ManyRouteChanges = "many_route_changes", Medium;
    /// Something about rate limits differs, whichever way.
    RateLimitChanged = "rate_limit_changed", Medium;
    /// A rate limit lets more through.
    RateLimitLoosened = "rate_limit_loosened", Medium;
    /// Requests are no longer limited.
    RateLimitRemoved = "rate_limit_removed", Medium;
    /// An agent is gone.
    AgentRemoved = "agent_removed", Medium;
    /// Traffic passes when an agent fails; before, it was blocked.
    FailOpen = "fail_open", Medium;
    /// Countries are no longer blocked.
    GeoBlockRemoved = "geo_block_removed", Medium;
    /// A guardrail of an inference route blocks less.
    GuardrailWeakened = "guardrail_weakened", Medium;
    /// The policy of an MCP or A2A route differs.
    AgenticPolicyChanged = "agentic_policy_changed", Medium;
    /// A file of the bundle has other content or is gone.
    FileChanged = "file_changed", Medium;
    /// The running configuration could not be read, so nothing was compared.
    BaselineUnreadable = "baseline_unreadable", Medium;
    /// A reload does not apply the change.
    RestartRequired = "restart_required", Low;
}

/// Collects findings.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: Vec<(RiskCode, String, String)>,
}

impl Report {
    pub(crate) fn add(&mut self, code: RiskCode, path: &str, message: impl Into<String>) {
        self.findings.push((code, path.to_owned(), message.into()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Worst first, then by code and path; long lists of one code are cut.
    pub(crate) fn finish(mut self) -> Vec<Finding> {
        self.findings.sort();
        self.findings.dedup_by(|a, b| (a.0, &a.1) == (b.0, &b.1));
        let mut counts: BTreeMap<RiskCode, usize> = BTreeMap::new();
        let mut findings = Vec::new();
        for (code, path, message) in self.findings {
            let count = counts.entry(code).or_default();
            *count += 1;
            if *count <= PER_CODE {
                findings.push(finding(code, path, message));
            }
        }
        for (code, count) in counts {
            if let Some(more) = count.checked_sub(PER_CODE + 1) {
                let message = format!("{} more findings of this kind", more + 1);
                findings.push(finding(code, String::new(), message));
            }
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        findings
    }
}

pub(crate) fn finding(code: RiskCode, path: String, message: String) -> Finding {
    Finding { code: code.as_str().to_owned(), level: code.level(), message, path }
}

/// The level of a set of findings: the highest, or low.
#[must_use]
pub fn level(findings: &[Finding]) -> RiskLevel {
    findings.iter().map(|finding| finding.level).max().unwrap_or_default()
}

/// Everything risky about going from `old` to `new`, worst first.
#[must_use]
pub fn assess(old: Option<&Model>, new: &Model) -> Vec<Finding> {
    let Some(old) = old else {
        return Vec::new();
    };
    let comparison = Comparison::new(old, new);
    let mut report = Report::default();
    security::authentication(&comparison, &mut report);
    security::tls(&comparison, &mut report);
    exposure::listeners(&comparison, &mut report);
    exposure::metrics(&comparison, &mut report);
    exposure::admin_endpoints(&comparison, &mut report);
    routing::upstreams(&comparison, &mut report);
    routing::routes(&comparison, &mut report);
    routing::shadowing(&comparison, &mut report);
    limits::rate_limits(&comparison, &mut report);
    inspection::waf(&comparison, &mut report);
    inspection::agents(&comparison, &mut report);
    inspection::route_policies(&comparison, &mut report);
    report.finish()
}

/// Findings about files whose content changed under the same path, or that are gone: the
/// configuration does not show a CA certificate or a plugin that was replaced.
#[must_use]
pub fn changed_files(
    old: &BTreeMap<String, Sha256Digest>,
    new: &BTreeMap<String, Sha256Digest>,
) -> Vec<Finding> {
    let mut report = Report::default();
    for (path, digest) in old {
        match new.get(path) {
            Some(same) if same == digest => {}
            Some(_) => report.add(RiskCode::FileChanged, path, format!("file {path} has other content")),
            None => report.add(RiskCode::FileChanged, path, format!("file {path} is gone")),
        }
    }
    report.finish()
}

#[cfg(test)]
mod tests;
