//! The external program, played by shell scripts with the exit codes of `zentinel test`.

use super::*;
use std::time::Duration;

fn external(program: PathBuf) -> ExternalValidator {
    ExternalValidator::new(Arc::new(InProcessValidator::default()), ExternalOptions::new(program))
}

#[tokio::test]
async fn the_program_gets_the_text_in_a_private_file_that_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let body = format!(
        "echo \"$1 $2 $3\" > {0}\n/bin/cat \"$3\" >> {0}\n/bin/ls -l \"$3\" >> {0}\n/usr/bin/env >> {0}\nexit 0",
        seen.display()
    );
    let text = fixture("checked-on-node");
    let found = external(script(&directory, &body)).validate(&text, false).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), Vec::<&str>::new(), "{found:#?}");
    let seen = std::fs::read_to_string(seen).unwrap();
    let first = seen.lines().next().unwrap();
    let file = first.strip_prefix("test -c ").unwrap_or_else(|| panic!("{first}"));
    assert!(!std::path::Path::new(file).exists(), "{file} is still there");
    assert!(seen.contains("root \"/\"") && !seen.contains("/no/such/directory"), "{seen}");
    assert!(seen.contains("-rw-------"), "{seen}");
    assert!(!seen.contains("CARGO_MANIFEST_DIR"), "the environment is passed on: {seen}");
}

#[tokio::test]
async fn a_refusal_is_an_error_with_what_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let body = "printf '\\033[31mError:\\033[0m no such thing\\nCaused by: reasons\\n' >&2\nexit 1";
    let found = external(script(&directory, body)).validate(CLEAN, false).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), ["external-validator"], "{found:#?}");
    assert_eq!(found[0].help.as_deref(), Some("Error: no such thing\nCaused by: reasons"));
}

#[tokio::test]
async fn it_is_not_asked_about_a_text_with_errors() {
    let directory = tempfile::tempdir().unwrap();
    let found = external(script(&directory, "exit 1")).validate(&fixture("semantic"), false).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), ["semantic"], "{found:#?}");
}

#[tokio::test]
async fn a_missing_program_is_a_warning() {
    let found = external("/no/such/zentinel".into()).validate(CLEAN, false).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), Vec::<&str>::new());
    assert_eq!(codes(&found, Severity::Warning), ["external-validator-missing"], "{found:#?}");
}

#[tokio::test]
async fn floods_and_sleepers_are_survived() {
    let directory = tempfile::tempdir().unwrap();
    let flood = "i=0; while [ $i -lt 20000 ]; do echo 'ten times ten characters and some more of them' >&2; i=$((i+1)); done; exit 1";
    let found = external(script(&directory, flood)).validate(CLEAN, false).await.unwrap();
    assert!(found[0].help.as_deref().unwrap().len() < 2_100);

    let mut options = ExternalOptions::new(script(&directory, "exec /bin/sleep 60"));
    options.time_limit = Duration::from_millis(300);
    let validator = ExternalValidator::new(Arc::new(InProcessValidator::default()), options);
    let found = validator.validate(CLEAN, false).await.unwrap();
    assert_eq!(codes(&found, Severity::Error), ["external-validator"]);
}
