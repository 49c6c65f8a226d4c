//! Every code has a text that triggers it.

use super::*;
use std::time::Duration;
use zentinel_compiler::diagnostic::Code;
use zentinel_compiler::validate::Limits;

/// How the text of a code is checked: most by a plain validator, some need a special one.
async fn diagnostics(code: Code) -> Vec<Diagnostic> {
    let text = fixture(code.as_str());
    let limits = |limits| InProcessValidator::new(ValidateOptions { limits, ..ValidateOptions::default() });
    let directory = tempfile::tempdir().unwrap();
    let validator: Arc<dyn ConfigValidator> = match code {
        Code::TooLarge => Arc::new(limits(Limits { max_bytes: 100, ..Limits::default() })),
        Code::TooManyTokens => Arc::new(limits(Limits { max_tokens: 10, ..Limits::default() })),
        Code::TooManyFindings => Arc::new(InProcessValidator::new(ValidateOptions {
            max_findings: 1,
            ..ValidateOptions::default()
        })),
        Code::ParserCrashed => Arc::new(IsolatedValidator::new(IsolatedOptions {
            program: Some(script(&directory, "echo 'zentinel-validator 1'\nkill -ABRT $$")),
            ..IsolatedOptions::default()
        })),
        Code::ValidationTimeout => Arc::new(IsolatedValidator::new(IsolatedOptions {
            program: Some(script(&directory, "echo 'zentinel-validator 1'\nexec sleep 60")),
            validate: ValidateOptions {
                time_limit: Duration::from_millis(300),
                ..ValidateOptions::default()
            },
            ..IsolatedOptions::default()
        })),
        Code::ExternalValidator => Arc::new(ExternalValidator::new(
            Arc::new(InProcessValidator::default()),
            ExternalOptions::new(script(&directory, "exit 1")),
        )),
        Code::ExternalValidatorMissing => Arc::new(ExternalValidator::new(
            Arc::new(InProcessValidator::default()),
            ExternalOptions::new("/no/such/program"),
        )),
        _ => Arc::new(InProcessValidator::default()),
    };
    validator.validate(&text, false).await.unwrap()
}

#[tokio::test]
async fn every_code_has_a_text_that_triggers_it_and_nothing_worse() {
    for &code in Code::ALL {
        let found = diagnostics(code).await;
        let hits: Vec<_> = found.iter().filter(|d| d.code == code.as_str()).collect();
        assert!(!hits.is_empty(), "{code} is not found: {found:#?}");
        assert!(hits.iter().any(|d| d.severity == code.severity()), "{code}: {found:#?}");
        let strangers = found.iter().filter(|d| d.code != code.as_str() && d.severity > Severity::Info);
        assert_eq!(strangers.count(), 0, "{code} comes with others: {found:#?}");
    }
}

/// Codes that are about the whole configuration or the check itself have no place in the text.
const WITHOUT_PLACE: [Code; 10] = [
    Code::TooLarge,
    Code::MissingBlock,
    Code::TooManyFindings,
    Code::ParserCrashed,
    Code::ValidationTimeout,
    Code::ExternalValidator,
    Code::ExternalValidatorMissing,
    Code::MetricsExposed,
    Code::DefaultErrorLog,
    Code::BestPractice,
];

#[tokio::test]
async fn findings_have_a_line_and_a_column() {
    for &code in Code::ALL.iter().filter(|code| !WITHOUT_PLACE.contains(code)) {
        let found = diagnostics(code).await;
        let hit = found.iter().find(|d| d.code == code.as_str()).unwrap();
        assert!(hit.line.is_some() && hit.column.is_some(), "{hit:#?}");
    }
}

#[tokio::test]
async fn places_are_exact() {
    let cases = [
        ("unknown-reference", 20, 9, Some("routes/api/upstream")),
        ("duplicate-id", 14, 5, Some("upstreams/api[2]")),
        ("duplicate-address", 10, 9, Some("listeners/second/address")),
        ("unknown-key", 3, 5, Some("system/workers")),
        ("run-together", 7, 34, Some("listeners/http/address")),
        ("config-rejected", 18, 13, Some("routes/api/matches/path-prefx")),
        ("unknown-block", 10, 1, Some("upstream_groups")),
        ("semantic", 16, 5, Some("routes/api")),
        ("invalid-regex", 18, 13, Some("routes/api/matches/path-regex")),
        ("unmatchable-route", 19, 13, Some("routes/api/matches/method[2]")),
        ("syntax", 3, 20, None),
        ("nul-byte", 11, 16, None),
        ("unmatched-brace", 33, 1, None),
    ];
    for (code, line, column, path) in cases {
        let found = check(&fixture(code)).await;
        let hit = found.iter().find(|d| d.code == code).unwrap_or_else(|| panic!("{code}: {found:#?}"));
        assert_eq!((hit.line, hit.column, hit.path.as_deref()), (Some(line), Some(column), path), "{hit:#?}");
    }
}

#[tokio::test]
async fn the_verified_sample_has_no_errors_and_no_unknown_keys() {
    let found = check(SAMPLE).await;
    assert_eq!(codes(&found, Severity::Error), Vec::<&str>::new(), "{found:#?}");
    assert_eq!(codes(&found, Severity::Warning), Vec::<&str>::new(), "{found:#?}");
    let generated = InProcessValidator::default().validate(SAMPLE, true).await.unwrap();
    assert_eq!(found, generated);
}

#[tokio::test]
async fn a_clean_text_has_recommendations_only() {
    let found = check(CLEAN).await;
    assert!(found.iter().all(|d| d.severity == Severity::Info), "{found:#?}");
    let quiet = InProcessValidator::new(ValidateOptions { lint: false, ..ValidateOptions::default() });
    assert_eq!(quiet.validate(CLEAN, false).await.unwrap(), []);
}

#[tokio::test]
async fn unknown_keys_are_errors_in_generated_text() {
    let text = fixture("unknown-key");
    let found = InProcessValidator::default().validate(&text, true).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), ["unknown-key"], "{found:#?}");
}

#[tokio::test]
async fn all_semantic_errors_are_told_apart() {
    let text = CLEAN
        .replace(
            "upstream \"api\"\n    }\n}\nobs",
            "upstream \"gone\"\n        filters \"none\"\n    }\n}\nobs",
        )
        .replace(
            "address \"127.0.0.1:8080\"",
            "address \"127.0.0.1:8080\"\n        default-route \"nowhere\"",
        );
    let found = check(&text).await;
    assert_eq!(codes(&found, Severity::Error), ["unknown-reference"; 3], "{found:#?}");
    let paths: Vec<_> = found[..3].iter().map(|d| d.path.as_deref().unwrap()).collect();
    assert_eq!(paths, ["listeners/http/default-route", "routes/api/upstream", "routes/api/filters"]);
    assert_eq!(found[1].help.as_deref().unwrap().lines().next(), Some("Available upstreams: 'api'"));
}

#[tokio::test]
async fn files_of_the_node_are_not_looked_for() {
    let text = format!(
        "{}agents {{\n    agent \"auth\" type=\"auth\" {{\n        unix-socket \"/no/such/run/auth.sock\"\n    }}\n}}\n",
        CLEAN.replace(
            "address \"127.0.0.1:8080\"",
            "address \"127.0.0.1:8443\"\n        protocol \"https\"\n        tls {\n            \
             cert-file \"/no/cert.pem\"\n            key-file \"/no/key.pem\"\n        }"
        )
    );
    let found = check(&text).await;
    assert_eq!(codes(&found, Severity::Error), Vec::<&str>::new(), "{found:#?}");
    let on_node: Vec<_> =
        found.iter().filter(|d| d.code == "checked-on-node").map(|d| d.path.as_deref().unwrap()).collect();
    assert_eq!(
        on_node,
        ["listeners/http/tls/cert-file", "listeners/http/tls/key-file", "agents/auth/unix-socket"]
    );
    // A root that does exist here, as a file, is no error either.
    let root = fixture("checked-on-node").replace("/no/such/directory", "/etc/passwd");
    assert_eq!(codes(&check(&root).await, Severity::Error), Vec::<&str>::new());
}
