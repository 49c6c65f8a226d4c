//! Whether a bundle may go on to the next environment. Pure.

use crate::observation::NodeFacts;
use chrono::TimeDelta;
use zentinel_core::Timestamp;
use zentinel_core::entity::{Bundle, HealthyStretch, PromotionRule, Rollout, RolloutState};

/// What a rule says of a completed rollout in its source environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Everything holds.
    Ready,
    /// Not yet; for a person, why.
    NotYet(String),
    /// Never, for this rollout; for a person, why.
    Never(String),
}

/// Whether a rollout counts as having brought its bundle to its environment: it completed, and neither undid
/// another one nor was undone.
#[must_use]
pub fn is_source(rollout: &Rollout) -> bool {
    rollout.state == RolloutState::Completed
        && rollout.rollback_of.is_none()
        && rollout.rolled_back_by.is_none()
}

/// The completed rollout of an environment that counts: the last one, unless that undid another one or was
/// undone itself. What was there before it is no news any more.
#[must_use]
pub fn latest<'a>(rollouts: impl IntoIterator<Item = &'a Rollout>) -> Option<&'a Rollout> {
    let completed = rollouts.into_iter().filter(|rollout| rollout.state == RolloutState::Completed);
    completed.max_by_key(|rollout| (rollout.completed_at, rollout.id)).filter(|rollout| is_source(rollout))
}

/// Whether the nodes of an environment run the bundle and are healthy: every one that is online, and at least
/// one is. Why not, otherwise.
///
/// # Errors
/// A sentence for a person.
pub fn healthy(bundle: &Bundle, nodes: &[NodeFacts]) -> Result<(), String> {
    let online: Vec<&NodeFacts> = nodes.iter().filter(|node| node.is_available()).collect();
    if online.is_empty() {
        return Err("No node of the source environment is online.".to_owned());
    }
    let other = online.iter().filter(|node| !node.runs(bundle.id)).count();
    if other > 0 {
        return Err(format!(
            "{other} of {} nodes of the source environment run something else.",
            online.len()
        ));
    }
    let sick = online.iter().filter(|node| !node.health.is_healthy()).count();
    if sick > 0 {
        return Err(format!("{sick} of {} nodes of the source environment are not healthy.", online.len()));
    }
    Ok(())
}

/// The healthy stretch after one more look: it begins with the first healthy look and breaks with the first
/// other one.
#[must_use]
pub fn stretch(
    rule: &PromotionRule,
    source: &Rollout,
    healthy: bool,
    now: Timestamp,
) -> Option<HealthyStretch> {
    if !healthy {
        return None;
    }
    let known = rule.healthy.clone().filter(|known| known.source_rollout_id == source.id);
    Some(known.unwrap_or(HealthyStretch { source_rollout_id: source.id, since: now }))
}

/// What is known when a rule is asked.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The rule, with its healthy stretch brought up to date.
    pub rule: &'a PromotionRule,
    /// The completed rollout.
    pub source: &'a Rollout,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// The approved nodes of the source environment.
    pub nodes: &'a [NodeFacts],
    /// The time.
    pub now: Timestamp,
}

impl Case<'_> {
    /// What the conditions of the rule say; its delay is not among them.
    #[must_use]
    pub fn conditions(&self) -> Readiness {
        let conditions = &self.rule.conditions;
        if !self.bundle.status.is_deployable() {
            return Readiness::Never("The bundle cannot be rolled out any more.".to_owned());
        }
        if let Some(most) = conditions.max_risk_level.filter(|most| self.bundle.risk_level > *most) {
            let (risk, most) = (self.bundle.risk_level.as_str(), most.as_str());
            return Readiness::Never(format!(
                "The bundle's risk level is {risk}; the rule allows {most} at most."
            ));
        }
        let measured = conditions.min_healthy_minutes.is_some() || conditions.max_error_rate.is_some();
        if measured && let Err(reason) = healthy(self.bundle, self.nodes) {
            return Readiness::NotYet(reason);
        }
        if let Some(minutes) = conditions.min_healthy_minutes
            && let Some(reason) = self.too_young(minutes)
        {
            return Readiness::NotYet(reason);
        }
        match conditions.max_error_rate.and_then(|most| self.too_many_errors(most)) {
            Some(reason) => Readiness::NotYet(reason),
            None => Readiness::Ready,
        }
    }

    /// What the whole rule says.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let delay = TimeDelta::minutes(i64::from(self.rule.delay_minutes));
        match (self.conditions(), self.source.completed_at) {
            (Readiness::Ready, Some(at)) if self.now - at < delay => Readiness::NotYet(format!(
                "Waits until {}, {} minutes after the completion.",
                (at + delay).format("%Y-%m-%dT%H:%M:%SZ"),
                self.rule.delay_minutes,
            )),
            (readiness, _) => readiness,
        }
    }

    fn too_young(&self, minutes: u32) -> Option<String> {
        let stretch = self.rule.healthy.as_ref().filter(|known| known.source_rollout_id == self.source.id);
        let since = stretch.map(|stretch| stretch.since).max(self.source.completed_at).unwrap_or(self.now);
        let left = TimeDelta::minutes(i64::from(minutes)) - (self.now - since);
        (left > TimeDelta::zero()).then(|| {
            let healthy = (self.now - since).num_minutes();
            format!("The source environment has been healthy for {healthy} of {minutes} minutes.")
        })
    }

    /// The worst node decides; one that does not say is not known to be good.
    fn too_many_errors(&self, most: f64) -> Option<String> {
        let online: Vec<&NodeFacts> = self.nodes.iter().filter(|node| node.is_available()).collect();
        if let Some(silent) = online.iter().find(|node| node.health.error_rate.is_none()) {
            return Some(format!("The node {} reports no error rate.", silent.name));
        }
        let worst = online.iter().filter_map(|node| node.health.error_rate).fold(0.0, f64::max);
        (worst > most).then(|| format!("The error rate is {worst} %; the rule allows {most} % at most."))
    }
}

#[cfg(test)]
mod tests;
