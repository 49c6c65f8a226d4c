//! What a command says: text for people, or one JSON object per line.

use crate::settings::Entry;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::ExitCode;
use zentinel_core::{Error, Result};

/// Where answers go. With JSON, stdout carries one object per event and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Chooses the form.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether answers are JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// An event: an object with `event` and `details`, or a text.
    pub fn event(&self, event: &str, details: Value, text: impl FnOnce() -> String) {
        if self.json {
            let mut object = json!({ "event": event });
            if let (Value::Object(object), Value::Object(details)) = (&mut object, details) {
                object.extend(details);
            }
            self.line(&object.to_string());
        } else {
            self.line(&text());
        }
    }

    /// The completion script of a program for a shell.
    pub(crate) fn completions<Arguments: CommandFactory>(&self, shell: Shell) {
        let mut command = Arguments::command();
        let (name, mut script) = (command.get_name().to_owned(), Vec::new());
        clap_complete::generate(shell, &mut command, name, &mut script);
        // A reader that went away is no reason to fail.
        drop(std::io::stdout().lock().write_all(&script));
    }

    /// How the process ends; says what was wrong first.
    pub(crate) fn exit(&self, outcome: Result<ExitCode>) -> ExitCode {
        outcome.unwrap_or_else(|error| {
            self.error(&error);
            ExitCode::from(error.kind().exit_code())
        })
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        drop(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    /// The settings with their environment variables.
    pub(super) fn settings(&self, entries: &[Entry]) {
        if self.json {
            let settings: serde_json::Map<String, Value> = entries
                .iter()
                .map(|entry| (entry.path.clone(), Value::String(entry.value.clone())))
                .collect();
            self.line(&Value::Object(settings).to_string());
        } else {
            let width = entries.iter().map(|entry| entry.path.len()).max().unwrap_or_default();
            for entry in entries {
                self.line(&format!(
                    "{:width$}  {}  ({})",
                    entry.path,
                    entry.value,
                    entry.environment.join(", ")
                ));
            }
        }
    }

    /// An error, on stderr, with what to do next.
    pub(crate) fn error(&self, error: &Error) {
        let mut text = format!("error: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            text.push_str(&format!("\n  caused by: {inner}"));
            cause = inner.source();
        }
        if let Some(hint) = error.hint() {
            text.push_str(&format!("\n  hint: {hint}"));
        }
        drop(writeln!(std::io::stderr().lock(), "{text}"));
    }
}
