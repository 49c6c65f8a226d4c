//! Simulated nodes; see `zentinel-sim --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    zentinel_server::sim::main()
}
