//! What compiling costs, beside what the proxy's parser costs alone.
//!
//! `cargo bench -p zentinel-compiler` prints both and their ratio, a table of levels of compression, and
//! the parts one by one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking")]

use divan::Bencher;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zentinel_compiler::archive::Archive;
use zentinel_compiler::model::Model;
use zentinel_compiler::unpack::{UnpackLimits, unpack};
use zentinel_compiler::validate::{InProcessValidator, IsolatedValidator, run_child_if_requested};
use zentinel_compiler::{Compiler, Source, diff, risk, sbom};

const ROUTES: [usize; 3] = [10, 100, 1_000];

fn main() -> ExitCode {
    // The isolated validator starts this program again as its child.
    if run_child_if_requested() {
        return ExitCode::SUCCESS;
    }
    if std::env::args().len() <= 2 {
        compare();
        levels();
    }
    divan::main();
    ExitCode::SUCCESS
}

/// The whole pipeline, in this process and with the text checked in a child process, whose start is
/// counted, beside two yardsticks: the proxy's parse and validation, and what `zentinel lint` does:
/// also its linter and its check for unknown keys, which every bundle goes through as well.
fn compare() {
    println!(
        "  wall ms                parse +  + lint,      in     of parse  of all             of parse  of all"
    );
    println!("  routes       bytes    validate  unknown  process  + validate          isolated  + validate");
    for routes in ROUTES {
        let text = config(routes);
        let runtime = runtime();
        let within = Compiler::new(Arc::new(InProcessValidator::default()));
        let isolated = Compiler::new(Arc::new(IsolatedValidator::default()));
        let compile = |compiler: &Compiler| {
            let source = Source::new(text.clone(), Vec::new(), false).unwrap();
            runtime.block_on(compiler.compile(source, None)).unwrap();
        };
        // Taken in turns, so that whatever else the machine does meets all four alike.
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..if routes >= 1_000 { 15 } else { 61 } {
            let mut measure = |index: usize, work: &dyn Fn()| {
                let started = Instant::now();
                work();
                times[index].push(started.elapsed());
            };
            measure(0, &|| parse_and_validate(&text));
            measure(1, &|| lint(&text));
            measure(2, &|| compile(&within));
            measure(3, &|| compile(&isolated));
        }
        // The fastest: whatever else the machine does only adds.
        let fastest = |times: Vec<Duration>| times.into_iter().min().unwrap().as_secs_f64() * 1e3;
        let [proxy, lint, within, isolated] = times.map(fastest);
        println!(
            "{routes:>8} {:>11} {proxy:>11.2} {lint:>8.2} {within:>8.2} {:>11.2} {:>7.2} {isolated:>17.2} {:>11.2} {:>7.2}",
            text.len(),
            within / proxy,
            within / lint,
            isolated / proxy,
            isolated / lint
        );
    }
}

/// What the proxy itself does with a text when it loads it.
fn parse_and_validate(text: &str) {
    zentinel_config::Config::from_kdl(text).unwrap().validate().unwrap();
}

/// What the proxy's program does with a text that it is to lint.
fn lint(text: &str) {
    use zentinel_config::validate::{ValidationResult, lint::lint_config, unknown_keys::check_unknown_keys};
    let config = zentinel_config::Config::from_kdl(text).unwrap();
    config.validate().unwrap();
    let warnings = lint_config(&config).warnings;
    let mut unknown = ValidationResult::new();
    check_unknown_keys(text, &mut unknown);
    divan::black_box((warnings, unknown));
}

/// What each level of compression makes of the packed files, and how long it takes.
fn levels() {
    println!("\nroutes   level      bytes    of tar       ms");
    for routes in ROUTES {
        let source = source(routes);
        let sbom = sbom::archived(&source, &Model::parse(source.config()).unwrap()).unwrap();
        let archive = Archive::pack(&source, &sbom).unwrap();
        let tar = zstd::bulk::decompress(archive.bytes(), 64 << 20).unwrap();
        for level in [1, 3, 6, 9, 12, 19] {
            let mut times = Vec::new();
            let mut size = 0;
            for _ in 0..9 {
                let started = Instant::now();
                size = zstd::bulk::compress(&tar, level).unwrap().len();
                times.push(started.elapsed());
            }
            times.sort_unstable();
            let share = size as f64 / tar.len() as f64 * 100.0;
            println!(
                "{routes:>6} {level:>7} {size:>10} {share:>7.1} % {:>8.3}",
                times[4].as_secs_f64() * 1e3
            );
        }
    }
    println!();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A configuration with so many routes, each with its own path and filter.
fn config(routes: usize) -> String {
    let route = |n| {
        format!(
            "    route \"r{n}\" {{\n        matches {{\n            host \"h{}.example.com\"\n            path-prefix \"/svc/{n}\"\n        }}\n        upstream \"u{}\"\n        filters \"limit\"\n    }}\n",
            n % 50,
            n % 10
        )
    };
    let upstream = |n| format!("    upstream \"u{n}\" {{\n        target \"10.0.0.{n}:80\"\n    }}\n");
    let routes: String = (0..routes).map(route).collect();
    let upstreams: String = (0..10).map(upstream).collect();
    format!(
        "system {{\n    worker-threads 1\n}}\nlisteners {{\n    listener \"http\" {{\n        address \"127.0.0.1:8080\"\n    }}\n}}\n\
         upstreams {{\n{upstreams}}}\nfilters {{\n    filter \"limit\" {{\n        type \"rate-limit\"\n        max-rps 50\n    }}\n}}\n\
         routes {{\n{routes}}}\nobservability {{\n    metrics {{\n        enabled #true\n        address \"127.0.0.1:9090\"\n    }}\n}}\n"
    )
}

fn source(routes: usize) -> Source {
    Source::new(config(routes), Vec::new(), false).unwrap()
}

/// The proxy's parser and its own validation: the yardstick.
#[divan::bench(args = ROUTES)]
fn proxy_parse_and_validate(bencher: Bencher<'_, '_>, routes: usize) {
    let text = config(routes);
    bencher.bench(|| parse_and_validate(&text));
}

/// Text to archive: validation, SBOM, packing, reading back.
#[divan::bench(args = ROUTES)]
fn compile(bencher: Bencher<'_, '_>, routes: usize) {
    let runtime = runtime();
    let compiler = Compiler::new(Arc::new(InProcessValidator::default()));
    bencher
        .with_inputs(|| source(routes))
        .bench_values(|source| runtime.block_on(compiler.compile(source, None)).unwrap());
}

/// The same, compared with a running configuration.
#[divan::bench(args = ROUTES)]
fn compile_against_a_baseline(bencher: Bencher<'_, '_>, routes: usize) {
    let runtime = runtime();
    let compiler = Compiler::new(Arc::new(InProcessValidator::default()));
    let old = config(routes).replace("max-rps 50", "max-rps 40");
    bencher
        .with_inputs(|| source(routes))
        .bench_values(|source| runtime.block_on(compiler.compile(source, Some(&old))).unwrap());
}

#[divan::bench(args = ROUTES)]
fn bill_of_materials(bencher: Bencher<'_, '_>, routes: usize) {
    let source = source(routes);
    let model = Model::parse(source.config()).unwrap();
    bencher.bench(|| sbom::archived(&source, &model).unwrap());
}

#[divan::bench(args = ROUTES)]
fn pack(bencher: Bencher<'_, '_>, routes: usize) {
    let source = source(routes);
    let sbom = sbom::archived(&source, &Model::parse(source.config()).unwrap()).unwrap();
    bencher.bench(|| Archive::pack(&source, &sbom).unwrap());
}

#[divan::bench(args = ROUTES)]
fn read_back(bencher: Bencher<'_, '_>, routes: usize) {
    let source = source(routes);
    let sbom = sbom::archived(&source, &Model::parse(source.config()).unwrap()).unwrap();
    let archive = Archive::pack(&source, &sbom).unwrap();
    bencher.bench(|| unpack(archive.bytes(), &UnpackLimits::default()).unwrap());
}

#[divan::bench(args = ROUTES)]
fn assess_risk(bencher: Bencher<'_, '_>, routes: usize) {
    let new = Model::parse(&config(routes)).unwrap();
    let old = Model::parse(&config(routes).replace("10.0.0.1:80", "10.0.0.99:80")).unwrap();
    bencher.bench(|| risk::assess(Some(&old), &new));
}

#[divan::bench(args = ROUTES)]
fn semantic_diff(bencher: Bencher<'_, '_>, routes: usize) {
    let new = config(routes);
    let old = new.replace("max-rps 50", "max-rps 40");
    bencher.bench(|| diff::semantic(&old, &new).unwrap());
}
