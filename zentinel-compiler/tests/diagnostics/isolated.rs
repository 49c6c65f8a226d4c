//! The child process.

use super::*;
use std::process::{Command, Stdio};
use std::time::Duration;
use zentinel_compiler::validate::Limits;
use zentinel_core::error::Kind;

#[tokio::test]
async fn both_validators_agree() {
    let validator = isolated();
    for name in
        ["sample", "clean", "duplicate-id", "syntax", "unknown-key", "checked-on-node", "invalid-regex"]
    {
        let text = fixture(name);
        assert_eq!(validator.validate(&text, false).await.unwrap(), check(&text).await, "{name}");
    }
}

/// With the guards off, the parser really overflows its stack; only the child dies.
#[tokio::test]
async fn a_crash_of_the_parser_is_a_finding() {
    let limits = Limits { max_depth: usize::MAX, max_tokens: usize::MAX, ..Limits::default() };
    let validator = isolated_with(ValidateOptions { limits, ..ValidateOptions::default() });
    let text = "a {".repeat(300_000) + &"}".repeat(300_000);
    let found = validator.validate(&text, false).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), ["parser-crashed"], "{found:#?}");
    assert!(found[0].message.contains("signal"), "{found:#?}");
    assert_eq!(check(CLEAN).await, isolated().validate(CLEAN, false).await.unwrap());
}

/// Text that costs the parser exponential time, were it not for the guards.
#[tokio::test]
async fn endless_work_is_ended() {
    let limits = Limits { max_slashdash_depth: usize::MAX, ..Limits::default() };
    let time_limit = Duration::from_secs(3);
    let validator = isolated_with(ValidateOptions { limits, time_limit, ..ValidateOptions::default() });
    let text = "a /-{".repeat(32) + &"}".repeat(32);
    let found = validator.validate(&text, false).await.unwrap();
    assert_eq!(found[0].code, "validation-timeout", "{found:#?}");
    // The place is free again.
    let found = validator.validate("system", false).await.unwrap();
    assert_eq!(found[0].code, "missing-block");
}

#[tokio::test]
async fn memory_is_limited() {
    let validator = IsolatedValidator::new(IsolatedOptions {
        program: Some(env!("CARGO_BIN_EXE_zentinel-validate").into()),
        memory_limit: 160 << 20,
        ..IsolatedOptions::default()
    });
    let text = "a 1 2 3 4 5 6 7 8 9;".repeat(35_000);
    let found = validator.validate(&text, false).await.unwrap();
    assert_eq!(found[0].code, "parser-crashed", "{:#?}", found[0]);
}

#[tokio::test]
async fn a_program_that_is_no_validator_is_an_error() {
    for program in ["/bin/true", "/bin/cat", "/no/such/program"] {
        let validator = IsolatedValidator::new(IsolatedOptions {
            program: Some(program.into()),
            ..IsolatedOptions::default()
        });
        let error = validator.validate(CLEAN, false).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Internal | Kind::Unavailable), "{program}: {error:?}");
        assert!(error.message().contains("validator"), "{program}: {error:?}");
    }
    let silent = IsolatedValidator::new(IsolatedOptions {
        program: Some("/bin/sleep".into()),
        arguments: vec!["60".into()],
        start_limit: Duration::from_millis(200),
        ..IsolatedOptions::default()
    });
    assert!(silent.validate(CLEAN, false).await.is_err());
}

#[tokio::test]
async fn many_at_once_share_the_places() {
    let validator = isolated();
    let checks = (0..12).map(|n| {
        let validator = validator.clone();
        let text = if n % 2 == 0 { CLEAN.to_owned() } else { fixture("semantic") };
        tokio::spawn(async move { validator.validate(&text, false).await.unwrap() })
    });
    for (n, check) in checks.collect::<Vec<_>>().into_iter().enumerate() {
        let errors = check.await.unwrap().iter().filter(|d| d.severity == Severity::Error).count();
        assert_eq!(errors, n % 2);
    }
}

/// No text is checked by a process that has seen another, and none is left when the validator is gone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_child_is_kept_ready_and_sees_one_text() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let program = env!("CARGO_BIN_EXE_zentinel-validate");
    let body = format!("echo $$ >>{}\nexec {program}", started.display());
    let validator = IsolatedValidator::new(IsolatedOptions {
        program: Some(script(&directory, &body)),
        ..IsolatedOptions::default()
    });
    let pids = || -> Vec<String> {
        let text = std::fs::read_to_string(&started).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let runs = |pid: &String| PathBuf::from(format!("/proc/{pid}/exe")).exists();
    let eventually = async |holds: &dyn Fn() -> bool| {
        for _ in 0..500 {
            if holds() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    assert_eq!(pids().len(), 0, "nobody has asked");
    let expected = check(CLEAN).await;
    for texts in 1..=3 {
        assert_eq!(validator.validate(CLEAN, false).await.unwrap(), expected);
        assert!(eventually(&|| pids().len() == texts + 1).await, "{:?}", pids());
        assert!(eventually(&|| pids().iter().filter(|pid| runs(pid)).count() == 1).await);
    }
    // A spare that somebody killed is noticed.
    let spare = pids().pop().unwrap();
    assert!(Command::new("kill").args(["-9", &spare]).status().unwrap().success());
    assert!(eventually(&|| !runs(&spare)).await);
    assert_eq!(validator.validate(CLEAN, false).await.unwrap(), expected);
    drop(validator);
    assert!(eventually(&|| !pids().iter().any(runs)).await, "it ends with the validator");
}

/// When the process that started it is killed, nobody drops the validator.
#[test]
fn a_child_ends_when_nobody_can_send_it_a_text() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_zentinel-validate"))
        .env_clear()
        .env("ZENTINEL_VALIDATOR_CHILD", "1073741824")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "it waits for a text");
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// A full queue is an error that may be retried, not a finding about the text.
#[tokio::test]
async fn a_busy_validator_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let validator = IsolatedValidator::new(IsolatedOptions {
        program: Some(script(&directory, "echo 'zentinel-validator 1'\nexec sleep 60")),
        validate: ValidateOptions {
            concurrency: 1,
            time_limit: Duration::from_millis(500),
            ..ValidateOptions::default()
        },
        ..IsolatedOptions::default()
    });
    let first = validator.clone();
    let running = tokio::spawn(async move { first.validate(CLEAN, false).await });
    tokio::time::sleep(Duration::from_millis(250)).await;
    let second = InProcessValidator::new(ValidateOptions { concurrency: 1, ..ValidateOptions::default() });
    assert!(second.validate(CLEAN, false).await.is_ok());
    assert_eq!(running.await.unwrap().unwrap()[0].code, "validation-timeout");
}

#[test]
fn the_program_reports_by_exit_status_and_json() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_zentinel-validate"))
            .args(arguments)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let clean = run(&["--json", "clean.kdl"]);
    assert!(clean.status.success(), "{clean:?}");
    let found: Vec<Diagnostic> = serde_json::from_slice(&clean.stdout).unwrap();
    assert!(found.iter().all(|d| d.severity == Severity::Info));
    let broken = run(&["unknown-reference.kdl"]);
    assert_eq!(broken.status.code(), Some(65));
    let text = String::from_utf8(broken.stdout).unwrap();
    assert!(text.contains("unknown-reference.kdl:20:9: error[unknown-reference]:"), "{text}");
    assert_eq!(run(&["no-such-file.kdl"]).status.code(), Some(66));
    assert_eq!(run(&[]).status.code(), Some(64));
}
