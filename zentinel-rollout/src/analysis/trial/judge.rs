//! From what nodes served to a verdict.

use super::super::effect::effect;
use super::super::rank::{Ranked, Tail, rank_e_value};
use super::super::score::{Counts, Model, Unit};
use super::report::{Analysis, Arm, Finding, Verdict};
use super::{Ledger, Measure, Member, Trial, TrialConfig};
use std::collections::BTreeMap;
use zentinel_core::Timestamp;
use zentinel_core::entity::{LATENCY_BOUNDS_MS, TrafficCounts};
use zentinel_core::id::NodeId;

/// One look at a trial.
pub(super) struct Look<'a> {
    pub(super) trial: &'a mut Trial,
    pub(super) config: &'a TrialConfig,
    pub(super) during: &'a BTreeMap<NodeId, TrafficCounts>,
    pub(super) now: Timestamp,
    pub(super) overdue: bool,
}

impl Look<'_> {
    pub(super) fn judge(mut self, ledger: &mut Ledger) -> Analysis {
        let arm = |canary| {
            let members = self.trial.members.iter().filter(move |member| member.canary == canary);
            Arm::of(members.filter_map(|member| self.during.get(&member.node_id)))
        };
        let ((canary, served), (baseline, _)) = (arm(true), arm(false));
        let enough = |arm: &Arm| arm.nodes > 0 && arm.total_requests >= self.config.min_requests;
        let compares = enough(&canary) && enough(&baseline);
        let findings: Vec<Finding> = if compares {
            Measure::ALL
                .into_iter()
                .enumerate()
                .map(|(place, measure)| self.find(place, measure, ledger))
                .collect()
        } else {
            Vec::new()
        };
        let (decision, summary) = self
            .above_ceiling(enough(&canary), &served)
            .or_else(|| self.worse(&findings, ledger))
            .unwrap_or_else(|| {
                if compares { self.not_worse(&findings) } else { self.not_comparable(&canary, &baseline) }
            });
        let counted = self.trial.marked_at.map_or(0, |since| (self.now - since).num_seconds());
        Analysis {
            step_index: self.trial.step_index,
            look: self.trial.looks,
            analyzed_at: self.now,
            window_minutes: counted as f64 / 60.0,
            canary,
            baseline,
            findings,
            decision,
            summary,
        }
    }

    pub(super) fn window_is_over(&self) -> bool {
        let counted = self.trial.marked_at.map_or(0, |since| (self.now - since).num_seconds());
        counted >= i64::from(self.config.window_seconds)
    }

    /// Neither yes nor no, yet or for good.
    pub(super) fn undecided(&self, why: String) -> (Verdict, String) {
        if self.overdue {
            return (Verdict::Inconclusive, format!("No answer in the time there was: {why}"));
        }
        (Verdict::Extend, why)
    }

    /// One arm: its failed requests, or those that took longer than the latency bound at a place.
    pub(super) fn units(&self, bound: Option<usize>, canary: bool) -> Vec<Unit> {
        let counts = |served: &TrafficCounts| match bound {
            None => Counts { requests: served.requests, events: served.errors },
            Some(bound) => Counts { requests: served.timed(), events: served.slower_than(bound) },
        };
        let unit = |member: &Member| {
            let during = counts(self.during.get(&member.node_id)?);
            let before = counts(&member.before);
            Some(Unit { stratum: member.stratum, lot: member.lot, before, during })
        };
        let members = self.trial.members.iter().filter(|member| member.canary == canary);
        members.filter_map(unit).filter(|unit| unit.during.requests > 0).collect()
    }

    /// Compares the arms in one measure and takes note of the evidence.
    fn find(&mut self, place: usize, measure: Measure, ledger: &mut Ledger) -> Finding {
        let bound = self.trial.bound(measure);
        let (canary, baseline) = (self.units(bound, true), self.units(bound, false));
        let model = Model::fit(canary.iter().chain(&baseline));
        let ranked = |units: &[Unit], model: &Model| -> Vec<Ranked> {
            let rank =
                |unit: &Unit| Ranked { stratum: unit.stratum, lot: unit.lot, score: model.score(unit) };
            units.iter().map(rank).collect()
        };
        let e_value = rank_e_value(&ranked(&canary, &model), &ranked(&baseline, &model), Tail::Higher);
        ledger.0[place].add(e_value);
        // If the canaries did `harmful_effect` times as badly, these would be like the baseline.
        let mended: Vec<Unit> = canary.iter().map(|unit| unit.thinned(self.config.harmful_effect)).collect();
        let healthy = Model::fit(mended.iter().chain(&baseline));
        let harmless = rank_e_value(&ranked(&mended, &healthy), &ranked(&baseline, &healthy), Tail::Lower);
        self.trial.harmless[place].add(harmless);
        let total = |units: &[Unit], of: fn(&Unit) -> u64| units.iter().map(of).sum::<u64>();
        let (canary_events, canary_requests) =
            (total(&canary, |unit| unit.during.events), total(&canary, |unit| unit.during.requests));
        let effect = effect(&canary, &baseline, &model);
        let rate = canary_events as f64 / canary_requests.max(1) as f64;
        Finding {
            measure,
            slower_than_ms: bound.and_then(|bound| LATENCY_BOUNDS_MS.get(bound).copied()),
            canary_events,
            canary_requests,
            baseline_events: total(&baseline, |unit| unit.during.events),
            baseline_requests: total(&baseline, |unit| unit.during.requests),
            effect,
            increase: 100.0 * rate * (1.0 - 1.0 / effect.ratio),
            e_value,
            evidence: ledger.0[place].value(),
            needed: 1.0 / self.level(),
            harmless: self.trial.harmless[place].value(),
            harmless_needed: 1.0 / self.config.beta,
        }
    }

    /// The level of one measure: all of them together have α.
    fn level(&self) -> f64 {
        self.config.alpha / Measure::ALL.len() as f64
    }

    /// Large enough to matter.
    fn matters(&self, finding: &Finding) -> bool {
        finding.effect.ratio >= self.config.minimum_effect && finding.increase >= self.config.minimum_increase
    }

    /// No difference is within the interval, and the harm is smaller than the harmful effect.
    fn is_like_chance(&self, finding: &Finding) -> bool {
        finding.effect.low <= 1.0 && finding.effect.ratio < self.config.harmful_effect
    }

    fn worse(&self, findings: &[Finding], ledger: &Ledger) -> Option<(Verdict, String)> {
        let proven = |place: usize| ledger.0[place].refutes_at(self.level());
        let (_, finding) =
            findings.iter().enumerate().find(|(place, finding)| proven(*place) && self.matters(finding))?;
        let text = format!(
            "The canaries have {} the {} of the baseline ({}); the evidence is {:.0}, {:.0} is needed.",
            times(finding),
            finding.measure.words(),
            figures(finding),
            finding.evidence,
            finding.needed
        );
        Some((Verdict::RollBack, text))
    }

    fn not_worse(&self, findings: &[Finding]) -> (Verdict, String) {
        let harmless = self.trial.harmless.iter().all(|evidence| evidence.refutes_at(self.config.beta));
        if harmless {
            let text = format!(
                "The canaries are not {} times as bad as the baseline in any measure.",
                self.config.harmful_effect
            );
            return (Verdict::Promote, text);
        }
        if !self.window_is_over() {
            return self.undecided(
                "The canaries are being compared with the baseline; nothing speaks against them yet."
                    .to_owned(),
            );
        }
        let mut doubtful = findings.iter().filter(|finding| self.matters(finding));
        let worst = doubtful.clone().find(|finding| !self.is_like_chance(finding));
        match worst.or_else(|| doubtful.next()) {
            None => {
                let text = "The window is over, and no measure is worse by the minimum effect.".to_owned();
                (Verdict::Promote, text)
            }
            // As long as there is time, more of it tells a small effect from none.
            Some(finding) if self.overdue && self.is_like_chance(finding) => {
                let text = format!(
                    "The time is over. The canaries had {} the {} of the baseline ({}), which is what chance does.",
                    times(finding),
                    finding.measure.words(),
                    figures(finding)
                );
                (Verdict::Promote, text)
            }
            Some(finding) => self.undecided(format!(
                "The canaries seem to have {} the {} of the baseline ({}), but it may be chance: the evidence is {:.1}, {:.0} is needed.",
                times(finding), finding.measure.words(), figures(finding), finding.evidence, finding.needed
            )),
        }
    }

    /// An arm has served too little, or is empty.
    fn not_comparable(&self, canary: &Arm, baseline: &Arm) -> (Verdict, String) {
        let has = |canary: bool| self.trial.members.iter().any(|member| member.canary == canary);
        let least = self.config.min_requests;
        if !has(true) {
            return self.undecided(
                "No canary reports what it serves (metrics.traffic of the heartbeat).".to_owned(),
            );
        }
        if canary.total_requests < least {
            let text =
                format!("The canaries have served {} requests; {least} are needed.", canary.total_requests);
            return self.undecided(text);
        }
        if has(false) {
            let text =
                format!("The baseline has served {} requests; {least} are needed.", baseline.total_requests);
            return self.undecided(text);
        }
        if self.window_is_over() {
            let text = "No node is left to compare with; the canaries stayed below the ceilings.".to_owned();
            return (Verdict::Promote, text);
        }
        self.undecided(
            "No node is left to compare with; the canaries are held against the ceilings.".to_owned(),
        )
    }
}

impl Trial {
    /// The place of the bound beyond which a request counts.
    fn bound(&self, measure: Measure) -> Option<usize> {
        measure.tail()?;
        self.tail_bounds.get(usize::from(measure == Measure::LatencyP99)).copied()
    }
}

fn times(finding: &Finding) -> String {
    let effect = &finding.effect;
    format!("{:.2} times ({:.2} to {:.2})", effect.ratio, effect.low, effect.high)
}

fn figures(finding: &Finding) -> String {
    format!(
        "{} of {} requests against {} of {}",
        finding.canary_events, finding.canary_requests, finding.baseline_events, finding.baseline_requests
    )
}
