use chrono::TimeDelta;
use serde::Serialize;
use serde_json::{Map, Value};
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
        let object = match config {
            Value::Null => return settings,
            Value::Object(object) => object,
            _ => {
                checks.that(FIELD, false, "must be an object");
                return settings;
            }
        };
        let unknown: Vec<&str> =
            object.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).take(20).collect();
        checks.that(FIELD, unknown.is_empty(), format!("unknown keys: {}", unknown.join(", ")));
        let mut read = Reader { object, checks };
        read.flag("auto_advance", &mut settings.auto_advance);
        read.flag("shift_traffic", &mut settings.shift_traffic);
        read.seconds("advance_delay_seconds", &mut settings.advance_delay_seconds);
        read.seconds("validation_period_seconds", &mut settings.validation_period_seconds);
        read.share(&mut settings.green_percentage);
        read.steps(&mut settings.traffic_steps);
        settings
    }
}

struct Reader<'a, 'c> {
    object: &'a Map<String, Value>,
    checks: &'c mut Checks,
}

impl Reader<'_, '_> {
    fn set<T>(&mut self, key: &str, into: &mut T, of: impl Fn(&Value) -> Option<T>, rule: &str) {
        match self.object.get(key).filter(|value| !value.is_null()) {
            None => {}
            Some(value) => match of(value) {
                Some(value) => *into = value,
                None => self.checks.that(FIELD, false, format!("{key} {rule}")),
            },
        }
    }

    fn flag(&mut self, key: &str, into: &mut bool) {
        self.set(key, into, Value::as_bool, "must be true or false");
    }

    fn seconds(&mut self, key: &str, into: &mut u32) {
        let seconds = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|value| *value <= LONGEST);
        self.set(key, into, seconds, &format!("must be a whole number from 0 to {LONGEST}"));
    }

    fn share(&mut self, into: &mut Percent) {
        let share = |value: &Value| percent(value).filter(|percent| percent.get() < 100);
        self.set("green_percentage", into, share, "must be a whole percentage from 1 to 99");
    }

    fn steps(&mut self, into: &mut Vec<Percent>) {
        let steps = |value: &Value| {
            let steps: Option<Vec<Percent>> = value.as_array()?.iter().map(percent).collect();
            steps.filter(|steps| {
                let rises = steps.windows(2).all(|pair| pair[0].get() < pair[1].get());
                rises && steps.last().is_some_and(|last| last.get() == 100) && steps.len() <= MOST_STEPS
            })
        };
        let rule = "must be weights from 1 to 100, each larger than the one before, the last one 100";
        self.set("traffic_steps", into, steps, rule);
    }
}

fn percent(value: &Value) -> Option<Percent> {
    Percent::new(u8::try_from(value.as_u64()?).ok()?).ok()
}
