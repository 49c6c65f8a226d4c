//! Validates a Zentinel configuration file without a proxy: `zentinel-validate [--json] [--generated] FILE`.
//!
//! `-` reads standard input. Exit status: 0 without errors, 65 with errors, 64 for a wrong command
//! line, 66 when the file cannot be read, 70 when the check could not be carried out.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use zentinel_compiler::diagnostic::has_errors;
use zentinel_compiler::validate::{IsolatedValidator, run_child_if_requested};
use zentinel_core::port::{ConfigValidator, Diagnostic, Severity};

const USAGE: &str = "usage: zentinel-validate [--json] [--generated] FILE\n\
    Validates a Zentinel configuration; `-` reads standard input.\n  \
    --json       one JSON array of findings on standard output\n  \
    --generated  keys that the proxy would ignore are errors\n";

/// The command line.
struct Arguments {
    json: bool,
    generated: bool,
    file: String,
}

fn main() -> ExitCode {
    if run_child_if_requested() {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(code) => code,
        // Nobody reads the output.
        Err(_) => ExitCode::from(74),
    }
}

fn run() -> io::Result<ExitCode> {
    let Some(arguments) = arguments() else {
        io::stderr().write_all(USAGE.as_bytes())?;
        return Ok(ExitCode::from(64));
    };
    let text = match read(&arguments.file) {
        Ok(text) => text,
        Err(error) => {
            writeln!(io::stderr(), "{}: {error}", arguments.file)?;
            return Ok(ExitCode::from(66));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(IsolatedValidator::default().validate(&text, arguments.generated)) {
        Ok(diagnostics) => {
            print(&arguments, &diagnostics)?;
            Ok(ExitCode::from(if has_errors(&diagnostics) { 65 } else { 0 }))
        }
        Err(error) => {
            writeln!(io::stderr(), "{error}")?;
            Ok(ExitCode::from(70))
        }
    }
}

fn arguments() -> Option<Arguments> {
    let (mut json, mut generated, mut file) = (false, false, None);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--generated" => generated = true,
            other if other.starts_with("--") || file.is_some() => return None,
            other => file = Some(other.to_owned()),
        }
    }
    Some(Arguments { json, generated, file: file? })
}

fn read(file: &str) -> io::Result<String> {
    if file != "-" {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

fn print(arguments: &Arguments, diagnostics: &[Diagnostic]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, diagnostics)?;
        return writeln!(out);
    }
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        write!(out, "{}", arguments.file)?;
        if let (Some(line), Some(column)) = (diagnostic.line, diagnostic.column) {
            write!(out, ":{line}:{column}")?;
        }
        writeln!(out, ": {severity}[{}]: {}", diagnostic.code, diagnostic.message)?;
        for line in diagnostic.help.iter().flat_map(|help| help.lines()) {
            writeln!(out, "    {line}")?;
        }
    }
    Ok(())
}
