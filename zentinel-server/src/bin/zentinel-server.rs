//! The control plane's server; see `zentinel-server --help`.

use std::process::ExitCode;

/// Requests are short and allocate on many threads: a third less processor time than with the
/// system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The validator re-executes this program to parse untrusted text in a process of its own.
    if zentinel_compiler::validate::run_child_if_requested() {
        return ExitCode::SUCCESS;
    }
    zentinel_server::cli::main()
}
