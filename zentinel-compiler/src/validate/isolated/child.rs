//! The child's side.

use super::wire::Request;
use super::{HELLO, MARKER, limits};
use std::io::{self, Read, Write};

/// Runs as the child of an [`IsolatedValidator`](super::IsolatedValidator) if this process was
/// started as one. Call it first in `main`, before threads, files or settings; when it says `true`
/// the process has done its work, and `main` must return.
#[must_use]
pub fn run_child_if_requested() -> bool {
    let Some(memory) = std::env::var_os(MARKER) else {
        return false;
    };
    let memory = memory.to_str().and_then(|memory| memory.parse().ok());
    if let Err(error) = serve(memory) {
        // Standard error goes nowhere; the parent sees that there is no answer.
        tracing::error!(%error, "the validator could not answer");
    }
    true
}

fn serve(memory: Option<u64>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(HELLO)?;
    stdout.flush()?;
    let mut request = Vec::new();
    io::stdin().lock().read_to_end(&mut request)?;
    let request: Request = serde_json::from_slice(&request)?;
    // Before the text is looked at, and only in this process.
    limits::apply(memory, request.options.time_limit)?;
    let answer = request.answer()?;
    stdout.write_all(&answer)?;
    stdout.flush()
}
