//! The stand-in for the proxy, as a process; see [`zentinel_tests::stand_in`].

fn main() -> std::process::ExitCode {
    zentinel_tests::stand_in::main()
}
