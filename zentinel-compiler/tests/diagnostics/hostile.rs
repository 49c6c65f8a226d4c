//! Input that would take a process down, or keep it busy.

use super::*;

/// Name, text and the code of its first finding.
fn hostile() -> Vec<(&'static str, String, &'static str)> {
    let nodes = |count: usize| "route \"x\" { a \"b\"; c 1 }\n".repeat(count);
    vec![
        ("10 MB of text", nodes(400_000), "too-large"),
        ("10 MB of one string", format!("a \"{}\"", "x".repeat(10_000_000)), "too-large"),
        ("100,000 open braces", "a {".repeat(100_000), "nesting-too-deep"),
        ("100,000 nested blocks", "a {".repeat(100_000) + &"}".repeat(100_000), "nesting-too-deep"),
        ("100,000 closing braces", "}".repeat(100_000), "unmatched-brace"),
        ("braces on one line", "{}".repeat(100_000), "syntax"),
        ("blocks on one line", format!("a {}", "{}".repeat(100_000)), "syntax"),
        ("100,000 nested comments", "/*".repeat(100_000) + &"*/".repeat(100_000), "comment-too-deep"),
        ("100,000 open comments", "/*".repeat(100_000), "comment-too-deep"),
        ("comment of stars", format!("/*{}*/", "* ".repeat(100_000)), "comment-too-deep"),
        ("comments and slashes", "/*/".repeat(100_000), "comment-too-deep"),
        ("slashdashes", "/-".repeat(100_000), "syntax"),
        ("spaced slashdashes", "a /- /- ".repeat(100_000), "syntax"),
        ("nested slashdashes", "/-a {".repeat(31) + &"}".repeat(31), "slashdash-too-deep"),
        ("annotations", "(t)/*".repeat(100_000), "comment-too-deep"),
        ("open annotations", "(".repeat(100_000), "syntax"),
        ("broken quotes", "a = \"\n".repeat(100_000), "syntax"),
        ("equals signs", "a = b\n".repeat(100_000), "syntax"),
        ("NUL bytes", "\0".repeat(1_000_000), "nul-byte"),
        ("NUL in a comment", "a 1 // \0\n".to_owned(), "nul-byte"),
        ("control characters", "a \"\u{1}\"".to_owned(), "syntax"),
        ("million tokens", "a;".repeat(1_000_000), "too-many-tokens"),
        ("huge number", format!("a {}", "9".repeat(100_000)), "syntax"),
        ("raw string hashes", format!("a {}\"", "#".repeat(1_000_000)), "syntax"),
        ("backslashes", "\\\n".repeat(500_000), "missing-block"),
        ("line ends", "\n".repeat(400_000), "missing-block"),
        ("empty", String::new(), "missing-block"),
    ]
}

/// What took longer than the validator's own limit would be another finding.
#[tokio::test]
async fn hostile_text_gets_a_finding_in_time() {
    for (name, text, code) in hostile() {
        let found = check(&text).await;
        assert_eq!(found[0].code, code, "{name}: {:?}", found[0]);
        assert!(found[0].message.len() < 2_100 && found.len() < 10, "{name}");
    }
}

#[tokio::test]
async fn hostile_text_gets_the_same_finding_from_the_isolated_validator() {
    let validator = isolated();
    for (name, text, code) in hostile() {
        let found = validator.validate(&text, false).await.unwrap();
        assert_eq!(found[0].code, code, "{name}: {:?}", found[0]);
    }
}

#[tokio::test]
async fn braces_in_strings_and_comments_do_not_count() {
    let text =
        format!("{CLEAN}// {0}\n/* {0} */\nlimits {{\n    /-max-header-count \"{0}\"\n}}\n", "{".repeat(200));
    let found = check(&text).await;
    assert_eq!(codes(&found, Severity::Error), Vec::<&str>::new(), "{found:#?}");
    let raw = CLEAN.replace("\"/api\"", &format!("#\"/{}\"#", "}".repeat(100)));
    assert_eq!(codes(&check(&raw).await, Severity::Error), Vec::<&str>::new());
}

/// The largest configurations that are allowed still get an answer.
#[tokio::test]
async fn a_large_configuration_is_checked() {
    let routes: String = (0..1_000)
        .map(|n| format!("    route \"r{n}\" {{\n        matches {{\n            path-prefix \"/r{n}\"\n        }}\n        upstream \"api\"\n    }}\n"))
        .collect();
    let text = CLEAN.replace("routes {\n", &format!("routes {{\n{routes}"));
    let found = check(&text).await;
    assert_eq!(codes(&found, Severity::Error), Vec::<&str>::new());
    assert_eq!(found.last().unwrap().code, "too-many-findings");
}
