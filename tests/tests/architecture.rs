//! The rules that keep the shape of the workspace.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Normal and build dependencies of each workspace package, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let needed = package["dependencies"].as_array().unwrap().iter().filter(|it| it["kind"] != "dev");
            (text(&package["name"]), needed.map(|it| text(&it["name"])).collect())
        })
        .collect()
}

#[test]
fn arrows_between_crates_point_the_right_way() {
    let allowed: [(&str, &[&str]); 6] = [
        ("zentinel-core", &[]),
        ("zentinel-store", &["zentinel-core"]),
        ("zentinel-compiler", &["zentinel-core"]),
        ("zentinel-rollout", &["zentinel-core"]),
        ("zentinel-http", &["zentinel-core", "zentinel-compiler", "zentinel-rollout"]),
        (
            "zentinel-server",
            &["zentinel-core", "zentinel-store", "zentinel-compiler", "zentinel-rollout", "zentinel-http"],
        ),
    ];
    let dependencies = dependencies();
    for (name, allowed) in allowed {
        let ours: BTreeSet<&str> = dependencies[name]
            .iter()
            .map(String::as_str)
            .filter(|it| it.starts_with("zentinel-") && !is_proxy(it))
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(ours.is_subset(&allowed), "{name} depends on {ours:?}, allowed are {allowed:?}");
    }
}

/// Crates of the proxy itself, which only the compiler and the stand-in proxy may know.
fn is_proxy(name: &str) -> bool {
    matches!(name, "zentinel-config" | "zentinel-common")
}

#[test]
fn heavy_dependencies_stay_where_they_belong() {
    let dependencies = dependencies();
    for (dependency, owners) in [
        (
            "tokio",
            vec![
                "zentinel-store",
                "zentinel-compiler",
                "zentinel-rollout",
                "zentinel-http",
                "zentinel-server",
                "zentinel-examples",
                "zentinel-tests",
            ],
        ),
        ("sqlx", vec!["zentinel-store", "zentinel-tests"]),
        ("object_store", vec!["zentinel-store"]),
        ("axum", vec!["zentinel-http", "zentinel-server", "zentinel-examples", "zentinel-tests"]),
        ("zentinel-config", vec!["zentinel-compiler", "zentinel-tests"]),
    ] {
        for (package, needed) in &dependencies {
            let allowed = owners.contains(&package.as_str());
            assert!(allowed || !needed.contains(dependency), "{package} must not depend on {dependency}");
        }
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != ".git") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_stay_readable() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50, "the walk found the sources");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= 800, "{} has {lines} lines: what is it really made of?", file.display());
        assert!(file.file_name().unwrap() != "mod.rs", "{}: use foo.rs beside foo/", file.display());
        for unfinished in ["todo!(", "unimplemented!(", "#[ignore"] {
            let here = file.ends_with("tests/tests/architecture.rs");
            assert!(here || !text.contains(unfinished), "{} contains {unfinished}", file.display());
        }
    }
}
