//! What the validators parsed and hand over is what a parse of the text gives.

use super::*;
use zentinel_config::Config;

/// Every setting of a configuration, in an order that does not depend on hash maps.
fn settings(config: &Config) -> Vec<String> {
    let mut lines: Vec<_> = format!("{config:#?}").lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Every text of the repository, and settings that are easily lost on the way.
fn texts() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for directory in [
        "tests/fixtures",
        "tests/vectors/minimal",
        "tests/vectors/files",
        "src/risk/testing",
        "../examples/configs",
    ] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "kdl") {
                texts.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let filters = [
        "type \"rate-limit\"; max-rps 7; burst 3; key \"header:x-a\"",
        "type \"headers\"; request { set { \"x-a\" \"1\" }; remove \"x-b\" }",
        "type \"compress\"; min-size 99",
        "type \"cors\"; allowed-origins \"https://a.example\"; max-age-secs 7",
        "type \"timeout\"; request-timeout-secs 3",
        "type \"log\"; log-request #true",
        "type \"redirect\"; status-code 302; host \"b.example\"; path \"replace-prefix\" \"/x\"",
        "type \"url-rewrite\"; hostname \"c.example\"",
        "type \"agent\"; agent \"jwt\"; timeout-ms 70",
    ];
    for (n, filter) in filters.iter().enumerate() {
        texts.push((format!("filter {n}"), with(&format!("filters {{ filter \"f\" {{ {filter} }} }}"))));
    }
    let agent = "agents { agent \"jwt\" type=\"auth\" { unix-socket \"/no/such/agent.sock\"; events \"request_headers\" } }";
    let assets = "routes { route \"assets\" { matches { path-prefix \"/a\" }; static-files { root \"/no/such/root\" } } }";
    let tenth = "observability { tracing { backend \"otlp\" { endpoint \"http://127.0.0.1:4317\" }; sampling-rate 0.05 } }";
    let odd = "routes { route \"odd\" { matches { method \"PURGE\"; path \"/odd\" }; upstream \"api\"; error-pages { default-format \"json\"; pages { \"404\" { format \"json\"; message \"no\" } } } } }";
    let shop = "namespace \"shop\" { upstreams { upstream \"u\" { target \"10.0.0.9:80\" weight=3 } }; limits { max-header-count 7 }; service \"cart\" { routes { route \"c\" { matches { path-prefix \"/c\" }; upstream \"u\" } } } }";
    for (name, more) in [("agent", agent), ("assets", assets), ("tenth", tenth), ("odd", odd), ("shop", shop)]
    {
        texts.push((name.to_owned(), with(more)));
    }
    texts
}

fn with(more: &str) -> String {
    format!("{CLEAN}\n{more}\n")
}

#[tokio::test]
async fn it_is_what_a_parse_of_the_text_gives() {
    let validators: [Arc<dyn ConfigValidator>; 3] = [
        Arc::new(InProcessValidator::default()),
        Arc::new(isolated()),
        Arc::new(ExternalValidator::new(Arc::new(isolated()), ExternalOptions::new("/bin/true"))),
    ];
    let mut compared = 0;
    for (name, text) in texts() {
        for validator in &validators {
            let examined = validator.examine(&text, false).await.unwrap();
            assert_eq!(examined.diagnostics, validator.validate(&text, false).await.unwrap(), "{name}");
            let errors = codes(&examined.diagnostics, Severity::Error);
            let Some(parsed) = examined.parsed else {
                assert!(!errors.is_empty(), "{name} was not handed over");
                continue;
            };
            assert_eq!(errors, Vec::<&str>::new(), "{name}");
            let handed_over = parsed.downcast::<Config>().unwrap();
            assert_eq!(settings(&handed_over), settings(&Config::from_kdl(&text).unwrap()), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
}

/// JSON has no such number: the caller must parse the text itself rather than read another one.
#[tokio::test]
async fn what_would_not_arrive_is_not_handed_over() {
    let text = with("waf { engine \"coraza\"; ruleset { crs-version \"4\"; anomaly-threshold #inf } }");
    let examined = isolated().examine(&text, false).await.unwrap();
    assert!(examined.parsed.is_none(), "{:#?}", examined.diagnostics);
}
