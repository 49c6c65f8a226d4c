//! The operator's command line; see `zentinelctl --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    zentinel_server::ctl::main()
}
