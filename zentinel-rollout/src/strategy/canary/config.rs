use crate::analysis::TrialConfig;
use crate::strategy::settings::{Settings, rising_to_100};
use serde_json::Value;
use zentinel_core::Percent;
use zentinel_core::entity::RolloutSpec;
use zentinel_core::error::Checks;

/// `on_insufficient_data`: a person decides.
pub const INCONCLUSIVE_PAUSE: &str = "pause";
/// `on_insufficient_data`: the rollout fails and is rolled back.
pub const INCONCLUSIVE_FAIL: &str = "fail";

const FIELD: &str = "canary_analysis_config";
/// Most steps.
const MOST_STEPS: usize = 100;
const KEYS: [&str; 12] = [
    "steps",
    "error_rate_threshold",
    "latency_p99_threshold_ms",
    "analysis_window_minutes",
    "analysis_deadline_minutes",
    "confidence_level",
    "minimum_effect",
    "minimum_increase",
    "harmful_effect",
    "min_requests",
    "early_pass_error",
    "on_insufficient_data",
];

/// The settings of the strategy `canary`, out of [`RolloutSpec::strategy_config`] (`canary_analysis_config` on the wire).
///
/// | Key | Default | Meaning |
/// | --- | --- | --- |
/// | `steps` | `[5, 25, 50, 100]` | Cumulative shares of the targets in percent; increasing, the last is 100 |
/// | `error_rate_threshold` | 5.0 | Ceiling of the canaries' error rate in percent |
/// | `latency_p99_threshold_ms` | 500 | Ceiling of the canaries' p99 latency |
/// | `analysis_window_minutes` | 5 | How long a step is watched before it may pass without positive evidence |
/// | `analysis_deadline_minutes` | 3 windows | When an analysis without an answer is inconclusive |
/// | `confidence_level` | 0.95 | 1 minus the probability that a whole rollout in which nothing is worse is rolled back |
/// | `minimum_effect` | 1.2 | A smaller ratio is never a reason to roll back |
/// | `minimum_increase` | 0.1 | Nor is a smaller increase, in percentage points |
/// | `harmful_effect` | 1.5 | The ratio that must be refuted for a step to pass early |
/// | `early_pass_error` | 0.02 | How probable it may be that a step that bad passes early |
/// | `min_requests` | 10 | Requests that each arm must have served |
/// | `on_insufficient_data` | `pause` | What an inconclusive analysis does: `pause` or `fail` |
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryConfig {
    /// Cumulative shares of the targets.
    pub steps: Vec<Percent>,
    /// What is asked of each step.
    pub trial: TrialConfig,
    /// Whether an inconclusive analysis fails the rollout instead of pausing it.
    pub fails_when_inconclusive: bool,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        let steps = [5, 25, 50, 100].into_iter().filter_map(|percent| Percent::new(percent).ok()).collect();
        Self { steps, trial: TrialConfig::default(), fails_when_inconclusive: false }
    }
}

impl CanaryConfig {
    /// The settings of a rollout whose specification has been checked.
    pub(super) fn of(spec: &RolloutSpec) -> Self {
        Self::read(&spec.strategy_config, &mut Checks::new())
    }

    /// Reads settings; complains about each that is wrong and takes its default.
    pub fn read(config: &Value, checks: &mut Checks) -> Self {
        let mut settings = Self::default();
        let Some(mut read) = Settings::open(config, FIELD, &KEYS, checks) else { return settings };
        let trial = &mut settings.trial;
        read.number("error_rate_threshold", (0.0, 100.0), &mut trial.error_rate_ceiling);
        read.number("latency_p99_threshold_ms", (0.001, 3_600_000.0), &mut trial.latency_p99_ceiling_ms);
        let mut minutes = f64::from(trial.window_seconds) / 60.0;
        read.number("analysis_window_minutes", (0.05, 1_440.0), &mut minutes);
        trial.window_seconds = seconds(minutes);
        minutes *= 3.0;
        read.number("analysis_deadline_minutes", (0.05, 1_440.0), &mut minutes);
        trial.deadline_seconds = seconds(minutes).max(trial.window_seconds);
        let mut confidence = 1.0 - trial.alpha;
        read.number("confidence_level", (0.5, 0.999_999), &mut confidence);
        trial.alpha = 1.0 - confidence;
        read.number("minimum_effect", (1.0, 1_000.0), &mut trial.minimum_effect);
        read.number("minimum_increase", (0.0, 100.0), &mut trial.minimum_increase);
        read.number("harmful_effect", (1.01, 1_000.0), &mut trial.harmful_effect);
        read.number("early_pass_error", (0.000_001, 0.5), &mut trial.beta);
        let mut requests = trial.min_requests as f64;
        read.number("min_requests", (1.0, 1e9), &mut requests);
        trial.min_requests = requests as u64;
        let fails = |value: &Value| match value.as_str()? {
            INCONCLUSIVE_PAUSE => Some(false),
            INCONCLUSIVE_FAIL => Some(true),
            _ => None,
        };
        let rule = "must be pause or fail: a canary that nothing is known of never passes";
        read.set("on_insufficient_data", &mut settings.fails_when_inconclusive, fails, rule);
        let steps = |value: &Value| rising_to_100(value, MOST_STEPS);
        let rule = "must be whole percentages, each larger than the one before, up to 100";
        read.set("steps", &mut settings.steps, steps, rule);
        settings
    }
}

fn seconds(minutes: f64) -> u32 {
    // At most a day: see the ranges.
    (minutes * 60.0).round() as u32
}
