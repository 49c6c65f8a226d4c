//! `custom_health_checks`: endpoints that must pass.

use super::{FleetGate, FleetNode, FleetSample, Ruling};
use crate::gate::Verdict;
use crate::observation::CheckFacts;
use zentinel_core::entity::ProbeResult;
use zentinel_core::id::HealthCheckId;

/// An endpoint passes: once for all, or for every node of the step that runs the bundle.
#[derive(Clone, Debug)]
pub struct Endpoint {
    id: HealthCheckId,
    name: String,
}

impl Endpoint {
    /// The gate of this endpoint.
    #[must_use]
    pub fn new(id: HealthCheckId) -> Self {
        Self { id, name: format!("custom_health_check:{id}") }
    }
}

/// An answer, if it can be believed: from after the phase of the step began, and not too old.
fn believed<'a>(
    check: &CheckFacts,
    result: Option<&'a ProbeResult>,
    fleet: &FleetSample<'_>,
) -> Result<&'a ProbeResult, &'static str> {
    let result = result.ok_or("was not asked yet")?;
    if result.asked_at < fleet.since {
        return Err("was not asked since the step is being verified");
    }
    if fleet.now - result.answered_at > check.believed_for {
        return Err("has not been asked for too long");
    }
    Ok(result)
}

impl FleetGate for Endpoint {
    fn name(&self) -> &str {
        &self.name
    }

    fn looks_back(&self) -> bool {
        false
    }

    fn judge(&self, fleet: &FleetSample<'_>) -> Ruling {
        let Some(check) = fleet.checks.get(&self.id) else {
            return Ruling::fail(format!("The health check {} does not exist any more.", self.id));
        };
        let name = &check.name;
        if !check.enabled {
            return Ruling::fail(format!("The health check {name} is disabled."));
        }
        if check.per_node {
            return of_nodes(check, fleet);
        }
        match believed(check, check.of_all.as_ref(), fleet) {
            Err(why) => Ruling::unknown(format!("The health check {name} {why}.")),
            Ok(result) => {
                let age = (fleet.now - result.answered_at).num_seconds().max(0);
                match &result.failure {
                    None => Ruling {
                        verdict: Verdict::Pass,
                        sentence: format!("The health check {name} passed {age} s ago."),
                    },
                    Some(why) => Ruling::fail(format!("The health check {name} failed {age} s ago: {why}.")),
                }
            }
        }
    }
}

/// Each node of the step that runs the bundle.
fn of_nodes(check: &CheckFacts, fleet: &FleetSample<'_>) -> Ruling {
    let name = &check.name;
    let judged = |node: &&FleetNode<'_>| {
        let runs = node.facts.is_some_and(|facts| facts.runs(node.part.bundle_id));
        let away = node.facts.is_some_and(|facts| !facts.is_available());
        node.in_step && runs && !(away && fleet.tolerates_offline)
    };
    let (mut passing, mut failing, mut unknown) = (0_usize, 0_usize, 0_usize);
    let (mut failed, mut unasked) = (None, None);
    for node in fleet.nodes.iter().filter(judged) {
        match believed(check, check.of_nodes.get(&node.part.node_id), fleet) {
            Ok(ProbeResult { failure: None, .. }) => passing += 1,
            Ok(ProbeResult { failure: Some(why), .. }) => {
                failing += 1;
                failed.get_or_insert_with(|| format!("{}: {why}", node.name()));
            }
            Err(why) => {
                unknown += 1;
                unasked.get_or_insert_with(|| format!("{} {why}", node.name()));
            }
        }
    }
    let mut sentence =
        format!("The health check {name}: {passing} nodes pass, {failing} fail, {unknown} unknown");
    if let Some(example) = failed.or(unasked) {
        sentence.push_str(&format!("; {example}"));
    }
    sentence.push('.');
    match (passing, failing, unknown) {
        (_, 1.., _) => Ruling::fail(sentence),
        (1.., 0, 0) => Ruling { verdict: Verdict::Pass, sentence },
        _ => Ruling::unknown(sentence),
    }
}
