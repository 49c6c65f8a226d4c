//! Each row of the table of what the proxy wrongly accepts, and the rules beside it.

use super::*;
use crate::document::Document;
use zentinel_core::port::{Diagnostic, Severity};

/// Findings above `info` of our own rules, as `code path`.
fn found(text: &str) -> Vec<String> {
    let document = Document::parse(text).unwrap();
    let mut findings = Vec::new();
    check(&document, &mut findings);
    let diagnostics = crate::diagnostic::finish(findings, 100);
    let loud = diagnostics.iter().filter(|d| d.severity > Severity::Info && d.code != "metrics-exposed");
    loud.map(|d: &Diagnostic| format!("{} {}", d.code, d.path.as_deref().unwrap_or_default())).collect()
}

fn route(body: &str) -> Vec<String> {
    found(&format!("routes {{ route \"r\" {{ {body} }} }}"))
}

fn upstream(body: &str) -> Vec<String> {
    found(&format!("upstreams {{ upstream \"u\" {{ {body} }} }}"))
}

fn listener(body: &str) -> Vec<String> {
    found(&format!("listeners {{ listener \"l\" {{ {body} }} }}"))
}

fn filter(body: &str) -> Vec<String> {
    found(&format!("filters {{ filter \"f\" {{ {body} }} }}"))
}

const NONE: [&str; 0] = [];

#[test]
fn load_balancing() {
    assert_eq!(
        upstream("target \"a:1\"; load-balancing \"fastest\""),
        ["unknown-load-balancing upstreams/u/load-balancing"]
    );
    assert_eq!(upstream("target \"a:1\"; load-balancing \"P2C\""), NONE);
    assert_eq!(
        upstream("target \"a:1\"; load-balancing \"sticky\" { fallback \"round-robin\" }"),
        ["unknown-load-balancing upstreams/u/load-balancing/fallback"]
    );
}

#[test]
fn health_checks() {
    assert_eq!(
        upstream("target \"a:1\"; health-check { type \"https\" }"),
        ["unknown-health-check upstreams/u/health-check/type"]
    );
    let status = |value: &str| {
        upstream(&format!("target \"a:1\"; health-check {{ type \"http\" {{ expected-status {value} }} }}"))
    };
    assert_eq!(status("204"), ["wrong-type upstreams/u/health-check/type/expected-status"]);
    assert_eq!(status("\"two\""), ["wrong-type upstreams/u/health-check/type/expected-status"]);
    assert_eq!(status("\"999\""), ["number-out-of-range upstreams/u/health-check/type/expected-status"]);
    assert_eq!(status("\"204\""), NONE);
}

#[test]
fn builtin_handlers() {
    let matches = "matches { path \"/x\" };";
    assert_eq!(
        route(&format!("{matches} builtin-handler \"Health\"")),
        ["unknown-builtin-handler routes/r/builtin-handler"]
    );
    assert_eq!(route(&format!("{matches} builtin-handler \"not_found\"")), NONE);
}

#[test]
fn scalars_of_the_wrong_type() {
    for (text, path) in [
        ("system { worker-threads \"8\" }", "system/worker-threads"),
        ("system { daemon \"yes\" }", "system/daemon"),
        ("system { user 7 }", "system/user"),
        ("system { worker-threads }", "system/worker-threads"),
        ("system { worker-threads 1.5 }", "system/worker-threads"),
        ("observability { metrics { address 9090 } }", "observability/metrics/address"),
        ("cache { max-size \"1GB\" }", "cache/max-size"),
    ] {
        assert_eq!(found(text), [format!("wrong-type {path}")], "{text}");
    }
}

#[test]
fn regexes() {
    let regex = |pattern: &str| route(&format!("matches {{ path-regex #\"{pattern}\"# }}; upstream \"u\""));
    for bad in ["([", "(?<=a)b", "a{100000}{100000}"] {
        assert_eq!(regex(bad), ["invalid-regex routes/r/matches/path-regex"], "{bad}");
    }
    assert_eq!(regex("^/api/v[0-9]+/"), NONE);
}

#[test]
fn conditions_that_cannot_all_hold() {
    let matches = |body: &str| route(&format!("matches {{ {body} }}; upstream \"u\""));
    assert_eq!(matches("path \"/a\"; path \"/b\""), ["unmatchable-route routes/r/matches/path[2]"]);
    assert_eq!(
        matches("path-prefix \"/a\"; path-regex \"^/b\""),
        ["unmatchable-route routes/r/matches/path-regex"]
    );
    assert_eq!(matches("method \"GET\"; method \"POST\""), ["unmatchable-route routes/r/matches/method[2]"]);
    assert_eq!(matches("method \"GET\" \"POST\""), ["unmatchable-route routes/r/matches/method"]);
    assert_eq!(matches("host \"a\"; host \"b\"; path \"/a\"; method \"GET\""), NONE);
}

#[test]
fn addresses_to_bind() {
    for bad in ["not an address", "localhost:80", "127.0.0.1", "0.0.0.0:70000", ":80"] {
        assert_eq!(listener(&format!("address \"{bad}\"")), ["invalid-address listeners/l/address"], "{bad}");
    }
    assert_eq!(listener("address \"[::]:8080\""), NONE);
    assert_eq!(
        found("observability { metrics { address \"metrics\" } }"),
        ["invalid-address observability/metrics/address"]
    );
}

#[test]
fn tls_and_protocol() {
    assert_eq!(listener("address \"1.2.3.4:1\"; protocol \"https\""), ["missing-tls listeners/l/protocol"]);
    assert_eq!(listener("address \"1.2.3.4:1\"; protocol \"h2\""), ["missing-tls listeners/l/protocol"]);
    let tls = "tls { cert-file \"c\"; key-file \"k\"; min-version \"1.3\" }";
    assert_eq!(
        listener(&format!("address \"1.2.3.4:1\"; protocol \"https\"; {tls}")),
        ["ignored-setting listeners/l/tls/min-version"]
    );
}

#[test]
fn targets() {
    for (body, path) in [
        ("target \"http://api:8080\"", "target"),
        ("target \"api\"", "target"),
        ("target address=\"api:x\"", "target"),
        ("target { address \"api:0\" }", "target/address"),
        ("targets { target \"::1:80\" }", "targets/target"),
        ("address \"api:\"", "address"),
        ("target weight=2", "target"),
    ] {
        assert_eq!(upstream(body), [format!("invalid-target upstreams/u/{path}")], "{body}");
    }
    assert_eq!(upstream("target \"a:1\" weight=-1"), ["number-out-of-range upstreams/u/target"]);
    assert_eq!(upstream("target \"a:1\" weight=3; target { address \"b:2\"; weight 2 }"), NONE);
}

#[test]
fn duplicates_within_a_block() {
    assert_eq!(
        found("upstreams { upstream \"a\" { target \"x:1\" }; upstream \"a\" { target \"y:1\" } }"),
        ["duplicate-id upstreams/a[2]"]
    );
    assert_eq!(
        found("filters { filter \"a\" { type \"log\" }; filter \"a\" { type \"cors\" } }"),
        ["duplicate-id filters/a[2]"]
    );
    assert_eq!(found("system { daemon #true; daemon #false }"), ["repeated-setting system/daemon[2]"]);
    assert_eq!(found("limits; limits"), ["repeated-setting limits[2]"]);
    assert_eq!(found("namespace \"n\" { routes; routes }"), ["repeated-setting namespace/n/routes[2]"]);
}

#[test]
fn routes_need_exactly_one_target() {
    let matches = "matches { path \"/x\" };";
    assert_eq!(route(matches), ["route-without-target routes/r"]);
    assert_eq!(
        route(&format!("{matches} upstream \"u\"; static-files {{ root \"/srv\" }}")),
        ["route-with-several-targets routes/r/static-files"]
    );
    let redirect = format!(
        "filters {{ filter \"go\" {{ type \"redirect\" }} }}; routes {{ route \"r\" {{ {matches} filters \"go\" }} }}"
    );
    assert_eq!(found(&redirect), NONE);
}

#[test]
fn catch_alls() {
    assert_eq!(route("priority \"low\"; upstream \"u\""), ["catch-all-route routes/r"]);
    assert_eq!(route("priority \"low\"; matches { host \"a\" }; upstream \"u\""), NONE);
}

#[test]
fn numbers() {
    for text in [
        "system { max-connections -5 }",
        "system { worker-threads -1 }",
        "limits { max-body-size 0 }",
        "limits { max-header-count 99999999999999999999 }",
        "listeners { listener \"l\" { request-timeout-secs 0 } }",
        "filters { filter \"f\" { type \"redirect\"; status-code 3020 } }",
        "upstreams { upstream \"u\" { target \"a:1\"; connection-pool { max-idle -1 } } }",
        "observability { metrics { address \"127.0.0.1:1\" }; tracing { sampling-rate 2 } }",
    ] {
        let found = found(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with("number-out-of-range "), "{text}: {found:?}");
    }
}

#[test]
fn two_settings_on_one_line() {
    assert_eq!(listener("address \"1.2.3.4:80\" namespace \"y\""), ["run-together listeners/l/address"]);
    assert_eq!(filter("type \"headers\"; remove \"A\" \"B\""), NONE);
}

#[test]
fn values_out_of_a_choice() {
    let matches = "matches { path \"/x\" }; upstream \"u\";";
    assert_eq!(route(&format!("{matches} priority \"urgent\"")), ["unknown-value routes/r/priority"]);
    assert_eq!(route(&format!("{matches} priority \"HIGH\"")), NONE);
    assert_eq!(route(&format!("{matches} priority -7")), NONE);
    assert_eq!(filter("type \"rate-limit\"; max-rps 1; key \"ip\""), ["unknown-value filters/f/key"]);
    assert_eq!(filter("type \"rate-limit\"; max-rps 1; key \"header:X-Key\""), NONE);
    assert_eq!(
        filter("type \"rate-limit\"; max-rps 1; on-limit \"drop\""),
        ["unknown-value filters/f/on-limit"]
    );
    assert_eq!(filter("type \"headers\"; phase \"Response\""), ["unknown-value filters/f/phase"]);
    assert_eq!(filter("type \"compress\"; algorithms \"gzip,lzma\""), ["unknown-value filters/f/algorithms"]);
}

#[test]
fn settings_without_effect() {
    assert_eq!(filter("type \"cors\"; allow-origins \"a\""), ["ignored-setting filters/f/allow-origins"]);
    assert_eq!(filter("type \"rate-limit\""), ["ignored-setting filters/f"]);
    assert_eq!(found("rate-limits { default-rps 5 }"), ["ignored-setting rate-limits/default-rps"]);
    assert_eq!(
        route("matches { path \"/x\" }; upstream \"u\"; waf-enabled #true"),
        ["ignored-setting routes/r/waf-enabled"]
    );
}

#[test]
fn free_form_blocks_are_left_alone() {
    assert_eq!(
        found(
            "agents { agent \"a\" { http \"http://h:1\"; config { timeouts { connect-secs \"soon\" }; system { daemon 7 } } } }"
        ),
        NONE
    );
}

#[test]
fn metrics_and_error_log_defaults_are_told() {
    let codes = |text: &str| {
        let document = Document::parse(text).unwrap();
        let mut findings = Vec::new();
        observe::check(&document, &mut findings);
        findings.iter().map(|finding| finding.code().as_str()).collect::<Vec<_>>()
    };
    assert_eq!(codes(""), ["metrics-exposed", "default-error-log"]);
    assert_eq!(
        codes("observability { metrics { address \"0.0.0.0:9090\" }; logging { error-log { file \"e\" } } }"),
        ["metrics-exposed"]
    );
    assert_eq!(
        codes("observability { metrics { enabled #false }; logging { error-log { enabled #false } } }"),
        NONE
    );
}
