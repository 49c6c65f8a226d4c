//! The server's command line.

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use zentinel_tests::binary;

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn check_prints_the_effective_settings_redacted() {
    let environment = [pair("DATABASE_URL", "postgres://user:hunter2@db/x"), pair("POOL_SIZE", "3")];
    let output = binary::command(&["--check", "--json"], &environment).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let settings: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(settings["database.pool_size"], "3");
}

#[test]
fn wrong_settings_and_arguments_are_named() {
    let environment = [pair("ZENTINEL__NODES__POLL_INTERVAL_SECONDS", "0")];
    let output = binary::command(&["--check"], &environment).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nodes.poll_interval_seconds"));
    assert_eq!(binary::command(&["--no-such-flag"], &[]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_taken_address_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let output = binary::command(&["--listen", &address, "--data", &data], &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&address) && text.contains("hint:"), "{text}");
}

#[test]
fn a_named_master_key_must_be_there() {
    let data = tempfile::tempdir().unwrap();
    let key = data.path().join("no-such.key").display().to_string();
    let environment = [pair("ZENTINEL__SIGNING__MASTER_KEY_FILE", &key)];
    let data = data.path().display().to_string();
    let output =
        binary::command(&["--listen", "127.0.0.1:0", "--data", &data], &environment).output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/urandom"));
    assert!(!std::path::Path::new(&key).exists(), "it is not made silently");
}

#[test]
fn completions_are_a_script() {
    let output = binary::command(&["completions", "bash"], &[]).output().unwrap();
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("complete -F _zentinel")
    );
}

#[test]
fn the_demo_runs_again_in_its_directory_with_another_number_of_nodes() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    for nodes in ["4", "2", "6"] {
        let arguments =
            ["demo", "--json", "--exit", "--nodes", nodes, "--listen", "127.0.0.1:0", "--data", &data];
        let output = binary::command(&arguments, &[]).output().unwrap();
        assert!(output.status.success(), "{nodes} nodes: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_demo_tells_its_story_in_json() {
    let arguments = ["demo", "--json", "--exit", "--nodes", "5", "--listen", "127.0.0.1:0"];
    // A demo is embedded whatever the environment says: it must never write into a database of others.
    let environment =
        [pair("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"), pair("ZENTINEL__BLOBS__KIND", "memory")];
    let mut child = binary::command(&arguments, &environment).stdout(Stdio::piped()).spawn().unwrap();
    let events: Vec<Value> = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).expect("stdout carries JSON only"))
        .collect();
    assert!(child.wait().unwrap().success(), "{events:#?}");
    let ready = &events[0];
    assert_eq!(ready["event"], "ready");
    for field in ["url", "api_key", "project", "empty_project", "join_token", "admin_email", "admin_password"]
    {
        assert!(ready[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {ready}");
    }
    assert_eq!(events.last().unwrap()["ok"], true);
}

#[test]
fn init_makes_secrets_once_unless_asked_again() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let init = |more: &[&str]| {
        let arguments = ["init", "--organisation", "Example", "--email", "ops@example.com", "--data", &data];
        let output = binary::command(&[&arguments[..], more].concat(), &[]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |more: &[&str]| -> Value {
        serde_json::from_str(&init(&[&["--json"], more].concat())).expect("one JSON object")
    };
    let first = json(&["--project", "Edge"]);
    assert_eq!(first["created"].as_array().unwrap().len(), 3, "{first}");
    assert!(first["api_key"].is_string() && first["join_token"].is_string(), "{first}");
    let again = json(&["--project", "Edge"]);
    for secret in ["api_key", "join_token", "admin_password"] {
        assert_eq!(again[secret], Value::Null, "{again}");
    }
    let text = init(&["--project", "Edge"]);
    assert!(
        text.contains("was there already; nothing was created") && text.contains("--new-secrets"),
        "{text}"
    );
    let other = json(&["--project", "Core"]);
    assert_eq!((&other["created"], &other["api_key"]), (&serde_json::json!(["project core"]), &Value::Null));
    let asked = json(&["--project", "Edge", "--new-secrets"]);
    assert!(asked["api_key"].is_string() && asked["api_key"] != first["api_key"], "{asked}");
}
