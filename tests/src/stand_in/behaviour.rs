//! Misbehaviour on request.

use std::time::Duration;

/// What the `// stand-in: ...` lines of a configuration ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// `die-on-load`: ends when it loads this, at the start and by reload.
    pub die_on_load: bool,
    /// `die-after 2s`: ends that long after it took this over.
    pub die_after: Option<Duration>,
    /// `ignore-reload`: a reload reports success and keeps the old routes.
    pub ignore_reload: bool,
    /// `errors 30%`: so many of a hundred requests to upstreams get a 500.
    pub errors: u64,
    /// `latency 400ms`: requests to upstreams take so much longer.
    pub latency: Duration,
    /// `refuse-test`: `test` says no.
    pub refuse_test: bool,
    /// `hang-on-load`: loading never ends; what served before does, without further reloads.
    pub hang_on_load: bool,
}

impl Behaviour {
    /// Reads the special lines of a text.
    ///
    /// # Panics
    /// On a line it does not know: a test that misspells one would pass for the wrong reason.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut behaviour = Self::default();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("// stand-in: ")) {
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "die-on-load" => behaviour.die_on_load = true,
                "die-after" => behaviour.die_after = Some(duration(value)),
                "ignore-reload" => behaviour.ignore_reload = true,
                "errors" => {
                    let percent = value.strip_suffix('%').and_then(|percent| percent.parse().ok());
                    behaviour.errors = percent.expect("a percentage");
                }
                "latency" => behaviour.latency = duration(value),
                "refuse-test" => behaviour.refuse_test = true,
                "hang-on-load" => behaviour.hang_on_load = true,
                _ => panic!("unknown special line {line:?}"),
            }
        }
        behaviour
    }
}

fn duration(text: &str) -> Duration {
    let (number, milliseconds) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').expect("a duration in s or ms"), 1000),
    };
    Duration::from_millis(number.parse::<u64>().expect("a whole number") * milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_lines_are_read_and_misspelt_ones_are_not_ignored() {
        let text =
            "a\n  // stand-in: die-after 2s\n// stand-in: errors 30%\n// stand-in: latency 400ms\n// other";
        let expected = Behaviour {
            die_after: Some(Duration::from_secs(2)),
            errors: 30,
            latency: Duration::from_millis(400),
            ..Behaviour::default()
        };
        assert_eq!(Behaviour::parse(text), expected);
        assert!(std::panic::catch_unwind(|| Behaviour::parse("// stand-in: die-soon")).is_err());
    }
}
