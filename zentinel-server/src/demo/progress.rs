//! Showing a rollout while it runs.

use crate::cli::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::time::Duration;

/// One rollout's progress: a bar on a terminal, lines elsewhere, events with `--json`.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    output: &'a Output,
    label: &'static str,
    bar: ProgressBar,
    last: Option<(String, u64, u64)>,
}

impl<'a> Progress<'a> {
    pub(super) fn start(output: &'a Output, label: &'static str, total: u64) -> Self {
        let target =
            if output.is_json() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix:15} [{bar:30}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(label);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { output, label, bar, last: None }
    }

    /// Shows where the rollout is, when that changed.
    pub(super) fn show(&mut self, state: &str, active: u64, failed: u64, waiting: &str) {
        self.bar.set_position(active);
        self.bar.set_message(format!("{state}: {waiting}"));
        let now = (state.to_owned(), active, failed);
        if self.last.as_ref() == Some(&now) {
            return;
        }
        let details = json!({
            "rollout": self.label, "state": state, "active": active, "failed": failed, "waiting": waiting,
        });
        if self.output.is_json() || self.bar.is_hidden() {
            self.output.event("progress", details, || {
                format!("{:15} {state}: {active} active, {failed} failed. {waiting}", self.label)
            });
        }
        self.last = Some(now);
    }

    pub(super) fn finish(self) {
        self.bar.finish();
    }
}
