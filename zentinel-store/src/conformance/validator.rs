//! Cases for [`ConfigValidator`].

use futures_util::future::join_all;
use std::time::Duration;
use zentinel_core::port::{ConfigValidator, Diagnostic, Severity};

/// A configuration that every version of the proxy accepts.
const VALID: &str = include_str!("validator/valid.kdl");

/// The longest that any check may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every case.
pub async fn suite(validator: &dyn ConfigValidator) {
    a_valid_configuration_has_no_errors(validator).await;
    wrong_text_has_errors(validator).await;
    syntax_errors_have_a_place(validator).await;
    findings_are_sorted_and_whole(validator).await;
    the_same_text_gives_the_same_findings(validator).await;
    no_text_takes_it_down(validator).await;
    the_environment_stays_outside(validator).await;
    checks_run_side_by_side(validator).await;
}

async fn validate(validator: &dyn ConfigValidator, kdl: &str) -> Vec<Diagnostic> {
    let found = tokio::time::timeout(PATIENCE, validator.validate(kdl, false)).await;
    found.expect("the check took too long").unwrap()
}

fn errors(found: &[Diagnostic]) -> Vec<&Diagnostic> {
    found.iter().filter(|finding| finding.severity == Severity::Error).collect()
}

/// A good configuration passes, generated or not.
pub async fn a_valid_configuration_has_no_errors(validator: &dyn ConfigValidator) {
    for generated in [false, true] {
        let found = validator.validate(VALID, generated).await.unwrap();
        assert_eq!(errors(&found), [] as [&Diagnostic; 0], "generated: {generated}");
    }
}

/// Text that is no configuration has at least one error.
pub async fn wrong_text_has_errors(validator: &dyn ConfigValidator) {
    for kdl in ["", "{", "listeners {", "\"unterminated", "}", "listeners \"a\" \"b\" { listener }", "\u{0}"]
    {
        let found = validate(validator, kdl).await;
        assert!(!errors(&found).is_empty(), "{kdl:?} passed: {found:?}");
    }
}

/// A syntax error says in which line it is, and lines count from 1.
pub async fn syntax_errors_have_a_place(validator: &dyn ConfigValidator) {
    let broken = format!("{VALID}\nroutes {{\n  route \"x\" {{ }}}} }}\n");
    let found = validate(validator, &broken).await;
    let errors = errors(&found);
    assert!(!errors.is_empty());
    let lines = u32::try_from(broken.lines().count()).unwrap() + 1;
    let placed = errors.iter().filter_map(|finding| finding.line).collect::<Vec<_>>();
    assert!(!placed.is_empty() && placed.iter().all(|line| (1..=lines).contains(line)), "{errors:?}");
}

/// Errors come first; every finding has a code in kebab case and a message.
pub async fn findings_are_sorted_and_whole(validator: &dyn ConfigValidator) {
    for kdl in [VALID, "listeners {", "system { worker-threads \"many\" }", "unknown-block { }"] {
        let found = validate(validator, kdl).await;
        assert!(found.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)), "{found:?}");
        for finding in &found {
            let kebab = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(!finding.code.is_empty() && finding.code.bytes().all(kebab), "{finding:?}");
            assert!(!finding.message.trim().is_empty() && !finding.file.is_empty(), "{finding:?}");
            assert!(finding.line != Some(0) && finding.column != Some(0), "{finding:?}");
        }
    }
}

/// Findings depend on the text alone.
pub async fn the_same_text_gives_the_same_findings(validator: &dyn ConfigValidator) {
    for kdl in [VALID, "listeners {", "system { worker-threads \"many\" }"] {
        assert_eq!(validate(validator, kdl).await, validate(validator, kdl).await);
    }
}

/// Hostile text gets an answer in time, and the validator works on afterwards.
pub async fn no_text_takes_it_down(validator: &dyn ConfigValidator) {
    let deep = format!("{}{}", "a { ".repeat(50_000), "}".repeat(50_000));
    let open = "a { ".repeat(50_000);
    let comments = "/* ".repeat(50_000);
    let long = format!("a \"{}\"", "x".repeat(2_000_000));
    let many = "node 1 2 3\n".repeat(20_000);
    let escapes = format!("a \"{}\"", "\\u{10FFFF}".repeat(20_000));
    for kdl in [&deep, &open, &comments, &long, &many, &escapes] {
        let found = tokio::time::timeout(PATIENCE, validator.validate(kdl, false)).await;
        // An error such as "it took too long" is an answer, too.
        drop(found.expect("no answer in time"));
        assert_eq!(errors(&validate(validator, VALID).await), [] as [&Diagnostic; 0]);
    }
}

/// Nothing of the server leaks into findings: no file is read on behalf of the text.
pub async fn the_environment_stays_outside(validator: &dyn ConfigValidator) {
    let path = std::env::temp_dir().join(format!("zentinel-conformance-{}.kdl", uuid::Uuid::new_v4()));
    std::fs::write(&path, "leaked-from-a-file {").unwrap();
    let kdl = format!("{VALID}\ninclude {:?}\n", path.display().to_string());
    let found = validate(validator, &kdl).await;
    std::fs::remove_file(&path).unwrap();
    assert!(!format!("{found:?}").contains("leaked-from-a-file"), "{found:?}");
}

/// Checks that run at once do not block the thread they were called on, nor one another.
pub async fn checks_run_side_by_side(validator: &dyn ConfigValidator) {
    let broken = "listeners {";
    let checks = (0..16).map(|number| validate(validator, if number % 2 == 0 { VALID } else { broken }));
    for (number, found) in join_all(checks).await.into_iter().enumerate() {
        assert_eq!(errors(&found).is_empty(), number % 2 == 0, "check {number}: {found:?}");
    }
}
