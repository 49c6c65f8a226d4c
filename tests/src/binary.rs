//! The server's binary as a child process.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The path of the built server binary: the one that `ZENTINEL_TEST_SERVER` names, for example an
/// optimised one, or one that is built now.
///
/// # Panics
/// When it does not build.
pub fn path() -> &'static Path {
    static NAMED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let named = NAMED.get_or_init(|| std::env::var_os("ZENTINEL_TEST_SERVER").map(PathBuf::from));
    named.as_deref().unwrap_or_else(|| path_of("zentinel-server"))
}

/// The path of a built binary: of the server's package, with the agent's crash points, or of this one.
///
/// # Panics
/// When it does not build.
pub fn path_of(name: &str) -> &'static Path {
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(build);
    built.get(name).unwrap_or_else(|| panic!("there is no binary {name} among {built:?}"))
}

fn build() -> BTreeMap<String, PathBuf> {
    // `cargo test` does not build the binaries of other packages. This package among them turns on
    // the features that tests need.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--offline", "-p", "zentinel-server", "-p", "zentinel-tests", "--bins"])
        .arg("--message-format=json")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the binaries build");
    output
        .stdout
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter_map(|message| {
            let executable = message["executable"].as_str()?;
            Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(executable)))
        })
        .collect()
}

/// A command of the server's binary that inherits nothing from the environment but the path.
#[must_use]
pub fn command(arguments: &[&str], environment: &[(String, String)]) -> Command {
    tool("zentinel-server", arguments, environment)
}

/// A command of another binary of the server's package, on the same terms.
#[must_use]
pub fn tool(name: &str, arguments: &[&str], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(path().with_file_name(name));
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null());
    if let Some(search) = std::env::var_os("PATH") {
        command.env("PATH", search);
    }
    command
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The URL it serves on.
    pub url: String,
}

impl Server {
    /// Starts `zentinel-server --json serve` and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(environment: &[(String, String)]) -> Self {
        let mut child =
            command(&["--json", "serve"], environment).stdout(Stdio::piped()).spawn().expect("it starts");
        let out = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(out).lines();
        let ready: Value = loop {
            let line = lines.next().expect("it serves before it ends").expect("text");
            let event: Value = serde_json::from_str(&line).expect("stdout carries JSON only");
            if event["event"] == "ready" {
                break event;
            }
        };
        Self { child, url: ready["url"].as_str().expect("url").to_owned() }
    }

    /// Its process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// SIGTERM; answers whether it ended with status 0.
    #[must_use]
    pub fn terminate(mut self) -> bool {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.child.wait().expect("wait").success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone after `kill` and `terminate`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
