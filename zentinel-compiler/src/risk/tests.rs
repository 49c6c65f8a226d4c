use super::testing::{BASE, changed, with, without_route};
use super::*;

fn codes(old: &str, new: &str) -> Vec<(String, String)> {
    let (old, new) = (Model::parse(old).unwrap(), Model::parse(new).unwrap());
    let findings = assess(Some(&old), &new);
    findings.into_iter().map(|finding| (finding.code, finding.path)).collect()
}

/// A change, the findings it must have and the ones it must not have.
struct Case {
    new: String,
    has: &'static [(&'static str, &'static str)],
    has_not: &'static [&'static str],
}

fn case(new: String, has: &'static [(&'static str, &'static str)], has_not: &'static [&'static str]) -> Case {
    Case { new, has, has_not }
}

fn check(cases: Vec<Case>) {
    for (index, case) in cases.into_iter().enumerate() {
        let found = codes(BASE, &case.new);
        for (code, path) in case.has {
            let there = found.iter().any(|(c, p)| c == code && p == path);
            assert!(there, "case {index}: {code} at {path} is not in {found:?}");
        }
        for code in case.has_not {
            assert!(!found.iter().any(|(c, _)| c == code), "case {index}: {code} is in {found:?}");
        }
    }
}

#[test]
fn no_change_is_no_risk() {
    assert_eq!(codes(BASE, BASE), []);
    let model = Model::parse(BASE).unwrap();
    assert_eq!(assess(None, &model), []);
    assert_eq!(level(&[]), RiskLevel::Low);
}

#[test]
fn formatting_comments_and_order_are_no_risk() {
    let spaced = BASE.replace("    ", "\t").replace("\n}", "\n// end\n}");
    assert_eq!(codes(BASE, &spaced), []);
    let numbers = changed("max-rps 50", "max-rps 5_0");
    assert_eq!(codes(BASE, &numbers), []);
    let swapped = changed(
        "target \"10.0.0.1:80\" weight=3\n        target \"10.0.0.2:80\" weight=1",
        "target \"10.0.0.2:80\" weight=1\n        target \"10.0.0.1:80\" weight=3",
    );
    assert!(!codes(BASE, &swapped).iter().any(|(code, _)| code == "upstream_retargeted"));
    let web = "    upstream \"web\" {\n        target \"10.0.0.3:80\"\n    }\n";
    let moved = BASE.replacen(web, "", 1).replacen("upstreams {\n", &format!("upstreams {{\n{web}"), 1);
    assert_eq!(codes(BASE, &moved), []);
}

#[test]
fn authentication() {
    check(vec![
        case(
            changed("filters \"rl\" \"login\" \"sec\"", "filters \"rl\" \"sec\""),
            &[("auth_removed", "routes/api"), ("auth_policy_changed", "routes/api")],
            &["auth_weakened", "rate_limit_changed"],
        ),
        case(
            changed(
                "timeout-ms 100\n        failure-mode \"closed\"",
                "timeout-ms 100\n        failure-mode \"open\"",
            ),
            &[
                ("auth_weakened", "routes/api"),
                ("fail_open", "agents/jwt"),
                ("auth_policy_changed", "agents/jwt"),
            ],
            &["auth_removed"],
        ),
        case(
            changed("agent \"jwt\"\n    }", "agent \"jwt\"\n        failure-mode \"open\"\n    }"),
            &[("auth_weakened", "routes/api")],
            &["auth_removed", "agent_removed"],
        ),
        case(
            changed("client-auth #true", "client-auth #false"),
            &[
                ("client_auth_disabled", "listeners/tls"),
                ("auth_policy_changed", "listeners/tls"),
                ("tls_config_changed", "listeners/tls"),
            ],
            &["tls_removed"],
        ),
        // Adding authentication is a change of it as well, but takes nothing away.
        case(
            changed(
                "upstream \"web\"\n        filters \"shield\"",
                "upstream \"web\"\n        filters \"login\" \"shield\"",
            ),
            &[("auth_policy_changed", "routes/shop")],
            &["auth_removed", "auth_weakened"],
        ),
        case(
            changed("timeout-secs 20", "timeout-secs 21"),
            &[],
            &["auth_policy_changed", "auth_removed", "auth_weakened", "client_auth_disabled"],
        ),
        // The same requests, under another name and without authentication.
        case(
            changed("route \"api\" {", "route \"api2\" {").replacen(
                "\"rl\" \"login\" \"sec\"",
                "\"rl\" \"sec\"",
                1,
            ),
            &[("auth_removed", "routes/api"), ("route_removed", "routes/api")],
            &[],
        ),
        case(
            changed("route \"api\" {", "route \"api2\" {"),
            &[("route_removed", "routes/api")],
            &["auth_removed"],
        ),
    ]);
}

#[test]
fn tls() {
    let plain = changed(
        "        tls {\n            sni \"api.internal\"\n            ca-cert \"/etc/tls/root.pem\"\n        }\n",
        "",
    );
    check(vec![
        case(
            changed("/etc/tls/a.pem", "/etc/tls/b.pem"),
            &[("tls_config_changed", "listeners/tls")],
            &["tls_removed", "client_auth_disabled"],
        ),
        case(
            plain,
            &[("tls_removed", "upstreams/api"), ("tls_config_changed", "upstreams/api")],
            &["tls_verification_disabled"],
        ),
        case(
            changed("sni \"api.internal\"", "sni \"api.internal\"\n            insecure-skip-verify #true"),
            &[("tls_verification_disabled", "upstreams/api"), ("tls_config_changed", "upstreams/api")],
            &["tls_removed"],
        ),
        case(
            changed(
                "target \"10.0.0.3:80\"",
                "target \"10.0.0.3:80\"\n        tls {\n            insecure-skip-verify #true\n        }",
            ),
            &[("tls_verification_disabled", "upstreams/web")],
            &["tls_removed"],
        ),
        case(
            changed("max-rps 50", "max-rps 51"),
            &[],
            &["tls_config_changed", "tls_removed", "tls_verification_disabled"],
        ),
    ]);
}

#[test]
fn exposure() {
    check(vec![
        case(
            changed("127.0.0.1:8080", "0.0.0.0:8080"),
            &[("listener_exposed", "listeners/http")],
            &["listener_removed"],
        ),
        case(
            with("listeners", "listener \"new\" {\n address \"0.0.0.0:9000\"\n}"),
            &[("listener_exposed", "listeners/new")],
            &["listener_removed"],
        ),
        case(
            with("listeners", "listener \"new\" {\n address \"127.0.0.1:9000\"\n}"),
            &[],
            &["listener_exposed", "listener_removed"],
        ),
        case(with("listeners", "listener \"new\" {\n address \"[::1]:9000\"\n}"), &[], &["listener_exposed"]),
        case(
            changed("address \"0.0.0.0:8443\"", "address \"10.0.0.7:8443\""),
            &[("listener_removed", "listeners/tls")],
            &["listener_exposed"],
        ),
        case(
            changed("listener \"http\"", "listener \"plain\""),
            &[],
            &["listener_exposed", "listener_removed"],
        ),
        case(changed("        namespace \"shop\"\n", ""), &[("listener_exposed", "listeners/shop")], &[]),
        case(
            changed("127.0.0.1:9090", "0.0.0.0:9090"),
            &[("metrics_exposed", "observability/metrics")],
            &["listener_exposed"],
        ),
        case(changed("127.0.0.1:9090", "127.0.0.1:9091"), &[], &["metrics_exposed"]),
        case(
            changed("            host \"localhost\"\n", ""),
            &[("admin_endpoint_exposed", "routes/inside")],
            &[],
        ),
        case(
            with(
                "routes",
                "route \"purge\" {\n matches {\n path \"/purge\"\n}\n builtin-handler \"cache-purge\"\n}",
            ),
            &[("admin_endpoint_exposed", "routes/purge")],
            &[],
        ),
        case(
            with("routes", "route \"up\" {\n matches {\n path \"/up\"\n}\n builtin-handler \"health\"\n}"),
            &[],
            &["admin_endpoint_exposed"],
        ),
    ]);
}

#[test]
fn routes_and_upstreams() {
    let route =
        |id: &str, rest: &str| with("routes", &format!("route \"{id}\" {{\n{rest}\n upstream \"web\"\n}}"));
    check(vec![
        case(
            changed("    upstream \"spare\" {\n        target \"10.0.0.4:80\"\n    }\n", ""),
            &[("upstream_removed", "upstreams/spare")],
            &["upstream_retargeted", "route_removed"],
        ),
        case(
            changed("10.0.0.3:80", "203.0.113.1:80"),
            &[("upstream_retargeted", "upstreams/web")],
            &["upstream_removed", "route_retargeted"],
        ),
        case(changed("weight=3", "weight=4"), &[], &["upstream_retargeted"]),
        case(
            without_route("web"),
            &[("route_removed", "routes/web")],
            &["auth_removed", "many_route_changes"],
        ),
        case(
            changed(
                "path-prefix \"/cart\"\n            }\n            upstream \"web\"",
                "path-prefix \"/cart\"\n            }\n            upstream \"spare\"",
            ),
            &[("route_retargeted", "namespace/shop/routes/cart")],
            &["route_removed", "upstream_retargeted"],
        ),
        case(
            route("wide", "priority \"critical\"\n matches {\n path-prefix \"/\"\n}"),
            &[
                ("route_shadowed", "routes/web"),
                ("route_shadowed", "routes/api"),
                ("auth_removed", "routes/api"),
            ],
            &["route_removed"],
        ),
        case(
            route("narrow", "priority \"critical\"\n matches {\n path-prefix \"/web/admin\"\n}"),
            &[],
            &["route_shadowed", "auth_removed"],
        ),
        case(route("late", "priority \"low\"\n matches {\n path-prefix \"/\"\n}"), &[], &["route_shadowed"]),
        case(
            changed(
                "path-prefix \"/static\"\n        }",
                "path-prefix \"/\"\n        }\n        priority \"critical\"",
            ),
            &[("route_shadowed", "routes/web")],
            &[],
        ),
    ]);
}

#[test]
fn many_changes_at_once() {
    let routes = |count: usize| {
        let route =
            |n| format!("route \"r{n}\" {{\n matches {{\n path \"/r/{n}\"\n}}\n upstream \"web\"\n}}\n");
        with("routes", &(0..count).map(route).collect::<String>())
    };
    check(vec![
        case(routes(MANY_ROUTES), &[], &["many_route_changes"]),
        case(routes(MANY_ROUTES + 1), &[("many_route_changes", "routes")], &["route_removed"]),
    ]);
    let gone = codes(&routes(MANY_ROUTES + 1), BASE);
    assert!(gone.contains(&("many_route_changes".to_owned(), "routes".to_owned())));
    let huge = codes(BASE, &routes(200_000 / 1_000));
    assert!(!huge.iter().any(|(code, _)| code == "shadowing_unchecked"));
}

#[test]
fn shadowing_gives_up_on_huge_changes_and_says_so() {
    let routes = |count: usize, upstream: &str| {
        let route = |n| {
            format!("route \"r{n}\" {{\n matches {{\n path \"/r/{n}\"\n}}\n upstream \"{upstream}\"\n}}\n")
        };
        with("routes", &(0..count).map(route).collect::<String>())
    };
    let found = codes(&routes(1_100, "web"), &routes(1_100, "spare"));
    assert!(found.contains(&("shadowing_unchecked".to_owned(), "routes".to_owned())));
    // Long lists of one code are cut and counted.
    assert_eq!(found.iter().filter(|(code, _)| code == "route_retargeted").count(), PER_CODE + 1);
}

#[test]
fn rate_limits() {
    check(vec![
        case(
            changed("max-rps 50", "max-rps 60"),
            &[("rate_limit_loosened", "routes/api"), ("rate_limit_changed", "filters/rl")],
            &["rate_limit_removed"],
        ),
        case(
            changed("max-rps 50", "max-rps 40"),
            &[("rate_limit_changed", "filters/rl")],
            &["rate_limit_loosened", "rate_limit_removed"],
        ),
        case(
            changed("filters \"rl\" \"login\" \"sec\"", "filters \"login\" \"sec\""),
            &[("rate_limit_removed", "routes/api"), ("rate_limit_changed", "routes/api")],
            &["rate_limit_loosened", "auth_policy_changed"],
        ),
        case(
            changed("key \"client-ip\"", "on-limit \"log-only\""),
            &[("rate_limit_removed", "routes/api")],
            &[],
        ),
        case(
            changed("requests-per-second 10", "requests-per-second 11"),
            &[("rate_limit_loosened", "routes/web")],
            &[],
        ),
        case(
            changed("tokens-per-minute 1000", "tokens-per-minute 2000"),
            &[("rate_limit_loosened", "routes/chat")],
            &[],
        ),
        case(changed("max-rps 1000", "max-rps 2000"), &[("rate_limit_loosened", "rate-limits/global")], &[]),
        case(
            changed("timeout-secs 20", "timeout-secs 21"),
            &[],
            &["rate_limit_changed", "rate_limit_loosened", "rate_limit_removed"],
        ),
    ]);
}

#[test]
fn inspection() {
    check(vec![
        case(
            changed("filters \"shield\" \"countries\"", "filters \"countries\""),
            &[("waf_disabled", "routes/shop")],
            &["waf_weakened", "geo_block_removed", "auth_policy_changed", "agent_removed"],
        ),
        case(
            changed("mode \"block\"", "mode \"detect\""),
            &[("waf_detect_only", "routes/shop")],
            &["waf_disabled"],
        ),
        case(
            changed(
                "events \"request_headers\" \"request_body\"\n        failure-mode \"closed\"",
                "events \"request_headers\" \"request_body\"\n        failure-mode \"open\"",
            ),
            &[("waf_weakened", "routes/shop"), ("fail_open", "agents/shield")],
            &["waf_disabled"],
        ),
        case(
            changed("inspect-body #true", "inspect-body #false"),
            &[("waf_weakened", "routes/shop")],
            &["waf_detect_only"],
        ),
        case(
            changed("filters \"shield\" \"countries\"", "filters \"shield\""),
            &[("geo_block_removed", "routes/shop")],
            &["waf_disabled"],
        ),
        case(
            changed("action \"block\"\n        countries", "action \"log-only\"\n        countries"),
            &[("geo_block_removed", "routes/shop")],
            &[],
        ),
        case(changed("countries \"XX\"", "countries \"XX,YY\""), &[], &["geo_block_removed"]),
        case(
            changed("action \"block\"\n                }", "action \"log\"\n                }"),
            &[("guardrail_weakened", "routes/chat")],
            &["waf_detect_only"],
        ),
        case(
            changed(
                "            failure-mode \"closed\"\n        }\n    }\n    route \"shop\"",
                "            failure-mode \"open\"\n        }\n    }\n    route \"shop\"",
            ),
            &[("fail_open", "routes/api")],
            &["auth_weakened"],
        ),
        case(
            changed("    agent \"tagger\"", "    agent \"marker\""),
            &[("agent_removed", "agents/tagger")],
            &["fail_open", "waf_disabled", "guardrail_weakened"],
        ),
        case(
            changed("max-header-count 50", "max-header-count 51"),
            &[],
            &[
                "waf_disabled",
                "waf_weakened",
                "waf_detect_only",
                "agent_removed",
                "fail_open",
                "agentic_policy_changed",
            ],
        ),
        case(
            changed(
                "path-prefix \"/web\"\n        }",
                "path-prefix \"/web\"\n        }\n        mcp {\n            filter-tool-list #true\n        }",
            ),
            &[("agentic_policy_changed", "routes/web")],
            &[],
        ),
    ]);
}

#[test]
fn the_built_in_firewall() {
    let with_waf = |mode: &str, level: u8| {
        format!(
            "{BASE}\nwaf {{\n    engine \"coraza\"\n    mode \"{mode}\"\n    ruleset {{\n        crs-version \"4.0\"\n        paranoia-level {level}\n    }}\n}}\n"
        )
    };
    let has = |old: &str, new: &str, code: &str| codes(old, new).iter().any(|(found, _)| found == code);
    let strict = with_waf("prevention", 2);
    assert!(has(&strict, BASE, "waf_disabled"));
    assert!(has(&strict, &with_waf("off", 2), "waf_disabled"));
    assert!(has(&strict, &with_waf("detection", 2), "waf_detect_only"));
    assert!(has(&strict, &with_waf("prevention", 1), "waf_weakened"));
    assert_eq!(codes(&with_waf("detection", 1), &strict), []);
    assert_eq!(codes(BASE, &strict), []);
}

#[test]
fn files_that_changed_under_the_same_path() {
    let digest = |text: &str| Sha256Digest::of(text.as_bytes());
    let old = BTreeMap::from([("ca.pem".to_owned(), digest("1")), ("gone".to_owned(), digest("2"))]);
    let new = BTreeMap::from([("ca.pem".to_owned(), digest("3")), ("new".to_owned(), digest("4"))]);
    let paths: Vec<_> = changed_files(&old, &new).into_iter().map(|finding| finding.path).collect();
    assert_eq!(paths, ["ca.pem", "gone"]);
    assert_eq!(changed_files(&old, &old), []);
}

#[test]
fn codes_are_unique_and_levels_are_those_of_the_contract() {
    let mut names: Vec<_> = RiskCode::ALL.iter().map(|code| code.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), RiskCode::ALL.len());
    for (code, level) in [
        (RiskCode::AuthPolicyChanged, RiskLevel::High),
        (RiskCode::TlsConfigChanged, RiskLevel::High),
        (RiskCode::ManyRouteChanges, RiskLevel::Medium),
        (RiskCode::UpstreamRemoved, RiskLevel::Medium),
        (RiskCode::RateLimitChanged, RiskLevel::Medium),
    ] {
        assert_eq!(code.level(), level);
    }
}

#[test]
fn the_worst_findings_come_first() {
    let (old, new) = (
        Model::parse(BASE).unwrap(),
        changed("max-rps 50", "max-rps 60").replace("127.0.0.1:8080", "0.0.0.0:8080"),
    );
    let findings = assess(Some(&old), &Model::parse(&new).unwrap());
    assert!(findings.is_sorted_by(|a, b| a.level >= b.level), "{findings:?}");
    assert_eq!(level(&findings), RiskLevel::High);
}
