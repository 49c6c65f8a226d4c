//! Running the parser on a stack that is large enough for it.

use crate::diagnostic::{Code, Finding};
use std::thread;

/// Stack of the parser's thread in bytes. Only touched pages cost memory.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// Runs `work` on a thread with a large stack and waits for it. A panic in it is a finding.
pub(crate) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Finding> {
    let result = thread::scope(|scope| {
        let thread = thread::Builder::new().name("kdl-parser".to_owned()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work).map(thread::ScopedJoinHandle::join)
    });
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Finding::new(Code::ParserCrashed, "the parser failed on this text")
            .help("please report it with the configuration")),
        Err(error) => Err(Finding::new(Code::ParserCrashed, format!("no thread for the parser: {error}"))
            .help("try again when the machine has memory to spare")),
    }
}
