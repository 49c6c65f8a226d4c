//! Running the parser on a stack that is large enough for it.

use crate::diagnostic::{Code, Finding};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// Stack of the parser's thread in bytes. Only touched pages cost memory.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// Runs `work` on a thread with a large stack and waits for it. A panic in it is a finding.
pub(crate) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Finding> {
    both(work, || ()).0
}

/// Runs `work` on this thread, whose stack is large. A panic in it is a finding.
pub(super) fn here<T>(work: impl FnOnce() -> T) -> Result<T, Finding> {
    // Nothing that the work changed is looked at after a panic.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| crashed())
}

fn crashed() -> Finding {
    Finding::new(Code::ParserCrashed, "the parser failed on this text")
        .help("please report it with the configuration")
}

/// Runs `work` on a thread with a large stack, and `here` on this one at the same time.
pub(crate) fn both<T: Send, U>(
    work: impl FnOnce() -> T + Send,
    here: impl FnOnce() -> U,
) -> (Result<T, Finding>, U) {
    let (result, here) = thread::scope(|scope| {
        let thread = thread::Builder::new().name("kdl-parser".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work);
        let here = here();
        (thread.map(thread::ScopedJoinHandle::join), here)
    });
    let result = match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(crashed()),
        Err(error) => Err(Finding::new(Code::ParserCrashed, format!("no thread for the parser: {error}"))
            .help("try again when the machine has memory to spare")),
    };
    (result, here)
}
