use crate::strategy::settings::{Settings, percent, rising_to_100};
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::Value;
use zentinel_core::Percent;
use zentinel_core::entity::RolloutSpec;
use zentinel_core::error::Checks;

const FIELD: &str = "blue_green_config";
const KEYS: [&str; 6] = [
    "traffic_steps",
    "auto_advance",
    "advance_delay_seconds",
    "validation_period_seconds",
    "green_percentage",
    "shift_traffic",
];
/// Most steps of a ramp.
const MOST_STEPS: usize = 100;
/// Longest wait at one weight: what a strategy may hold a step for.
const LONGEST: u32 = 86_400;

/// The settings of the strategy `blue_green`, out of [`RolloutSpec::strategy_config`] (`blue_green_config` on the wire).
///
/// | Key | Default | Meaning |
/// | --- | --- | --- |
/// | `traffic_steps` | `[10, 50, 100]` | Weights of the green slot, one after the other; increasing, the last is 100 |
/// | `auto_advance` | `false` | Whether a weight that has held gives way to the next one without an operator |
/// | `advance_delay_seconds` | 60 | How long each weight is held at least |
/// | `validation_period_seconds` | 300 | The same; the longer of both counts |
/// | `green_percentage` | 50 | Share of the nodes that become the green slot |
/// | `shift_traffic` | `false` | Whether an external load balancer must acknowledge each weight before the rollout goes on |
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlueGreenConfig {
    /// Weights of the green slot.
    pub traffic_steps: Vec<Percent>,
    /// Whether no operator needs to look.
    pub auto_advance: bool,
    /// How long each weight is held at least, in seconds.
    pub advance_delay_seconds: u32,
    /// The same.
    pub validation_period_seconds: u32,
    /// Share of the nodes that become the green slot.
    pub green_percentage: Percent,
    /// Whether a load balancer must acknowledge each weight.
    pub shift_traffic: bool,
}

impl Default for BlueGreenConfig {
    fn default() -> Self {
        let steps = [10, 50, 100].into_iter().filter_map(|percent| Percent::new(percent).ok()).collect();
        Self {
            traffic_steps: steps,
            auto_advance: false,
            advance_delay_seconds: 60,
            validation_period_seconds: 300,
            green_percentage: Percent::HALF,
            shift_traffic: false,
        }
    }
}

impl BlueGreenConfig {
    /// The settings of a rollout whose specification has been checked.
    #[must_use]
    pub fn of(spec: &RolloutSpec) -> Self {
        Self::read(&spec.strategy_config, &mut Checks::new())
    }

    /// How long each weight is held.
    #[must_use]
    pub fn hold(&self) -> TimeDelta {
        TimeDelta::seconds(self.advance_delay_seconds.max(self.validation_period_seconds).into())
    }

    /// Reads settings; complains about each that is wrong and takes its default.
    pub fn read(config: &Value, checks: &mut Checks) -> Self {
        let mut settings = Self::default();
        let Some(mut read) = Settings::open(config, FIELD, &KEYS, checks) else { return settings };
        for (key, into) in
            [("auto_advance", &mut settings.auto_advance), ("shift_traffic", &mut settings.shift_traffic)]
        {
            read.set(key, into, Value::as_bool, "must be true or false");
        }
        let seconds = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|value| *value <= LONGEST);
        for (key, into) in [
            ("advance_delay_seconds", &mut settings.advance_delay_seconds),
            ("validation_period_seconds", &mut settings.validation_period_seconds),
        ] {
            read.set(key, into, seconds, &format!("must be a whole number from 0 to {LONGEST}"));
        }
        let share = |value: &Value| percent(value).filter(|percent| percent.get() < 100);
        let rule = "must be a whole percentage from 1 to 99";
        read.set("green_percentage", &mut settings.green_percentage, share, rule);
        let steps = |value: &Value| rising_to_100(value, MOST_STEPS);
        let rule = "must be weights from 1 to 100, each larger than the one before, the last one 100";
        read.set("traffic_steps", &mut settings.traffic_steps, steps, rule);
        settings
    }
}
