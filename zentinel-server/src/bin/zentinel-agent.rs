//! The node agent; see `zentinel-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The validator re-executes this program to parse untrusted text in a process of its own.
    if zentinel_compiler::validate::run_child_if_requested() {
        return ExitCode::SUCCESS;
    }
    zentinel_server::agent::cli::main()
}
